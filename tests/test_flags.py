"""Every flag of a setting sets it, and every flag has a test that sees what it does."""

import json
import shutil

import h5py
import jax
import named
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from commandline import FAST
from PIL import Image

from nst_jax import options, weights
from nst_jax.config import Config
from nst_jax.presets import presets
from nst_jax.stylize import fit_shape

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
    "padding": ("zeros", "zeros"),
    "precision": ("bfloat16", "bfloat16"),
    "remat": (None, True),
    "optimizer": ("adam", "adam"),
    "linesearch": (None, True),
    "memory": ("7", 7),
    "normalize_gradient": ("none", "none"),
    "band_weights": ("3,2,1", (3.0, 2.0, 1.0)),
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

# The test that sees what each flag does, or what the field does that it sets.
OPTIONS, OPTIMIZE, OBSERVERS = "test_options.py", "test_optimize.py", "test_observers.py"
STRUCTURE = f"{OPTIONS}::test_structure_changes_the_objective_and_its_descent_still_works"
EXPONENTIAL = f"{OPTIMIZE}::test_the_numbers_of_the_exponential_schedule"
ADAM = f"{OPTIMIZE}::test_adam_is_optax_adam_in_grey_levels"
COARSE = f"{OPTIONS}::test_coarse_to_fine_runs_every_scale_and_ends_at_the_size"
BANDS = "test_bands.py::test_a_configuration_chooses_it"
SHOWN = f"{OBSERVERS}::test_everything_that_a_run_can_show"
TWO = "test_cli_scale.py::test_two_processes_paint_what_one_does"
EFFECTS = {
    "content": "test_cli.py::test_several_contents_of_several_shapes",
    "styles": "test_cli.py::test_writes_every_file_of_a_run",
    "pairing": "test_dataset.py::"
    "test_a_data_set_holds_what_single_runs_paint_and_goes_on_where_it_ended",
    "batch_size": "test_pairs.py::test_batches_hold_every_pair_once_and_one_shape_each",
    "output_dir": "test_cli.py::test_writes_every_file_of_a_run",
    "format": "test_cli_files.py::test_a_picture_says_what_makes_it_again",
    "overwrite": "test_cli_files.py::test_nothing_is_overwritten_unless_asked_for",
    "quiet": "test_cli_files.py::test_quiet_leaves_the_errors",
    "demo": "test_cli.py::test_demo_runs_as_a_command_without_input_and_compiles_once_for_all_runs",
    "model": "test_flags.py::test_the_network_is_the_one_named_or_in_the_file",
    "weights": "test_flags.py::test_the_network_is_the_one_named_or_in_the_file",
    "preset": "test_cli_files.py::test_the_settings_of_a_recipe_are_those_it_was_made_from",
    "mixing": "test_cli.py::test_blends_are_named_by_their_rows",
    "masks": "test_cli.py::test_masks_from_files",
    "style_masks": "test_cli.py::test_a_style_mask_hides_the_rest_of_the_style",
    "seed": "test_cli.py::test_another_seed_is_another_noise_to_start_from",
    "tile": "test_cli_scale.py::test_tiles_paint_what_the_whole_picture_does",
    "mesh": TWO,
    "distributed": "test_flags.py::test_the_cluster_tells_its_processes",
    "coordinator_address": TWO,
    "num_processes": "test_dataset.py::test_processes_that_never_meet_share_the_work",
    "process_id": "test_dataset.py::test_processes_that_never_meet_share_the_work",
    "checkpoint_dir": "test_resume.py::test_killed_twenty_times_it_ends_with_the_same_files",
    "checkpoint_every": "test_resume.py::test_killed_twenty_times_it_ends_with_the_same_files",
    "retries": "test_resume.py::test_diverged_outputs_are_tried_at_a_tenth_of_the_rate",
    **dict.fromkeys(("log_every", "report", "save_every", "animate", "tensorboard_dir"), SHOWN),
    "profile_dir": "test_cli.py::test_a_profile_changes_no_picture",
    "compilation_cache": "test_compilation.py::test_no_cache_is_none_wherever_jax_is_told_of_one",
    "show_config": "test_cli_files.py::test_a_picture_says_what_makes_it_again",
    "list_layers": "test_helptext.py::test_the_layers_of_the_network",
    "list_presets": "test_helptext.py::test_every_preset_is_described_by_what_it_changes",
    "size": "test_stylize.py::test_result_has_a_picture_a_style_at_the_size_asked_for",
    "size_of": "test_flags.py::test_the_size_is_of_the_side_named",
    **dict.fromkeys(("first_size", "scale_factor", "steps", "first_steps"), COARSE),
    "content_layers": "test_objective.py::test_no_layers_leave_total_variation_alone",
    "style_layers": "test_objective.py::test_no_layers_leave_total_variation_alone",
    "content_layer_weights": "test_objective.py::test_value_and_gradient_equal_numpy_in_float64",
    "style_layer_weights": "test_objective.py::test_layer_weights_weigh_layers",
    **dict.fromkeys(("content_reduction", "style_loss", "style_normalization"), STRUCTURE),
    **dict.fromkeys(("tv_form", "pooling", "pooling_correction", "padding"), STRUCTURE),
    "normalize_features": "test_magnitudes.py::test_features_are_divided_in_the_objective",
    "precision": "test_cli.py::test_precision_is_a_flag",
    "remat": "test_remat.py::test_it_takes_less_memory",
    "optimizer": f"{OPTIONS}::test_every_optimizer_lowers_every_output",
    "linesearch": f"{OPTIONS}::test_line_search_never_lets_the_loss_rise",
    "memory": f"{OPTIMIZE}::test_lbfgs_passes_over_negative_curvature",
    **dict.fromkeys(("normalize_gradient", "band_weights"), BANDS),
    "schedule": f"{OPTIMIZE}::test_schedules",
    "clip": f"{OPTIMIZE}::test_clip_keeps_the_range",
    "jitter": f"{OPTIONS}::test_jitter_moves_no_picture",
    "init": f"{OPTIONS}::test_init_style_starts_from_the_style_cut_to_shape",
    "color": f"{OPTIONS}::test_luminance_transfer_keeps_the_contents_chroma",
    "content_weight": f"{OPTIONS}::test_numbers_explore_one_style_in_one_program",
    "style_weight": "test_stylize.py::test_a_sweep_over_weights_is_one_program",
    "tv_weight": "test_objective.py::test_no_layers_leave_total_variation_alone",
    "learning_rate": f"{OPTIMIZE}::test_sgd_moves_by_grey_levels",
    "momentum": f"{OPTIMIZE}::test_momentum_is_the_heavy_ball",
    **dict.fromkeys(("decay_rate", "decay_steps"), EXPONENTIAL),
    **dict.fromkeys(("beta1", "beta2", "epsilon"), ADAM),
    "average_decay": f"{OPTIONS}::"
    "test_averaging_returns_the_bias_corrected_average_of_the_iterates",
}


