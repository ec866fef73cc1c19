"""The flags of the command, and the configuration that they make."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from nst_jax.cli.console import say
from nst_jax.cli.dataset.run import BATCH_SIZE
from nst_jax.cli.flag_types import define_list, define_path, define_paths, define_whole
from nst_jax.cli.inputs import read_regions
from nst_jax.cli.look.observers import ANIMATIONS
from nst_jax.config import INITS, OTHER_NAMES, Config, check_sweep, known_addresses
from nst_jax.files.images import FORMATS, read_mask
from nst_jax.objective import check_mixing
from nst_jax.optimizers import OPTIMIZERS
from nst_jax.presets import presets
from nst_jax.settings import check_choice, turned
from nst_jax.terms import TERMS, Temporal

FLAGS = flags.FLAGS

# Settings that `--demo` uses unless a flag gives others. They are small enough for a laptop's CPU.
DEMO: dict[str, Any] = {"size": 256, "first_steps": 80, "steps": 50}

# Ends the help of a flag whose default comes from the preset.
PRESETS_DEFAULT = " (default: the preset's)"


# --------------------------- Flags that are not settings ------------------------

# Each as (the function that defines it, its default, its help).
Definition = tuple[Callable[..., Any], Any, str]

RUN_FLAGS: dict[str, Definition] = {
    "content": (
        define_paths,
        [],
        "content pictures, separated by commas, a name with a comma in double quotes; folders and "
        "glob patterns make a data set; names may begin with gs:// or s3://",
    ),
    "styles": (define_paths, [], "style pictures, in the same form"),
    "pairing": (
        flags.DEFINE_string,
        None,
        "pairs of a data set: all, each content in each style; zip, the first content in the first "
        "style and so on; random, each content in one style drawn by the seed (default: all)",
    ),
    "pairs": (
        define_path,
        None,
        "CSV file of a data set, with the columns content, style and, if wanted, output; its names "
        "are relative to its folder",
    ),
    "batch_size": (
        flags.DEFINE_integer,
        None,
        "largest number of pictures of a data set painted at once "
        f"(default: {BATCH_SIZE} per device)",
    ),
    "sequence": (
        flags.DEFINE_boolean,
        False,
        "paint the frames of --content without flicker: numbered files in a folder, an animation, "
        "or a film",
    ),
    "flow": (
        define_path,
        "dis",
        "how frames of a sequence move: dis, found by OpenCV; still, only what stands still is "
        "held; or a folder of .flo files",
    ),
    "cuts": (
        define_list,
        [],
        "numbers, from 1, of the frames of a sequence that begin a shot; none for a single shot "
        "(default: found by their colours)",
    ),
    "passes": (
        flags.DEFINE_integer,
        1,
        "how often a sequence is painted, forth and back in turn",
    ),
    "next_steps": (
        flags.DEFINE_integer,
        None,
        "steps of a frame that starts from the one before (default: those of a later scale, at "
        "most half of all)",
    ),
    "frame_rate": (
        flags.DEFINE_float,
        25.0,
        "frames a second of the animation that is made of numbered files",
    ),
    "output_dir": (
        define_path,
        "out",
        "folder for the pictures, on a disk or in a bucket",
    ),
    "format": (
        flags.DEFINE_string,
        "png",
        f"format of the pictures: {', '.join(FORMATS)}; png16 and tiff have 16 bits per channel",
    ),
    "quality": (
        flags.DEFINE_integer,
        None,
        "quality of --format=jpg or webp, 1 to 100 (default: 95 for jpg; a webp without loss)",
    ),
    "overwrite": (
        flags.DEFINE_boolean,
        False,
        "replace pictures that are already in the folder; without it the command refuses to start",
    ),
    "quiet": (flags.DEFINE_boolean, False, "show only errors"),
    "demo": (
        flags.DEFINE_boolean,
        False,
        "paint the built-in pictures, at 256 pixels and in few steps",
    ),
    "model": (flags.DEFINE_string, "vgg19", "bundled network, vgg16 or vgg19"),
    "weights": (
        define_path,
        None,
        "weights file (HDF5, Keras' layout) to use in place of the bundled network",
    ),
    "preset": (flags.DEFINE_string, "default", f"named settings: {', '.join(presets)}"),
    "mixing": (
        flags.DEFINE_string,
        None,
        "blends of the styles, one row of weights per blend, each divided by its sum: "
        "--mixing='0.7,0.3;1,1'",
    ),
    "masks": (
        define_paths,
        [],
        "a mask picture for each style, white where the style applies in the content; makes one "
        "output of all styles",
    ),
    "style_masks": (
        functools.partial(define_paths, empty_items=True),
        [],
        "a mask picture for each style, white where to learn from the style; an empty name takes "
        "the whole style",
    ),
    "regions": (
        define_path,
        None,
        "one picture in place of --masks, with a colour for the region of each style",
    ),
    "legend": (
        define_list,
        [],
        "the colour in --regions of each style, in the order of --styles, such as #ff0000,blue",
    ),
    "seed": (
        flags.DEFINE_integer,
        0,
        "seed of the starting noise, the jitter and the random pairing",
    ),
    "tile": (
        flags.DEFINE_integer,
        None,
        "evaluate larger pictures in windows whose longest side is this, in pixels: the same "
        "result in less memory",
    ),
    "remat": (
        flags.DEFINE_boolean,
        False,
        "store few activations for the gradient and compute the others again: less memory",
    ),
    "strips": (
        flags.DEFINE_integer,
        None,
        "number of horizontal strips in which a picture is evaluated, all at once: the same result "
        "up to rounding; cannot be combined with --remat (default: 1, and 8 on a TPU)",
    ),
    "steps_per_dispatch": (
        flags.DEFINE_integer,
        None,
        "steps that one call of the compiled program takes: records, snapshots and signals wait "
        "for its end (default: 1 on a CPU, 25 elsewhere)",
    ),
    "mesh": (
        flags.DEFINE_string,
        None,
        "numbers of devices that divide the outputs (style), the pictures' height (space) and "
        "their width (width): --mesh=style:4,space:2 (default: all devices, outputs first)",
    ),
    "distributed": (
        flags.DEFINE_boolean,
        False,
        "join the processes that the cluster's environment names (TPU pods, Slurm, Open MPI)",
    ),
    "coordinator_address": (
        flags.DEFINE_string,
        None,
        "host:port of the first process, if no cluster's environment gives it",
    ),
    "num_processes": (flags.DEFINE_integer, None, "number of processes"),
    "process_id": (flags.DEFINE_integer, None, "number of this process, from 0"),
    "checkpoint_dir": (
        define_path,
        None,
        "folder for checkpoints, on a disk or in a bucket; the same command continues from the "
        "last one",
    ),
    "checkpoint_every": (flags.DEFINE_integer, 50, "steps between checkpoints"),
    "retries": (
        flags.DEFINE_integer,
        0,
        "how often diverged outputs are painted again, each time at a tenth of the learning rate",
    ),
    "log_every": (flags.DEFINE_integer, 10, "steps between lines of metrics.jsonl"),
    "report": (
        flags.DEFINE_boolean,
        False,
        "write report.html and update it during the run",
    ),
    "save_every": (
        flags.DEFINE_integer,
        None,
        "steps between snapshots of the pictures, <output>/step_000123.png",
    ),
    "animate": (
        flags.DEFINE_string,
        None,
        f"format of an animation of the run, <output>/animation: {', '.join(ANIMATIONS)}",
    ),
    "tensorboard_dir": (
        define_path,
        None,
        "folder for TensorBoard: losses, and pictures at snapshots (needs tensorboardX)",
    ),
    "profile_dir": (define_path, None, "folder for a profiler trace of a few steps"),
    "compilation_cache": (
        flags.DEFINE_boolean,
        True,
        "save compiled programs for the next run, in nst_jax/compiled of the user's cache folder",
    ),
}

# Flags that print an answer on stdout and end the command.
QUESTION_FLAGS: dict[str, Definition] = {
    "version": (flags.DEFINE_boolean, False, "print the version"),
    "devices": (
        flags.DEFINE_boolean,
        False,
        "print versions, devices and their memory, and whether --dtype, --precision and --mesh fit",
    ),
    "show_config": (
        define_path,
        None,
        "print the command that made this picture, from the picture's metadata",
    ),
    "list_layers": (flags.DEFINE_boolean, False, "print the layers of the network"),
    "list_presets": (flags.DEFINE_boolean, False, "print the presets and their settings"),
}


# ------------------------------ Flags of settings -------------------------------

# Flags that choose the class of a part of the configuration: `{flag: {choice: class}}`.
KINDS: dict[str, Mapping[str, type]] = {"optimizer": OPTIMIZERS}
KINDS |= {f"{name}_loss": kinds for name, kinds in TERMS.items() if len(kinds) > 1}

# The address of each setting is the name of its flag.
ADDRESSES = {
    address: found
    for address, found in known_addresses().items()
    if found[0].field.metadata.get("flag", True)
}


def takes_several(address: str) -> bool:
    """Whether a flag takes several numbers, separated by commas. Each makes an output."""
    about = ADDRESSES[address][0].field.metadata
    return about["type"] == "number" and about["leaf"] and not about.get("per_run", False)


def _definition(address: str) -> tuple[Callable[..., Any], str]:
    """The function that defines a setting's flag, and the flag's help."""
    found = ADDRESSES[address]
    about = found[0].field.metadata
    text = about["help"]
    if "choices" in about:
        choices = dict.fromkeys(x for each in found for x in each.field.metadata["choices"])
        define = define_path if address == "init" else flags.DEFINE_string  # it may name a file
        return define, f"{text}: {', '.join(choices)}"
    if about["type"] == "switch":
        return flags.DEFINE_boolean, text
    if about["type"] in ("weighted", "numbers") or takes_several(address):
        return define_list, text
    if "words" in about:
        return functools.partial(define_whole, words=about["words"]), text
    return flags.DEFINE_integer if about.get("whole") else flags.DEFINE_float, text


for _name, (_define, _default, _help) in (RUN_FLAGS | QUESTION_FLAGS).items():
    _define(_name, _default, _help)
for _name, _kinds in KINDS.items():
    _what = "optimiser" if _name == "optimizer" else f"form of the {_name.replace('_', ' ')}"
    flags.DEFINE_string(_name, None, f"{_what}: {', '.join(_kinds)}{PRESETS_DEFAULT}")
for _name in ADDRESSES:
    _define, _help = _definition(_name)
    _define(_name, None, _help + PRESETS_DEFAULT)


# Names that other programs use for flags, for the hint of a message.
OTHER_FLAGS = OTHER_NAMES | {
    **dict.fromkeys(("content_image", "content_img", "content_path", "input"), "content"),
    **dict.fromkeys(("image", "base_image", "input_image", "target"), "content"),
    **dict.fromkeys(("style", "style_image", "style_images", "style_img", "style_path"), "styles"),
    **dict.fromkeys(("output", "out", "output_image", "output_path", "result", "o"), "output_dir"),
    **dict.fromkeys(("style_blend_weights", "style_weights", "alphas"), "mixing"),
    **dict.fromkeys(("init_image", "initial_image", "initial"), "init"),
    **dict.fromkeys(("save_iter", "checkpoint_iterations", "save_interval"), "save_every"),
    **dict.fromkeys(("print_iter", "print_iterations", "log_interval"), "log_every"),
    **dict.fromkeys(("model_file", "vgg_path", "network", "model_path"), "weights"),
    **{"random_seed": "seed", "verbose": "verbosity", "content_mask": "masks", "mask": "masks"},
}

# Flags of other programs that choose a device.
DEVICE_FLAGS = ("gpu", "gpus", "gpu_id", "cpu", "use_cpu", "no_cuda", "cuda", "device", "backend")


# -------------------------- From flags to a configuration -----------------------


def config_from_flags() -> tuple[Config, dict[str, tuple[float, ...]]]:
    """Makes the configuration that the flags describe.

    Returns:
      The preset with the settings that flags give, and the sweep: `{address: numbers}` of the
      flags that give several numbers.

    Raises:
      ValueError: an unknown preset or choice, or a value that the setting cannot have.
      TypeError: a setting that the chosen optimiser, term or network does not have.
    """
    check_choice("--preset", FLAGS.preset, presets)
    config = presets[FLAGS.preset]
    if FLAGS.sequence:
        config = config.replace(temporal=Temporal())
    for name, kinds in KINDS.items():
        choice = FLAGS[name].value
        if choice is not None:
            check_choice(f"--{name}", choice, kinds)
            config = _of_kind(config, name, kinds[choice])

    values = {name: FLAGS[name].value for name in ADDRESSES}
    given: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    if "steps" in given:
        given.setdefault("first_steps", None)  # otherwise the preset's would stay
    if FLAGS.demo:
        steps = {name: _demo_steps(name) for name in ("first_steps", "steps")}
        given = DEMO | steps | given
    if given.get("init") not in (None, *INITS):
        del given["init"]  # a file, which the command reads elsewhere

    sweep = {}
    for name, value in given.items():
        kind = ADDRESSES[name][0].field.metadata["type"]
        if kind == "weighted":
            given[name] = _weighted(name, value)
        elif kind == "numbers":
            given[name] = _floats(name, value)
        elif takes_several(name):
            several = _floats(name, value)
            if not several:
                raise ValueError(f"--{name} must be a number, or several, got none")
            given[name] = next(filter(None, several), several[0])  # weight 0 would remove the term
            if len(several) > 1 and any(several):
                sweep[name] = several
    config = config.replace(**given)
    _warn_of_units(config)
    for name, several in sweep.items():
        check_sweep(config, name, values=several)
    return config, sweep


# Settings that change the units of terms, with the weights that balance them.
UNITS = {
    "normalize_features": ("content_weight", "style_weight"),
    "style_normalization": ("style_weight",),
    "content_reduction": ("content_weight",),
}


def _warn_of_units(config: Config) -> None:
    """Says so if a flag changes the units of terms, and their weights stay those of the preset."""
    before, now = presets[FLAGS.preset].flat(), config.flat()
    for name, weights in UNITS.items():
        kept = [weight for weight in weights if FLAGS[weight].value is None and weight in now]
        if name in before and name in now and before[name] != now[name] and kept:
            values = ", ".join(f"--{weight}={now[weight]:g}" for weight in kept)
            say(
                f"nst-jax: --{name} changes the units of the terms, but the weights are the "
                f"preset's ({values}): without others, the balance of content and style is lost"
            )


def _of_kind(config: Config, flag: str, kind: type) -> Config:
    """Replaces a part of `config` by one of class `kind`. Settings that both have are kept."""
    name = flag.removesuffix("_loss")
    before = config.part(name)
    part: Any = kind() if before is None else turned(before, kind)
    if name == "optimizer" and part.rate != config.optimizer.rate:
        # The two learning rates have different meanings, so the new class's default is used.
        part = dataclasses.replace(part, learning_rate=kind().learning_rate)
    return config.replace(**{name: part})


def _demo_steps(name: str) -> int | None:
    """Number of steps of the demonstration: at most the preset's."""
    own = presets[FLAGS.preset][name]
    return DEMO[name] if own is None else min(own, DEMO[name])


