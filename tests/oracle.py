"""The networks and the losses again, in NumPy float64, written from the papers alone."""

import numpy as np

BLOCKS = {13: (2, 2, 3, 3, 3), 16: (2, 2, 4, 4, 4)}


def convolve(x, kernel, bias, padding="zeros"):
    """3x3 convolution, padded by one, as nine shifted matrix products: [H, W, C]."""
    height, width, _ = x.shape
    mode = {"zeros": "constant", "replicate": "edge"}[padding]
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode=mode)
    out = np.zeros((height, width, kernel.shape[-1])) + bias
    for i in range(3):
        for j in range(3):
            out += padded[i : i + height, j : j + width] @ kernel[i, j]
    return out


def pool(x, kind="max", correction=True):
    """Pooling over windows of 2x2, stride 2; the factors are crowsonkb/style-transfer-pytorch's."""
    height, width, channels = x.shape
    x = x[: height // 2 * 2, : width // 2 * 2]
    windows = x.reshape(height // 2, 2, width // 2, 2, channels)
    if kind == "max":
        return windows.max(axis=(1, 3))
    if kind == "average":
        return windows.mean(axis=(1, 3)) * (2.0 if correction else 1.0)
    assert kind == "l2"
    return np.sqrt((windows**2).sum(axis=(1, 3))) * (0.78 if correction else 1.0)


def features(params, image, *, pooling="max", pooling_correction=True, padding="zeros"):
    """Every activation after ReLU and every pooling of one image [H, W, 3] in [0, 1]."""
    x = np.asarray(image, np.float64)[..., ::-1] * 255 - [103.939, 116.779, 123.68]
    found = {}
    convolutions = [name for name in params if "conv" in name]
    for block, depth in enumerate(BLOCKS[len(convolutions)], start=1):
        for index in range(1, depth + 1):
            name = f"block{block}_conv{index}"
            kernel = np.asarray(params[name]["kernel"], np.float64)
            bias = np.asarray(params[name]["bias"], np.float64)
            first = name == "block1_conv1"
            x = np.maximum(convolve(x, kernel, bias, padding if first else "zeros"), 0)
            found[name] = x
        x = pool(x, pooling, pooling_correction)
        found[f"block{block}_pool"] = x
    return found


def gram(x):
    flat = x.reshape(-1, x.shape[-1])
    return flat.T @ flat


def weighted_gram(x, weights):
    """Sum over positions of w f f^T, position by position."""
    height, width, _ = x.shape
    return sum(
        weights[i, j] * np.outer(x[i, j], x[i, j]) for i in range(height) for j in range(width)
    )


def square_root(a):
    """Of a symmetric positive semidefinite matrix, by its eigenvalues."""
    values, vectors = np.linalg.eigh(a)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def wasserstein(x, y, epsilon):
    """Squared 2-Wasserstein distance over channels of two feature maps' Gaussians in white noise.

    The trace of (A^1/2 B A^1/2)^1/2 is the sum of the singular values of B^1/2 A^1/2.
    """
    x, y = (value.reshape(-1, value.shape[-1]) for value in (x, y))
    noise = epsilon * ((x**2).sum() / len(x) + (y**2).sum() / len(y)) / 2
    a, b = (np.cov(value.T, bias=True) + noise * np.eye(value.shape[1]) for value in (x, y))
    mixed = np.linalg.svd(square_root(b) @ square_root(a), compute_uv=False).sum()
    means = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()
    return (means + np.trace(a) + np.trace(b) - 2 * mixed) / x.shape[1]


def total_variation_nine_point(x):
    """Differences to the neighbours of each pixel, those beyond the border being its own edge."""
    height, width, channels = x.shape

    def at(i, j):
        return x[min(max(i, 0), height - 1), min(max(j, 0), width - 1)]

    pixels = [(i, j) for i in range(height) for j in range(width)]
    corners = [(i, j) for i in range(height + 1) for j in range(width + 1)]
    right = sum(((at(i, j + 1) - at(i, j)) ** 2).sum() for i, j in pixels)
    down = sum(((at(i + 1, j) - at(i, j)) ** 2).sum() for i, j in pixels)
    falling = sum(((at(i, j) - at(i - 1, j - 1)) ** 2).sum() for i, j in corners)
    rising = sum(((at(i, j - 1) - at(i - 1, j)) ** 2).sum() for i, j in corners)
    straight = (right + down) / (len(pixels) * channels)
    oblique = (falling + rising) / (len(corners) * channels)
    return 2 * (straight / 3 + oblique / 12)


def total_variation_l1(x):
    """Half the mean absolute difference of neighbours in a row, plus that in a column."""
    height, width, channels = x.shape
    dx = sum(abs(x[i, j + 1] - x[i, j]).sum() for i in range(height) for j in range(width - 1))
    dy = sum(abs(x[i + 1, j] - x[i, j]).sum() for i in range(height - 1) for j in range(width))
    return 0.5 * (dx / (height * (width - 1)) + dy / ((height - 1) * width)) / channels


def slope(function, x, direction, step=1e-6):
    """Directional derivative by central differences."""
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)
