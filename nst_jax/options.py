"""The flags of the command line, and the configuration that they make."""

from collections.abc import Sequence

import numpy as np
from absl import flags

from nst_jax import dataset, helptext, io, looks
from nst_jax.config import CHOICES, Config, check_choice
from nst_jax.presets import presets

# What `--demo` uses where no flag says otherwise: small enough for a laptop's processor.
DEMO = {"size": 256, "first_steps": 80, "steps": 50}

RUN_FLAGS = {
    "content": (
        flags.DEFINE_list,
        [],
        "content pictures, separated by commas; with folders or glob patterns, a data set",
    ),
    "styles": (flags.DEFINE_list, [], "style pictures, likewise"),
    "pairing": (
        flags.DEFINE_string,
        None,
        "of a data set: all contents in all styles, zip, the first in the first and so on, or "
        "random, each content in one style drawn by the seed (default: all)",
    ),
    "batch_size": (
        flags.DEFINE_integer,
        None,
        f"of a data set: most pictures painted at once (default: {dataset.BATCH_SIZE} a device)",
    ),
    "output_dir": (flags.DEFINE_string, "out", "folder that the pictures go to"),
    "format": (
        flags.DEFINE_string,
        "png",
        f"of the pictures: {', '.join(io.FORMATS)}; png16 and tiff have 16 bits a channel",
    ),
    "overwrite": (
        flags.DEFINE_boolean,
        False,
        "replace files that are in the folder already, which else end the command before it "
        "computes anything",
    ),
    "quiet": (flags.DEFINE_boolean, False, "say nothing but errors"),
    "demo": (
        flags.DEFINE_boolean,
        False,
        "use the built-in pictures, at 256 pixels and in few steps",
    ),
    "model": (flags.DEFINE_string, "vgg19", "bundled network, vgg16 or vgg19"),
    "weights": (flags.DEFINE_string, None, "weights file (HDF5, Keras' layout) in its place"),
    "preset": (flags.DEFINE_string, "default", f"settings: {', '.join(presets)}"),
    "mixing": (
        flags.DEFINE_string,
        None,
        "blends of the styles, a row of weights for each: --mixing='0.7,0.3;0.5,0.5'",
    ),
    "masks": (
        flags.DEFINE_list,
        [],
        "for each style a picture, white where in the content it applies: one output of all",
    ),
    "style_masks": (
        flags.DEFINE_list,
        [],
        "for each style a picture, white where to learn from it; nothing between commas is all",
    ),
    "seed": (
        flags.DEFINE_integer,
        0,
        "of the noise to start from, of the jitter and of the random pairing",
    ),
    "tile": (
        flags.DEFINE_integer,
        None,
        "longest side of the windows in which larger pictures are looked at, pixels: the same "
        "result in less memory",
    ),
    "mesh": (
        flags.DEFINE_string,
        None,
        "devices along which the outputs and the pictures' heights are divided: "
        "--mesh=style:4,space:2 (default: all devices, the outputs first)",
    ),
    "distributed": (
        flags.DEFINE_boolean,
        False,
        "join the processes that the cluster's environment names (TPU pods, Slurm, Open MPI)",
    ),
    "coordinator_address": (
        flags.DEFINE_string,
        None,
        "host:port of the first of several processes, where no cluster says so",
    ),
    "num_processes": (flags.DEFINE_integer, None, "number of the processes"),
    "process_id": (flags.DEFINE_integer, None, "which of the processes this is, from 0"),
    "checkpoint_dir": (
        flags.DEFINE_string,
        None,
        "folder for checkpoints: the same command started again goes on from the last one",
    ),
    "checkpoint_every": (flags.DEFINE_integer, 50, "steps between checkpoints"),
    "retries": (
        flags.DEFINE_integer,
        0,
        "how often outputs that diverged are painted again, at a tenth of the learning rate each "
        "time",
    ),
    "log_every": (flags.DEFINE_integer, 10, "steps between lines of metrics.jsonl"),
    "report": (flags.DEFINE_boolean, False, "write report.html, renewed while the run goes on"),
    "save_every": (
        flags.DEFINE_integer,
        None,
        "steps between snapshots of the pictures, <output>/step_000123.png",
    ),
    "animate": (
        flags.DEFINE_string,
        None,
        f"the optimisation as an animation, <output>/animation: {', '.join(looks.ANIMATIONS)}",
    ),
    "tensorboard_dir": (
        flags.DEFINE_string,
        None,
        "folder for TensorBoard: losses, and pictures at snapshots (needs tensorboardX)",
    ),
    "profile_dir": (flags.DEFINE_string, None, "folder for a profiler trace of a few steps"),
    "compilation_cache": (
        flags.DEFINE_boolean,
        True,
        "keep compiled programs for the next run, in nst_jax/compiled of the user's cache folder",
    ),
}


