"""What a program with other settings of JAX, or one that runs for long, expects of the package."""

import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest
from jax.sharding import AxisType

import nst_jax
from nst_jax import optimize, sharding
from nst_jax.terms import Content, GramStyle

CONFIG = own.ALONE.replace(
    terms=(Content(layers=("block1_conv2",)), GramStyle(layers=("block1_conv1",))), steps=2
)


@pytest.fixture
def pictures(rng):
    return own.pictures(rng, (24, 20), (20, 22))


def test_a_guard_of_transfers_lets_stylize_pass(vgg16, pictures):
    """It takes and returns arrays of the host on purpose. The steps of an own loop pass, too."""
    content, style = pictures
    with jax.transfer_guard("disallow"):
        result = nst_jax.stylize(vgg16, content, [style], CONFIG)
        targets = nst_jax.compute_targets(vgg16, content, [style], CONFIG)
        image = jax.device_put(content)
        look = jax.jit(nst_jax.objective_value)
        value, _ = look(image, vgg16, targets, jax.device_put(CONFIG))
        _, history = optimize.run(
            lambda image: (jnp.sum(image**2), {"total": jnp.sum(image**2)}), image[None], CONFIG
        )
    np.testing.assert_allclose(value, result.history["total"][0, 0], rtol=1e-5)
    assert history["total"][1, 0] < history["total"][0, 0]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("placed", [False, True])
def test_another_mesh_that_is_set_changes_nothing(vgg16, pictures, kind, placed):
    content, style = pictures
    sizes = {"style": 1, "space": 2}
    mesh = sharding.make_mesh(1, sizes=sizes, devices=jax.devices()[:2]) if placed else None
    placement = nst_jax.Placement(mesh=mesh)
    wanted = nst_jax.stylize(vgg16, content, [style], CONFIG, placement=placement)
    with jax.set_mesh(jax.make_mesh((4,), ("other",), axis_types=(kind,))):
        found = nst_jax.stylize(vgg16, content, [style], CONFIG, placement=placement)
    np.testing.assert_allclose(found.images, wanted.images, atol=1e-5)


def test_clearing_jaxs_caches_drops_every_program(vgg16, pictures, compilations):
    content, style = pictures

    def count():
        with compilations() as counted:
            nst_jax.stylize(vgg16, content, [style], CONFIG)
        return counted()

    count()
    assert count() == 0
    jax.clear_caches()
    assert count() > 0
