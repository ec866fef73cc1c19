"""The networks and the losses again, in NumPy float64, written from the papers alone."""

import numpy as np

BLOCKS = {13: (2, 2, 3, 3, 3), 16: (2, 2, 4, 4, 4)}


def convolve(x, kernel, bias):
    """3x3 convolution with zero padding as nine shifted matrix products: [H, W, C]."""
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((height, width, kernel.shape[-1])) + bias
    for i in range(3):
        for j in range(3):
            out += padded[i : i + height, j : j + width] @ kernel[i, j]
    return out


def pool(x):
    height, width, channels = x.shape
    x = x[: height // 2 * 2, : width // 2 * 2]
    return x.reshape(height // 2, 2, width // 2, 2, channels).max(axis=(1, 3))


def features(params, image):
    """Every activation after ReLU and every pooling of one image [H, W, 3] in [0, 1]."""
    x = np.asarray(image, np.float64)[..., ::-1] * 255 - [103.939, 116.779, 123.68]
    found = {}
    convolutions = [name for name in params if "conv" in name]
    for block, depth in enumerate(BLOCKS[len(convolutions)], start=1):
        for index in range(1, depth + 1):
            name = f"block{block}_conv{index}"
            kernel = np.asarray(params[name]["kernel"], np.float64)
            bias = np.asarray(params[name]["bias"], np.float64)
            x = np.maximum(convolve(x, kernel, bias), 0)
            found[name] = x
        x = pool(x)
        found[f"block{block}_pool"] = x
    return found


def gram(x):
    flat = x.reshape(-1, x.shape[-1])
    return flat.T @ flat
