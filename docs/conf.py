"""Settings of the documentation: sphinx-build -W --keep-going -b html docs docs/_build/html."""

import ast
import re
import sys
from importlib import import_module, metadata
from pathlib import Path
from pkgutil import iter_modules

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.osutil import relative_uri
from sphinx_gallery.sorting import ExplicitOrder

sys.path.insert(0, str(Path(__file__).parent))  # thumbnails.py

project = "riemdln"
author = "The riemdln developers"
project_copyright = author
release = metadata.version("riemdln")

extensions = [
    "matplotlib.sphinxext.plot_directive",  # figures of the guide
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax itself, so that mathematics needs no network
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "tutorial_source"]
templates_path = ["_templates"]

# A name in backticks is a link where it can be imported, and emphasized where it cannot.
default_role = "autolink"
nitpicky = True
# Other libraries' names have no inventory without a network.
nitpick_ignore_regex = [("py:.*", r"(autograd|matplotlib|numpy|pymanopt|scipy)\..*")]

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
mathjax3_config = {"chtml": {"scale": 0.9}}  # as large as the text beside it

add_function_parentheses = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types and shapes stand in the docstrings
autosummary_generate = True
# Some file systems do not tell the pages of riemdln.Sample and riemdln.sample apart.
autosummary_filename_map = {"riemdln.Sample": "riemdln.Sample-class"}
# A class shows its methods once, below its docstring; numpydoc's tables leave out inherited ones.
numpydoc_show_class_members = False
smartquotes = False  # W'' is a second derivative

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

copybutton_exclude = ".linenos, .gp, .go"

sphinx_gallery_conf = {
    "image_scrapers": ("thumbnails.panel_scraper",),
    "examples_dirs": ["../examples", "tutorial_source"],
    "gallery_dirs": ["gallery", "tutorial"],
    "copyfile_regex": r"index\.rst",  # the tutorial is one page, and needs no list of pages
    "ignore_pattern": r"__\w+__\.py",
    "within_subsection_order": ExplicitOrder(
        [
            "plot_depth_acceleration.py",
            "plot_lp_regression.py",
            "plot_two_point_quartic.py",
            "plot_single_output.py",
            "plot_balance.py",
            "plot_any_layers.py",
            "plot_lazy_and_rich.py",
            "plot_singular_values.py",
            "plot_through_a_saddle.py",
            "plot_greedy_learning.py",
            "plot_stiff_flows.py",
            "plot_weight_decay.py",
            "plot_shape.py",
            "plot_matrix_completion.py",
            "plot_ratings.py",
            "plot_brownian_motion.py",
            "plot_equilibrium.py",
            "plot_noisy_layers.py",
            "plot_free_energy.py",
            "plot_mini_batches.py",
            "plot_warm_completion.py",
            "plot_edge_of_stability.py",
            "plot_solvers.py",
            "plot_own_metric.py",
            "plot_tutorial.py",
        ]
    ),
    "download_all_examples": False,
    "parallel": 2,
    "min_reported_time": 1,
    "remove_config_comments": True,
    "show_memory": False,
    "write_computation_times": False,
}

plot_formats = ["svg"]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_rcparams = {"figure.constrained_layout.use": True, "font.size": 10}

html_theme = "furo"
html_title = "riemdln"
html_static_path = ["_static"]
html_css_files = ["riemdln.css"]


def _trim_code(app, docname, source):
    """Leave out the blank line that ends a doctest in Markdown."""
    source[0] = source[0].replace("\n\n```\n", "\n```\n")


def _skip_tuple_fields(app, what, name, obj, skip, options):
    """Leave out the fields of named tuples, which stand in the docstring of the class."""
    return skip or str(obj.__doc__).startswith("Alias for field number")


def _keep_initials(app, what, name, obj, options, lines):
    """Let an author's initial, - G. Menon, begin a reference, and not number a list."""
    lines[:] = [re.sub(r"^(\s*- )(?=[A-Z]\. )", r"\1\\", line) for line in lines]


def _defining_module(app, module, name):
    """The module that defines a name, for the link to its source, if objects name the package."""
    value = getattr(import_module(module), name.partition(".")[0], None)
    package = getattr(value, "__module__", module)
    for part in iter_modules(getattr(import_module(package), "__path__", [])):
        if name in ModuleAnalyzer.for_module(f"{package}.{part.name}").find_tags():
            return f"{package}.{part.name}"
    return None


def _number_equations(app, doctree):
    r"""Let a formula carry its number, \tag{3}, which the environment that Sphinx adds forbids."""
    for block in doctree.findall(nodes.math_block):
        if r"\tag" in block.astext():
            block["nowrap"] = True
            block[:] = [nodes.Text(rf"\begin{{equation*}}{block.astext()}\end{{equation*}}")]


# The tests that the theory names: each has an anchor on the page that shows its file.
_TEST_FILES = {path.name: path for path in Path(__file__).parent.glob("../tests/test_*.py")}
_TEST_LINES = {
    function.name: (path, function.decorator_list[0] if function.decorator_list else function)
    for path in _TEST_FILES.values()
    for function in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(function, ast.FunctionDef) and function.name.startswith("test_")
}


def _link_tests(app, doctree, docname):
    """Make a link of each name of a test, or a file of tests, in the theory."""
    if docname != "mathematics":
        return
    for literal in list(doctree.findall(nodes.literal)):
        name, page = literal.astext(), None
        if name in _TEST_FILES:
            page, anchor = Path(name).stem, ""
        elif name in _TEST_LINES:
            path, function = _TEST_LINES[name]
            page, anchor = path.stem, f"#line-{function.lineno}"
        elif re.fullmatch(r"test_\w+(\.py)?", name):
            logging.getLogger(__name__).warning("no such test: %s", name, location=literal)
        if page is not None and app.builder.format == "html":
            here, there = (app.builder.get_target_uri(p) for p in (docname, f"tests/{page}"))
            uri = relative_uri(here, there) + anchor
            literal.replace_self(nodes.reference("", "", literal.deepcopy(), refuri=uri))


def _test_pages(app):
    """The pages that show the files of tests."""
    formatter = HtmlFormatter(lineanchors="line")
    for path in _TEST_FILES.values():
        code = highlight(path.read_text(encoding="utf-8"), PythonLexer(), formatter)
        yield (
            f"tests/{path.stem}",
            {"title": path.name, "body": f"<h1>{path.name}</h1>{code}"},
            "page.html",
        )


def setup(app):
    """Connect the hooks above."""
    app.connect("source-read", _trim_code)
    app.connect("autodoc-skip-member", _skip_tuple_fields)
    app.connect("autodoc-process-docstring", _keep_initials)
    app.connect("viewcode-follow-imported", _defining_module)
    app.connect("doctree-read", _number_equations)
    app.connect("doctree-resolved", _link_tests)
    app.connect("html-collect-pages", _test_pages)