def test_every_flag_has_a_test_of_what_it_does():
    settings = {*options.CONFIG_FLAGS, *options.SWEEP_FLAGS}
    assert EFFECTS.keys() == settings | {*options.RUN_FLAGS, *options.QUESTION_FLAGS}
    for flag, test in EFFECTS.items():
        named.check(test, about=flag)


def parsed(*arguments):
    with flagsaver.flagsaver():
        flags.FLAGS(["nst-jax", *arguments])
        return options.config_from_flags()


def test_every_setting_has_a_flag_and_is_below():
    assert SETTINGS.keys() == {*options.CONFIG_FLAGS, *options.SWEEP_FLAGS}
    of_python = {"extractor", "terms"}  # which no text on a command line could give
    assert SETTINGS.keys() == set(Config.__dataclass_fields__) - of_python


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
    expected = {name: value}
    if name == "steps":  # those of the first scale, too
        expected["first_steps"] = None
    assert config == before.replace(**expected) and not sweep


@pytest.mark.parametrize("name", options.SWEEP_FLAGS)
def test_a_number_with_several_values_is_explored(name):
    text, value = SETTINGS[name]
    _, sweep = parsed(f"--{name}={text},{text}")
    assert sweep == {name: (value, value)}


def test_the_size_is_of_the_side_named():
    height, _ = parsed("--size=36", "--size_of=height")
    longer, _ = parsed("--size=36", "--size_of=longer")
    assert fit_shape((60, 80), height) == (36, 48) and fit_shape((60, 80), longer) == (27, 36)


def test_the_network_is_the_one_named_or_in_the_file(run, pictures, tmp_path):
    own = tmp_path / "own.h5"
    shutil.copy(weights.BUNDLED_FOLDER / "vgg16.h5", own)
    with h5py.File(own, "r+") as file:
        kernel = file["block1_conv1/block1_conv1_W_1:0"]
        kernel[...] = kernel[...][..., ::-1]  # another order of the first channels
    made = {}
    for name, *chosen in (
        ("sixteen",),
        ("nineteen", "--model=vgg19"),
        ("named", "--model=vgg19", "--weights=vgg16"),
        ("own", f"--weights={own}"),
    ):
        out = tmp_path / name
        code, err = run(
            *(f"--content={pictures[0]}", f"--styles={pictures[1]}", f"--output_dir={out}"),
            *(*FAST, "--learning_rate=4", "--mesh=style:1", *chosen),
        )
        assert code == 0, err
        made[name] = np.asarray(Image.open(out / "a__b.png"), np.int32)
    np.testing.assert_array_equal(made["named"], made["sixteen"])
    for name in ("nineteen", "own"):
        assert np.abs(made[name] - made["sixteen"]).max() > 1, name
    found = json.loads((tmp_path / "own" / "config.json").read_text())
    assert (found["network"], found["weights"]) == ("vgg16", str(own))
    assert found["weights_sha256"] == weights.sha256(own) != weights.sha256("vgg16")


@pytest.mark.parametrize(
    ("chosen", "given"),
    [
        (("--distributed",), (None, None, None)),
        (
            ("--coordinator_address=127.0.0.1:9", "--num_processes=2", "--process_id=1"),
            ("127.0.0.1:9", 2, 1),
        ),
        ((), None),
    ],
)
def test_the_cluster_tells_its_processes(run, monkeypatch, chosen, given):
    """Without addresses JAX asks the environment of Slurm, Open MPI or a TPU pod."""
    called = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *found, **_: called.append(found))
    code, err = run(*chosen, "--steps=0")
    assert code == 1 and "steps must be at least 1" in err
    assert called == ([] if given is None else [given])