def _floats(name: str, texts: Sequence[str]) -> tuple[float, ...]:
    """The numbers that a flag gives.

    Raises:
      ValueError: one of them is not a number.
    """
    try:
        return tuple(float(text) for text in texts)
    except ValueError:
        raise ValueError(f"--{name} must be numbers, got {','.join(texts)!r}") from None


def _weighted(name: str, texts: Sequence[str]) -> tuple[str, ...] | dict[str, float]:
    """Layers with equal shares from "a,b", or with weights from "a:0.7,b:0.3".

    Raises:
      ValueError: a layer that is named twice, weights for some layers only, or a weight that is not
        a number.
    """
    pairs = [text.partition(":") for text in texts]
    if not any(colon for _, colon, _ in pairs):
        return tuple(texts)
    if not all(colon for _, colon, _ in pairs) or len({layer for layer, *_ in pairs}) < len(pairs):
        raise ValueError(
            f"--{name} must give each layer once, all with a weight or none, got "
            f"{','.join(texts)!r}"
        )
    weights = _floats(name, [weight for *_, weight in pairs])
    return {layer: weight for (layer, *_), weight in zip(pairs, weights, strict=True)}


def settings_by_flag(config: Config) -> dict[str, Any]:
    """The value of each setting's flag in `config`. The weight of a missing term is 0."""
    values = config.flat()
    found = {}
    for flag, kinds in KINDS.items():
        part = config.part(flag.removesuffix("_loss"))
        if type(part) in kinds.values():
            found[flag] = next(name for name, kind in kinds.items() if type(part) is kind)
    for address in ADDRESSES:
        if address in values:
            found[address] = values[address]
    absent = [name for name in TERMS if config.term(name) is None]
    return found | {f"{name}_weight": 0.0 for name in absent}


