"""How styles are combined: blends, masks of regions, pairs; and the checks of these."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np  # which compiles nothing

from nst_jax import image as image_lib
from nst_jax.terms import Term


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Combine:
    """How styles and contents are combined to outputs. `Combine()` is each content in each style.

    Attributes:
      mixing: `[rows, styles]`, rows sum to 1: blends of styles, one output a row and content. A
        blend's target is that mixture of the styles'.
      masks: `[styles, H, W]` in [0, 1], over the content: one output, in which each style holds
        where its mask is; `[rows, styles, H, W]` for several. A region's style loss counts by
        its share of the picture. After Gatys et al.: "Controlling Perceptual Factors in Neural
        Style Transfer", CVPR 2017, https://arxiv.org/abs/1611.07865, section 4.
      style_masks: for each style `[h, w]` in [0, 1], the part of it to learn from, or None.
      paired: content n in style n alone, of as many contents as styles.
    """

    mixing: jax.Array | None = None
    masks: jax.Array | None = None
    style_masks: Sequence[jax.Array | None] | None = None
    paired: bool = False

    def replace(self, **changes) -> "Combine":
        """A copy with `changes`."""
        return dataclasses.replace(self, **changes)


def checked(
    combine: Combine,
    terms: Sequence[Term],
    content: jax.Array,
    styles: Sequence[jax.Array],
    *,
    jitter: int,
) -> Combine:
    """How one content and its styles are combined, as arrays, if they can be.

    Raises:
      TypeError, ValueError: what `nst_jax.compute_targets` refuses of these.
    """
    image_lib.check_image("content", content, single=True)
    check_combination(combine, terms, len(styles), jitter=jitter)
    for index, style in enumerate(styles):
        image_lib.check_image(f"styles[{index}]", style, single=True)
    size = content.shape[:2]
    return Combine(
        mixing=None if combine.mixing is None else check_mixing(combine.mixing, len(styles)),
        masks=None if combine.masks is None else check_masks(combine.masks, len(styles), size=size),
        style_masks=check_style_masks(combine.style_masks, styles),
    )


def check_combination(
    combine: Combine,
    terms: Sequence[Term],
    styles: int,
    *,
    jitter: int,
    contents: int = 1,
) -> int:
    """The outputs of a content, if so many styles and contents can be combined like that.

    Raises:
      ValueError: what `nst_jax.compute_targets` refuses of these, but for the masks' sizes.
    """
    mixing, masks, style_masks = combine.mixing, combine.masks, combine.style_masks
    if not styles:
        raise ValueError("styles must hold at least one picture, got none")
    if combine.paired:
        if not (mixing is None and masks is None and style_masks is None):
            raise ValueError("paired goes without mixing, masks and style_masks")
        if contents != styles:
            raise ValueError(
                f"paired needs as many contents as styles, got {contents} and {styles}"
            )
    if style_masks is not None and len(style_masks) != styles:
        raise ValueError(f"style_masks must hold one for each of {styles}, got {len(style_masks)}")
    of_styles = [term for term in terms if term.refers == "style"]
    if masks is not None:
        if mixing is not None:
            raise ValueError("give masks or mixing, not both")
        if jitter:
            raise ValueError("jitter would move the picture under its masks: use one or the other")
        for term in of_styles:
            if not term.regions:
                raise ValueError(
                    f"masks must go with terms that have regions; {term.name!r} has none"
                )
    for index, mask in enumerate([] if style_masks is None else style_masks):
        if mask is not None:
            check_mask(f"style_masks[{index}]", mask)
            for term in of_styles:
                if not term.additive:
                    raise ValueError(
                        f"style_masks must go with terms that add up; {term.name!r} does not"
                    )
    if masks is not None:
        return len(check_masks(masks, styles))
    if mixing is not None:
        mixing = check_mixing(mixing, styles)
        for term in of_styles:
            term.check_mixing(mixing)
        return len(mixing)
    return 1 if combine.paired else styles


def check_mixing(mixing: jax.Array, styles: int) -> np.ndarray:
    """`mixing` as an array, if it is `[outputs, styles]` with rows that sum to 1."""
    mixing = np.asarray(mixing, np.float32)
    if mixing.ndim != 2 or mixing.shape[1] != styles or not mixing.shape[0]:
        raise ValueError(f"mixing must be [outputs, {styles} styles], got {mixing.shape}")
    sums = np.sum(mixing, axis=1)
    if not np.allclose(sums, 1.0, atol=1e-4):
        raise ValueError(f"each row of mixing must sum to 1, got sums {sums.tolist()}")
    return mixing


def check_mask(name: str, mask: jax.Array) -> np.ndarray:
    """`mask` as a float32 array, if it is in [0, 1] and not black all over."""
    try:
        mask = np.asarray(mask, np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of numbers, got {type(mask).__name__}") from None
    if not np.all((mask >= 0) & (mask <= 1)):  # nor NaN
        raise ValueError(
            f"{name} must be in [0, 1], got values from {np.min(mask):g} to {np.max(mask):g}"
        )
    if mask.size and not mask.any():
        raise ValueError(f"{name} must have some weight, got 0 everywhere")
    return mask


def check_masks(
    masks: jax.Array, styles: int, *, size: tuple[int, int] | None = None
) -> np.ndarray:
    """`masks` as `[outputs, styles, H, W]`, if it is that or one output's, over the content of
    `size` (of any, where that is None)."""
    # Of one output each style has a place, of several each output has a style somewhere.
    masks = [check_mask(f"masks[{index}]", mask) for index, mask in enumerate(masks)]
    shapes = {mask.shape for mask in masks}
    if len(shapes) > 1:
        raise ValueError(f"masks must be of one size, got {sorted(shapes)}")
    masks = np.array(masks)
    found = masks.shape
    if masks.ndim == 3:
        masks = masks[None]
    if (
        masks.ndim != 4
        or not masks.size
        or masks.shape[1] != styles
        or (size is not None and masks.shape[2:] != tuple(size))
    ):
        height, width = ("H", "W") if size is None else size
        raise ValueError(
            f"masks must be [{styles} styles, {height}, {width}], the content's size, or that "
            f"with a leading axis of outputs, got {found}"
        )
    return masks


def check_style_masks(
    masks: Sequence[jax.Array | None] | None, styles: Sequence[jax.Array]
) -> list[np.ndarray | None]:
    """One mask or None a style, as arrays, if each mask has its style's size."""
    found = []
    for index, style in enumerate(styles):
        mask = None if masks is None else masks[index]
        if mask is not None:
            mask = check_mask(f"style_masks[{index}]", mask)
            if mask.shape != style.shape[:2]:
                raise ValueError(
                    f"style_masks[{index}] must have its style's size {style.shape[:2]}, "
                    f"got {mask.shape}"
                )
        found.append(mask)
    return found
