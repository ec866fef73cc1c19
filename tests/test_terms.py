"""Terms as settings, and what the objective makes of them; their values have tests of their own."""

import pickle
import re
from typing import Any

import basic
import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest

import nst_jax
from nst_jax import losses, objective, optimize, sharding, terms, windows
from nst_jax.partition import Together, Windows
from nst_jax.settings import number, option, settings, weighted
from nst_jax.terms import Content, Field, GramStyle, TotalVariation, WassersteinStyle

CONFIG = basic.CONFIG.replace(
    size=None,
    content_layers=("block2_conv1",),
    style_layers=("block1_conv1", "block2_conv1"),
    tv_weight=1e-6,
    tv_form="keras",
)
EACH = (
    Content(weight=2.0, layers={"block4_conv2": 0.25, "block1_conv1": 3.0}, reduction="sum"),
    GramStyle(layers=("block5_conv1", "block1_conv1")),
    WassersteinStyle(weight=np.float32(3)),
    TotalVariation(form="l1"),
)


@pytest.mark.parametrize("term", EACH, ids=lambda term: type(term).__name__)
def test_a_term_is_a_value_and_a_pytree(term):
    leaves, structure = jax.tree.flatten(term)
    again = jax.tree.unflatten(structure, leaves)
    assert again == term == pickle.loads(pickle.dumps(term))
    assert hash(again) == hash(term)
    assert list(again.layers) == list(term.layers)  # in the order that was given
    assert len(leaves) == 1 + len(term.layers)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, term)
    assert doubled != term and doubled.weight == 2 * term.weight
    axes = jax.tree.map(lambda _: 0, term)
    each = jax.tree.map(lambda leaf: jnp.array([leaf, 3 * leaf]), term)
    found = jax.vmap(lambda term: term.weight + sum(term.layers.values()), in_axes=(axes,))(each)
    whole = term.weight + sum(term.layers.values())
    np.testing.assert_allclose(found, [whole, 3 * whole], rtol=1e-6)


def test_names_alone_have_equal_shares():
    assert GramStyle(layers=("block1_conv1", "block2_conv1")).layers == {
        "block1_conv1": 0.5,
        "block2_conv1": 0.5,
    }
    with pytest.raises(
        TypeError, match="layers must be a tuple of names, or weights by name, got 'block1'"
    ):
        GramStyle(layers="block1")
    with pytest.raises(ValueError, match="layers must name each layer once"):
        GramStyle(layers=("block1_conv1", "block1_conv1"))


