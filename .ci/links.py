"""The links of a built site that lead nowhere: python .ci/links.py docs/_build/html.

Sphinx warns of its own references. It does not read the targets of images, or HTML that a page or a
theme brings. Links to other sites are not followed.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and where its links lead."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.links = {"", "top"}, set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what an element is called and where it leads."""
        values = dict(attrs)
        self.anchors |= {values.get("id"), values.get("name")}
        self.links |= {values.get("href"), values.get("src")} - {None}


def broken(root: Path) -> list[str]:
    """Each link within the site under `root` whose file or anchor there is not."""
    pages = {path.resolve(): Page(path) for path in root.rglob("*.html")}
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
                found.append(f"{path.relative_to(root.resolve())}: {link}")
    return sorted(found)


if __name__ == "__main__":
    links = broken(Path(sys.argv[1]))
    print("\n".join(links) or "All links within the site lead somewhere.")
    sys.exit(bool(links))
