"""The layers of the two networks, read off the code that runs them."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nst_jax import vgg

SIDE = vgg.HEAD_SIZE
# What the university report says of the networks. The parameters are those of Karen Simonyan,
# Andrew Zisserman: "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
# https://arxiv.org/abs/1409.1556, table 2.
REPORTED = "{} convolutions, 5 poolings, 224x224x64 to 7x7x512, 25088, 4096, 4096, 1000"
CONVOLUTIONS = {"vgg16": 13, "vgg19": 16}
MILLIONS = {"vgg16": 138, "vgg19": 144}


def layers(model: str) -> list[dict[str, Any]]:
    """The layers of "vgg16" or "vgg19" with the head, from the image upwards.

    Returns:
      A dict for each layer. "kernel" is the side of the kernel or of the pooling window, None in
      the head. "shape" is the output's at 224x224. "parameters" is their number.
      "receptive_field" is the side in pixels of what one position sees, None in the head, which
      sees everything.
    """
    # The layers with parameters and the poolings: logits and predictions are one layer's outputs.
    names = (*vgg.layer_names(model), *vgg.HEAD_LAYERS)
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


def facts(model: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """What the report could say of a network with these `layers`, and whether it says so."""
    shapes = {row["layer"]: row["shape"] for row in rows}
    first, last = shapes["block1_conv1"], shapes["block5_pool"]
    head = [math.prod(last), *(shapes[name][0] for name in vgg.HEAD_LAYERS)]
    parameters = sum(row["parameters"] for row in rows)
    told = (
        f"{sum('_conv' in name for name in shapes)} convolutions, "
        f"{sum('_pool' in name for name in shapes)} poolings, {'x'.join(map(str, first))} to "
        f"{'x'.join(map(str, last))}, {', '.join(map(str, head))}"
    )
    right = told == REPORTED.format(CONVOLUTIONS[model])
    right = right and round(parameters / 1e6) == MILLIONS[model]
    return f"{told}, {parameters:,} parameters", right
