"""The two networks as facts, read off the code that runs them.

Karen Simonyan, Andrew Zisserman: "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, https://arxiv.org/abs/1409.1556, table 1.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from nst_jax import vgg

SIDE = vgg.HEAD_SIZE


def layers(model: str) -> list[dict[str, Any]]:
    """The layers of "vgg16" or "vgg19" with the head, from the image upwards.

    Returns:
      For each `{"layer", "kernel", "shape", "parameters", "receptive_field"}`: side of the kernel
      or of the pooling window, None in the head; shape of the output at 224x224; number of
      parameters; side in pixels of what one position sees, None in the head, which sees all.
    """
    names = vgg.layer_names(model, head=True)
    params = jax.eval_shape(
        functools.partial(vgg.init_params, model=model, head=True), jax.random.key(0)
    )
    picture = jax.ShapeDtypeStruct((SIDE, SIDE, 3), jnp.float32)
    shapes = jax.eval_shape(functools.partial(vgg.features, layers=names), params, picture)
    rows = []
    for name in names:
        own = params.get(name, {})
        field = None
        if name not in vgg.HEAD_LAYERS:
            stride, radius = vgg.receptive_field(model, name)
            field = stride + 2 * radius
        rows.append(
            {
                "layer": name,
                "kernel": own["kernel"].shape[0] if "_conv" in name else 2 if field else None,
                "shape": list(shapes[name].shape),
                "parameters": sum(math.prod(array.shape) for array in own.values()),
                "receptive_field": field,
            }
        )
    return rows


def facts(model: str) -> dict[str, Any]:
    """What the report says of a network, as it is here."""
    rows = layers(model)
    shapes = {row["layer"]: row["shape"] for row in rows}
    return {
        "convolutions": sum("_conv" in name for name in shapes),
        "poolings": sum("_pool" in name for name in shapes),
        "first": shapes["block1_conv1"],
        "last": shapes["block5_pool"],
        "head": [math.prod(shapes["block5_pool"]), *(shapes[name][0] for name in vgg.HEAD_LAYERS)],
        "parameters": sum(row["parameters"] for row in rows),
    }


def reported(model: str) -> dict[str, Any]:
    """The same as the report and the paper (its table 2: 138 and 144 million) have it."""
    return {
        "convolutions": {"vgg16": 13, "vgg19": 16}[model],
        "poolings": 5,
        "first": [224, 224, 64],
        "last": [7, 7, 512],
        "head": [25088, 4096, 4096, 1000],
        "parameters": {"vgg16": 138e6, "vgg19": 144e6}[model],
    }


def agrees(model: str) -> bool:
    """Whether `facts` are what is `reported`, the parameters to the million."""
    own, theirs = facts(model), reported(model)
    return all(
        round(own[name] / 1e6) == round(theirs[name] / 1e6)
        if name == "parameters"
        else own[name] == theirs[name]
        for name in theirs
    )
