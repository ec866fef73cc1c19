"""Parameters made up for tests, and torchvision's layout, written down from its definition."""

import numpy as np

from nst_jax import vgg

# Numbers of the convolutions among all modules of `features` (ReLU and pooling count too).
FEATURES = {
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "vgg19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
}
CLASSIFIER = (0, 3, 6)
MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])


def constant_params(model, *, value=0.5, **options):
    """Parameters of the right shapes that take no memory."""
    return {
        layer: {kind: np.broadcast_to(np.float32(value), shape) for kind, shape in arrays.items()}
        for layer, arrays in vgg.parameter_shapes(model, **options).items()
    }


def random_params(model, *, seed=0, **options):
    """Our tree with random float32 values of the usual size."""
    random = np.random.default_rng(seed)
    return {
        layer: {
            kind: 0.05 * random.standard_normal(shape, np.float32) for kind, shape in arrays.items()
        }
        for layer, arrays in vgg.parameter_shapes(model, **options).items()
    }


def torchvision_state(params):
    """The same network as torchvision would hold it, but for the preprocessing."""
    model = vgg.network_name(params)
    modules = [f"features.{number}" for number in FEATURES[model]]
    modules += [f"classifier.{number}" for number in CLASSIFIER]
    state = {}
    for module, (layer, arrays) in zip(modules, params.items(), strict=False):
        kernel = arrays["kernel"]
        if layer == "fc1":  # from positions by channels to channels by positions
            apart = kernel.reshape(7, 7, vgg.CHANNELS[-1], -1)
            kernel = apart.transpose(2, 0, 1, 3).reshape(kernel.shape)
        axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        state[f"{module}.weight"] = np.ascontiguousarray(kernel.transpose(axes))
        state[f"{module}.bias"] = arrays["bias"]
    return state


def without_preprocessing(params):
    """A first convolution that reads RGB less torchvision's mean, over its deviation."""
    kernel, bias = (np.float64(params["block1_conv1"][kind]) for kind in ("kernel", "bias"))
    kernel = kernel[:, :, ::-1]
    difference = np.array(vgg.MEAN_BGR[::-1]) - 255 * MEAN
    bias = bias - np.einsum("hwio,i->o", kernel, difference)
    first = {"kernel": kernel * (255 * STD)[:, None], "bias": bias}
    return params | {"block1_conv1": {kind: np.float32(first[kind]) for kind in first}}
