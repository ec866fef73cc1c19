"""Stained glass: a rose window in lead."""

import math

import numpy as np

from nst_jax.canvas import Array, Size, mix, render, rgb, smoothstep, value_noise
from nst_jax.paintings.common import fractal_table, generator, hashed


def stained_glass(size: Size, *, seed: int = 0) -> np.ndarray:
    """Draws a rose window of coloured glass in lead, with light behind it.

    Args:
      size: the side of a square picture, or (height, width), in pixels. Each is at least 32.
      seed: the variant of the picture, 0 or more. It sets the colours, the streaks and the light.

    Returns:
      float32 `[H, W, 3]`, sRGB in [0, 1].

    Raises:
      TypeError: a side or `seed` is not a whole number.
      ValueError: a side is below 32 pixels, or `seed` is negative.
    """
    rng = generator(seed)
    table, fractal = rng.random((256, 256), np.float32), fractal_table(rng, 4)
    turn, glow_x, glow_y = (float(v) for v in rng.uniform(-1, 1, 3))

    def shade(x: Array, y: Array) -> Array:
        # A hand cut the glass: no line is quite straight.
        wave = value_noise(x * 22, y * 22, fractal)[0] - 0.5
        u, v = x + 0.014 * wave, y - 0.014 * wave
        gap, cell, tints = _rose(u, v, 0.26 * turn, table)
        glass = _glass(x, y, cell, tints, table, fractal)
        far = np.hypot(x - 0.3 * glow_x, y - 0.3 * glow_y)
        glass *= 0.92 + 0.55 * np.exp(-np.square(far / 0.8))
        # Dirt gathers along the lead. The painter of the glass drew a thin line beside it.
        glass *= 0.55 + 0.45 * smoothstep(-0.002, 0.013, gap)
        glass *= 1 - 0.30 * np.exp(-np.square((gap - 0.0155) / 0.0022))
        came = np.clip(1 + gap / 0.011, 0, 1)  # 0 in the middle of the lead, 1 at its rim
        lead = 0.07 + 0.11 * (1 - came) * (0.6 + 0.8 * wave) + 0.10 * glass
        return np.minimum(mix(lead, glass, smoothstep(-0.002, 0.002, gap)), 1)

    return render(shade, size, least=768)


_BLUES = "0c1d70 1238a8 1f5fd0 2a86d8"
_REDS = "7d0c22 b3122b d62a2f e8502a"
_GOLDS = "e08a12 f2a91b ffcf4a fbe38a"
_GREENS = "0c5a3a 12835a 1aa39a 6cc08a"
_VIOLETS = "3b1a6b 5e2d96 8a3fa8 c268a8"
_PALE = "d9d3a8 e6e2c4 c3d4c0 b6c8d2"
_GLASS = rgb(" ".join([_BLUES, _REDS, _GOLDS, _GREENS, _VIOLETS, _PALE]))[:, :, 0, 0].T
_BLUE, _RED, _GOLD, _GREEN, _VIOLET, _WHITE = range(0, 24, 4)


_RIMS = (0.13, 0.37, 0.44, 0.71, 0.94, 1.0)  # the radii of the rings of the rose


class _Cells:
    """The cells under each sample, while leads cut them."""

    def __init__(self, x: Array, y: Array, turn: float) -> None:
        radius, angle = np.hypot(x, y), np.arctan2(y, x) + np.float32(turn)
        sector, lateral = _sector(angle, 12)
        self.radius, self.angle = radius, angle
        # One sector of 12, folded along its middle: p points outwards.
        self.odd, self.left = sector % 2 == 1, lateral > 0
        self.p, self.q = radius * np.cos(lateral), np.abs(radius * np.sin(lateral))
        # The same from the border between two sectors.
        aside = np.maximum(math.pi / 12 - np.abs(lateral), 0)
        self.side, self.between = radius * np.cos(aside), radius * np.sin(aside)
        self.ring = np.searchsorted(np.array(_RIMS, np.float32), radius).astype(np.int32)
        self.gap = np.minimum.reduce([np.abs(radius - rim) for rim in _RIMS]) - 0.011
        self.place = sector  # the place of the cell in its ring
        self.part = np.zeros_like(sector)  # tells the cells of one place apart
        self.tints = np.full_like(sector, _GOLD)

    def cut(self, where: Array, edge: Array, inner: int, *, width: float = 0.008) -> Array:
        """Leads along edge = 0, among the cells `where`. Returns where edge is negative."""
        self.gap = np.where(where, np.minimum(self.gap, np.abs(edge) - width), self.gap)
        inside = where & (edge < 0)
        self.part = np.where(inside, self.part + inner, self.part)
        return inside

    def tint(self, where: Array, family: Array | int) -> None:
        self.tints = np.where(where, family, self.tints)

    def move(self, where: Array, place: Array) -> None:
        self.place = np.where(where, place, self.place).astype(np.int32)


