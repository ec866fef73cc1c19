import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nst_jax
from nst_jax.config import CHOICES, NUMBERS, STRUCTURE


def test_is_frozen_hashable_and_equal_by_value():
    config = nst_jax.presets["default"]
    assert config == config.replace(steps=config.steps)
    assert hash(config) == hash(config.replace())
    assert config != config.replace(content_weight=123.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3


def test_every_field_is_structure_or_number():
    names = [field.name for field in dataclasses.fields(nst_jax.Config)]
    assert sorted((*STRUCTURE, *NUMBERS)) == sorted(names)
    assert set(CHOICES) <= set(STRUCTURE)


def test_numbers_are_the_leaves_of_a_pytree():
    config = nst_jax.presets["assignment"]
    doubled = jax.tree.map(lambda number: 2 * jax.numpy.asarray(number), config)
    assert doubled.learning_rate == 200 and doubled.size == config.size
    structure = jax.tree.structure(config)
    assert structure == jax.tree.structure(config.replace(content_weight=3.0, steps=7))
    assert structure != jax.tree.structure(config.replace(optimizer="adam"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"optimizer": "adem"}, ValueError, "optimizer must be one of .*did you mean 'adam'"),
        (
            {"optimizer": "SGD"},
            ValueError,
            "one of sgd, adam, lbfgs, got 'SGD'; did you mean 'sgd'",
        ),
        ({"optimizer": "adagrad"}, ValueError, "got 'adagrad'; did you mean 'adam'"),
        ({"optimizer": "L-BFGS"}, ValueError, "got 'L-BFGS'; did you mean 'lbfgs'"),
        ({"pooling": "AVG"}, ValueError, "did you mean 'average'"),
        ({"schedule": "x"}, ValueError, "schedule must be one of .*; did you mean '"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 2.5}, TypeError, "steps must be a whole number, got 2.5"),
        ({"size": -1}, ValueError, "size must be at least 1"),
        ({"content_weight": -1.0}, ValueError, "content_weight must be at least 0"),
        ({"style_weight": float("nan")}, ValueError, "style_weight must be"),
        ({"tv_weight": "1"}, TypeError, "tv_weight must be a number"),
        ({"learning_rate": (1.0, 1e39)}, ValueError, "learning_rate must be at most 3.4e.38, "),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be greater than 0"),
        ({"momentum": 1.5}, ValueError, "momentum must be at least 0 and at most 1"),
        ({"style_layers": "block1_conv1"}, TypeError, "style_layers must be a tuple"),
        ({"style_layers": ("a", "a")}, ValueError, "name each layer once"),
        ({"style_layer_weights": (1.0,)}, ValueError, "one weight for each of the 5"),
        ({"style_layer_weights": (1, 1, 1, 1, -1)}, ValueError, "style_layer_weights"),
        ({"stpes": 3}, TypeError, "no field 'stpes'; did you mean 'steps'"),
        ({"size": np.int64(0)}, ValueError, "^size must be at least 1, got 0$"),
        ({"size": [1]}, ValueError, r"^size must be a whole number, got an array of shape \(1,\)$"),
        ({"size": np.float32(33.5)}, TypeError, "^size must be a whole number, got .*33.5"),
        ({"scale_factor": None}, TypeError, "^scale_factor must be a number, got None$"),
        ({"memory": None}, TypeError, "^memory must be a whole number, got None$"),
        ({"jitter": True}, TypeError, "^jitter must be a whole number, got True$"),
        ({"steps": np.int64(0)}, ValueError, "^steps must be at least 1, got 0$"),
        ({"steps": np.array([2, 3])}, ValueError, r"^steps must be a whole .* of shape \(2,\)$"),
        ({"steps": None}, TypeError, "^steps must be a whole number, got None$"),
        ({"steps": float("inf")}, ValueError, "^steps must be at least 1, got inf$"),
        ({"learning_rate": None}, TypeError, "^learning_rate must be a number.*, got None$"),
        ({"learning_rate": np.array([5.0, -5.0])}, ValueError, "^learning_rate .* 0, got -5.0$"),
        ({"learning_rate": jnp.array([-1.0, 2])}, ValueError, "^learning_rate .* 0, got -1.0$"),
        ({"content_weight": [1.0, np.nan]}, ValueError, "^content_weight .* least 0, got nan$"),
        ({"content_weight": [1, "2"]}, TypeError, r"^content_weight must be .*, got \[1, '2'\]$"),
        (
            {"content_weight": [[1], [2, 3]]},
            TypeError,
            "^content_weight must be .* for each output",
        ),
        ({"content_weight": np.ones((2, 2))}, ValueError, r"^content_weight .* shape \(2, 2\)$"),
        ({"content_weight": []}, ValueError, r"^content_weight must be .* shape \(0,\)$"),
        ({"epsilon": 1j}, TypeError, "^epsilon must be a number, or one for each output, got 1j$"),
        (
            {"content_layer_weights": 2.0},
            TypeError,
            "^content_layer_weights must hold a number for",
        ),
        ({"content_layer_weights": "1"}, TypeError, "^content_layer_weights must be a number"),
        ({"clip": 1}, TypeError, "^clip must be True or False, got 1$"),
        ({"optimizer": ["adam"]}, ValueError, "^optimizer must be one of"),
        (
            {"content_weight": [1, 2], "style_weight": [1, 2, 3]},
            ValueError,
            "^content_weight and style_weight must have numbers for as many outputs, got 2 and 3$",
        ),
        (
            {"tv_weight": [1, 2], "content_layer_weights": ([1, 2, 3],)},
            ValueError,
            "^tv_weight and content_layer_weights must .*, got 2 and 3$",
        ),
    ],
)
def test_bad_values_are_refused_by_name(change, error, message):
    with pytest.raises(error, match=message):
        nst_jax.presets["default"].replace(**change)


