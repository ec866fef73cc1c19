"""Every flag of a setting sets it; what the settings do is tested in test_options.py and others."""

import pytest
from absl import flags
from absl.testing import flagsaver

from nst_jax import options
from nst_jax.config import Config
from nst_jax.presets import presets

# For each a value that no preset has, and what the field is then.
SETTINGS = {
    "size": ("77", 77),
    "size_of": ("height", "height"),
    "first_size": ("33", 33),
    "scale_factor": ("1.7", 1.7),
    "content_layers": ("block3_conv2,block2_pool", ("block3_conv2", "block2_pool")),
    "style_layers": ("block2_last", ("block2_last",)),
    "content_layer_weights": ("0.3", (0.3,)),
    "style_layer_weights": ("5,4,3,2,1", (5.0, 4.0, 3.0, 2.0, 1.0)),
    "content_reduction": ("half_sum", "half_sum"),
    "style_loss": ("wasserstein", "wasserstein"),
    "style_normalization": ("gatys", "gatys"),
    "tv_form": ("l1", "l1"),
    "pooling": ("l2", "l2"),
    "pooling_correction": (None, True),
    "normalize_features": (None, True),
    "padding": ("replicate", "replicate"),
    "precision": ("bfloat16", "bfloat16"),
    "remat": (None, True),
    "optimizer": ("lbfgs", "lbfgs"),
    "linesearch": (None, True),
    "memory": ("7", 7),
    "normalize_gradient": (None, True),
    "schedule": ("exponential", "exponential"),
    "clip": (None, True),
    "jitter": ("3", 3),
    "init": ("noise", "noise"),
    "color": ("luminance", "luminance"),
    "steps": ("9", 9),
    "first_steps": ("8", 8),
    "content_weight": ("0.125", 0.125),
    "style_weight": ("12.5", 12.5),
    "tv_weight": ("1e-5", 1e-5),
    "learning_rate": ("0.75", 0.75),
    "momentum": ("0.8", 0.8),
    "decay_rate": ("0.5", 0.5),
    "decay_steps": ("17", 17.0),
    "beta1": ("0.7", 0.7),
    "beta2": ("0.8", 0.8),
    "epsilon": ("1e-3", 1e-3),
    "average_decay": ("0.6", 0.6),
}


def parsed(*arguments):
    with flagsaver.flagsaver():
        flags.FLAGS(["nst-jax", *arguments])
        return options.config_from_flags()


def test_every_setting_has_a_flag_and_is_below():
    assert SETTINGS.keys() == {*options.CONFIG_FLAGS, *options.SWEEP_FLAGS}
    assert SETTINGS.keys() == set(Config.__dataclass_fields__)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_flag_sets_its_field_and_nothing_else(name):
    text, value = SETTINGS[name]
    before = presets["default"]
    changed = f"--{name}={text}"
    if text is None:  # a switch, in the way that changes something
        value = not getattr(before, name)
        changed = f"--{name}" if value else f"--no{name}"
    config, sweep = parsed(changed)
    assert getattr(config, name) == value != getattr(before, name)
    assert config == before.replace(**{name: value}) and not sweep


@pytest.mark.parametrize("name", options.SWEEP_FLAGS)
def test_a_number_with_several_values_is_explored(name):
    text, value = SETTINGS[name]
    _, sweep = parsed(f"--{name}={text},{text}")
    assert sweep == {name: (value, value)}
