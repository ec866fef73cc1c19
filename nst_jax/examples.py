"""Example pictures, drawn by formula: a content picture and eight style pictures.

Each function depends only on a size and a seed, and returns float32 `[H, W, 3]`, sRGB in [0, 1].
A picture is a function from points of the plane to colours. The shorter side of the canvas spans
[-1, 1], and y points down. So a seed gives the same picture at any size, and a longer canvas shows
more of it. Six of the styles are in `nst_jax.paintings`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nst_jax.canvas import (
    Array,
    Shade,
    Size,
    mix,
    render,
    rgb,
    sides,
    smoothstep,
    spline,
    value_noise,
    window_of,
)
from nst_jax.image import whole_number
from nst_jax.paintings import (
    brush_strokes,
    hatching,
    mosaic,
    stained_glass,
    watercolour,
    woodcut,
)

__all__ = [
    "brush_strokes",
    "Film",
    "butterfly",
    "butterfly_film",
    "by_name",
    "hatching",
    "mosaic",
    "rainbow",
    "stained_glass",
    "triangles",
    "watercolour",
    "woodcut",
]

_MOSAIC = "10263f 0f6b78 1fa79b f2e8c9 f4b41a e8542f b3173f 5b1a4f 16151c f08aa0 2f5fc4 fdfaf0"
_MOSAIC_LINES = np.float32(0.06)


def butterfly(size: Size, *, seed: int = 0) -> np.ndarray:
    """Draws a monarch butterfly on a flower: a content picture.

    Args:
      size: the side of a square picture, or (height, width), in pixels. Each is at least 32.
      seed: the variant of the picture, 0 or more. It sets the pose and the lights behind it.

    Returns:
      float32 `[H, W, 3]`, sRGB in [0, 1].

    Raises:
      TypeError: a side or `seed` is not a whole number.
      ValueError: a side is below 32 pixels, or `seed` is negative.
    """
    rng = np.random.default_rng(whole_number("seed", seed, least=0))
    meadow, insect = _meadow(rng), _insect(rng)
    return render(lambda x, y: insect(x, y, _flower(x, y, meadow(x, y))), size)


class Film(NamedTuple):
    """Frames and how they move.

    Attributes:
      frames: float32 `[T, H, W, 3]`, sRGB in [0, 1].
      forward: `[T - 1, H, W, 2]`, the flow from each frame to the next one, see `nst_jax.flow`.
      backward: `[T - 1, H, W, 2]`, from each frame after the first to the one before.
    """

    frames: Array
    forward: Array
    backward: Array


def butterfly_film(
    size: Size,
    *,
    frames: int = 8,
    seed: int = 0,
    background: tuple[float, float] = (-0.02, 0.004),
    insect: tuple[float, float] = (0.015, -0.01),
) -> Film:
    """Draws the butterfly in flight over its meadow: a film whose flow is known.

    Args:
      size, seed: as in `butterfly`.
      frames: how many frames there are, at least 1.
      background: how far the meadow moves from frame to frame, to the right and down. The shorter
        side of the picture is 2.
      insect: how far the butterfly moves.

    Raises:
      TypeError, ValueError: as `butterfly`, or `frames` is not a whole number of at least 1.
    """
    rng = np.random.default_rng(whole_number("seed", seed, least=0))
    meadow, paint = _meadow(rng), _insect(rng)
    height, width = sides(size)
    pictures, covers = [], []
    for number in range(whole_number("frames", frames)):
        ground, place = (np.array(by, np.float32) * number for by in (background, insect))

        def shade(x: Array, y: Array, ground=ground, place=place) -> Array:
            picture = meadow(x - ground[0], y - ground[1])
            return paint(x - place[0], y - place[1], picture)

        def cover(x: Array, y: Array, place=place) -> Array:
            # What the butterfly and its shadow leave of white.
            white = np.ones((3, y.size, x.size), np.float32)
            black = paint(x - place[0], y - place[1], np.zeros_like(white))
            return 1 - (paint(x - place[0], y - place[1], white) - black)

        pictures.append(render(shade, (height, width)))
        covers.append(render(cover, (height, width)).mean(-1) > 0.5)
    unit = min(height, width) / 2

    def flows(covers: list[Array], sign: float) -> Array:
        moves = [np.where(own[..., None], insect, background) for own in covers]
        shape = (len(covers), height, width, 2)
        return (sign * unit * np.array(moves)).astype(np.float32).reshape(shape)

    return Film(np.stack(pictures), flows(covers[:-1], 1.0), flows(covers[1:], -1.0))


def rainbow(size: Size, *, seed: int = 0) -> np.ndarray:
    """Draws swirling bands of all hues in thick brush strokes: a style picture.

    Args:
      size: the side of a square picture, or (height, width), in pixels. Each is at least 32.
      seed: the variant of the picture, 0 or more. It sets the waves, whirls and strokes.

    Returns:
      float32 `[H, W, 3]`, sRGB in [0, 1].

    Raises:
      TypeError: a side or `seed` is not a whole number.
      ValueError: a side is below 32 pixels, or `seed` is negative.
    """
    rng = np.random.default_rng(whole_number("seed", seed, least=0))
    waves = rng.uniform(0, 2 * math.pi, 6)
    noise = rng.random((256, 256), np.float32)
    centres = np.stack(np.meshgrid(np.arange(-4.5, 5), np.arange(-4.5, 5)), -1).reshape(-1, 2)
    centres += rng.uniform(-0.3, 0.3, centres.shape)
    turns = rng.choice([-3.3, 3.3], len(centres))
    whirls = np.column_stack([centres, turns]).astype(np.float32)

    def shade(x: Array, y: Array) -> Array:
        u, v = np.broadcast_arrays(x, y)
        # A whirl turns the plane about its centre. Points further out keep their place.
        for cx, cy, turn in whirls:
            if max(u.min() - cx, cx - u.max(), v.min() - cy, cy - v.max()) > 0.8:
                continue
            dx, dy = u - cx, v - cy
            angle = turn * np.maximum(0, 1 - (dx * dx + dy * dy) / 0.64) ** 3
            cos, sin = np.cos(angle), np.sin(angle)
            u, v = cos * dx - sin * dy + cx, sin * dx + cos * dy + cy
        for k, (a, b) in enumerate(waves.reshape(3, 2).astype(np.float32)):
            f = np.float32(1.7 * 1.6**k)
            u = u + np.float32(0.30 / f) * np.sin(f * v * 2 + a)
            v = v + np.float32(0.24 / f) * np.sin(f * u * 2 + b)
        return _strokes(u, v, noise)

    return render(shade, size)


def triangles(size: Size, *, seed: int = 0) -> np.ndarray:
    """Draws a mosaic of sharp triangles of many sizes: a style picture.

    Args:
      size: the side of a square picture, or (height, width), in pixels. Each is at least 32.
      seed: the variant of the picture, 0 or more. It sets the triangles and their colours.

    Returns:
      float32 `[H, W, 3]`, sRGB in [0, 1].

    Raises:
      TypeError: a side or `seed` is not a whole number.
      ValueError: a side is below 32 pixels, or `seed` is negative.
    """
    height, width = sides(size)
    seed = whole_number("seed", seed, least=0)
    tiles = _mosaic(height / min(height, width), width / min(height, width), seed)

    def shade(x: Array, y: Array) -> Array:
        picture = np.full((3, y.size, x.size), _MOSAIC_LINES, np.float32)
        for corners, tint in tiles:
            if window := window_of(x, y, corners):
                rows, columns = window
                _paint(picture[:, rows, columns], x[:, columns], y[rows], corners, tint)
        return picture

    return render(shade, (height, width))


by_name = {
    "butterfly": butterfly,
    "rainbow": rainbow,
    "triangles": triangles,
    "brush_strokes": brush_strokes,
    "hatching": hatching,
    "mosaic": mosaic,
    "stained_glass": stained_glass,
    "watercolour": watercolour,
    "woodcut": woodcut,
}
"""The example pictures by name."""


def _hue(turn: Array) -> Array:
    """Returns colours of a vivid wheel as `[3, *turn.shape]`. Turns 0 and 1 are red."""
    stops = rgb("e3122b f7701a fdd321 4cb92f 12a5a0 1c62d6 6a2fc0 d11e8c")
    grid = np.linspace(0, 8, 1024, endpoint=False)
    tints = [np.interp(grid, range(8), c, period=8) for c in stops[:, :, 0, 0].T]
    wheel = np.array(tints, np.float32)
    return np.take(wheel, (turn * 1024).astype(np.int32) % 1024, axis=1)


def _strokes(u: Array, v: Array, noise: Array) -> Array:
    """Paints strokes that run along v, in bands of hue across u."""
    flat = noise.ravel()
    wobble = (value_noise(u * 3, v * 3, noise)[0] - 0.5) * 1.5
    picture = np.zeros((3, 1, 1), np.float32)
    layers = [(0.075, 0.60, 1.0), (0.050, 0.34, 1.0), (0.028, 0.20, 0.55)]
    for layer, (wide, long, share) in enumerate(layers):
        across = u / np.float32(wide) + wobble
        row = np.floor(across)
        cell = row.astype(np.int32) * 7919 + 104729 * (layer + 1)
        along = v / np.float32(long) + flat[cell % flat.size]
        column = np.floor(along)
        cell = (cell + column.astype(np.int32) * 15401) % flat.size
        s, t = across - row, along - column
        mood, lift, chance = flat[cell], flat[cell - 1], flat[cell - 2]
        colour = _hue(row * np.float32(wide * 0.95) + v * 0.10 + (mood - 0.5) * 0.11)
        # Bristles scratch the paint lengthwise. Light from the side shows the scratches as ridges.
        fine, slope = value_noise(across * 9, along * 2 + 57 * mood, noise)
        colour *= 0.90 + 0.36 * lift + 0.16 * slope - 0.20 * s
        colour += np.clip(lift - 0.72, 0, 1) * 0.9 * (1 - colour)
        # Strokes have ragged round ends, and the layer below shows through the gaps.
        reach = np.square(2 * s - 1) ** 2 + np.square(2 * t - 1) ** 2 + 0.5 * fine - 0.25
        mask = (1 - smoothstep(0.75, 1.0, reach)) * (chance < share) if layer else 1.0
        rim = smoothstep(0.35, 0.95, reach) * 0.22
        picture = mix(picture, colour * (1 - rim), mask)
    return picture


def _mosaic(half_height: float, half_width: float, seed: int) -> list[tuple]:
    """Makes triangles `[3, 2]` that cover the canvas, each with its colours `[2, 3, 1, 1]`."""
    pitch, palette = 0.62, rgb(_MOSAIC)
    tiles = []

    def random(i: int, j: int, kind: int) -> np.random.Generator:
        # Each place has its own random numbers, so that a longer canvas keeps its triangles.
        return np.random.default_rng([seed, i + 2**20, j + 2**20, kind])

    def point(i: int, j: int) -> Array:
        jitter = random(i, j, 0).uniform(-0.25, 0.25, 2)
        return np.array([i + 0.5 * (j % 2) + jitter[0], (j + jitter[1]) * 0.87]) * pitch

    def split(corners: Array, rng: np.random.Generator, depth: int) -> None:
        edges = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
        if depth > 0 and edges.max() > 0.11 and rng.random() < 0.86:
            a, b, c = np.roll(corners, -int(edges.argmax()), axis=0)
            middle = a + (b - a) * rng.uniform(0.36, 0.64)
            split(np.stack([a, middle, c]), rng, depth - 1)
            split(np.stack([middle, b, c]), rng, depth - 1)
            return
        # The mean index drifts over the plane. Neighbours have related colours that contrast.
        x, y = 2.1 * corners.mean(axis=0)
        drift = 2.2 * math.sin(x + 0.8) + 2.2 * math.sin(0.81 * y + 0.48 * x)
        outer = round(drift + rng.normal(0, 2.6))
        inner = outer + int(rng.random() < 0.3) * int(rng.integers(2, 7))
        tint = palette[[outer % 12, inner % 12]] * np.float32(rng.uniform(0.88, 1.05))
        tiles.append((corners.astype(np.float32), tint))

    rows = math.ceil(half_height / (0.87 * pitch)) + 1
    columns = math.ceil(half_width / pitch) + 2
    for j in range(-rows, rows + 1):
        for i in range(-columns, columns + 1):
            for kind, row in ((1, j + 1), (2, j - 1)):
                rng = random(i, j, kind)
                corners = np.stack([point(i, j), point(i + 1, j), point(i + j % 2, row)])
                split(corners, rng, int(rng.integers(2, 8)))
    return tiles


def _paint(picture: Array, x: Array, y: Array, corners: Array, tint: Array) -> None:
    """Draws one triangle with its outline into its bounding box of the picture, in place."""
    ends = np.roll(corners, -1, axis=0)
    doubled = float(np.linalg.det(corners[1:] - corners[0]))  # twice the area, with a sign
    depth = np.array(np.inf, np.float32)
    for (x0, y0), (x1, y1) in zip(corners, ends, strict=True):
        length = np.float32(math.copysign(math.hypot(x1 - x0, y1 - y0), doubled))
        depth = np.minimum(depth, ((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / length)
    inradius = abs(doubled) / float(np.linalg.norm(ends - corners, axis=1).sum())
    colour = np.where(depth > 0.42 * inradius, tint[1], tint[0])
    colour = np.where(depth > min(0.006, 0.12 * inradius), colour, _MOSAIC_LINES)
    np.copyto(picture, colour, where=depth >= 0)


def _meadow(rng: np.random.Generator) -> Shade:
    """Makes a meadow out of focus: haze, grass, and discs of light."""
    noise = rng.random((64, 64), np.float32)
    tints = rgb("0d3b2e 2f7d4f 8cc06a d8e6a0 6fb7c9 f7f0c0 e58fb0")
    tints = rng.choice(tints, 150, p=[0.1, 0.2, 0.25, 0.17, 0.13, 0.08, 0.07])
    discs = rng.uniform([-2.2, -2.2, 0.06, 0.12], [2.2, 2.2, 0.22, 0.5], (150, 4))
    discs = discs.astype(np.float32)

    def shade(x: Array, y: Array) -> Array:
        haze = value_noise(x * 1.3 + 9, y * 1.3 + 9, noise)[0] - 0.5
        level = 0.5 + 0.48 * y + 0.55 * haze + 0.18 * x
        picture = mix(rgb("a9d3d6"), rgb("5fa35c"), smoothstep(0.0, 0.5, level))
        picture = mix(picture, rgb("123f2f"), smoothstep(0.4, 1.0, level))
        glow = 0.75 * np.exp(-1.6 * np.square(np.hypot(x - 0.75, y + 0.85)))
        picture = mix(picture, rgb("fff3c4"), glow)
        grass = value_noise(x * 9 + 3 * y + 4 * haze, 0.7 * y + 20, noise)[0]
        picture *= 1 + smoothstep(-0.6, 1.0, y) * (grass - 0.5) * 0.7
        for (cx, cy, radius, alpha), tint in zip(discs, tints, strict=True):
            if window := window_of(x, y, np.array([[cx, cy]]) + np.array([[-radius], [radius]])):
                rows, columns = window
                part = picture[:, rows, columns]
                far = np.hypot(x[:, columns] - cx, y[rows] - cy) / radius
                rim = 0.75 + 0.25 * smoothstep(0.6, 0.9, far)
                part[:] = mix(part, tint, alpha * rim * (1 - smoothstep(0.86, 1.0, far)))
        return picture

    return shade


def _flower(x: Array, y: Array, picture: Array) -> Array:
    """Paints two rings of petals round a golden disc, seen a little from the side."""
    x, y = x - 0.03, (y - 0.60) / 0.74
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    picture = picture * (0.55 + 0.45 * smoothstep(0.35, 0.85, np.hypot(x, y - 0.12)))
    rings = [(17, 0.66, "7d2a6e", "c86bb0"), (15, 0.56, "a8448f", "f3b3d6")]
    for ring, (petals, long, base, tip) in enumerate(rings):
        turn = angle * (petals / (2 * math.pi)) + 0.37 * ring
        petal = np.floor(turn)
        s = 2 * (turn - petal) - 1
        own = 0.5 + 0.5 * np.sin(petal % petals * 12.9 + ring)
        reach = radius / (long * (0.9 + 0.1 * own))
        wide = np.sqrt(1 - np.square(np.clip((reach - 0.45) / 0.55, 0, 1)))
        light = 0.92 + 0.035 * np.cos(s * 16) - 0.24 * np.abs(s) ** 3 + 0.12 * own
        colour = mix(rgb(base), rgb(tip), smoothstep(0.25, 1.0, reach)) * light
        inside = smoothstep(-0.03, 0.03, (wide - np.abs(s)) * radius) * (reach < 1)
        picture = mix(picture, colour, inside)
    # Florets sit where two families of spirals cross. They are darker towards the rim.
    disc = radius / 0.20
    floret = np.sin(angle * 21 + disc * 24) * np.sin(angle * 21 - disc * 24)
    gold = mix(rgb("f6c12c"), rgb("7a3b10"), smoothstep(0, 1, 0.75 * disc * disc + 0.25 * floret))
    return mix(picture, gold, 1 - smoothstep(0.95, 1.03, disc))


# The right half of the butterfly, in hundredths. Smooth curves run through these points. The head
# is up, the middle is x = 0, and the wings span about 2.
# fmt: off
_FORE_OUTLINE = [
    (3, -20), (12, -31), (30, -48), (52, -63), (74, -72), (90, -73.5), (96.5, -70), (96.5, -62),
    (91.5, -49), (85.5, -35), (81.5, -21), (79, -9), (74.5, -0.5), (66, 2.5), (50, 3), (30, 2),
    (12, 0), (3, -4),
]
_FORE_VEINS = [
    [(38, -45.5), (58, -59.5), (76, -69), (88, -73)],
    [(4, -17), (20, -33.5), (38, -45.5), (50, -50)],
    [(4, -13), (18, -19), (36, -26.5), (50, -33.5)], [(6, -8), (30, -5), (55, -1), (70, 2)],
    [(50, -50), (53.5, -42), (50, -33.5)], [(52.5, -45.5), (74, -53), (95, -59)],
    [(53.5, -42), (74, -44), (90, -46)], [(50, -33.5), (70, -32), (85, -33)],
    [(40, -28.3), (62, -21), (82, -19)], [(50, -50), (70, -61), (96, -69)],
    [(28, -23), (52, -11), (77, -4)],
]
_FORE_SPOTS = [  # x, y, radius
    (70, -64.5, 2), (77.5, -66.5, 2.1), (85, -67.5, 2), (72, -56.5, 2.4), (79, -58.5, 2.2),
    (86, -60, 1.7), (80, -49, 2),
]
_HIND_OUTLINE = [
    (3, -10), (20, -11), (42, -8), (60, -2), (71.5, 9), (75, 22), (72.5, 35), (65, 47),
    (55, 57), (43, 64), (31, 66), (21, 61.5), (14.5, 52), (10, 39), (6, 22), (3, 5),
]
_HIND_VEINS = [
    [(5, 2), (15, 12), (26, 20), (37, 23)], [(4, -5), (20, -3), (34, 1), (42, 7)],
    [(35, 22.5), (46, 40), (53, 58.5)], [(17, 13.5), (22, 36), (24, 63.5)],
    [(43, 13), (58, 23), (73, 33)], [(40, 20), (54, 33), (66, 46)],
    [(27, 20), (34, 42), (38, 65)], [(42, 7), (43, 15), (37, 23)],
    [(42, 7), (58, 12), (75, 19)], [(5, 6), (10, 24), (14, 50)], [(34, 1), (52, 2), (69, 6)],
]
_BODY_DOTS = [(1.8, -28.5, 0.8), (1.2, -25, 0.7), (2.6, -21.5, 1), (3.6, -16.5, 0.9)]
_ANTENNA = [(1.2, -30), (7, -42), (15, -55), (25, -66), (29, -68.5)]
# fmt: on
_GRID_X = np.arange(-0.02, 1.08, 0.005, dtype=np.float32)[None]
_GRID_Y = np.arange(-0.84, 0.78, 0.005, dtype=np.float32)[:, None]


def _insect(rng: np.random.Generator) -> Callable[..., Array]:
    """Makes a function that paints the butterfly over a picture given at x and y."""
    noise = rng.random((256, 256), np.float32)
    turn = math.radians(rng.uniform(4, 10)) * float(rng.choice([-1, 1]))
    cos, sin = math.cos(turn) / 0.9, math.sin(turn) / 0.9
    fore = _wing(_FORE_OUTLINE, _FORE_VEINS, slice(36, 72), _FORE_SPOTS, (0.97, -0.72))
    hind = _wing(_HIND_OUTLINE, _HIND_VEINS, slice(24, 78), [], (9, 9))
    antenna = spline(_ANTENNA)
    feeler = np.maximum(0.005 - _distance(antenna), 0.012 - _distance(antenna[-7:]))
    whole = np.maximum(fore[0], hind[0])

    def paint(x: Array, y: Array, picture: Array) -> Array:
        y = y + 0.03
        side, v = cos * x + sin * y, cos * y - sin * x
        # Its shadow falls a little down and to the left.
        (under,) = _look_up([whole], np.abs(side + 0.058), v - 0.078)
        picture = picture * (1 - 0.55 * smoothstep(-0.055, 0.055, under))
        _scales(picture, hind, fore[:1], side, v, noise)
        _scales(picture, fore, [], side, v, noise)
        (over,) = _look_up([feeler], np.abs(side), v)
        picture = mix(picture, rgb("1c1210"), smoothstep(-0.001, 0.002, over))
        return _body(picture, side, v, noise)

    return paint


def _distance(curve: Array) -> Array:
    """Computes the distance from each point of the grid to the nearest point of a polyline."""
    best = np.array(np.inf, np.float32)
    for (x0, y0), (ex, ey) in zip(curve[:-1], np.diff(curve, axis=0), strict=True):
        x, y = _GRID_X - x0, _GRID_Y - y0
        t = np.clip((x * ex + y * ey) / (ex * ex + ey * ey + 1e-12), 0, 1)
        best = np.minimum(best, np.square(x - t * ex) + np.square(y - t * ey))
    return np.sqrt(best)


def _wing(outline: list, veins: list, margin: slice, spots: list, tip: tuple) -> list[Array]:
    """Tabulates a wing on the grid, as six functions of the plane.

    The functions are the depth inside the wing, the distance to a vein, the depth in a pale spot,
    the width of the black border, and the slopes of the relief along x and y. The border is widest
    near `tip`. Two rows of spots follow the part `margin` of the outline.
    """
    edge = spline([*outline, outline[0]])
    inside = np.zeros((_GRID_Y.size, _GRID_X.size), bool)
    for (x0, y0), (x1, y1) in zip(edge[:-1], edge[1:], strict=True):
        if y0 != y1:  # crossing an edge on the way to the right changes in to out
            crossing = x0 + (_GRID_Y - y0) * ((x1 - x0) / (y1 - y0))
            inside ^= ((y0 > _GRID_Y) != (y1 > _GRID_Y)) & (crossing > _GRID_X)
    depth = _distance(edge) * np.where(inside, 1, -1)
    vein = np.minimum.reduce([_distance(spline(line)) for line in veins])
    dots = list(np.array(spots).reshape(-1, 3) / 100)
    walk = edge[margin]
    along = np.gradient(walk, axis=0)
    inward = np.stack([-along[:, 1], along[:, 0]], -1) / np.linalg.norm(along, axis=1)[:, None]
    length = np.cumsum(np.linalg.norm(along, axis=1))
    for inset, radius, gap in ((0.022, 0.0095, 0.041), (0.052, 0.0125, 0.052)):
        row = walk + inset * inward
        for k, place in enumerate(np.arange(length[0] + gap / 2, length[-1], gap)):
            x, y = (np.interp(place, length, axis) for axis in row.T)
            dots.append((x, y, radius * (1.12 - 0.3 * (k % 2))))
    pale = np.maximum.reduce([r - np.hypot(_GRID_X - x, _GRID_Y - y) for x, y, r in dots])
    width = 0.030 + 0.028 * smoothstep(0.3, 0.6, np.hypot(_GRID_X, _GRID_Y + 0.1))
    width = width + 0.034 * np.exp(-vein * 60)  # the black runs a little way up each vein
    width += 0.17 * np.exp(-11 * np.square(np.hypot(_GRID_X - tip[0], _GRID_Y - tip[1])))
    slope_y, slope_x = np.gradient(np.minimum(np.minimum(vein, 0.06), depth), 0.005)
    tables = (depth, vein, pale, width, slope_x, slope_y)
    return [np.asarray(table, np.float32) for table in tables]


def _look_up(tables: list[Array], x: Array, y: Array) -> list[Array]:
    """Evaluates functions tabulated on the grid, linearly between its points."""
    columns = _GRID_X.size
    u = np.clip((x - _GRID_X[0, 0]) * 200, 0, columns - 1.001)
    v = np.clip((y - _GRID_Y[0, 0]) * 200, 0, _GRID_Y.size - 1.001)
    i, j = np.floor(u), np.floor(v)
    s, t = u - i, v - j
    at = i.astype(np.int32) + columns * j.astype(np.int32)
    values = []
    for table in tables:
        upper = mix(table.take(at), table.take(at + 1), s)
        lower = mix(table.take(at + columns), table.take(at + (columns + 1)), s)
        values.append(mix(upper, lower, t))
    return values


def _scales(
    picture: Array,
    wing: list[Array],
    above: list[Array],
    side: Array,
    v: Array,
    noise: Array,
) -> None:
    """Paints a pair of wings into a picture, in the shadow of the wings above them."""
    inside = _look_up(wing[:1], np.abs(side), v)[0] > 0
    side, v = side[inside][None], v[inside][None]
    depth, vein, spot, width, slope_x, slope_y = _look_up(wing, np.abs(side), v)
    radius = np.hypot(side, v + 0.1)
    grain = value_noise(side * 97 + v * 51, v * 97 - side * 51, noise)[0] - 0.5
    streak = value_noise(60 * np.arctan2(v + 0.1, side), radius * 14, noise)[0] - 0.5
    light = 0.7 * (np.sign(side) * slope_x - slope_y)
    colour = mix(rgb("8a2306"), rgb("e4570c"), smoothstep(0.02, 0.36, radius + 0.1 * streak))
    colour = mix(colour, rgb("fb9f1e"), smoothstep(0.25, 0.95, radius + 0.12 * streak))
    colour = mix(
        colour, rgb("ffd36b"), 0.6 * smoothstep(0.012, 0.085, vein) * smoothstep(0.3, 0.8, radius)
    )
    colour = mix(colour, rgb("a93a08"), 0.55 * (1 - smoothstep(0.004, 0.035, vein)))
    colour *= 1 + 0.13 * light * np.exp(-vein * 18) + 0.12 * streak + 0.16 * grain
    border = 1 - smoothstep(-0.008, 0.008, depth - width - 0.006 * streak)
    line = 1 - smoothstep(-0.0025, 0.0025, vein - 0.0055 - 0.006 * np.exp(-radius * 3))
    black = rgb("1b100c") + (0.06 * grain + 0.05 * np.clip(light, 0, 1)) * rgb("a0a8ff")
    colour = mix(colour, black, np.maximum(border, line))
    pale = mix(rgb("fffdf4"), rgb("ffd9a0"), smoothstep(0.05, 0.25, depth))
    colour = mix(colour, pale, smoothstep(-0.003, 0.003, spot))
    for cover in _look_up(above, np.abs(side - 0.02), v - 0.03):
        colour *= 1 - 0.45 * smoothstep(-0.04, 0.03, cover)
    picture[:, inside] = colour[:, 0]


def _body(picture: Array, side: Array, v: Array, noise: Array) -> Array:
    """Paints abdomen, thorax and head as shaded ellipses, and their white dots."""
    near = (np.abs(side) < 0.08) & (np.abs(v - 0.03) < 0.4)
    side, v, part = side[near][None], v[near][None], picture[:, near][:, None]
    fur = value_noise(side * 160, v * 40, noise)[0] - 0.5
    for middle, wide, high in [
        (0.13, 0.043, 0.255),
        (-0.135, 0.062, 0.125),
        (-0.278, 0.043, 0.042),
    ]:
        up = (v - middle) / high
        across = side / (wide * (1 - 0.25 * np.clip(up, 0, 1)))
        reach = np.square(across) + np.square(up) + 0.12 * fur
        bulge = np.sqrt(np.clip(1 - reach, 0, 1))
        light = 0.10 + bulge * (0.75 + 0.30 * across + 0.9 * fur)
        colour = mix(rgb("140d0b"), rgb("6d4a2c"), 0.8 * np.clip(light, 0, 1))
        rings = 0.45 * bulge * smoothstep(0.55, 0.95, np.cos(v * 68)) * (v > 0)
        colour = mix(colour, rgb("e7b877"), rings)
        part = mix(part, colour, 1 - smoothstep(0.92, 1.04, reach))
    for x, y, radius in np.array(_BODY_DOTS, np.float32) / 100:
        far = np.hypot(np.abs(side) - x, v - y)
        part = mix(part, rgb("fff6e6"), smoothstep(-0.003, 0.002, radius - far))
    picture[:, near] = part[:, 0]
    return picture
