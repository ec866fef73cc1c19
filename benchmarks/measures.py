"""Measures of finished pictures, one function per equation; `benchmarks.judge` applies them.

Pictures are float64 arrays `[H, W, 3]` of sRGB in [0, 1]. Features are float64 arrays
`[positions, C]` of one layer of a network. Each docstring names the source of the measure, or says
that it is derived here. It also says whether a higher value is better.
"""

import math
import statistics
from collections.abc import Sequence

import numpy as np

DIRECTIONS = 64  # of the sliced Wasserstein distance

SHARE = 0.95  # of the style's variance, in the components that the effectiveness compares
COMPONENTS = 64  # at most
POSITIONS_PER_COMPONENT = 4  # at least
RIDGE = 0.01  # of the components' mean variance
LEAST_DIVERGENCE = 1e-6
TINY = 1e-12  # in place of a variance of 0

LEVEL = 1 / 255
# In grey levels. Rounding to 8 bits makes noise of 0.29.
LEAST_ENERGY = 0.5
STRONG = 0.1  # the lowest step of an edge that can ring
BORDER = 0.04  # of the shorter side


# ------------------------------------------------------------------------------------------ style


def gaussian_divergence(
    mean: np.ndarray,
    covariance: np.ndarray,
    other_mean: np.ndarray,
    other_covariance: np.ndarray,
) -> float:
    """The Kullback-Leibler divergence of N(m, A) from N(n, B), in nats.

        `1/2 (tr(B^-1 A) + (n - m)^T B^-1 (n - m) - d + ln det B - ln det A)`

    S. Kullback, "Information Theory and Statistics", 1959.
    """
    shift = other_mean - mean
    (_, log_det), (_, other_log_det) = map(np.linalg.slogdet, (covariance, other_covariance))
    trace = np.trace(np.linalg.solve(other_covariance, covariance))
    square = shift @ np.linalg.solve(other_covariance, shift)
    return float((trace + square - len(mean) + other_log_det - log_det) / 2)


def effectiveness(
    output: np.ndarray,
    style: np.ndarray,
    *,
    components: tuple[np.ndarray, np.ndarray] | None = None,
) -> float:
    """The statistic E of one layer, `-ln KL`, after Yeh et al.; higher is better.

    Mao-Chuang Yeh, Shuai Tang, Anand Bhattad, Chuhang Zou, David Forsyth: "Improving Style Transfer
    with Calibrated Metrics", WACV 2020, https://arxiv.org/abs/1910.09447. Their base E is the
    negative logarithm of the divergence between two Gaussians of projected features. Here:

    1. The features are projected on the first principal components of the style's. There are as
       many components as hold 95 % of the style's variance, at most 64, and at most one for 4
       positions of the smaller picture.
    2. A Gaussian is fitted to each picture's projections. 1 % of the style's mean variance over the
       components is added to each variance of both, because few positions give singular
       covariances.
    3. E is `-ln KL(output || style)`. A divergence below 1e-6 counts as 1e-6, so E is at most 13.8.

    The paper may differ in the number of components, the direction of the divergence and the
    regularisation. It also fits the E of its layers to people's preferences. That fit is not part
    of this function, so compare its values with each other alone, and not with the paper's.

    Args:
      output: `[n, C]`, features of the picture.
      style: `[m, C]`, features of the style.
      components: `principal_components` of the style, if the caller has them.
    """
    center = style.mean(0)
    variances, basis = principal_components(style) if components is None else components
    enough = int(np.searchsorted(np.cumsum(variances), SHARE * variances.sum())) + 1
    most = min(len(output), len(style)) // POSITIONS_PER_COMPONENT
    count = max(1, min(enough, COMPONENTS, most))
    ridge = max(RIDGE * variances[:count].mean(), TINY) * np.eye(count)
    fits = []
    for features in (output, style):
        projected = (features - center) @ basis[:, :count]
        fits += [projected.mean(0), _covariance(projected) + ridge]
    return -math.log(max(gaussian_divergence(*fits), LEAST_DIVERGENCE))


