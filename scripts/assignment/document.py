"""Text, tables and figures in the order of reading, as Markdown and as one HTML page."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Heading(NamedTuple):
    text: str
    level: int = 2


class Text(NamedTuple):
    text: str


class Table(NamedTuple):
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


class Figure(NamedTuple):
    """A picture file beside the document, with what it shows."""

    file: str
    caption: str


Block = Heading | Text | Table | Figure


def to_markdown(blocks: Sequence[Block]) -> str:
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Table(headings, rows):
            rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
            lines = [headings, ["---"] * len(headings), *rows]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Figure(file, caption):
            return f"![{caption.partition('.')[0]}]({file})\n\n*{caption}*"
    raise TypeError(f"block must be of {Block}, got {block!r}")


_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1d2329; background: #fff; margin: 0 auto;
  padding: 1.5rem 1rem 4rem; max-width: 62rem; }
h1, h2, h3 { line-height: 1.2; margin: 2.2rem 0 .6rem; }
p { max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #d9dee3; text-align: left; }
figure { margin: 1.2rem 0; }
img { max-width: 100%; height: auto; }
figcaption { font-size: .88rem; color: #55606b; max-width: 46rem; }
"""


def to_html(blocks: Sequence[Block], folder: Path, *, title: str) -> str:
    """One page that needs no other file: the figures of `folder` are in it."""
    body = "\n".join(_html(block, folder) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _html(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{html.escape(text)}</p>"
        case Table(headings, rows):

            def line(cells, tag):
                return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

            lines = [line(headings, "th"), *(line(row, "td") for row in rows)]
            return f'<div class="wide"><table>{"".join(lines)}</table></div>'
        case Figure(file, caption):
            data = base64.b64encode((folder / file).read_bytes()).decode()
            shown = html.escape(caption)
            return (
                f'<figure><img alt="{html.escape(caption.partition(".")[0])}" '
                f'src="data:image/jpeg;base64,{data}"><figcaption>{shown}</figcaption></figure>'
            )
    raise TypeError(f"block must be of {Block}, got {block!r}")
