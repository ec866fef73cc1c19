"""Terms with data of the run: earlier frames, warped, and masks where they hold."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import own
import pytest

import nst_jax
from nst_jax import terms
from nst_jax.cli import preflight
from nst_jax.settings import number, option, settings, weighted
from nst_jax.terms import IMAGE, Field, GramStyle, Temporal

CONFIG = own.ALONE.replace(
    terms=(GramStyle(layers=("block1_conv1", "block2_conv1")), Temporal(weight=1e4))
)


def frames(rng, height, width, *, outputs=None):
    shape = (height, width) if outputs is None else (outputs, height, width)
    each = outputs is not None
    return {
        "temporal": {
            "warped": Field(rng.random((*shape, 2, 3), np.float32), IMAGE, "picture", each),
            "reliable": Field(rng.random((*shape, 2), np.float32), IMAGE, "mask", each),
        }
    }


@pytest.mark.slow
def test_value_and_every_way(vgg16, rng, monkeypatch):
    image, content, style = own.pictures(rng, (37, 53), (37, 53), (30, 41))
    given = {"inputs": frames(rng, 37, 53)}
    targets = nst_jax.compute_targets(vgg16, content, [style], CONFIG, **given)
    wanted = own.value_and_grad(image, vgg16, targets, CONFIG)
    data = given["inputs"]["temporal"]
    squares = (image[:, :, None].astype(np.float64) - data["warped"].values) ** 2
    expected = 1e4 * (data["reliable"].values * squares.sum(-1)).sum() / (37 * 53)
    np.testing.assert_allclose(wanted[0][1]["temporal"], expected, rtol=1e-5)
    arguments = (vgg16, image, content, [style], CONFIG)
    own.assert_same(own.in_scan(monkeypatch, *arguments, **given), wanted)
    own.assert_same(own.in_strips(*arguments, **given), wanted)
    own.assert_same(own.in_windows(*arguments, **given), wanted)


@pytest.mark.slow
def test_it_paints_at_every_scale(vgg16, rng):
    """Each output with frames of its own, and with masks that are of all."""
    content, *styles = own.pictures(rng, (40, 48), (30, 41), (40, 33))
    config = CONFIG.replace(size=48, first_size=24, scale_factor=2.0)
    inputs = frames(rng, 40, 48)
    warped = frames(rng, 40, 48, outputs=2)["temporal"]["warped"]
    inputs["temporal"]["warped"] = warped
    whole = own.assert_paints_alike(vgg16, content, styles, config, inputs=inputs)
    inputs["temporal"]["warped"] = Field(warped.values[0], IMAGE, "picture")
    first = nst_jax.stylize(
        *(vgg16, content, styles[:1], config.replace(steps=1, size=24, first_size=None)),
        inputs=inputs,
    )
    np.testing.assert_allclose(
        first.history["temporal"][0, 0], whole.history["temporal"][0, 0], rtol=1e-5
    )


@pytest.mark.slow
def test_luminance_alone_is_compared_where_luminance_alone_is_painted(vgg16, rng):
    content, style = own.pictures(rng, (40, 48), (30, 41))
    same = {
        "temporal": {
            "warped": Field(content[:, :, None], IMAGE, "picture"),
            "reliable": Field(np.ones((40, 48, 1), np.float32), IMAGE, "mask"),
        }
    }
    config = CONFIG.replace(color="luminance", steps=1)
    history = nst_jax.stylize(vgg16, content, [style], config, inputs=same).history
    np.testing.assert_allclose(history["temporal"], 0.0, atol=1e-6)


def test_inputs_of_another_term_or_size_are_refused(vgg16, rng):
    content, style = own.pictures(rng, (40, 48), (30, 41))
    for inputs, message in (
        (None, "inputs must be of the terms temporal, got none"),
        ({"tempral": {}}, "inputs must be of the terms temporal, got tempral"),
        ({"temporal": {}}, r"inputs\['temporal'\] must hold arrays, got none"),
        (
            {"temporal": {"warped": Field(np.full((40, 48, 2, 3), 2.0), IMAGE, "picture")}},
            "must be in .0, 1., got values from 2 to 2",
        ),
        (
            {"temporal": {"warped": Field(np.zeros((40, 48, 2)), IMAGE, "picture")}},
            r"must be a picture \[H, W, ..., 3\], got \(40, 48, 2\)",
        ),
        ({"temporal": {"warped": Field(np.zeros((40, 48)), IMAGE, "map")}}, "got 'map'"),
        (frames(rng, 40, 48, outputs=3), "have a value for each of the 1 outputs .* got 3"),
        (frames(rng, 40, 40), r"must be of the content's size \(40, 48\), got \(40, 40\)"),
    ):
        with pytest.raises(ValueError, match=message):
            nst_jax.stylize(vgg16, content, [style], CONFIG, inputs=inputs)


@settings
class Towards(terms.Term):
    """How far each channel of a layer is from a level that the run gives."""

    name: str = option("towards")
    weight: Any = number(1.0)
    layers: Any = weighted(("block1_conv1", "block2_conv1"))
    refers = "run"
    linear = True
    regions = True

    def target(self, layer, measured, at):
        return {"level": measured["level"][: at.channels[layer]]}

    def sums(self, layer, x, weights, target, at):
        squares = jnp.sum(jnp.square(x / 300 - target["level"][None, None]), axis=-1)
        return jnp.sum(squares if weights is None else weights * squares)

    def loss(self, sums, target, at):
        # The data are at hand here, too.
        return {
            layer: own / at.positions[layer] / target[layer]["level"].size
            for layer, own in sums.items()
        }


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_sums_see_arrays_of_the_run_that_have_no_positions(vgg16, rng, monkeypatch, masked):
    image, content, *styles = own.pictures(rng, (37, 53), (37, 53), (30, 41), (30, 41))
    config = own.ALONE.replace(terms=(Towards(),))
    given = {"inputs": {"towards": {"level": rng.random(128, np.float32)}}}
    if masked:
        given["combine"] = nst_jax.Combine(masks=rng.random((2, 37, 53), np.float32))
    else:
        styles = styles[:1]
    targets = nst_jax.compute_targets(vgg16, content, styles, config, **given)
    wanted = own.value_and_grad(image, vgg16, targets, config)
    if not masked:
        features = nst_jax.features(vgg16, image, layers=("block1_conv1", "block2_conv1"))
        level = given["inputs"]["towards"]["level"].astype(np.float64)
        expected = sum(
            np.mean((np.asarray(x, np.float64) / 300 - level[: x.shape[-1]]) ** 2)
            for x in features.values()
        )
        np.testing.assert_allclose(wanted[0][0], expected, rtol=1e-5)
    arguments = (vgg16, image, content, styles, config)
    own.assert_same(own.in_scan(monkeypatch, *arguments, **given), wanted)
    own.assert_same(own.in_strips(*arguments, **given), wanted)
    own.assert_same(own.in_windows(*arguments, **given), wanted)


@pytest.mark.parametrize("outputs", [None, 2])
def test_data_of_the_run_are_counted_before_it(vgg16, rng, outputs):
    """Two frames of three colours and their masks, float32, beside the other targets."""
    inputs = frames(rng, 40, 48, outputs=outputs)
    plan = preflight.Plan(
        params=vgg16, shape=(80, 96), outputs=2, config=CONFIG, styles=[(40, 48)], inputs=inputs
    )
    without = plan.replace(config=CONFIG.replace(temporal=None), inputs={})
    picture = 80 * 96 * 4
    assert plan.kept_bytes() - without.kept_bytes() == 2 * (3 + 1) * picture
    assert plan.run_bytes() >= without.run_bytes() + 2 * 2 * (3 + 1) * picture