def test_another_number_compiles_nothing_and_another_structure_does():
    traced = []

    @jax.jit
    def weight(term):
        traced.append(term)
        return term.weight

    assert weight(GramStyle(weight=2.0)) == 2
    assert weight(GramStyle(weight=3.0)) == 3
    assert weight(GramStyle(layers=dict.fromkeys(terms.FIRST_CONVOLUTIONS, 9.0))) == 1
    assert len(traced) == 1
    weight(GramStyle(normalization="relative"))
    assert len(traced) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TotalVariation(form="L1"), "form must be one of keras, nine_point, l1, got 'L1'"),
        (lambda: GramStyle(normalization="gaty"), "normalization must be .* did you mean 'gatys'"),
        (lambda: Content(reduction="avg"), "reduction must be one of half_sum, sum, mean, got"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_field_of_no_kind_is_refused():
    with pytest.raises(TypeError, match="Wrong.count must be declared by number, numbers,"):

        @settings
        class Wrong:
            weight: Any = number(1.0)
            layers: Any = weighted(())
            name: str = option("wrong")
            count: int = 3


def pictures(rng, *shapes):
    return [rng.random((*shape, 3), np.float32) for shape in shapes]


@pytest.mark.parametrize("partition", [Together(), Windows(loop="scan")])
def test_a_total_variation_of_weight_0_is_not_in_the_program(vgg16, rng, partition):
    content, style = pictures(rng, (33, 45), (30, 40))

    def differences(config):
        targets = nst_jax.compute_targets(vgg16, content, [style], config)
        slope = jax.jit(jax.grad(objective.value_by(partition), has_aux=True))
        text = slope.lower(content, vgg16, targets, config).as_text()
        return len(re.findall(r"tensor<32x44x3xf32>", text))

    assert differences(CONFIG) > 10
    assert differences(CONFIG.replace(tv_weight=0.0)) == 0


@pytest.mark.slow
def test_a_weight_of_0_for_some_outputs_is_a_term_of_all(vgg16, rng):
    content, style = pictures(rng, (24, 32), (24, 32))
    config = CONFIG.replace(steps=1)
    sweep = {"tv_weight": [0.0, 1e-6]}
    history = nst_jax.stylize(vgg16, content, [style], config, sweep=sweep).history
    assert history["tv"][0, 0] == 0 < history["tv"][0, 1]
    none = nst_jax.stylize(vgg16, content, [style], CONFIG.replace(steps=1, tv_weight=0.0))
    assert none.history.keys() == {"total", "content", "style"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pooling": "average"},
            "targets must be made with the config's network .*pooling='average'",
        ),
        ({"normalize_features": True}, "targets must be made with the config's network"),
        ({"dtype": "bfloat16"}, "targets must be made with the config's network"),
        (
            {"style_layers": ("block1_conv1",)},
            "targets of the term 'style' must have the layers block1_conv1, got block1_conv1, "
            "block2_conv1$",
        ),
        (
            {"content_layers": ()},
            "targets must have no term 'content', as the config has none, got one with the layers "
            "block2_conv1$",
        ),
    ],
)
def test_targets_of_another_objective_are_refused(vgg16, rng, changes, message):
    content, style = pictures(rng, (24, 32), (24, 32))
    targets = nst_jax.compute_targets(vgg16, content, [style], CONFIG)
    image = jnp.asarray(content)
    with pytest.raises(ValueError, match=message):
        nst_jax.objective_value(image, vgg16, targets, CONFIG.replace(**changes))
    with pytest.raises(ValueError, match=message):
        windows.value_and_grad(image, vgg16, targets, CONFIG.replace(**changes), tile=24)
    with pytest.raises(ValueError, match=r"must be of one size, got \(20, 32\) against \(24, 32\)"):
        nst_jax.objective_value(image[:20], vgg16, targets, CONFIG)
    # What refers to neither content nor style needs no target.
    nst_jax.objective_value(image, vgg16, targets, CONFIG.replace(tv_weight=0.0))


def test_targets_with_a_value_a_position_are_divided_by_height(vgg16, rng):
    content, *styles = pictures(rng, (32, 24), (20, 28), (20, 28))
    masks = np.ones((2, 2, 32, 24), np.float32)
    targets = nst_jax.compute_targets(
        vgg16, content, styles, CONFIG, combine=nst_jax.Combine(masks=masks)
    )
    mesh = sharding.make_mesh(2, sizes={"style": 2, "space": 4})
    placed = sharding.place(mesh, targets)
    near = placed.terms["content"]["block2_conv1"]
    assert isinstance(near, Field)
    assert near.values.sharding.shard_shape(near.values.shape) == (1, 4, 12, 128)
    region = placed.masks["block1_conv1"].values
    assert region.sharding.shard_shape(region.shape) == (1, 8, 24, 2)
    gram = placed.terms["style"]["block1_conv1"].gram
    assert gram.sharding.shard_shape(gram.shape) == (1, 2, 64, 64)


def test_sums_that_read_beyond_a_position_are_of_whole_layers_in_strips(vgg16, rng, monkeypatch):
    image, content, style = own.pictures(rng, (37, 53), (37, 53), (30, 41))
    rough = TotalVariation(name="rough", layers=("block1_conv1",), weight=1e-9)
    config = own.ALONE.replace(terms=(rough,))
    targets = nst_jax.compute_targets(vgg16, content, [style], config)
    wanted = own.value_and_grad(image, vgg16, targets, config)
    arguments = (vgg16, image, content, [style], config)
    own.assert_same(own.in_scan(monkeypatch, *arguments), wanted)
    own.assert_same(own.in_strips(*arguments), wanted)
    own.assert_same(own.in_windows(*arguments), wanted)


@settings
class RootContent(Content):
    """A content loss that is not linear in its sums."""

    name: str = option("root")
    linear = False

    def loss(self, sums, target, at):
        return {layer: jnp.sqrt(1 + own) for layer, own in sums.items()}


