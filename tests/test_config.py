import dataclasses

import jax
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
        ({"schedule": "x"}, ValueError, "schedule must be one of"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 2.5}, TypeError, "steps must be a whole number, got 2.5"),
        ({"size": -1}, ValueError, "size must be at least 1"),
        ({"content_weight": -1.0}, ValueError, "content_weight must be at least 0"),
        ({"style_weight": float("nan")}, ValueError, "style_weight must be"),
        ({"tv_weight": "1"}, TypeError, "tv_weight must be a number"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be greater than 0"),
        ({"momentum": 1.5}, ValueError, "momentum must be at least 0 and at most 1"),
        ({"style_layers": "block1_conv1"}, TypeError, "style_layers must be a tuple"),
        ({"style_layers": ("a", "a")}, ValueError, "name each layer once"),
        ({"style_layer_weights": (1.0,)}, ValueError, "one weight for each of the 5"),
        ({"style_layer_weights": (1, 1, 1, 1, -1)}, ValueError, "style_layer_weights"),
        ({"stpes": 3}, TypeError, "no field 'stpes'; did you mean 'steps'"),
    ],
)
def test_bad_values_are_refused_by_name(change, error, message):
    with pytest.raises(error, match=message):
        nst_jax.presets["default"].replace(**change)


def test_arrays_of_numbers_pass():
    sweep = nst_jax.presets["default"].replace(content_weight=np.array([0.1, 1.0]))
    np.testing.assert_array_equal(sweep.content_weight, [0.1, 1.0])


def test_the_assignment_is_the_reports_experiment():
    config = nst_jax.presets["assignment"]
    assert config.style_layers == tuple(f"block{block}_conv1" for block in range(1, 6))
    assert config.content_layers == ("block5_last",)
    assert (config.optimizer, config.learning_rate, config.steps) == ("sgd", 100.0, 3000)
    assert (config.decay_rate, config.decay_steps) == (0.96, 100.0)
    assert (config.content_weight, config.style_weight) == (2.5e-8, 1e-6)
    assert (config.momentum, config.tv_weight, config.normalize_gradient) == (0.0, 0.0, False)
