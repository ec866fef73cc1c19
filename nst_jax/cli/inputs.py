"""What a run makes of the pictures that it was given, and says about them."""

from collections.abc import Sequence

import numpy as np

from nst_jax.cli.console import say
from nst_jax.config import Config
from nst_jax.files.images import resize_mask


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
    whole = [term.name for term in config.terms if term.refers == "style" and not term.additive]
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
