"""Hooks of MkDocs: pages of the site that lie elsewhere in the checkout.

A link leads to the same page in the checkout and on the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
# {file of the checkout: page of the site}; what lies in docs/ keeps its name.
PAGES = {"README.md": "index.md", "weights/README.md": "weights.md"}

_LINK = re.compile(r"(?<=\]\()(?!https?:)([^)#\s]+)(?=[)#])")


def on_files(files, *, config):
    """Adds the pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, *, page, config, files):
    """Makes links between files of the checkout links between pages."""
    places = {site: source for source, site in PAGES.items()}
    own = places.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def moved(link):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(own), link[0]))
        if target not in PAGES and not target.startswith("docs/"):
            return link[0]  # which MkDocs will not find, and say so
        there = PAGES.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or ".")

    return _LINK.sub(moved, markdown)
