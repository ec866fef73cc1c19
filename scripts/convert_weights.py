"""Converts VGG weights from Keras, torchvision or safetensors to the package's HDF5 layout.

    python scripts/convert_weights.py --input=vgg19-dcbb9e9d.pth --output=vgg19_torch.h5
    python scripts/convert_weights.py --input=model.weights.h5 --output=model.h5 --dtype=float16
    python scripts/convert_weights.py --input=vgg16.safetensors --output=vgg16.h5 --nohead

``nst-jax --weights=`` and ``nst_jax.load_params`` read the output. ``.pth`` files need PyTorch
(``pip install '.[torch]'``). ``.safetensors`` files need safetensors
(``pip install '.[safetensors]'``). Exits 0 when the output is written, 1 otherwise.
"""

from pathlib import Path

import program
from absl import flags

from nst_jax.cli.flag_types import define_list, define_path
from nst_jax.weights import convert


def define_flags() -> None:
    define_path("input", None, "File to convert.")
    define_path("output", None, "HDF5 file to write.")
    flags.DEFINE_enum("dtype", "float32", ["float32", "float16"], "Type of the stored kernels.")
    flags.DEFINE_enum("format", "auto", convert.FORMATS, "Format of the input.")
    flags.DEFINE_enum("model", None, ["vgg16", "vgg19"], "Network that the input must hold.")
    flags.DEFINE_bool(
        "head",
        None,
        "Whether the classifier head is required (--head) or left out (--nohead). By default, the "
        "output has a head if the input has one.",
    )
    define_list(
        "mean",
        None,
        "For torchvision's layout: the mean that the network needs subtracted from its input, RGB "
        f"in [0, 1]. By default {','.join(map(str, convert.TORCHVISION_MEAN))}.",
    )
    define_list(
        "std",
        None,
        "For torchvision's layout: the deviation that its input is then divided by. By default "
        f"{','.join(map(str, convert.TORCHVISION_STD))}.",
    )
    flags.DEFINE_bool("overwrite", False, "Replace the output if it exists.")
    flags.mark_flags_as_required(["input", "output"])


def run() -> None:
    """Converts the file as the flags say, and prints the output's name, network and size."""
    values = flags.FLAGS
    model = convert.convert(
        values.input,
        values.output,
        format=values.format,
        dtype=values.dtype,
        model=values.model,
        head=values.head,
        mean=_floats("mean", values.mean),
        std=_floats("std", values.std),
        overwrite=values.overwrite,
    )
    print(f"{values.output}: {model}, {Path(values.output).stat().st_size / 1e6:.1f} MB")


def _floats(name: str, texts: list[str] | None) -> list[float] | None:
    try:
        return None if texts is None else [float(text) for text in texts]
    except ValueError:
        raise ValueError(f"--{name}: wanted numbers, got {','.join(texts)!r}") from None


if __name__ == "__main__":
    define_flags()
    program.start(run, arguments="give files by --input and --output")
