"""Six style pictures, each in the manner of a craft, drawn by formula.

Each function depends only on a size and a seed, and returns float32 `[H, W, 3]`, sRGB in [0, 1].
The shorter side of the canvas spans [-1, 1], and y points down. So a seed gives the same picture at
any size, and a longer canvas shows more of it.
"""

from nst_jax.paintings.glass import stained_glass
from nst_jax.paintings.ink import hatching
from nst_jax.paintings.oil import brush_strokes
from nst_jax.paintings.stone import mosaic
from nst_jax.paintings.water import watercolour
from nst_jax.paintings.wood import woodcut

__all__ = ["brush_strokes", "hatching", "mosaic", "stained_glass", "watercolour", "woodcut"]
