"""What a run makes of the pictures that it was given, and says about them."""

from collections.abc import Sequence

import numpy as np
from PIL import ImageColor

from nst_jax.cli.console import say
from nst_jax.config import Config
from nst_jax.files.images import read_with_alpha, resize_mask


def style_mask(
    name: str, alpha: np.ndarray | None, mask: np.ndarray | None, config: Config
) -> tuple[np.ndarray | None, str]:
    """Returns the part of a style to learn from, and a line that says how much is transparent.

    Args:
      name: what messages call the style.
      alpha: its transparency `[h, w]`, or None.
      mask: what the user asked to learn from, `[h, w]` or in proportion; None is all.
      config: of the run.

    Returns:
      The part is `[h, w]` in [0, 1], or None for all of the style. Transparent parts do not count,
      unless a term of the loss cannot leave out a part. The line is "" for an opaque style.

    Raises:
      ValueError: nothing is left of the style.
    """
    if alpha is None:
        return mask, ""
    share = f"{100 * float(np.mean(1 - alpha)):.2g} %"
    whole = [term.name for term in config.terms if term.refers_to("style") and not term.additive]
    if whole:
        return mask, (
            f"{name}: {share} of the style is transparent and counts as white: the term "
            f"{whole[0]} cannot leave out a part of a style"
        )
    opaque = alpha if mask is None else alpha * resize_mask(mask, *alpha.shape)
    if opaque.max() < 0.5 / 255:
        raise ValueError(f"{name}: the style must be opaque somewhere that its mask is not black")
    return opaque, f"{name}: {share} of the style is transparent and is not learnt from"


def tell_enlarged(pictures: Sequence[tuple[str, Sequence[int], Sequence[int]]]) -> None:
    """Says which pictures a run enlarges, and by how much: three of them, if there are many.

    Args:
      pictures: the name of each, its shape `[H, W, ...]`, and its shape in the run.
    """
    factors = {name: max(new[0] / old[0], new[1] / old[1]) for name, old, new in pictures}
    grown = {
        name: f"{name} from {old[1]} x {old[0]} to {new[1]} x {new[0]}"
        for name, old, new in sorted(pictures, key=lambda each: -factors[each[0]])
        if factors[name] > 1
    }
    shown = list(grown.values())[:3]
    if len(grown) > len(shown):
        shown.append(f"and {len(grown) - len(shown)} more")
    if shown:
        say(f"nst-jax: enlarged to the size of the run: {', '.join(shown)}")


_NEAR = 40
"""How far a channel may be from a colour of the legend, in levels: a JPEG blurs the colours."""

_EDGES = 0.05
"""The share of a map that may have other colours: drawing programs smooth the edges."""


def read_regions(path: str, legend: Sequence[str], *, styles: int) -> list[np.ndarray]:
    """Reads a picture with a colour for each region as masks `[H, W]` in [0, 1].

    A pixel belongs to the nearest colour of the legend. Transparent parts belong to none.

    Args:
      path: the picture's file.
      legend: a colour for each style, by its name or as #rrggbb.
      styles: how many styles there are.

    Raises:
      ValueError: not one colour for each style, something that is no colour, the same colour twice,
        a colour that the picture does not have, or much of the picture in other colours.
    """
    colours = [_colour(text) for text in legend]
    if len(set(colours)) < len(colours):
        raise ValueError(f"--legend must give each colour once, got {','.join(legend)!r}")
    image, alpha = read_with_alpha(path)
    levels = np.rint(255 * image).astype(np.int16)
    opaque = np.ones(levels.shape[:2], np.float32) if alpha is None else alpha
    there = f"the colours of {path} are {_colours_of(levels[opaque > 0.5])}"
    if len(colours) != styles:
        raise ValueError(
            f"--legend needs a colour for each of the {styles} styles, got {len(colours)}: {there}"
        )
    # The largest difference of a channel, to each colour in turn.
    far = np.stack([np.abs(levels - np.array(colour, np.int16)).max(-1) for colour in colours])
    nearest = far.argmin(axis=0)
    others = float(np.mean((far.min(axis=0) > _NEAR) & (opaque > 0.5)))
    if others > _EDGES:
        raise ValueError(
            f"--legend must have the colours of the map, but {100 * others:.0f} % of it have "
            f"others: {there}"
        )
    masks = [np.where(nearest == index, opaque, 0) for index in range(styles)]
    for text, mask, distance in zip(legend, masks, far, strict=True):
        if not (mask * (distance <= _NEAR)).any():
            raise ValueError(f"--legend must have colours of the map, got {text!r}: {there}")
    return masks


def _colour(text: str) -> tuple[int, ...]:
    """The levels of a colour."""
    try:
        return ImageColor.getrgb(text.strip())[:3]
    except ValueError:
        raise ValueError(
            f"--legend must hold colours such as #ff8000 or orange, got {text!r}"
        ) from None


def _colours_of(levels: np.ndarray) -> str:
    """The commonest colours of pixels `[N, 3]`, such as "#ff0000 (75 %), #0000ff (25 %)"."""
    if not len(levels):
        return "all transparent"
    numbers = levels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    values, counts = np.unique(numbers, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:6]
    return ", ".join(f"#{values[n]:06x} ({100 * counts[n] / len(levels):.2g} %)" for n in order)
