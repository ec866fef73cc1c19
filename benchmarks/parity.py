"""How far are the networks from Keras' own, layer by layer?

    python -m benchmarks.parity [--height=97] [--width=131] [--json=PATH]

Both sides load the same bundled file and get the same picture of random pixels, which Keras
preprocesses itself. The table shows the relative error of each convolution (after ReLU) and each
pooling of VGG16 and VGG19: the largest absolute difference of the layer, divided by the layer's
largest absolute value in Keras.

Keras (`pip install '.[test]'`) runs on JAX. There it compiles to the same convolutions as ours, so
that equal networks agree to nearly the last bit. KERAS_BACKEND=torch takes other convolutions.
"""

import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

import nst_jax
from benchmarks import common, reporting
from nst_jax import vgg
from nst_jax.cli.flag_types import define_path
from nst_jax.weights.load import BUNDLED_FOLDER


def import_keras() -> Any:
    """Imports Keras, with its JAX backend unless the environment names another.

    Raises:
      ImportError: it is not installed.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError as error:
        raise ImportError(f"needs Keras: pip install '.[test]' ({error})") from error
    return keras


def bundled_file(model: str) -> Path:
    return BUNDLED_FOLDER / f"{model}.h5"


def keras_network(model: str, path: str | os.PathLike) -> Any:
    """Keras' `model` with the weights of the file: outputs of all its layers, without head."""
    keras = import_keras()
    network = getattr(keras.applications, model.upper())(weights=str(path), include_top=False)
    outputs = {name: network.get_layer(name).output for name in vgg.layer_names(model)}
    return keras.Model(network.input, outputs)


def keras_predict(network: Any, images: np.ndarray) -> Any:
    """The output of a Keras network for sRGB images `[N, H, W, 3]` in [0, 1]."""
    inputs = import_keras().applications.vgg16.preprocess_input(255.0 * images)
    # Keras adds biases to arrays of higher rank; a strict caller may have forbidden that.
    with jax.numpy_rank_promotion("allow"), jax.default_matmul_precision("highest"):
        return network.predict(inputs, verbose=0)


def layer_errors(params: Mapping, network: Any, images: np.ndarray) -> dict[str, float]:
    """The relative error of each layer: largest difference / largest value in Keras.

    Args:
      params: the parameter tree.
      network: from `keras_network`.
      images: float32 `[N, H, W, 3]`, sRGB in [0, 1].

    Returns:
      `{layer: error}` from the image upwards.
    """
    expected = keras_predict(network, images)
    layers = vgg.layer_names(vgg.network_name(params))
    # By default accelerators multiply float32 with fewer digits than are compared here.
    with jax.default_matmul_precision("highest"):
        found = jax.jit(functools.partial(nst_jax.features, layers=layers))(params, images)
    return {
        name: float(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max())
        for name in layers
    }


def random_images(count: int, *, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, height, width, 3), np.float32)


def run(*, height: int, width: int) -> dict[str, Any]:
    """Compares both networks with Keras and prints the table.

    Returns:
      The printed numbers, ready for JSON.
    """
    keras = import_keras()
    report = common.environment() | {"height": height, "width": width}
    report["versions"]["keras"] = f"{keras.__version__} on {keras.backend.backend()}"
    print("Relative error against Keras: largest difference / largest value, by layer")
    common.print_environment(report)
    print(f"picture {height}x{width}\n")
    images = random_images(1, height=height, width=width)
    errors = {}
    for model in vgg.CONVOLUTIONS:
        path = bundled_file(model)
        errors[model] = layer_errors(nst_jax.load_params(path), keras_network(model, path), images)
    # Unlike max, np.max never hides a NaN.
    largest = [float(np.max(list(found.values()))) for found in errors.values()]
    report |= {"relative_error": errors, "largest": float(np.max(largest))}
    print(_row("layer", errors))
    for name in max(errors.values(), key=len):
        found = (errors[model].get(name) for model in errors)
        print(_row(name, ("-" if error is None else f"{error:.1e}" for error in found)))
    print(_row("largest", (f"{error:.1e}" for error in largest)))
    print(f"\nLargest of all layers of both networks: {report['largest']:.1e}")
    return report


def _row(name: str, cells: Iterable[str]) -> str:
    return f"{name:<14}" + "".join(f"{cell:>10}" for cell in cells)


FLAGS = {
    "height": (common.pixels, 97, "Height of the picture in pixels."),
    "width": (common.pixels, 131, "Width of the picture in pixels."),
    "json": (define_path, None, "File or folder for the result as JSON."),
}


def main(options: flags.FlagValues) -> None:
    report = run(height=options.height, width=options.width)
    if options.json:
        common.write_json(reporting.device_file(options.json, report, prefix="parity-"), report)


if __name__ == "__main__":
    common.run_command("parity", FLAGS, main)
