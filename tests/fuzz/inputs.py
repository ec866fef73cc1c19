"""What is fuzzed: whole inputs of every kind to start from, and what reads them.

A reader returns, or raises a ValueError or TypeError of one line, which is what the command says
of a bad input; anything else is a finding.
"""

import io as bytes_io
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import h5py
import numpy as np
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from nst_jax.cli.dataset import manifest
from nst_jax.cli.flags import ADDRESSES, KINDS, QUESTION_FLAGS, RUN_FLAGS
from nst_jax.cli.main import _main, _parse, show_config
from nst_jax.files.checkpoints import Checkpoints
from nst_jax.files.images import read_image, read_shape, read_text
from nst_jax.weights.load import load_params

PIXELS = 10**6  # the most of a picture: a header may promise any number of them


class Target(NamedTuple):
    """A kind of input.

    Attributes:
      name: of the file that it is written to.
      seeds: whole inputs.
      read: reads the file.
      share: of the usual number of examples, for readers that take long.
      refused: inputs to start from that are refused as they are.
    """

    name: str
    seeds: list[bytes]
    read: Callable[[pathlib.Path], object]
    share: float = 1.0
    refused: Sequence[bytes] = ()


# JSON that is nested more deeply than Python reads.
_NESTED = (b"[" * 100_000, b'{"flags":' * 100_000, b"[" * 100_000 + b"]" * 100_000 + b"\n")


def _pictures(*formats: str, **options) -> list[bytes]:
    """Small files of each format, in colour, grey and with transparency where it has them."""
    rng = np.random.default_rng(0)
    found = []
    for name in formats:
        for mode in ("RGB", "L", "RGBA", "P", "1", "I;16", "CMYK", "F"):
            shape = (33, 36, len(Image.new(mode, (1, 1)).getbands()))
            kind = {"I;16": np.uint16, "F": np.float32}.get(mode, np.uint8)
            values = rng.integers(0, 256, shape).astype(kind)
            if mode == "F":
                values /= 255
            if mode in ("P", "1"):
                picture = Image.fromarray(values[..., 0], "L").convert(mode)
            else:
                picture = Image.fromarray(values.squeeze())
                picture = picture if picture.mode == mode else picture.convert(mode)
            file = bytes_io.BytesIO()
            exif = Image.Exif()
            exif[0x0112], exif[0x010E] = 6, json.dumps({"flags": ["--size=9"]})
            try:
                picture.save(file, format=name, exif=exif, **options)
            except (OSError, ValueError, KeyError):
                continue  # a mode that the format doesn't have
            found.append(file.getvalue())
    assert found, formats
    return found


def _read_picture(path: pathlib.Path) -> None:
    image = read_image(path, max_pixels=PIXELS)
    assert image.dtype == np.float32 and image.ndim == 3 and image.shape[-1] == 3
    assert image.min() >= 0 and image.max() <= 1
    assert read_shape(path, max_pixels=PIXELS) == image.shape[:2]
    read_text(path)


_MANIFEST = [
    {
        **{"content": "a.png", "style": "b.png", "output": "a__b.png"},
        **{"loss": 1.5, "seconds": 2.0, "diverged": False},
    },
    {"path": "c.png", "error": "c.png: the file is empty"},
]
_SETTINGS = {
    **{"seed": 0, "mesh": None},
    "config": {"terms": {"style": "GramStyle"}, "steps": 2, "style_layers": {"a": 0.5, "b": 0.5}},
}


def _read_checkpoints(path: pathlib.Path) -> None:
    (path.parent / "4").mkdir(exist_ok=True)  # or other settings would be no matter
    Checkpoints(path.parent, _SETTINGS)


def _read_metadata(path: pathlib.Path) -> None:
    """Any text may stand where a picture has its settings."""
    exif = Image.Exif()
    exif[0x010E] = path.read_bytes().decode("utf-8", "replace")
    Image.new("RGB", (4, 4)).save(path.with_suffix(".png"), exif=exif)
    show_config(str(path.with_suffix(".png")))


def _weights() -> list[bytes]:
    """Files in Keras' older layout, small, plain and compressed."""
    found = []
    for options in ({}, {"compression": "gzip", "chunks": True, "shuffle": True}):
        file = bytes_io.BytesIO()
        with h5py.File(file, "w") as root:
            root.attrs["layer_names"] = np.array(["block1_conv1", "block1_pool"], "S")
            for layer, shapes in (("block1_conv1", {"W_1": (3, 3, 3, 8)}), ("block1_pool", {})):
                group = root.create_group(layer)
                group.attrs["weight_names"] = np.array(list(shapes), "S")
                for name, shape in shapes.items():
                    values = np.linspace(-1, 1, np.prod(shape), dtype=np.float16)
                    group.create_dataset(name, data=values.reshape(shape), **options)
        found.append(file.getvalue())
    return found


def _read_weights(path: pathlib.Path) -> None:
    """Whole files are refused, too, but for not being those of a network."""
    try:
        load_params(path)
    except ValueError as error:
        if "not the parameters of" not in str(error):
            raise


_RECIPE = {
    **{"flags": ["--content=a b.png", "--size=9"], "versions": {"jax": "0.10"}, "devices": 1},
    **{"platform": "cpu", "device": "cpu", "weights_sha256": "0" * 64},
}

NAMES = sorted({*RUN_FLAGS, *KINDS, *ADDRESSES, *QUESTION_FLAGS} - {"show_config"})


def read_flags(arguments: list[str], folder: pathlib.Path) -> int:
    """Runs the command up to where it wants to read pictures, of which there are none."""
    missing = [f"--content={folder / 'none.png'}", f"--styles={folder / 'none.png'}"]
    closing = [f"--output_dir={folder}", "--nocompilation_cache", "--nodistributed"]
    with flagsaver.flagsaver():
        try:
            remaining = _parse(["nst-jax", *missing, *arguments, *closing, *missing])
        except SystemExit as end:
            return end.code
        # Other processes would be waited for, and the demo would be painted.
        for name in ("num_processes", "process_id", "coordinator_address", "demo"):
            flags.FLAGS[name].value = flags.FLAGS[name].default
        return _main(remaining)


TARGETS = {
    "png": Target("picture.png", _pictures("PNG"), _read_picture),
    "jpeg": Target(
        "picture.jpg", _pictures("JPEG") + _pictures("JPEG", progressive=True), _read_picture
    ),
    "webp": Target("picture.webp", _pictures("WEBP", lossless=True), _read_picture),
    "tiff": Target(
        "picture.tiff", _pictures("TIFF") + _pictures("TIFF", compression="tiff_lzw"), _read_picture
    ),
    "others": Target("picture.gif", _pictures("GIF", "BMP", "PPM", "JPEG2000"), _read_picture),
    "manifest": Target(
        "manifest.jsonl",
        ["".join(json.dumps(line) + "\n" for line in _MANIFEST).encode()],
        lambda path: manifest.Manifest(path.parent),
        refused=_NESTED[2:],  # a last line without its end is none
    ),
    "settings": Target(
        "config.json",
        [json.dumps(_SETTINGS).encode()],
        lambda path: manifest.find_job(path.parent, _SETTINGS),
        refused=_NESTED,
    ),
    "checkpoints": Target(
        "settings.json", [json.dumps(_SETTINGS).encode()], _read_checkpoints, refused=_NESTED
    ),
    "weights": Target("weights.h5", _weights(), _read_weights, share=1 / 3),
    "metadata": Target(
        "metadata.txt", [json.dumps(_RECIPE).encode()], _read_metadata, refused=_NESTED
    ),
}
