"""The step as a program for other devices: `jax.export` lowers it here, with no such device."""

import basic
import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest
from jax import export

import nst_jax
from nst_jax import optimize
from nst_jax.optimizers import LBFGS, SGD, Adam
from nst_jax.settings import turned
from nst_jax.terms import WassersteinStyle

CONFIG = basic.CONFIG.replace(
    size=None,
    content_layers=("block2_conv1",),
    style_layers=("block1_conv1", "block2_conv1"),
    style_weight=1e3,
    tv_weight=1e-3,
    steps=2,
)
WASSERSTEIN = turned(CONFIG.term("style"), WassersteinStyle)


@jax.jit
def paint(image, params, targets, config):
    """Two steps, from arrays to arrays."""

    def loss(image, **drawn):
        return nst_jax.objective_value(image, params, targets, config, **drawn)

    state, terms = optimize.scan(loss, image, config, length=2)
    return state.picture, terms


def problem(params, rng, config):
    image, content, style = own.pictures(rng, (20, 24), (20, 24), (24, 20))
    targets = nst_jax.compute_targets(params, content, [style], config)
    return jnp.asarray(image), params, jax.tree.map(lambda leaf: leaf[0], targets), config


def exported(arguments, *platforms):
    return export.export(paint, platforms=platforms)(*arguments)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "float32", "precision": "highest"},
        {"dtype": "float32", "precision": "high"},
        {"dtype": "float32", "precision": "default"},
        {"dtype": "bfloat16"},
        {"optimizer": Adam()},
        {"optimizer": LBFGS(history_size=3)},
        {"optimizer": SGD(normalize_gradient="bands"), "style": WASSERSTEIN},
    ],
    ids=["highest", "high", "default", "bfloat16", "adam", "lbfgs", "bands"],
)
def test_it_lowers_for_cuda_and_shuts_out_no_tensor_cores(vgg16, rng, changes):
    """On tensor cores, cuDNN multiplies float32 as TF32, unless the highest precision is asked."""
    config = CONFIG.replace(**changes)
    program = exported(problem(vgg16, rng, config), "cuda")
    again = export.deserialize(program.serialize())
    assert again.platforms == ("cuda",)
    lines = program.mlir_module().splitlines()
    found = [line for line in lines if "stablehlo.convolution(" in line]
    # The bands of the gradient have 3 channels, and are always found in full.
    of_network = [line for line in found if "x3x3xf32>" not in line]
    highest = config.network.resolved().precision == "highest"
    assert of_network
    assert all(("HIGHEST" in line) == highest for line in of_network)


def test_what_is_loaded_paints_the_same(vgg16, rng):
    """The same program for this machine, from bytes."""
    arguments = problem(vgg16, rng, CONFIG)
    again = export.deserialize(exported(arguments, "cpu", "cuda", "tpu").serialize())
    picture, terms = again.call(*arguments)
    wanted, wanted_terms = paint(*arguments)
    np.testing.assert_allclose(picture, wanted, atol=1e-6)
    np.testing.assert_allclose(terms["total"], wanted_terms["total"], rtol=1e-6)


@pytest.mark.slow
def test_targets_that_a_program_returns_can_be_used(vgg16, rng):
    image, params, targets, config = problem(vgg16, rng, CONFIG)
    same = export.export(jax.jit(lambda targets: targets))(targets)
    found = export.deserialize(same.serialize()).call(targets)
    value, _ = nst_jax.objective_value(image, params, found, config)
    assert value == nst_jax.objective_value(image, params, targets, config)[0]


def test_settings_that_hold_a_function_are_refused(vgg16, rng):
    from test_own_network import NETWORK

    program = export.export(jax.jit(lambda config: config.steps))(CONFIG.replace(network=NETWORK))
    with pytest.raises(TypeError, match="can be serialised if its settings are strings, numbers"):
        program.serialize()


def test_features_are_exported_for_pictures_of_any_size(vgg16, rng):
    """With a symbolic height and width, one program serves every size."""
    layers = ("block1_conv2_pre_relu", "block2_conv1")

    @jax.jit
    def look(params, image):
        found = nst_jax.features(params, image, layers=layers)
        return found, nst_jax.losses.statistics(found["block2_conv1"])

    height, width = export.symbolic_shape("h, w", constraints=["h >= 16", "w >= 16"])
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), vgg16)
    image = jax.ShapeDtypeStruct((height, width, 3), np.float32)
    program = export.deserialize(export.export(look)(params, image).serialize())
    for shape in ((17, 24), (30, 16)):
        picture = rng.random((*shape, 3), np.float32)
        found, wanted = program.call(vgg16, picture), look(vgg16, picture)
        for ours, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-3)
