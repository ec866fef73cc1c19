"""Composes a contact sheet: one picture that shows all pictures of a run.

Images are float32 sRGB in RGB order, `[H, W, 3]` in [0, 1], as in the whole package. The sheet is
composed in float, because only the code that writes files rounds to integers.
"""

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jax.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from nst_jax.files.images import resize
from nst_jax.image import check_image

# Grey values in [0, 1].
_BACKGROUND = 0.965
_INK = 0.15
_FAINT = 0.45


def _picture(name: str, image: ArrayLike) -> np.ndarray:
    """Returns a picture as a NumPy array; refuses an array that is no picture."""
    picture = np.asarray(image)
    check_image(name, picture, single=True)
    return picture


def check_labels(name: str, labels: Iterable[str], count: int) -> list[str]:
    """Returns the labels as a list.

    Raises:
      ValueError: their number is not `count`. The message calls them `name`.
    """
    found = [str(label) for label in labels]
    if len(found) != count:
        raise ValueError(f"{name} must hold {count} labels, got {len(found)}")
    return found


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Returns Pillow's own font in a size in pixels."""
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # whenever a size is given
    return font


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image to fit into height × width. Its aspect ratio is kept."""
    scale = min(height / image.shape[0], width / image.shape[1])
    return resize(image, *(max(1, round(side * scale)) for side in image.shape[:2]))


def _paste(sheet: np.ndarray, image: np.ndarray, top: int, left: int) -> None:
    sheet[top : top + image.shape[0], left : left + image.shape[1]] = image


def _ascii(text: str) -> str:
    """Returns a text in ASCII, as Pillow's own font has nothing else.

    Accents are dropped. Other letters become "?".
    """
    letters = unicodedata.normalize("NFKD", text)
    letters = [c for c in letters if not unicodedata.combining(c)]
    return "".join(c if " " <= c <= "~" or c == "\n" else "?" for c in letters)


def _shorten(text: str, width: int, length: Callable[[str], float] = len) -> str:
    """Shortens a text to `width`: as little as possible is cut out of its middle."""
    if length(text) <= width:
        return text
    for keep in range(len(text) - 1, 0, -1):
        cut = text[: (keep + 1) // 2].rstrip() + "…" + text[len(text) - keep // 2 :].lstrip()
        if length(cut) <= width:
            return cut
    return "…"


def in_rows(text: str, width: int, length: Callable[[str], float]) -> list[str]:
    """Breaks a label into rows that fit into `width`.

    Each line of the label gets a row, or up to three rows if it is long. Rows break after a space
    or one of "_-+=" if possible. If three rows are too few, the last one loses its middle.

    Args:
      text: the label.
      width: of a row, in the unit of `length`.
      length: returns the width of a text.
    """
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
    """Draws one row of text on the sheet, in place."""
    height = sum(font.getmetrics())
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font)
    cover = np.asarray(mask, np.float32)[..., None] / 255
    region = sheet[top : top + height, left : left + width]
    region += cover * (grey - region)


def _columns(cards: int, card_height: int, card_width: int) -> int:
    """Returns the number of columns that brings the sheet near 3:2 and leaves few cells empty."""

    def badness(columns: int) -> float:
        rows = math.ceil(cards / columns)
        shape = abs(math.log(columns * card_width / (rows * card_height) / 1.5))
        return shape + (rows * columns - cards) / cards

    return min(range(1, cards + 1), key=badness)


def side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns pictures `[h, w, 3]` side by side in one, all as high as the lowest one."""
    if len(images) == 1:
        return images[0]
    height = min(image.shape[0] for image in images)
    gap = np.full((height, max(1, height // 20), 3), _BACKGROUND, np.float32)
    parts = []
    for image in images:
        width = max(1, round(image.shape[1] * height / image.shape[0]))
        parts += [gap, resize(image, height, width)]
    return np.concatenate(parts[1:], axis=1)


def contact_sheet(
    content: ArrayLike | None,
    styles: Sequence[ArrayLike],
    outputs: Sequence[ArrayLike] | np.ndarray,
    *,
    content_label: str = "content",
    style_labels: Sequence[str] | None = None,
    cell: int = 320,
) -> np.ndarray:
    """Composes one picture of a run: the content, then each style above the output made from it.

    Every style keeps its aspect ratio. Each line of a label gets a row, or up to three rows if it
    is long; a line that is still too long loses its middle. Letters beyond ASCII lose their accents
    or become "?".

    Args:
      content: `[H, W, 3]` in [0, 1]; None for a texture, which has none.
      styles: N images `[h, w, 3]` in [0, 1], each of its own size.
      outputs: N images, `[N, H, W, 3]` or a sequence of `[H, W, 3]`, in [0, 1].
      content_label: text below the heading of the content.
      style_labels: N texts, one for each style; None means "style 1", "style 2" and so on.
      cell: the longer side of each picture on the sheet, in pixels, at least 64.

    Returns:
      NumPy float32 `[height, width, 3]` in [0, 1].

    Raises:
      TypeError: an image is not floating point.
      ValueError: there is no style, the numbers of styles, outputs and labels differ, an image
        has another layout, or `cell` is less than 64.
    """
    first = [] if content is None else [_picture("content", content)]
    style_images = [_picture(f"styles[{i}]", style) for i, style in enumerate(styles)]
    output_images = [_picture(f"outputs[{i}]", output) for i, output in enumerate(outputs)]
    if not style_images:
        raise ValueError("styles must hold at least 1 image, got none")
    if len(output_images) != len(style_images):
        raise ValueError(
            f"outputs must hold {len(style_images)} images, one for each style, "
            f"got {len(output_images)}"
        )
    if style_labels is None:
        style_labels = [f"style {i + 1}" for i in range(len(style_images))]
    style_labels = check_labels("style_labels", style_labels, len(style_images))
    if cell < 64:
        raise ValueError(f"cell must be at least 64 pixels, got {cell}")

    large = _font(max(11, cell // 18))
    small = _font(max(9, cell // 25))
    gap = cell // 14
    # All outputs have the content's shape, so all cards are equal and rows line up.
    pictures = [_fit(image, cell, cell) for image in (*first, *output_images)]
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    width = max(width, cell // 2)  # room for the label under a narrow picture
    line, small_line = sum(large.getmetrics()), sum(small.getmetrics())
    thumbnails = [
        _fit(style, max(cell // 4, line + small_line), width * 3 // 8) for style in style_images
    ]
    above: list[np.ndarray | None] = [None] * len(first) + thumbnails
    lefts = [0] * len(first) + [thumbnail.shape[1] + gap // 3 for thumbnail in thumbnails]
    labels = [
        in_rows(_ascii(label), width - left, large.getlength)
        for label, left in zip((*[content_label] * len(first), *style_labels), lefts, strict=True)
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
    for i, (picture, thumbnail) in enumerate(zip(pictures, above, strict=True)):
        top = gap + i // columns * (card_height + 2 * gap)
        left = gap + i % columns * (card_width + gap)
        foot = top + head
        if thumbnail is not None:
            _paste(sheet, thumbnail, foot - thumbnail.shape[0], left)
        place = left + lefts[i], width - lefts[i]
        text_top = foot - line * len(labels[i])
        kind = "content" if thumbnail is None else "style"
        _write(sheet, kind, small, text_top - small_line, *place, _FAINT)
        for number, row in enumerate(labels[i]):
            _write(sheet, row, large, text_top + number * line, *place, _INK)
        _paste(sheet, picture, top + card_height - height, left)
    return sheet
