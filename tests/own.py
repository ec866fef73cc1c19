"""Terms and networks of a user's own: each way of looking at a picture must give the same."""

import functools

import basic
import jax
import jax.numpy as jnp
import numpy as np

import nst_jax
from nst_jax import objective, partition, sharding, windows
from nst_jax.partition import Together, Windows

# Nothing but what a test adds.
ALONE = basic.CONFIG.replace(size=None, content_layers=(), style_layers=(), tv_weight=0.0)


def pictures(rng, *shapes):
    """Blotches with some grain, `[h, w, 3]`."""

    def picture(height, width):
        soft = nst_jax.image.resize(jnp.asarray(rng.random((5, 4, 3), np.float32)), height, width)
        return np.asarray(0.7 * soft + 0.3 * rng.random((height, width, 3), np.float32), np.float32)

    return [picture(*shape) for shape in shapes]


@functools.partial(jax.jit, static_argnames="partition")
def value_and_grad(image, params, targets, config, key=None, *, partition=Together()):
    value = functools.partial(objective.objective_value, key=key, partition=partition)
    return jax.value_and_grad(value, has_aux=True)(image, params, targets, config)


def assert_same(found, wanted, *, rtol=2e-5):
    """Values and gradient of `value_and_grad`."""
    (_, terms), gradient = wanted
    (_, own), slope = found
    assert own.keys() == terms.keys()
    for name, value in terms.items():
        np.testing.assert_allclose(own[name], value, rtol=rtol, err_msg=name)
    assert np.linalg.norm(slope - gradient) <= rtol * np.linalg.norm(gradient) > 0


def in_strips(params, image, content, styles, config, *, key=None, **given):
    """`value_and_grad` of three horizontal strips, together in memory."""
    targets = nst_jax.compute_targets(params, content, styles, config, **given)
    return value_and_grad(image, params, targets, config, key, partition=Together(3))


def in_scan(monkeypatch, params, image, content, styles, config, *, key=None, **given):
    """`value_and_grad` with rematerialisation, in narrow windows."""
    monkeypatch.setattr(partition, "COLUMNS", 12)
    scan = Windows(loop="scan")
    targets = nst_jax.compute_targets(params, content, styles, config, partition=scan, **given)
    look = jax.jit(value_and_grad.__wrapped__, static_argnames="partition")
    return look(image, params, targets, config, key, partition=scan)


def in_windows(params, image, content, styles, config, *, tile=28, key=None, **given):
    """`value_and_grad` window by window."""
    (targets,) = windows.compute_targets(params, content, styles, config, tile=tile, **given)
    return windows.value_and_grad(image, params, targets, config, tile=tile, key=key)


def assert_paints_alike(params, content, styles, config, *, tile=28, **given):
    """Three steps whole, on a mesh and, unless that is None, in tiles: their losses."""
    config = config.replace(steps=3)
    whole = nst_jax.stylize(params, content, styles, config, **given)
    assert (whole.history["total"][-1] < whole.history["total"][0]).all()
    mesh = sharding.make_mesh(len(styles), sizes={"style": 1, "space": 4})
    ways = [{"mesh": mesh}] + ([] if tile is None else [{"tile": tile}])
    for way in ways:
        placement = nst_jax.Placement(**way)
        found = nst_jax.stylize(params, content, styles, config, **given, placement=placement)
        assert found.history.keys() == whole.history.keys()
        for name, values in whole.history.items():
            np.testing.assert_allclose(
                found.history[name], values, rtol=1e-3, atol=1e-9, err_msg=name
            )
    return whole