# ------------------------------- Blends and masks -------------------------------


def mixing_from_flag(styles: int) -> np.ndarray | None:
    """--mixing as `[rows, styles]`, each row divided by its sum; None without the flag.

    Args:
      styles: number of styles.

    Raises:
      ValueError: a row without a number for each style, or without a sum above 0.
    """
    if FLAGS.mixing is None:
        return None
    if FLAGS.masks or FLAGS.regions:
        given = "masks" if FLAGS.masks else "regions"
        raise ValueError(f"--mixing and --{given} exclude each other")
    rows = [_floats("mixing", row.split(",")) for row in FLAGS.mixing.split(";")]
    for row in rows:
        if len(row) != styles:
            raise ValueError(
                f"--mixing needs a weight for each of the {styles} styles in every row, "
                f"got {len(row)}"
            )
        if not 0 < sum(row) < math.inf:
            raise ValueError(f"--mixing: each row must have a sum above 0, got {sum(row):g}")
    mixing = check_mixing(np.array(rows), styles)
    if not np.allclose(mixing, rows, rtol=0.0, atol=1e-4):
        shares = ";".join(",".join(f"{share:.3g}" for share in row) for row in mixing)
        say(f"nst-jax: --mixing: each row is divided by its sum, which gives {shares}")
    return mixing


