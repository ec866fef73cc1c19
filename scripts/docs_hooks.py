"""Hooks for MkDocs: they add pages that lie outside docs/ in the checkout.

A link leads to the same page in the checkout and on the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
# {file in the checkout: page of the site}. Files in docs/ keep their names.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "weights/README.md": "weights.md",
}

_LINK = re.compile(r"(?<=\]\()(?!https?:)([^)#\s]+)(?=[)#])")


def on_files(files, *, config):
    """Adds the pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, *, page, config, files):
    """Turns links between files of the checkout into links between pages."""
    places = {site: source for source, site in PAGES.items()}
    own = places.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def moved(link):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(own), link[0]))
        if target not in PAGES and not target.startswith("docs/"):
            return link[0]  # MkDocs reports that it is missing
        there = PAGES.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or ".")

    return _LINK.sub(moved, markdown)
