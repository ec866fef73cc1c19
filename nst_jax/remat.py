"""The network block by block, each block strip by strip: its gradient in little memory.

Of each block only what goes into it is kept for the gradient and the rest computed again, after
Tianqi Chen et al.: "Training Deep Nets with Sublinear Memory Cost", 2016,
https://arxiv.org/abs/1604.06174. As one block of a large picture is too much still, each runs over
vertical strips of it, with as many columns at their sides as its convolutions see. What strips are
looked at for are sums over positions; those are the whole picture's, up to rounding.

Strips divide the width, since a mesh divides the height. They are a loop in the program: where a
compiler sees the same computation twice it does it once and keeps the result, XLA's of a CPU also
across the barriers of `jax.checkpoint`, but not that of two loops.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nst_jax import vgg

STRIP = 64  # the most columns of a strip, at each block

Tree = Any


def visit(
    params: Mapping,
    image: jax.Array,
    measure: Callable[[dict, dict], Tree],
    *,
    layers: Sequence[str],
    keep: Sequence[str] = (),
    beside: Mapping[str, Tree] | None = None,
    **options,
) -> tuple[list[Tree], dict[str, jax.Array]]:
    """Sums over the positions of a picture at some layers.

    Args:
      params: parameter tree of VGG16 or VGG19.
      image: `[H, W, 3]` in [0, 1].
      measure: `measure(features, beside)` of a strip: `{layer: [h, w, C]}` of those of the layers
        that are in one block, and what is `beside` them; a tree of sums over positions. Where the
        last strip reaches beyond the picture, features and what is beside them are zero.
      layers: those to look at, not of the head.
      keep: those of them to return whole.
      beside: `{layer: tree of arrays [h, w, ...]}`, to be cut into strips as the layer is.
      options: of `vgg.features`.

    Returns:
      What `measure` gives, added up over strips, of each block from the first to the deepest; and
      `{layer: [h, w, C]}`.

    Raises:
      ValueError: as of `vgg.features`.
    """
    network = vgg.network(params, **options)
    names = vgg.check_layers(params, image, layers)
    blocks = {name: _block(layer) for name, layer in names.items()}
    sums, kept = [], {}
    x, below = image, None
    for block in range(1, 1 + max(blocks.values(), default=0)):
        own = {name: layer for name, layer in names.items() if blocks[name] == block}
        pool = f"block{block}_pool"
        whole = {own[name] for name in keep if name in own}
        if block < max(blocks.values()):
            whole.add(pool)
        look = functools.partial(_look, network, params, measure, own, whole, below)
        here = {name: tree for name, tree in (beside or {}).items() if name in own}
        depth = network.convolutions[block - 1]
        added, found = _over_strips(look, x, here, halo=depth + depth % 2, edge=block == 1)
        sums.append(added)
        kept |= {name: found[own[name]] for name in keep if name in own}
        x, below = found.get(pool), pool
    return sums, kept


def _look(network, params, measure, own, whole, below, x, beside, *, columns=None, halo=0):
    """What a strip of a block adds to the sums, and its part of the layers to return whole.

    Args:
      own: `{name: layer}` to measure.
      whole: layers to return.
      below: the layer that `x` `[H, W, C]` is of; None is the picture.
      columns: as of the network.
      halo: columns at each side of `x` that are other strips'.
    """
    layers = tuple(dict.fromkeys([*own.values(), *sorted(whole)]))
    found = network.apply({"params": params}, x, layers=layers, after=below, columns=columns)

    def middle(value, layer):
        beyond = halo // _scale(layer)
        return value[:, beyond : value.shape[1] - beyond]

    found = {layer: middle(value, layer) for layer, value in found.items()}
    sums = measure({name: found[layer] for name, layer in own.items()}, beside)
    return sums, {layer: found[layer] for layer in whole}


def _over_strips(look, x, beside, *, halo, edge):
    """`look` at each strip of `x` `[H, W, C]` with `halo` columns at its sides: sums added, and
    layers put together."""
    width = x.shape[1]
    if width <= STRIP:
        return jax.checkpoint(look)(x, beside)
    count = -(-width // STRIP)
    own = -(-width // count)
    own += own % 2  # pooling starts anew in each strip
    # The border repeated is for a picture; beyond other layers' border the network puts zeros.
    mode = {"mode": "edge"} if edge else {}
    x = jnp.pad(x, ((0, 0), (halo, count * own - width + halo), (0, 0)), **mode)
    beside = {name: _widened(tree, count * own // _scale(name)) for name, tree in beside.items()}

    # Inside a loop nothing is merged, and barriers would only be in the way.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def strip(index):
        start = own * index
        here = {name: _strip(tree, start, own, _scale(name)) for name, tree in beside.items()}
        window = jax.lax.dynamic_slice_in_dim(x, start, own + 2 * halo, axis=1)
        return look(window, here, columns=(start - halo, width), halo=halo)

    def add(sums, index):
        here, found = strip(index)
        return jax.tree.map(jnp.add, sums, here), found

    none, _ = jax.eval_shape(strip, 0)
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), none)
    sums, found = jax.lax.scan(add, none, jnp.arange(count))
    return sums, {layer: _joined(value, width // _scale(layer)) for layer, value in found.items()}


def _joined(strips, width):
    """Strips `[n, h, w, C]` side by side, `[h, width, C]`."""
    count, height, own, channels = strips.shape
    return strips.swapaxes(0, 1).reshape(height, count * own, channels)[:, :width]


def _widened(tree, width):
    """Arrays `[h, w, ...]` with zeros up to `width`."""

    def pad(leaf):
        beyond = [(0, 0)] * leaf.ndim
        beyond[1] = (0, width - leaf.shape[1])
        return jnp.pad(leaf, beyond)

    return jax.tree.map(pad, tree)


def _strip(tree, start, width, scale):
    """The part of arrays `[h, w, ...]` that starts at `start` and is `width` of the block's
    columns wide."""
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start // scale, width // scale, axis=1),
        tree,
    )


def _block(layer: str) -> int:
    return int(layer[len("block")])


def _scale(layer: str) -> int:
    """How many of its block's columns make one of the layer's."""
    return 2 if layer.endswith("_pool") else 1