def _choices(name: str) -> str:
    return ", ".join(CHOICES[name])


# One flag for each field of the configuration; None leaves what the preset says.
CONFIG_FLAGS = {
    "size": (flags.DEFINE_integer, "side of the pictures, pixels"),
    "size_of": (flags.DEFINE_string, f"the side meant: {_choices('size_of')}"),
    "first_size": (
        flags.DEFINE_integer,
        "coarse to fine: start at this side, pixels, and grow to the size in equal factors",
    ),
    "scale_factor": (
        flags.DEFINE_float,
        "how much larger each scale is than the one before, as nearly as equal factors allow",
    ),
    "content_layers": (flags.DEFINE_list, "layers compared with the content"),
    "style_layers": (flags.DEFINE_list, "layers whose statistics are compared with the style"),
    "content_layer_weights": (
        flags.DEFINE_list,
        "a weight for each content layer; if neither flag nor preset gives them, 1 / their number",
    ),
    "style_layer_weights": (
        flags.DEFINE_list,
        "a weight for each style layer; if neither flag nor preset gives them, 1 / their number",
    ),
    "content_reduction": (
        flags.DEFINE_string,
        f"of squared differences: {_choices('content_reduction')}",
    ),
    "style_loss": (flags.DEFINE_string, _choices("style_loss")),
    "style_normalization": (
        flags.DEFINE_string,
        f"divisor of squared Gram differences: {_choices('style_normalization')}",
    ),
    "tv_form": (flags.DEFINE_string, f"form of the total variation: {_choices('tv_form')}"),
    "pooling": (flags.DEFINE_string, f"pooling of the network: {_choices('pooling')}"),
    "pooling_correction": (
        flags.DEFINE_boolean,
        "scale average and l2 pooling to the magnitude of max pooling",
    ),
    "normalize_features": (
        flags.DEFINE_boolean,
        "divide each layer's activations by their usual size in the network",
    ),
    "padding": (flags.DEFINE_string, f"of the first convolution: {_choices('padding')}"),
    "precision": (flags.DEFINE_string, f"of the network: {_choices('precision')}"),
    "remat": (
        flags.DEFINE_boolean,
        "keep little of the network for the gradient and compute the rest again: less memory",
    ),
    "optimizer": (flags.DEFINE_string, _choices("optimizer")),
    "linesearch": (flags.DEFINE_boolean, "line search of L-BFGS"),
    "memory": (flags.DEFINE_integer, "past steps that L-BFGS keeps"),
    "normalize_gradient": (
        flags.DEFINE_string,
        "divide gradients by their root mean square, but not for L-BFGS: "
        f"{_choices('normalize_gradient')}",
    ),
    "band_weights": (
        flags.DEFINE_list,
        "how far each band of a normalised gradient moves, from fine to coarse, as shares of the "
        "learning rate",
    ),
    "schedule": (flags.DEFINE_string, f"of the learning rate: {_choices('schedule')}"),
    "clip": (flags.DEFINE_boolean, "keep the picture in its range at each step"),
    "jitter": (flags.DEFINE_integer, "pixels to move the picture by, at random each step"),
    "init": (flags.DEFINE_string, f"start from {_choices('init')}, or a picture file"),
    "color": (
        flags.DEFINE_string,
        "style: its colours; luminance: keep the content's chroma; match: first give the style "
        "the content's colours",
    ),
    "steps": (
        flags.DEFINE_integer,
        "optimisation steps at each scale; alone it also sets those of the first scale",
    ),
    "first_steps": (
        flags.DEFINE_integer,
        "steps at the first scale; left out, --steps sets them, or else the preset",
    ),
}

