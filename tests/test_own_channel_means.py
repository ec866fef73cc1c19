"""A user's smallest term: the means of the channels, as of a style."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import own
import pytest

import nst_jax
from nst_jax import terms
from nst_jax.settings import number, option, settings, weighted


@settings
class ChannelMeans(terms.Term):
    """Squared differences of the means over positions, of (f / 300 - 1)^2."""

    name: str = option("means")
    weight: Any = number(1.0)
    layers: Any = weighted(("block1_conv1", "block2_conv1"))
    refers = "style"
    regions = True

    def sums(self, layer, x, weights, target, at):
        # Not 0 at 0: padding that were measured would show.
        values = jnp.square(x / 300 - 1)
        weights = jnp.ones(x.shape[:2]) if weights is None else weights
        return {"count": jnp.sum(weights), "sum": jnp.einsum("hw,hwc->c", weights, values)}

    def target(self, layer, measured, at):
        return measured["sum"] / measured["count"]

    def loss(self, sums, target, at):
        found = {}
        for layer, weight in self.layers.items():
            mean = sums[layer]["sum"] / sums[layer]["count"]
            found[layer] = weight * jnp.mean(jnp.square(mean - target[layer]))
        return found


CONFIG = own.ALONE.replace(terms=(ChannelMeans(weight=3.0),))


def test_its_value_is_that_of_numpy(vgg16, rng):
    image, content, style = own.pictures(rng, (37, 53), (37, 53), (30, 41))
    targets = nst_jax.compute_targets(vgg16, content, [style], CONFIG)
    total, found = nst_jax.objective_value(jnp.asarray(image), vgg16, targets, CONFIG)
    layers = ("block1_conv1", "block2_conv1")
    seen = [nst_jax.features(vgg16, picture, layers=layers) for picture in (image, style)]
    expected = 0.0
    for layer in layers:
        means = [
            ((np.asarray(each[layer], np.float64) / 300 - 1) ** 2).mean(axis=(0, 1))
            for each in seen
        ]
        expected += 3.0 * 0.5 * ((means[0] - means[1]) ** 2).mean()
    np.testing.assert_allclose(total, expected, rtol=1e-4)
    assert found.keys() == {"total", "means"}


@pytest.mark.slow
def test_strips_and_windows_measure_no_padding(vgg16, rng, monkeypatch):
    image, content, style = own.pictures(rng, (37, 53), (37, 53), (30, 41))
    targets = nst_jax.compute_targets(vgg16, content, [style], CONFIG)
    wanted = own.value_and_grad(image, vgg16, targets, CONFIG)
    arguments = (vgg16, image, content, [style], CONFIG)
    own.assert_same(own.in_scan(monkeypatch, *arguments), wanted)
    own.assert_same(own.in_strips(*arguments), wanted)
    own.assert_same(own.in_windows(*arguments), wanted)


@pytest.mark.slow
def test_masks_and_style_masks(vgg16, rng, monkeypatch):
    image, content, *styles = own.pictures(rng, (37, 53), (37, 53), (30, 41), (40, 33))
    given = {
        "combine": nst_jax.Combine(
            masks=rng.random((2, 37, 53), np.float32),
            style_masks=[None, rng.random((40, 33), np.float32)],
        )
    }
    targets = nst_jax.compute_targets(vgg16, content, styles, CONFIG, **given)
    wanted = own.value_and_grad(image, vgg16, targets, CONFIG)
    arguments = (vgg16, image, content, styles, CONFIG)
    own.assert_same(own.in_scan(monkeypatch, *arguments, **given), wanted)
    own.assert_same(own.in_strips(*arguments, **given), wanted)
    own.assert_same(own.in_windows(*arguments, **given), wanted)


@pytest.mark.slow
def test_it_paints_beside_other_terms(vgg16, rng):
    content, *styles = own.pictures(rng, (40, 48), (30, 41), (40, 33))
    config = CONFIG.replace(
        content_layers=("block2_conv1",),
        content_weight=0.1,
        tv_weight=1e-6,
        tv_form="keras",
        jitter=2,
    )
    whole = own.assert_paints_alike(vgg16, content, styles, config)
    assert whole.history.keys() == {"total", "content", "tv", "means"}
    blend = nst_jax.stylize(
        vgg16,
        content,
        styles,
        config.replace(steps=1),
        combine=nst_jax.Combine(mixing=np.array([[0.5, 0.5]])),
    )
    assert blend.history["means"].shape == (1, 1)


def test_a_weight_may_be_one_for_each_output(vgg16, rng):
    content, style = own.pictures(rng, (40, 48), (30, 41))
    config, sweep = CONFIG.replace(steps=1), {"means_weight": np.array([1.0, 4.0])}
    means = nst_jax.stylize(vgg16, content, [style], config, sweep=sweep).history["means"][0]
    np.testing.assert_allclose(means[1], 4 * means[0], rtol=1e-5)


@settings
class Nothing(terms.Term):
    name: str = option("nothing")
    weight: Any = number(1.0)
    layers: Any = weighted(("block1_conv1",))


@pytest.mark.parametrize("make", [own.ALONE.replace, nst_jax.Config])
def test_what_is_no_term_is_refused(make):
    for terms_, error, message in (
        ((Nothing(),), TypeError, "a term must have 'sums', but Nothing"),
        (("means",), TypeError, "a term must be an object of a class"),
        ((ChannelMeans,), TypeError, "a term must be an object of a class"),
        ((ChannelMeans(name="total"),), ValueError, "a term must not be named 'total'"),
        (CONFIG.terms * 2, ValueError, "differ in their names, got 'means'"),
        (ChannelMeans(), TypeError, "terms must be a tuple of terms"),
    ):
        with pytest.raises(error, match=message):
            make(terms=terms_)
