"""Terms as settings, and what the objective makes of them; their values have tests of their own."""

import pickle
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nst_jax
from nst_jax import objective, sharding, terms
from nst_jax.settings import number, option, settings, weighted
from nst_jax.terms import Content, Field, GramStyle, TotalVariation, WassersteinStyle

CONFIG = nst_jax.Config(
    size=None,
    content_layers=("block2_conv1",),
    style_layers=("block1_conv1", "block2_conv1"),
    tv_weight=1e-6,
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
    with pytest.raises(TypeError, match="layers must be names, or weights by name, got 'block1'"):
        GramStyle(layers="block1")
    with pytest.raises(ValueError, match="layers must name each once"):
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


def test_a_field_of_no_kind_is_refused():
    with pytest.raises(TypeError, match="Wrong.count must be a number, option or weighted"):

        @settings
        class Wrong:
            weight: Any = number(1.0)
            layers: Any = weighted(())
            name: str = option("wrong")
            count: int = 3


def pictures(rng, *shapes):
    return [rng.random((*shape, 3), np.float32) for shape in shapes]


@pytest.mark.parametrize("changes", [{}, {"remat": True}])
def test_a_total_variation_of_weight_0_is_not_in_the_program(vgg16, rng, changes):
    content, style = pictures(rng, (33, 45), (30, 40))

    def differences(config):
        targets = nst_jax.compute_targets(vgg16, content, [style], config)
        slope = jax.jit(jax.grad(objective.objective_value, has_aux=True))
        text = slope.lower(content, vgg16, targets, config).as_text()
        return len(re.findall(r"tensor<32x44x3xf32>", text))

    config = CONFIG.replace(**changes)
    assert differences(config) > 10
    assert differences(config.replace(tv_weight=0.0)) == 0


def test_a_weight_of_0_for_some_outputs_is_a_term_of_all(vgg16, rng):
    content, style = pictures(rng, (24, 32), (24, 32))
    config = CONFIG.replace(steps=1, tv_weight=np.float32([0.0, 1e-6]))
    history = nst_jax.stylize(vgg16, content, [style], config).history
    assert history["tv"][0, 0] == 0 < history["tv"][0, 1]
    none = nst_jax.stylize(vgg16, content, [style], CONFIG.replace(steps=1, tv_weight=0.0))
    assert none.history.keys() == {"total", "content", "style"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "average"}, "targets must be of the objective's network, .*pooling='average'"),
        ({"normalize_features": True}, "targets must be of the objective's network"),
        ({"precision": "bfloat16"}, "targets must be of the objective's network"),
        (
            {"style_layers": ("block1_conv1",)},
            "targets must be of the objective's terms and layers, content: block2_conv1; style: "
            "block1_conv1, got those of content: block2_conv1; style: block1_conv1, block2_conv1",
        ),
        ({"content_layers": ()}, "terms and layers, style: block1_conv1, block2_conv1, got those"),
    ],
)
def test_targets_of_another_objective_are_refused(vgg16, rng, changes, message):
    content, style = pictures(rng, (24, 32), (24, 32))
    targets = nst_jax.compute_targets(vgg16, content, [style], CONFIG)
    image = jnp.asarray(content)
    with pytest.raises(ValueError, match=message):
        nst_jax.objective_value(image, vgg16, targets, CONFIG.replace(**changes))
    with pytest.raises(ValueError, match=message):
        objective.tiled_value_and_grad(image, vgg16, targets, CONFIG.replace(**changes), tile=24)
    with pytest.raises(ValueError, match=r"must be of one size, got \(20, 32\) against \(24, 32\)"):
        nst_jax.objective_value(image[:20], vgg16, targets, CONFIG)
    # What refers to neither content nor style needs no target.
    nst_jax.objective_value(image, vgg16, targets, CONFIG.replace(tv_weight=0.0))


def test_targets_with_a_value_a_position_are_divided_by_height(vgg16, rng):
    content, *styles = pictures(rng, (32, 24), (20, 28), (20, 28))
    masks = np.ones((2, 2, 32, 24), np.float32)
    targets = nst_jax.compute_targets(vgg16, content, styles, CONFIG, masks=masks)
    mesh = sharding.make_mesh(2, sizes={"style": 2, "space": 4})
    placed = sharding.place(mesh, targets)
    near = placed.terms["content"]["block2_conv1"]
    assert isinstance(near, Field)
    assert near.values.sharding.shard_shape(near.values.shape) == (1, 4, 12, 128)
    region = placed.masks["block1_conv1"].values
    assert region.sharding.shard_shape(region.shape) == (1, 8, 24, 2)
    gram = placed.terms["style"]["block1_conv1"].gram
    assert gram.sharding.shard_shape(gram.shape) == (1, 2, 64, 64)