def test_any_unknown_preset_has_a_nearest():
    for name, right in (("foo", "tf_blog"), ("Gatys", "gatys"), ("hq", "quality")):
        with pytest.raises(ValueError, match=f"^preset must be .*; did you mean '{right}'"):
            nst_jax.presets[name]


def test_numbers_of_numpy_and_jax_are_pythons():
    config = nst_jax.Config(
        size=np.int64(64),
        steps=np.float32(7),
        clip=np.bool_(False),
        scale_factor=np.float64(2),
        content_weight=2,
        style_weight=np.array(3),
        learning_rate=jnp.float32(0.5),
        style_layer_weights=np.arange(5),
    )
    plain = nst_jax.Config(
        size=64,
        steps=7,
        clip=False,
        scale_factor=2.0,
        content_weight=2.0,
        style_weight=3.0,
        learning_rate=0.5,
        style_layer_weights=(0.0, 1.0, 2.0, 3.0, 4.0),
    )
    assert config == plain and repr(config) == repr(plain) and hash(config) == hash(plain)


@pytest.mark.parametrize("several", [[0.1, 1], (0.1, 1), np.array([0.1, 1]), jnp.array([0.1, 1])])
def test_several_numbers_are_float32(several):
    config = nst_jax.Config(content_weight=several, style_layer_weights=[several] * 5)
    for found in (config.content_weight, *config.style_layer_weights):
        assert isinstance(found, np.ndarray) and found.dtype == np.float32
        np.testing.assert_array_equal(found, np.float32([0.1, 1]))


def test_numbers_being_traced_pass_unlooked_at():
    def negated(weight, weights):
        config = nst_jax.Config(content_weight=-weight, style_layer_weights=-weights)
        return config.content_weight + config.style_layer_weights[4]

    assert jax.jit(negated)(1.0, jnp.arange(5.0)) == -5
    slopes = jax.grad(negated, argnums=(0, 1))(1.0, jnp.arange(5.0))
    np.testing.assert_array_equal(jnp.append(slopes[1], slopes[0]), [0, 0, 0, 0, -1, -1])
    np.testing.assert_array_equal(jax.vmap(negated)(jnp.ones(2), jnp.ones((2, 5))), [-2, -2])


def test_trees_of_a_configuration_need_not_be_valid():
    config = nst_jax.presets["keras"]
    negated = jax.tree.map(lambda x: -x, config)
    assert (negated.learning_rate, negated.steps) == (-100, -4000)
    nothing = jax.tree.map(lambda x: None, config)
    assert jax.tree.leaves(nothing) == [] and nothing.size == 400
    again = jax.tree.unflatten(*reversed(jax.tree.flatten(config)))
    assert jax.tree.leaves(again) == jax.tree.leaves(config) and hash(again)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(config)]
    assert paths[0] == ".steps" and ".style_layer_weights[4]" in paths


def test_what_is_none_is_the_same_tree_as_what_it_stands_for():
    config = nst_jax.Config(steps=9)
    spelled = config.replace(
        first_steps=9, content_layer_weights=(1.0,), style_layer_weights=(0.2,) * 5
    )
    assert jax.tree.structure(config) == jax.tree.structure(spelled)
    assert jax.tree.leaves(config) == jax.tree.leaves(spelled)
    assert config.style_layer_weights is None and config.first_steps is None


def test_the_assignment_is_the_reports_experiment():
    config = nst_jax.presets["assignment"]
    assert config.style_layers == tuple(f"block{block}_conv1" for block in range(1, 6))
    assert config.content_layers == ("block5_last",)
    assert (config.optimizer, config.learning_rate, config.steps) == ("sgd", 100.0, 3000)
    assert (config.decay_rate, config.decay_steps) == (0.96, 100.0)
    assert (config.content_weight, config.style_weight) == (2.5e-8, 1e-6)
    assert (config.momentum, config.tv_weight, config.normalize_gradient) == (0.0, 0.0, "none")