def principal_components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The variances of features `[n, C]`, falling, and their axes `[C, at most C]`."""
    if len(features) < features.shape[1]:  # a smaller problem than that of the covariance
        centered = features - features.mean(0)
        _, lengths, axes = np.linalg.svd(centered, full_matrices=False)
        return lengths**2 / len(features), axes.T
    variances, axes = np.linalg.eigh(_covariance(features))
    return np.maximum(variances[::-1], 0), axes[:, ::-1]


def _covariance(features: np.ndarray) -> np.ndarray:
    """The covariance `[C, C]` of features `[n, C]`, divided by n."""
    centered = features - features.mean(0)
    return centered.T @ centered / len(features)


def directions(channels: int) -> np.ndarray:
    """64 unit vectors `[C, 64]` that are the same in every run."""
    drawn = np.random.default_rng(0).standard_normal((channels, DIRECTIONS))
    return drawn / np.linalg.norm(drawn, axis=0)


def quantiles(values: np.ndarray, count: int) -> np.ndarray:
    """Quantiles of each column of `[n, K]` at (i - 1/2) / count, `[count, K]`.

    The i-th smallest of n values is the quantile at (i - 1/2) / n; between these it is linear. So
    `count = n` gives the sorted values.
    """
    ordered = np.sort(values, axis=0)
    places = np.clip((np.arange(count) + 0.5) / count * len(values) - 0.5, 0, len(values) - 1)
    lower = places.astype(int)
    part = (places - lower)[:, None]
    upper = np.minimum(lower + 1, len(values) - 1)
    return (1 - part) * ordered[lower] + part * ordered[upper]


def sliced_wasserstein(output: np.ndarray, style: np.ndarray) -> float:
    """The sliced 2-Wasserstein distance, relative to the style's spread; lower is better.

        `sqrt(mean_k mean_i (a_ki - b_ki)^2) / sqrt(mean_k var b_k)`

    a_k and b_k are the quantiles of the features on the direction k. With the same number of
    positions these are the sorted projections, otherwise as many quantiles as the smaller picture
    has positions. 0 is equal. At 1 the distance is the style's own deviation.

    Nicolas Bonneel, Julien Rabin, Gabriel Peyré, Hanspeter Pfister: "Sliced and Radon Wasserstein
    Barycenters of Measures", 2015, https://doi.org/10.1007/s10851-014-0506-3. Eric Heitz, Kenneth
    Vanhoey, Thomas Chambon, Laurent Belcour: "A Sliced Wasserstein Loss for Neural Texture
    Synthesis", CVPR 2021, https://arxiv.org/abs/2006.07229.

    Args:
      output: `[n, C]`, features of the picture.
      style: `[m, C]`, features of the style.
    """
    along = directions(style.shape[-1])
    projected = style @ along
    count = min(len(output), len(style))
    apart = quantiles(output @ along, count) - quantiles(projected, count)
    return _relative(np.mean(apart**2), np.mean(np.var(projected, axis=0)))


def gram_distance(output: np.ndarray, style: np.ndarray) -> float:
    """The distance of Gram matrices relative to the style's, `|G - A| / |A|`; lower is better.

    The matrices are means over the positions, `G = F^T F / n`. The square of this distance is
    `nst_jax.losses.relative_style_loss`. Leon A. Gatys, Alexander S. Ecker, Matthias Bethge: "A
    Neural Algorithm of Artistic Style", 2015, https://arxiv.org/abs/1508.06576.

    Args:
      output: `[n, C]`, features of the picture.
      style: `[m, C]`, features of the style.
    """
    gram, target = (features.T @ features / len(features) for features in (output, style))
    return _relative(np.sum((gram - target) ** 2), np.sum(target**2))


def _relative(square: np.floating, of: np.floating) -> float:
    """`sqrt(square / of)`, finite for a flat style, too."""
    return math.sqrt(square / max(of, TINY))


# ---------------------------------------------------------------------------------------- content


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation over all values of two arrays `[n, ...]`, each centred along axis 0.

    Two flat arrays correlate by 1, a flat one and another by 0. An array is flat if its deviation
    is below 1e-6.
    """
    a, b = a - a.mean(0), b - b.mean(0)
    flat = [np.mean(array**2) < 1e-12 for array in (a, b)]
    if any(flat):
        return float(all(flat))
    return float(np.sum(a * b) / math.sqrt(np.sum(a**2) * np.sum(b**2)))


