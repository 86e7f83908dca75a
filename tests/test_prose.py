"""What a reader meets: short sentences, true links, examples and guide that link to each other."""

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).parent.parent
GUIDE = sorted((ROOT / "docs/guide").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "docs/quickstart.md", *GUIDE]
LONGEST = 30  # words in a sentence


def name(path):
    return path.relative_to(ROOT).as_posix()


# A fence with what is in it: code, or a list of pages. Those of figures and notes hold prose.
FENCE = re.compile(r"^(```+)(?!\{(?:figure|note)\}).*?^\1$", re.DOTALL | re.MULTILINE)
DIRECTIVE = re.compile(r"^(```.*|:\w+:.*|\(\S+\)=)$", re.MULTILINE)
ROW = re.compile(r"^\|.*$", re.MULTILINE)
# A formula on lines of its own is in the sentence that goes on after it in lower case.
DISPLAY = re.compile(r"\s*\$\$(.*?)(\.?)\s*\$\$(?:\s*(?=[a-z]))?", re.DOTALL)
ONE_WORD = re.compile(r"\$[^$]+\$|(?:\{[\w:]+\})?`[^`]+`")
LINK = re.compile(r"!?\[([^]]*)\]\([^)]*\)|\{\w+\}`([^`]*)<[^`]*>`")
BLOCK = r"\n\s*\n|\n(?=\s*(?:[-*:>]|\d+\.)\s|#)|\f"
SENTENCE = re.compile(rf"\S.*?(?:(?<! al)[.!?][)*\"]*(?=\s)|(?={BLOCK})|\Z)", re.DOTALL)


def sentences(text):
    """The sentences of a page of Markdown, each with the number of the line on which it starts.

    A formula or a name in backticks is one word. Code and the targets of links are left out.
    """

    def lines(match):
        return "\n" * match[0].count("\n")

    def cells(row):
        return re.sub(r"`[^`]*`", "", row[0]).replace("|", "\f")

    def word(match):
        return match[0].replace(" ", "~").replace("\n", "\0")

    text = FENCE.sub(lines, text)
    text = DIRECTIVE.sub("", text)
    text = ROW.sub(cells, text)
    text = LINK.sub(lambda link: (link[1] or link[2] or "").rstrip(), text)
    text = DISPLAY.sub(lambda m: " FORMULA" + "\0" * m[0].count("\n") + m[2] + " ", text)
    text = ONE_WORD.sub(word, text)
    for match in SENTENCE.finditer(text):
        line = 1 + sum(text.count(end, 0, match.start()) for end in "\n\0")
        yield line, " ".join(match[0].replace("\0", "~").split())


def length(sentence):
    """The number of words; a sign alone is none."""
    return len(re.findall(r"(?:^| )\W*\w", sentence))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two.\nThree\nfour. Five", [(1, 2), (2, 2), (3, 1)]),
        (
            "# Title\n\nOne `a b\nc` two.\n\n- three\n- four\n  five",
            [(1, 1), (3, 3), (6, 1), (7, 2)],
        ),
        ("One $a\n= b$ two\nthree. Four", [(1, 4), (3, 1)]),
        ("One:\n\n$$\na = b .\n$$\n\nTwo", [(1, 2), (7, 1)]),
        ("One\n\n$$\na = b ,\n$$\n\nwhere two. Three", [(1, 4), (7, 1)]),
        ("One [two three](a b c d) {doc}`four five <six>` {doc}`seven`.", [(1, 6)]),
        (
            "One.\n```python\ntwo three\n```\nFour (2.5, 3). *Five.* Six",
            [(1, 1), (5, 3), (5, 1), (5, 1)],
        ),
        ("| | |\n|---|---|\n| `a b` | one two |\n", [(2, 0), (2, 0), (3, 2)]),
        ("```{figure} a.png\n:alt: one two\n\nThree four.\n```\n", [(4, 2)]),
        ("One - two = three", [(1, 3)]),
    ],
)
def test_sentences_and_their_words(text, expected):
    assert [(line, length(sentence)) for line, sentence in sentences(text)] == expected


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_sentence_is_long(page):
    found = [
        f"{name(page)}:{line}: {length(sentence)} words: {sentence}"
        for line, sentence in sentences(page.read_text(encoding="utf-8"))
        if length(sentence) > LONGEST
    ]
    assert not found, "\n".join(found)


def test_the_readme_prints_what_it_shows(capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    shown = re.findall(r"print\(.*\)  # (.*)", code)
    exec(code, {})
    assert shown
    assert capsys.readouterr().out.splitlines() == shown


# Sphinx checks the links of its own pages.
@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_lead_to_them(page):
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert not [t for t in targets if "://" not in t and not (ROOT / t).exists()]


FULL_NAME = re.compile(r"`[^`<]*<?~?(riemdln(?:\.\w+)+)[^`]*`")


@pytest.mark.parametrize(
    "path",
    [
        *PAGES,
        *sorted((ROOT / "riemdln").rglob("*.py")),
        *sorted((ROOT / "examples").glob("*.py")),
        ROOT / "docs/tutorial_source/plot_tutorial.py",
    ],
    ids=name,
)
def test_full_names_in_backticks_can_be_imported(path):
    for full_name in FULL_NAME.findall(path.read_text(encoding="utf-8")):
        resolve_name(full_name)


EXAMPLES = pytest.mark.parametrize(
    "example", sorted((ROOT / "examples").glob("plot_*.py")), ids=lambda path: path.stem
)


@EXAMPLES
def test_a_page_of_the_guide_links_to_each_example(example):
    link = re.compile(rf"\.\./gallery/{example.stem}\b")
    assert [page for page in GUIDE if link.search(page.read_text(encoding="utf-8"))]


@EXAMPLES
def test_each_example_links_to_a_page_of_the_guide(example):
    text = example.read_text(encoding="utf-8")
    links = re.findall(r":doc:`[^`]*/guide/(\w+)>?`", text)
    sections = re.findall(r":ref:`[^`]*<([\w-]+)>`", text)
    guide = {page.stem: page.read_text(encoding="utf-8") for page in GUIDE}
    labels = {label for page in guide.values() for label in re.findall(r"^\((\S+)\)=$", page, re.M)}
    assert set(links) & set(guide) or set(sections) & labels
