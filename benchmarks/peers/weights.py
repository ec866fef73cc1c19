"""Our networks in the forms that other programs load.

Both forms have torchvision's names, `features.<number>.weight` and `.bias`, and kernels
`[out, in, 3, 3]`. They compute what our networks compute, on inputs of another form:

caffe        BGR from 0 to 255 less the mean of the training pictures, as our networks
torchvision  RGB from 0 to 1, less torchvision's mean, over its deviation

A torchvision form has another unit, too: its activations are ours divided by `UNIT`. So the kernels
keep their magnitudes, as if the network had been trained on such inputs. Programs that expect
torchvision's own weights add terms of several units, for example a total variation, so activations
of the wrong magnitude would change the balance. A ReLU network with its biases divided by a number
gives all activations divided by it.
"""

from collections.abc import Callable, Mapping

import numpy as np

from nst_jax import vgg
from nst_jax.weights.convert import TORCHVISION_MEAN, TORCHVISION_STD

# Grey levels in one unit of torchvision's input.
UNIT = 255 * float(np.mean(TORCHVISION_STD))

State = dict[str, np.ndarray]


def caffe(params: Mapping) -> State:
    """A network as Caffe's programs expect it.

    Args:
      params: our parameter tree, without or with a head, which is left out.

    Returns:
      `{name: array}`, float32.
    """
    return {
        f"features.{number}.{kind}": np.ascontiguousarray(array, np.float32)
        for layer, number in _numbers(params).items()
        for kind, array in (
            ("weight", np.transpose(np.asarray(params[layer]["kernel"]), (3, 2, 0, 1))),
            ("bias", np.asarray(params[layer]["bias"])),
        )
    }


def torchvision(params: Mapping) -> State:
    """A network as torchvision's programs expect it; its activations are ours over `UNIT`.

    Zero padding stands for torchvision's mean here and for ours there. The means differ by up to
    0.5 grey levels of 255, so the first ring of pixels differs slightly, see
    `nst_jax.weights.convert.fold_normalization`.
    """
    state = {
        name: array if name.endswith(".weight") else array / np.float32(UNIT)
        for name, array in caffe(params).items()
    }
    first = np.asarray(params["block1_conv1"]["kernel"], np.float64)[:, :, ::-1]
    # Ours less the mean is 255 * std * theirs + apart.
    apart = 255 * np.array(TORCHVISION_MEAN) - np.array(vgg.MEAN_BGR[::-1])
    bias = np.asarray(params["block1_conv1"]["bias"], np.float64)
    bias = bias + np.einsum("hwio,i->o", first, apart)
    kernel = first * (255 * np.array(TORCHVISION_STD))[:, None]
    state["features.0.weight"] = (kernel.transpose(3, 2, 0, 1) / UNIT).astype(np.float32)
    state["features.0.bias"] = (bias / UNIT).astype(np.float32)
    return state


FORMS: dict[str, Callable[[Mapping], State]] = {"caffe": caffe, "torchvision": torchvision}


def _numbers(params: Mapping) -> dict[str, int]:
    """The number of each convolution among the modules: a ReLU follows each, and pools count."""
    numbers, number = {}, 0
    for layer in vgg.layer_names(vgg.network_name(params)):
        if layer.endswith("_pool"):
            number += 1
        else:
            numbers[layer] = number
            number += 2
    return numbers
