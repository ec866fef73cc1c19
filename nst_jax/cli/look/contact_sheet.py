"""A contact sheet: all pictures of a run on one.

Images are float32 sRGB in RGB order, range [0, 1], [H, W, 3], as everywhere. The sheet is composed
in float, so that only the code that writes files rounds to integers.
"""

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nst_jax.files.images import resize
from nst_jax.image import check_image

_BACKGROUND = 0.965
_INK = 0.15
_FAINT = 0.45


def _picture(name: str, image: np.ndarray) -> np.ndarray:
    """An array or nested list as NumPy, if it is a picture."""
    image = np.asarray(image)
    check_image(name, image, single=True)
    return image


def check_labels(name: str, labels: Iterable[str], count: int) -> list[str]:
    labels = [str(label) for label in labels]
    if len(labels) != count:
        raise ValueError(f"{name} must hold {count} labels, got {len(labels)}")
    return labels


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes to fit into height × width with the aspect kept."""
    scale = min(height / image.shape[0], width / image.shape[1])
    return resize(image, *(max(1, round(side * scale)) for side in image.shape[:2]))


def _paste(sheet: np.ndarray, image: np.ndarray, top: int, left: int) -> None:
    sheet[top : top + image.shape[0], left : left + image.shape[1]] = image


def _ascii(text: str) -> str:
    """Pillow's built-in font has ASCII alone: accents are dropped, other scripts become "?"."""
    letters = unicodedata.normalize("NFKD", text)
    letters = [c for c in letters if not unicodedata.combining(c)]
    return "".join(c if " " <= c <= "~" or c == "\n" else "?" for c in letters)


def _shorten(text: str, width: int, length: Callable[[str], float] = len) -> str:
    """Cuts as much out of the middle of a text as brings its length down to `width`."""
    if length(text) <= width:
        return text
    for keep in range(len(text) - 1, 0, -1):
        cut = text[: (keep + 1) // 2].rstrip() + "…" + text[len(text) - keep // 2 :].lstrip()
        if length(cut) <= width:
            return cut
    return "…"


def in_rows(text: str, width: int, length: Callable[[str], float]) -> list[str]:
    """A label in rows that fit into `width`: a row for each of its lines, or up to three for a long
    one, which break behind a mark if they can; what is longer than that loses its middle."""
    rows = []
    for line in text.split("\n"):
        for _ in range(2):
            if length(line) <= width:
                break
            fits = max((n for n in range(1, len(line)) if length(line[:n]) <= width), default=1)
            end = max((n for n in range(1, fits + 1) if line[n - 1] in " _-+="), default=fits)
            rows.append(line[:end].rstrip())
            line = line[end:].lstrip()
        rows.append(_shorten(line, width, length))
    return rows


def _write(
    sheet: np.ndarray,
    text: str,
    font: ImageFont.FreeTypeFont,
    top: int,
    left: int,
    width: int,
    grey: float,
) -> None:
    """Blends one row of text into the sheet."""
    height = sum(font.getmetrics())
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font)
    cover = np.asarray(mask, np.float32)[..., None] / 255
    region = sheet[top : top + height, left : left + width]
    region += cover * (grey - region)


def _columns(cards: int, card_height: int, card_width: int) -> int:
    """The number of columns that brings the sheet near 3:2 and leaves few cells empty."""

    def badness(columns: int) -> float:
        rows = math.ceil(cards / columns)
        shape = abs(math.log(columns * card_width / (rows * card_height) / 1.5))
        return shape + (rows * columns - cards) / cards

    return min(range(1, cards + 1), key=badness)


def contact_sheet(
    content: np.ndarray,
    styles: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
    *,
    content_label: str = "content",
    style_labels: Sequence[str] | None = None,
    cell: int = 320,
) -> np.ndarray:
    """One picture of a whole run: the content, then each style above the output made from it.

    Every style keeps its own aspect ratio. Each line of a label has a row of its own, or two if it
    is long; what is longer still loses its middle. Letters beyond ASCII lose their accents or
    become "?".

    Args:
      content: [H, W, 3], range [0, 1].
      styles: sequence of N images [h, w, 3], range [0, 1], each of its own size.
      outputs: N images, [N, H, W, 3] or a sequence of [H, W, 3], range [0, 1].
      content_label: text beside the content's heading.
      style_labels: N texts, one a style; "style 1", "style 2", … when None.
      cell: longer side of each picture on the sheet, in pixels, at least 64.

    Returns:
      [height, width, 3] NumPy float32, range [0, 1].

    Raises:
      TypeError: an image is not floating point.
      ValueError: there is no style, the numbers of styles, outputs and labels differ, an image
        has another layout, or `cell` is less than 64.
    """
    content = _picture("content", content)
    styles = [_picture(f"styles[{i}]", style) for i, style in enumerate(styles)]
    outputs = [_picture(f"outputs[{i}]", output) for i, output in enumerate(outputs)]
    if not styles:
        raise ValueError("styles must hold at least 1 image, got none")
    if len(outputs) != len(styles):
        raise ValueError(f"outputs must hold {len(styles)} images, one a style, got {len(outputs)}")
    if style_labels is None:
        style_labels = [f"style {i + 1}" for i in range(len(styles))]
    style_labels = check_labels("style_labels", style_labels, len(styles))
    if cell < 64:
        raise ValueError(f"cell must be at least 64 pixels, got {cell}")

    large = ImageFont.load_default(size=max(11, cell // 18))
    small = ImageFont.load_default(size=max(9, cell // 25))
    gap = cell // 14
    # All outputs have the content's shape, so all cards are equal and rows line up.
    pictures = [_fit(image, cell, cell) for image in (content, *outputs)]
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    width = max(width, cell // 2)  # room for the label under a narrow picture
    line, small_line = sum(large.getmetrics()), sum(small.getmetrics())
    thumbnails = [
        _fit(style, max(cell // 4, line + small_line), width * 3 // 8) for style in styles
    ]
    lefts = [0] + [thumbnail.shape[1] + gap // 3 for thumbnail in thumbnails]
    labels = [
        in_rows(_ascii(label), width - left, large.getlength)
        for label, left in zip((content_label, *style_labels), lefts, strict=True)
    ]
    head = max(cell // 4, small_line + line * max(map(len, labels)))
    card_height, card_width = head + gap // 3 + height, width
    columns = _columns(len(pictures), card_height + 2 * gap, card_width + gap)
    rows = math.ceil(len(pictures) / columns)

    shape = (
        2 * gap + rows * card_height + (rows - 1) * 2 * gap,
        2 * gap + columns * card_width + (columns - 1) * gap,
        3,
    )
    sheet = np.full(shape, _BACKGROUND, np.float32)
    for i, picture in enumerate(pictures):
        top = gap + i // columns * (card_height + 2 * gap)
        left = gap + i % columns * (card_width + gap)
        foot = top + head
        if i:
            _paste(sheet, thumbnails[i - 1], foot - thumbnails[i - 1].shape[0], left)
        place = left + lefts[i], width - lefts[i]
        text_top = foot - line * len(labels[i])
        kind = "style" if i else "content"
        _write(sheet, kind, small, text_top - small_line, *place, _FAINT)
        for number, row in enumerate(labels[i]):
            _write(sheet, row, large, text_top + number * line, *place, _INK)
        _paste(sheet, picture, top + card_height - height, left)
    return sheet