def self_similarity(output: np.ndarray, content: np.ndarray) -> float:
    """The correlation of the pictures' own cosine distances; higher is better.

    The distances are those between the features of every two positions of one picture. So colours
    and strokes may change, if they change alike in like places. After Nicholas Kolkin, Jason
    Salavon, Gregory Shakhnarovich: "Style Transfer by Relaxed Optimal Transport and
    Self-Similarity", CVPR 2019, https://arxiv.org/abs/1904.12785. The paper compares such distances
    by their absolute difference, and takes features of several layers together.

    Args:
      output: `[n, C]`, features of the picture.
      content: `[n, C]`, features of the content at the same positions.
    """
    above = np.triu_indices(len(content), 1)
    return correlation(cosine_distances(output)[above], cosine_distances(content)[above])


def cosine_distances(features: np.ndarray) -> np.ndarray:
    """`1 - cos` between every two of the features `[n, C]`; features of zero have the cosine 0."""
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    unit = features / np.where(lengths > 0, lengths, 1)
    return 1 - unit @ unit.T


def luma(image: np.ndarray) -> np.ndarray:
    """The luma `[H, W]` of a picture, by https://www.itu.int/rec/R-REC-BT.709."""
    return image @ np.array([0.2126, 0.7152, 0.0722])


def chroma(image: np.ndarray) -> np.ndarray:
    """The colour differences Cb and Cr `[H, W, 2]`, by the same recommendation as `luma`."""
    light = luma(image)
    return np.stack([(image[..., 2] - light) / 1.8556, (image[..., 0] - light) / 1.5748], -1)


def luminance(output: np.ndarray, content: np.ndarray) -> float:
    """The correlation of the lumas of two pictures; higher is better."""
    return correlation(luma(output).ravel(), luma(content).ravel())


def colour(output: np.ndarray, content: np.ndarray) -> float:
    """The correlation of the colour differences of two pictures, both together.

    1 keeps the content's colours, up to their strength. That is neither better nor worse.
    """
    return correlation(chroma(output).reshape(-1, 2), chroma(content).reshape(-1, 2))


def edges(output: np.ndarray, content: np.ndarray) -> float:
    """The correlation of `gradient_magnitude` of two pictures; higher is better."""
    return correlation(*(gradient_magnitude(image).ravel() for image in (output, content)))


def gradient_magnitude(image: np.ndarray) -> np.ndarray:
    """The length of Sobel's gradient of the luma `[H, W]`, after a blur by 1 4 6 4 1.

    The border is replicated. A slope of s a pixel has the length 8 s. Irwin Sobel, "An Isotropic
    3x3 Image Gradient Operator", 1968, https://doi.org/10.13140/RG.2.1.1912.4965.
    """
    light = luma(image)
    for axis in (0, 1):
        light = _filtered(light, (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16), axis)
    down = _filtered(_filtered(light, (-1, 0, 1), 0), (1, 2, 1), 1)
    right = _filtered(_filtered(light, (-1, 0, 1), 1), (1, 2, 1), 0)
    return np.hypot(down, right)


def _filtered(plane: np.ndarray, kernel: Sequence[float], axis: int) -> np.ndarray:
    """The sum of shifted planes, each times its value of the kernel; the border is replicated."""
    reach = len(kernel) // 2
    padded = np.pad(plane, [(reach, reach) if own == axis else (0, 0) for own in (0, 1)], "edge")
    length = plane.shape[axis]
    parts = (np.take(padded, range(i, i + length), axis) for i in range(len(kernel)))
    return sum((weight * part for weight, part in zip(kernel, parts, strict=True)), np.zeros(()))


# -------------------------------------------------------------------------------------- artefacts


def doublings(value: float, of: float) -> float:
    """How often `of` must be doubled to reach `value`, at least 0.

    Both count as at least half a grey level, because rounding alone makes nearly as much.
    """
    return max(0.0, math.log2(max(value, LEAST_ENERGY) / max(of, LEAST_ENERGY)))


