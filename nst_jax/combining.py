"""Checks of the arrays that say how styles are combined: blends, and masks of regions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def check_mixing(mixing: jax.Array, styles: int) -> jax.Array:
    """`mixing` as an array, if it is `[outputs, styles]` with rows that sum to 1."""
    mixing = jnp.asarray(mixing, jnp.float32)
    if mixing.ndim != 2 or mixing.shape[1] != styles or not mixing.shape[0]:
        raise ValueError(f"mixing must be [outputs, {styles} styles], got {mixing.shape}")
    sums = jnp.sum(mixing, axis=1)
    if not jnp.allclose(sums, 1.0, atol=1e-4):
        raise ValueError(f"each row of mixing must sum to 1, got sums {sums.tolist()}")
    return mixing


def check_masks(masks: jax.Array, styles: int, size: tuple[int, int]) -> jax.Array:
    """`masks` as `[outputs, styles, H, W]`, if it is that or one output's, over the content."""
    masks = jnp.asarray(masks, jnp.float32)
    if masks.ndim == 3:
        masks = masks[None]
    if masks.ndim != 4 or masks.shape[1:] != (styles, *size):
        raise ValueError(
            f"masks must be [{styles} styles, {size[0]}, {size[1]}], the content's size, or that "
            f"with a leading axis of outputs, got {masks.shape}"
        )
    if not jnp.all((masks >= 0) & (masks <= 1)):
        raise ValueError("masks must be in [0, 1]")
    return masks


def check_style_masks(
    masks: Sequence[jax.Array | None] | None, styles: Sequence[jax.Array]
) -> list[jax.Array | None]:
    """One mask or None a style, if each mask has its style's size."""
    masks = [None] * len(styles) if masks is None else list(masks)
    if len(masks) != len(styles):
        raise ValueError(f"style_masks must hold one for each of {len(styles)}, got {len(masks)}")
    for index, (mask, style) in enumerate(zip(masks, styles, strict=True)):
        if mask is not None and mask.shape != style.shape[:2]:
            raise ValueError(
                f"style_masks[{index}] must have its style's size {style.shape[:2]}, "
                f"got {mask.shape}"
            )
    return [None if mask is None else jnp.asarray(mask, jnp.float32) for mask in masks]
