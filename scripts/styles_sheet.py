#!/usr/bin/env python
"""Writes docs/styles.jpg: the six styles of `nst_jax.paintings`, with their names.

.venv/bin/python scripts/styles_sheet.py
"""

from pathlib import Path

import numpy as np
import program
from PIL import Image, ImageDraw, ImageFont

from nst_jax import paintings
from nst_jax.files.images import to_uint8

SHEET = Path(__file__).resolve().parent.parent / "docs" / "styles.jpg"
SIDE, GAP, HEAD, COLUMNS = 256, 8, 24, 3  # pixels, pixels, pixels, pictures


def sheet() -> Image.Image:
    """Draws the pictures in two rows, each below its name."""
    rows = -(-len(paintings.__all__) // COLUMNS)
    size = GAP + COLUMNS * (SIDE + GAP), rows * (HEAD + SIDE + GAP)
    page = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=15)
    for number, name in enumerate(paintings.__all__):
        row, column = divmod(number, COLUMNS)
        left, top = GAP + column * (SIDE + GAP), row * (HEAD + SIDE + GAP)
        pen.text((left, top + 3), name, fill="black", font=font)
        picture = np.asarray(to_uint8(getattr(paintings, name)(SIDE)))
        page.paste(Image.fromarray(picture), (left, top + HEAD))
    return page


def run() -> None:
    """Writes the page."""
    sheet().save(SHEET, quality=82, optimize=True)


if __name__ == "__main__":
    program.start(run, arguments="it takes none")