def _rose(x: Array, y: Array, turn: float, table: Array) -> tuple[Array, Array, Array]:
    """Divides the plane as a rose window: rings of petals, arches and medallions in 12 sectors.

    Returns:
      The distance to the rim of the nearest lead, negative inside the lead; the number of the
      cell; and the family of its colour.
    """
    cells = _Cells(x, y, turn)
    _boss(cells, cells.ring == 0)
    _petals(cells, cells.ring == 1)
    _beads(cells, cells.ring == 2, 36, [_GOLD, _GREEN])
    _arches(cells, cells.ring == 3)
    _rounds(cells, cells.ring == 4)
    _beads(cells, cells.ring == 5, 60, [_GOLD, _RED, _BLUE])
    _diamonds(cells, cells.ring == 6, x, y, table)
    return cells.gap, cells.place * 64 + cells.ring * 9 + cells.part, cells.tints


def _boss(cells: _Cells, ring: Array) -> None:
    """Cuts the middle: twelve rays round a disc."""
    cells.tint(ring, np.where(cells.odd, _RED, _GOLD))
    cells.cut(ring & (cells.radius > 0.045), cells.between, 0, width=0.006)
    cells.tint(cells.cut(ring, cells.radius - 0.045, 1), _BLUE)


def _petals(cells: _Cells, ring: Array) -> None:
    """Cuts petals between two arcs, each with an eye."""
    cells.tint(ring, _BLUE)
    cells.cut(ring, cells.between, 0)
    petal = cells.cut(ring, _vesica(cells.p - 0.25, cells.q, 0.135, 0.054), 2)
    cells.tint(petal, np.where(cells.odd, _RED, _VIOLET))
    eye = np.hypot(cells.p - 0.265, cells.q) - 0.026
    cells.tint(cells.cut(petal, eye, 2, width=0.006), _GOLD)
    cells.part = np.where(ring & ~petal & cells.left, 1, cells.part)


def _beads(cells: _Cells, ring: Array, count: int, families: list[int]) -> None:
    """Cuts a ring of beads, whose colours take turns."""
    bead, lateral = _sector(cells.angle, count)
    cells.move(ring, bead)
    cells.tint(ring, np.array(families)[bead % len(families)])
    cells.cut(ring, cells.radius * (math.pi / count - np.abs(lateral)), 0, width=0.006)


def _arches(cells: _Cells, ring: Array) -> None:
    """Cuts pointed arches, each with a sill and a medallion."""
    cells.tint(ring, np.where(cells.odd, _RED, _BLUE))
    cells.cut(ring, cells.between, 0)
    arch = cells.cut(ring, _vesica(cells.p - 0.47, cells.q, 0.215, 0.098), 1)
    cells.tint(arch, np.where(cells.odd, _BLUE, _GREEN))
    along = cells.p - 0.545
    disc = cells.cut(arch, np.hypot(along, cells.q) - 0.052, 1)
    cells.tint(disc, np.where(cells.odd, _GOLD, _WHITE))
    cells.tint(cells.cut(disc, np.abs(along) + cells.q - 0.030, 1, width=0.005), _RED)
    cells.cut(arch & ~disc & (cells.p < 0.5), cells.p - 0.475, 3)


