"""What is wrong with the links of a built site: python .ci/links.py docs/_build/html.

Those within the site lead somewhere, and no page loads anything from the network. Sphinx warns of
its own references. It does not read the targets of images, or HTML that a page or a theme brings.
Links to other sites are not followed.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

STYLES = r"""(?:@import\s+)?url\(\s*["']?([^"')\s]+)|@import\s+["']([^"']+)"""


class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what it loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.links, self.loaded = {"", "top"}, set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what an element is called and where it leads."""
        values = dict(attrs)
        self.anchors |= {values.get("id"), values.get("name")}
        self.links |= {values.get("href"), values.get("src")} - {None}
        self.loaded |= {values.get("src"), values.get("href") if tag == "link" else None} - {None}


def broken(root: Path, pages: dict[Path, Page]) -> list[str]:
    """Each link within the site under `root` whose file or anchor there is not."""
    found = []
    for path, page in pages.items():
        if "_modules" in path.parts:  # viewcode leads back by one name a module, wrong for others
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else {""}
            if not target.exists() or unquote(parts.fragment) not in anchors:
                found.append(f"{path.relative_to(root)}: {link}")
    return sorted(found)


def from_network(root: Path, pages: dict[Path, Page]) -> list[str]:
    """Each image, script, style or font that a page or a style sheet loads from another site."""
    loaded = {path: page.loaded for path, page in pages.items()}
    for path in root.rglob("*.css"):
        loaded[path] = {a or b for a, b in re.findall(STYLES, path.read_text())}
    return sorted(
        f"{path.relative_to(root)} loads {link}"
        for path, links in loaded.items()
        for link in links
        if urlsplit(link).netloc
    )


if __name__ == "__main__":
    site = Path(sys.argv[1]).resolve()
    parsed = {path: Page(path) for path in site.rglob("*.html")}
    wrong = broken(site, parsed) + from_network(site, parsed)
    print("\n".join(wrong) or "All links lead somewhere, and nothing comes from the network.")
    sys.exit(bool(wrong))