def speckle(image: np.ndarray) -> float:
    """The strength of isolated pixels, in grey levels; derived for this judge.

    It is the root mean square, over the pixels and colours, of the difference from the median of
    3x3. A pixel counts if it is above or below all its eight neighbours, else its difference is 0.
    So edges, lines, corners and a checkerboard of 2x2 have none. The border pixels are left out.
    """
    squares = []
    for channel in np.moveaxis(image, -1, 0):
        windows = np.lib.stride_tricks.sliding_window_view(channel, (3, 3))
        windows = windows.reshape(*windows.shape[:2], 9)
        center, others = windows[..., 4], np.delete(windows, 4, axis=-1)
        isolated = (center > others.max(-1)) | (center < others.min(-1))
        apart = np.where(isolated, center - np.median(windows, axis=-1), 0)
        squares.append(np.mean(apart**2))
    return math.sqrt(statistics.mean(squares)) / LEVEL


def ringing(image: np.ndarray) -> float:
    """How far the luma overshoots beside strong edges, as a share of the step; derived here.

    Each row and column is seen through windows of twelve pixels. The step is the difference of the
    means of the last three and the first three. An edge is a step of at least 0.1 whose steepest
    place is the middle of its window. Its overshoot is the mean of two differences:

    - the highest of the three pixels after the middle, above the highest of the last three
    - the lowest of the three pixels before the middle, below the lowest of the first three

    for a rising step, and the reverse for a falling one. The result is the mean over all edges, or
    0 if there is none. Texture and isolated pixels have some, and a blur makes it negative. So
    compare with the style's.
    """
    found = []
    for plane in (luma(image), luma(image).T):
        if plane.shape[1] < 12:
            continue
        window = np.lib.stride_tricks.sliding_window_view(plane, 12, 1).reshape(-1, 12)
        step = window[:, 9:].mean(1) - window[:, :3].mean(1)
        slopes = np.abs(np.diff(window, axis=1))
        edge = (np.abs(step) >= STRONG) & (slopes[:, 5] >= slopes.max(1))
        rising = window[edge] * np.sign(step[edge])[:, None]
        above = rising[:, 6:9].max(1) - rising[:, 9:].max(1)
        below = rising[:, :3].min(1) - rising[:, 3:6].min(1)
        found.append((above + below) / 2 / np.abs(step[edge]))
    found = np.concatenate(found) if found else np.zeros(0)
    return float(found.mean()) if len(found) else 0.0


def border_width(shape: Sequence[int]) -> int:
    """4 % of the shorter side in pixels, at least 2."""
    return max(2, round(BORDER * min(shape[:2])))


def border_energy(image: np.ndarray) -> float:
    """How much the fine detail at the border differs from that inside, in doublings; derived here.

    Detail is the luma minus its blur by 1 2 1 along both sides. The result is the absolute
    logarithm, to base 2, of the ratio of its root mean squares in the outermost 4 % and in the next
    4 %. Both count as at least half a grey level. The outermost pixels are left out, because they
    have no neighbours.
    """
    light = luma(image)
    smooth = light
    for axis in (0, 1):
        smooth = _filtered(smooth, (1 / 4, 2 / 4, 1 / 4), axis)
    square = (light - smooth) ** 2
    depth = _depth(light.shape)
    width = border_width(light.shape)
    frame, inside = (
        max(math.sqrt(square[(depth >= first) & (depth < last)].mean()) / LEVEL, LEAST_ENERGY)
        for first, last in ((1, width), (width, 2 * width))
    )
    return abs(math.log2(frame / inside))


def _depth(shape: Sequence[int]) -> np.ndarray:
    """The distance of each pixel to the border, `[H, W]`, 0 for the outermost."""
    rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]) for n in shape)
    return np.minimum(rows[:, None], columns)


def border_colour(image: np.ndarray) -> float:
    """How much the mean colour at the border differs from that inside, in grey levels; derived.

    At each of the four sides it compares the outermost 4 % with the next 4 %, without the corners:
    the root mean square over red, green and blue. The result is the mean of the sides.
    """
    width = border_width(image.shape)
    sides = []
    for turned in (np.rot90(image, turns) for turns in range(4)):
        strips = (turned[start : start + width, width:-width] for start in (0, width))
        frame, inside = (strip.mean((0, 1)) for strip in strips)
        sides.append(math.sqrt(np.mean((frame - inside) ** 2)) / LEVEL)
    return statistics.mean(sides)


def clipped(image: np.ndarray) -> float:
    """The share of values that 8 bits hold as 0 or 255."""
    return float(np.mean((image < LEVEL / 2) | (image > 1 - LEVEL / 2)))