def masks_from_flag(styles: int) -> list[np.ndarray] | None:
    """--masks or --regions as a mask `[H, W]` for each style; None without the flags.

    Args:
      styles: number of styles.

    Raises:
      ValueError: not one file or colour for each style, a file that cannot be read, or a mask that
        is 0 everywhere.
    """
    if FLAGS.regions is not None or FLAGS.legend:
        if FLAGS.masks:
            raise ValueError("--regions takes the place of --masks: give one of them")
        if FLAGS.regions is None:
            raise ValueError("--legend needs --regions, the picture with its colours")
        return read_regions(FLAGS.regions, FLAGS.legend, styles=styles)
    paths = _one_for_each_style("masks", styles)
    if not paths:
        return None
    if not all(paths):
        raise ValueError("--masks needs a picture for each of the styles, got an empty name")
    return [_mask("masks", path) for path in paths]


def style_masks_from_flag(styles: int) -> list[np.ndarray | None] | None:
    """--style_masks as masks `[H, W]`, or None for an empty name; None without the flag.

    Args:
      styles: number of styles.

    Raises:
      ValueError: not one name for each style, a file that cannot be read, or a mask that is 0
        everywhere.
    """
    paths = _one_for_each_style("style_masks", styles)
    return [_mask("style_masks", path) if path else None for path in paths] or None


def _one_for_each_style(name: str, styles: int) -> list[str]:
    """The names that a flag gives: none, or one for each style.

    Raises:
      ValueError: another number of names.
    """
    paths = FLAGS[name].value or []
    if paths and len(paths) != styles:
        raise ValueError(
            f"--{name} needs a picture for each of the {styles} styles, got {len(paths)}"
        )
    return list(paths)


_HALF_A_LEVEL = 0.5 / 255


def _mask(flag: str, path: str) -> np.ndarray:
    """The mask in a picture file, `[H, W]` in [0, 1]. One that hides nothing is told.

    Raises:
      ValueError: the mask hides everything, or the file cannot be read.
    """
    mask = read_mask(path)
    if mask.max() < _HALF_A_LEVEL:
        raise ValueError(
            f"--{flag}: {path} must be white somewhere, but is black or transparent everywhere"
        )
    if mask.min() > 1 - _HALF_A_LEVEL:
        say(f"nst-jax: --{flag}: {path} is white everywhere, so it masks nothing")
    return mask
