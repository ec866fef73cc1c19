"""Prints the most probable ImageNet classes of a picture.

    python scripts/fetch_weights.py --files=vgg16,imagenet_classes
    python scripts/classify.py --image=cat.jpg                            # with the files fetched
    python scripts/classify.py --image=cat.jpg --weights=mine.h5 --top=3

The picture is prepared as usual for these networks: its shorter side is resized to 256 pixels, and
the middle 224x224 pixels are cropped. Keras' examples resize to 224x224 without cropping, so that
their probabilities differ a little.

Prints one line per class, the most probable class first: probability and name. Exits 0 on success,
1 on bad input.
"""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import program
from absl import flags

import nst_jax
from nst_jax import image, vgg
from nst_jax.cli.flag_types import define_path
from nst_jax.files.images import read_image
from nst_jax.weights import fetch
from nst_jax.weights.load import Params, readable

RESIZED = 256  # pixels
CLASS_INDEX = "imagenet_classes"


def prepare(picture: np.ndarray) -> jax.Array:
    """Resizes and crops a picture to the input of the networks.

    Args:
      picture: float ``[H, W, 3]``, sRGB in [0, 1].

    Returns:
      ``[224, 224, 3]``: the middle of the picture, after resizing its shorter side to 256.

    Source: torchvision's evaluation of VGG,
    https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.vgg16.html.
    """
    # Cropping the longer side first limits the work, and does not change the middle.
    square = _middle(jnp.asarray(picture), min(picture.shape[:2]))
    return _middle(image.resize(square, RESIZED, RESIZED), vgg.HEAD_SIZE)


def _middle(picture: jax.Array, side: int) -> jax.Array:
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]


def top_classes(
    params: Params, picture: np.ndarray, names: list[str], *, top: int = 5
) -> list[tuple[str, float]]:
    """Returns the most probable classes with their probabilities, the most probable first.

    Args:
      params: the parameter tree with head.
      picture: float ``[H, W, 3]``, sRGB in [0, 1].
      names: a name for each class of the head.
      top: the number of classes to return.

    Raises:
      ValueError: the head has another number of classes than `names`, or fewer than `top`.
    """
    classes = params["predictions"]["bias"].shape[0]
    if len(names) != classes:
        raise ValueError(f"wanted {classes} class names, as in the weights, got {len(names)}")
    if not 1 <= top <= classes:
        raise ValueError(f"top: wanted 1 to {classes}, got {top}")
    probabilities = nst_jax.classify(params, prepare(picture))
    values, numbers = jax.lax.top_k(probabilities, top)
    return [
        (names[number], value)
        for number, value in zip(numbers.tolist(), values.tolist(), strict=True)
    ]


def read_class_names(path: Path) -> list[str]:
    """Reads the names in a class index, JSON like ``{"0": ["n01440764", "tench"], ...}``.

    Raises:
      ValueError: the file is absent, is damaged, has another form, or its numbers have gaps.
    """
    with readable(path):
        index = json.loads(path.read_text("utf-8"))
        try:
            names = [index[str(number)][1] for number in range(len(index))]
        except (LookupError, TypeError):
            names = []
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError('wanted {"0": ["n01440764", "tench"], ...}')
        return names


def define_flags() -> None:
    define_path("image", None, "Picture to classify.", required=True)
    define_path(
        "weights",
        "vgg16",
        "HDF5 file with head. vgg16 and vgg19 are the files that scripts/fetch_weights.py "
        "downloads.",
    )
    define_path(
        "cache_dir",
        None,
        "Folder with the downloaded files. By default $NST_JAX_CACHE, or nst_jax in "
        "$XDG_CACHE_HOME or ~/.cache.",
    )
    flags.DEFINE_integer("top", 5, "Number of classes to print.")
    define_path(
        "class_index",
        None,
        'JSON file with the names of the classes, {"0": ["n01440764", "tench"], ...}. By default '
        "Keras' index. scripts/fetch_weights.py downloads it.",
    )


def run() -> None:
    """Prints the classes of the picture."""
    values = flags.FLAGS
    if values.cache_dir is not None:
        os.environ["NST_JAX_CACHE"] = values.cache_dir  # where the package looks
    picture = read_image(values.image)
    index = values.class_index
    if index is None:
        index = fetch.cache_dir() / fetch.FILES[CLASS_INDEX].name
        if not index.exists():
            command = f"python scripts/fetch_weights.py --files={CLASS_INDEX}"
            raise ValueError(f"{index}: no such file; download it with: {command}")
    names = read_class_names(Path(index))
    precision = "full" if values.weights in vgg.CONVOLUTIONS else "bundled"
    params = nst_jax.load_params(values.weights, precision=precision, head=True)
    for name, probability in top_classes(params, picture, names, top=values.top):
        print(f"{probability:7.2%}  {name}")


if __name__ == "__main__":
    define_flags()
    program.start(run, arguments="give the picture by --image")