@settings
class RegionalLinear(terms.Term):
    """Linear in its sums, and under masks."""

    name: str = option("regional")
    weight: Any = number(1.0)
    layers: Any = weighted(("block1_conv1",))
    refers = "style"
    linear = True
    regions = True

    def sums(self, layer, x, weights, target, at):
        weights = jnp.ones(x.shape[:2]) if weights is None else weights
        return jnp.einsum("hw,hwc->", weights, jnp.square(x / 300 - 1))

    def target(self, layer, measured, at):
        return measured

    def loss(self, sums, target, at):
        return {layer: own / at.positions[layer] for layer, own in sums.items()}


@pytest.mark.slow
def test_what_a_jitter_moves_and_what_it_does_not(vgg16, rng):
    """The picture itself is compared before it is moved; layers of the network after."""
    image, content, style = own.pictures(rng, (37, 53), (37, 53), (30, 41))
    config = own.ALONE.replace(
        jitter=3,
        terms=(
            Content(name="pixels", layers=(terms.IMAGE, "block1_conv1")),
            RootContent(layers=("block2_conv1",)),
        ),
    )
    key = jax.random.key(2)
    assert np.all(np.asarray(objective.Objective.of(config).shift(key)))
    targets = nst_jax.compute_targets(vgg16, content, [style], config)
    wanted = own.value_and_grad(image, vgg16, targets, config, key)
    own.assert_same(own.in_windows(vgg16, image, content, [style], config, key=key), wanted)
    _, found = nst_jax.objective_value(jnp.asarray(content), vgg16, targets, config, key=key)
    np.testing.assert_allclose(found["pixels"], 0.0, atol=1e-9)
    plain = config.replace(jitter=0)
    targets = nst_jax.compute_targets(vgg16, content, [style], plain)
    with pytest.raises(ValueError, match="targets must be made with a jitter"):
        nst_jax.objective_value(jnp.asarray(content), vgg16, targets, config, key=key)
    wanted = own.value_and_grad(image, vgg16, targets, plain)
    own.assert_same(own.in_windows(vgg16, image, content, [style], plain), wanted)


def test_a_linear_term_under_masks(vgg16, rng):
    image, content, *styles = own.pictures(rng, (37, 53), (37, 53), (30, 41), (30, 41))
    config = own.ALONE.replace(terms=(RegionalLinear(),))
    given = {"combine": nst_jax.Combine(masks=rng.random((2, 37, 53), np.float32))}
    targets = nst_jax.compute_targets(vgg16, content, styles, config, **given)
    wanted = own.value_and_grad(image, vgg16, targets, config)
    own.assert_same(own.in_windows(vgg16, image, content, styles, config, **given), wanted)


def test_a_sweep_of_several_weights_has_an_axis_each(vgg16, rng):
    """Of axes, too, that are a tree as the configuration is."""
    content, style = pictures(rng, (24, 32), (24, 32))
    config = CONFIG.with_sweep(
        {"style_weight": np.float32([1, 2]), "tv_weight": np.float32([1e-6, 3e-6])}
    )
    axes = jax.tree.map(lambda leaf: 0 if np.ndim(leaf) else None, config)
    targets = nst_jax.compute_targets(vgg16, content, [style], CONFIG)
    value = jax.vmap(nst_jax.objective_value, in_axes=(None, None, None, axes))
    total, found = value(jnp.asarray(content), vgg16, targets, config)
    assert total.shape == (2,)
    np.testing.assert_allclose(found["tv"][1], 3 * found["tv"][0], rtol=1e-5)


def test_a_checkpoint_of_other_terms_is_refused(vgg16, rng):
    content, style = pictures(rng, (24, 32), (24, 32))
    saved = []

    def keep(progress):
        states = jax.tree.map(np.array, progress.states)
        saved.append(optimize.Checkpoint(progress.step, states, progress.terms))

    config = CONFIG.replace(steps=2, tv_weight=0.0)
    nst_jax.stylize(vgg16, content, [style], config, callback=keep)
    with pytest.raises(ValueError, match="resume must be of the terms content, style, total, tv, "):
        nst_jax.stylize(vgg16, content, [style], config.replace(tv_weight=1e-6), resume=saved[0])


def test_content_loss_weighs_positions(rng):
    features, target = rng.random((2, 5, 7, 4))
    weights = rng.random((5, 7))
    found = losses.content_loss(features, target, weights=weights)
    expected = 0.5 * np.sum(weights[..., None] * (features - target) ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