def _rounds(cells: _Cells, ring: Array) -> None:
    """Cuts round windows, each with four foils, and small ones between them."""
    cells.tint(ring, np.where(cells.radius > 0.83, _VIOLET, _BLUE))
    along, q = cells.p - 0.825, cells.q
    far = np.hypot(along, q)
    wheel = cells.cut(ring, far - 0.098, 1)
    cells.tint(wheel, np.where(cells.odd, _RED, _GREEN))
    foil = np.hypot(np.abs(np.abs(along) - 0.034), np.abs(q - 0.034)) - 0.034
    foil = cells.cut(wheel, np.minimum(foil, far - 0.03), 1, width=0.006)
    cells.tint(foil, np.where(cells.odd, _GOLD, _WHITE))
    cells.tint(cells.cut(foil, far - 0.02, 1, width=0.005), _BLUE)
    far = np.hypot(cells.side - 0.825, cells.between)
    small = cells.cut(ring & ~wheel, far - 0.060, 4)
    cells.move(small, np.floor(cells.angle * np.float32(6 / math.pi)))
    cells.tint(small, _GOLD)
    cells.tint(cells.cut(small, far - 0.030, 1, width=0.006), _RED)
    rest = ring & ~wheel & ~small
    cells.cut(rest, cells.between, 0)
    cells.cut(rest, cells.radius - 0.83, 6)
    cells.part = np.where(rest & cells.left, cells.part + 1, cells.part)


def _diamonds(cells: _Cells, ring: Array, x: Array, y: Array, table: Array) -> None:
    """Cuts the plane around the rose into diamonds, with a small pane where they meet."""
    a, b = (x + 0.62 * y) / 0.17, (x - 0.62 * y) / 0.17
    i, j = np.floor(a), np.floor(b)
    s, t = np.abs(a - i - 0.5), np.abs(b - j - 0.5)
    pick = hashed(table, 5, i, j)
    cells.tint(ring, np.where(pick < 0.5, _WHITE, np.where(pick < 0.8, _GREEN, _BLUE)))
    cells.move(ring, i * 57 + j)
    cells.cut(ring, (0.5 - np.maximum(s, t)) * 0.144, 0)
    pane = cells.cut(ring, 0.8 - s - t, 7, width=0.05)
    cells.gap = np.where(pane, np.abs(0.8 - s - t) * 0.10 - 0.006, cells.gap)
    lozenge = np.floor(a + 0.5) * 31 + np.floor(b + 0.5)
    cells.move(pane, lozenge)
    cells.tint(pane, np.where(lozenge % 2 == 0, _RED, _GOLD))


def _sector(angle: Array, count: int) -> tuple[Array, Array]:
    """Returns the sector of an angle, and the angle from the middle of the sector."""
    sector = np.rint(angle * np.float32(count / (2 * math.pi)))
    return sector.astype(np.int32) % count, angle - sector * np.float32(2 * math.pi / count)


def _vesica(p: Array, q: Array, long: float, wide: float) -> Array:
    """Computes the signed distance to two arcs that meet at p = +-long. `q` is not negative."""
    radius = (long * long + wide * wide) / (2 * wide)
    return np.hypot(p, q + (radius - wide)) - radius


def _glass(x: Array, y: Array, cell: Array, tints: Array, table: Array, fractal: Array) -> Array:
    """Colours the cells: each has its own shade, streaks and seeds."""
    own = hashed(table, 6, cell, 0)
    shade = tints + np.clip(own * 4, 0, 3).astype(np.int32)
    turn = own * np.float32(37)
    cos, sin = np.cos(turn), np.sin(turn)
    along, across = cos * x + sin * y, cos * y - sin * x
    streak = value_noise(along * 34 + 99 * own, across * 150, fractal)[0]
    ripple, slope = value_noise(x * 90, y * 90, fractal)
    colour = _GLASS[:, shade]
    colour = colour * (0.45 + 1.25 * streak + 0.22 * (hashed(table, 7, cell, 0) - 0.5))
    colour += (0.75 * np.clip(streak - 0.5, 0, 1) + 0.16 * slope) * (colour + 0.15)
    # Seeds: bubbles in the glass sparkle.
    return colour + 0.35 * smoothstep(0.80, 0.9, ripple) * (0.3 + colour)
