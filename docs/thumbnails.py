"""The thumbnail of an example is one panel of one of its figures, drawn for its small size.

An example chooses the second panel of its first figure by the comment

    # sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_example_001_2.png"
"""

import re
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
from sphinx_gallery.scrapers import matplotlib_scraper


def panel_scraper(block, block_vars, gallery_conf):
    """Save the figures of a block, and the panel that the example chose for its thumbnail."""
    path = block_vars["file_conf"].get("thumbnail_path", "")
    first = len(block_vars["image_path_iterator"]) + 1
    figures = dict(enumerate(map(plt.figure, plt.get_fignums()), first))
    images = matplotlib_scraper(block, block_vars, gallery_conf)
    if chosen := re.search(r"_(\d+)_(\d+)\.png$", path):
        number, panel = map(int, chosen.groups())
        if number in figures:
            _save_panel(figures[number], panel, Path(gallery_conf["src_dir"], path))
    return images


def _save_panel(figure, panel, path):
    chosen = figure.axes[panel - 1]
    for other in [*figure.legends, *figure.texts, *figure.axes]:
        if other is not chosen:
            other.remove()
    chosen.set_subplotspec(figure.add_gridspec(1, 1)[0])
    chosen.set_title(_lines(chosen.get_title(), 36), fontsize=10)
    chosen.set_xlabel(_lines(chosen.get_xlabel(), 32))
    chosen.set_ylabel(_lines(chosen.get_ylabel(), 28))
    chosen.tick_params(labelleft=True, labelbottom=True)
    if legend := chosen.get_legend():
        names = [text.get_text() for text in legend.texts]
        narrow = {"fontsize": 7, "labelspacing": 0.2, "borderpad": 0.2, "handlelength": 1.2}
        chosen.legend(legend.legend_handles, names, **narrow)
    figure.set_size_inches(3.4, 2.38)
    figure.savefig(path, dpi=400 / 3.4)


def _lines(text, width):
    """Break a text, but not within its formulas."""
    kept = re.sub(r"\$[^$]*\$", lambda formula: formula[0].replace(" ", "\0"), text)
    lines = fill(kept, width, break_long_words=False, break_on_hyphens=False)
    return lines.replace("\0", " ")