# Numbers that take several values, separated by commas: an output for each combination.
SWEEP_FLAGS = {
    "content_weight": "weight of the content loss",
    "style_weight": "weight of the style loss",
    "tv_weight": "weight of the total variation",
    "learning_rate": "grey levels (of 255); of L-BFGS the share of its step",
    "momentum": "of SGD; 0 is none",
    "decay_rate": "factor of the exponential schedule",
    "decay_steps": "steps for one factor of the exponential schedule",
    "beta1": "of Adam, of the first moment",
    "beta2": "of Adam, of the second moment",
    "epsilon": "of Adam",
    "average_decay": "of the average of the iterates that is the result; 0 is the last one",
}

# Flags that print something to stdout and end the command.
QUESTION_FLAGS = {
    "show_config": (
        flags.DEFINE_string,
        None,
        "print the command that made a picture, whose metadata it is read from",
    ),
    "list_layers": (flags.DEFINE_boolean, False, "print the layers of the network"),
    "list_presets": (flags.DEFINE_boolean, False, "print the presets and their settings"),
}

for _name, (_define, _default, _help) in (RUN_FLAGS | QUESTION_FLAGS).items():
    _define(_name, _default, _help)
for _name, (_define, _help) in CONFIG_FLAGS.items():
    _define(_name, None, _help + helptext.PRESETS_DEFAULT)
for _name, _help in SWEEP_FLAGS.items():
    flags.DEFINE_list(_name, None, _help + helptext.PRESETS_DEFAULT)

FLAGS = flags.FLAGS


def config_from_flags() -> tuple[Config, dict[str, tuple[float, ...]]]:
    """The preset with every field that a flag gives, and the numbers given several values."""
    check_choice("--preset", FLAGS.preset, presets)
    given = {
        name: FLAGS[name].value
        for name in (*CONFIG_FLAGS, *SWEEP_FLAGS)
        if FLAGS[name].value is not None
    }
    if "steps" in given:
        given.setdefault("first_steps", None)  # the preset's would outlast them
    if FLAGS.demo:
        steps = {name: _fewer(name) for name in ("first_steps", "steps")}
        given = DEMO | steps | given
    if given.get("init") not in (None, *CHOICES["init"]):
        del given["init"]  # a file, which `run` reads
    sweep = {}
    for name, value in given.items():
        if name.endswith("_layers"):
            given[name] = tuple(value)
        elif name.endswith("_weights"):
            given[name] = _floats(name, value)
        elif name in SWEEP_FLAGS:
            numbers = _floats(name, value)
            if not numbers:
                raise ValueError(f"--{name} must be a number, or several, got none")
            given[name] = numbers[0]
            if len(numbers) > 1:
                sweep[name] = numbers
    config = presets[FLAGS.preset].replace(**given)
    for name, numbers in sweep.items():
        for number in numbers:
            config.replace(**{name: number})  # each must be valid
    return config, sweep


def _fewer(name: str) -> int | None:
    """Steps of the demonstration, which are not more than the preset's."""
    own = getattr(presets[FLAGS.preset], name)
    return DEMO[name] if own is None else min(own, DEMO[name])


def _floats(name: str, texts: Sequence[str]) -> tuple[float, ...]:
    try:
        return tuple(float(text) for text in texts)
    except ValueError:
        raise ValueError(f"--{name} must be numbers, got {','.join(texts)!r}") from None


def mixing_from_flag(styles: int) -> np.ndarray | None:
    """--mixing as `[rows, styles]`."""
    if FLAGS.mixing is None:
        return None
    rows = [_floats("mixing", row.split(",")) for row in FLAGS.mixing.split(";")]
    for row in rows:
        if len(row) != styles:
            raise ValueError(
                f"--mixing needs a weight for each of the {styles} styles in every row, "
                f"got {len(row)}"
            )
        if abs(sum(row) - 1) > 1e-4:
            raise ValueError(f"--mixing: each row must sum to 1, got {sum(row):g}")
    return np.asarray(rows, np.float32)


def masks_from_flag(name: str, styles: int) -> list[np.ndarray | None] | None:
    """Each mask picture's brightness `[H, W]`; None for an empty name."""
    paths = FLAGS[name].value
    if not paths:
        return None
    if len(paths) != styles:
        raise ValueError(f"--{name} needs one for each of the {styles} styles, got {len(paths)}")
    if name == "masks" and not all(paths):
        raise ValueError("--masks needs a file for each of the styles")
    return [io.read_image(path).mean(axis=-1) if path else None for path in paths]
