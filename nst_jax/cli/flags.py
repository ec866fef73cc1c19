"""The flags of the command line, and the configuration that they make."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from nst_jax.cli.dataset.run import BATCH_SIZE
from nst_jax.cli.look.observers import ANIMATIONS
from nst_jax.config import INITS, Config, check_sweep, known_addresses
from nst_jax.files.images import FORMATS, read_image
from nst_jax.optimizers import OPTIMIZERS
from nst_jax.presets import presets
from nst_jax.settings import check_choice, turned
from nst_jax.terms import TERMS

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
        "of a data set: all, each content in each style; zip, the first in the first and so on; "
        "random, each content in one style drawn by the seed (default: all)",
    ),
    "batch_size": (
        flags.DEFINE_integer,
        None,
        f"of a data set: most pictures painted at once (default: {BATCH_SIZE} a device)",
    ),
    "output_dir": (flags.DEFINE_string, "out", "folder that the pictures go to"),
    "format": (
        flags.DEFINE_string,
        "png",
        f"of the pictures: {', '.join(FORMATS)}; png16 and tiff have 16 bits a channel",
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
    "remat": (
        flags.DEFINE_boolean,
        False,
        "keep little of the network for the gradient and compute the rest again: less memory",
    ),
    "strips": (
        flags.DEFINE_integer,
        1,
        "horizontal strips that a picture is looked at in, all at once: the same up to rounding; "
        "8 suit a TPU; not with --remat",
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
        f"the optimisation as an animation, <output>/animation: {', '.join(ANIMATIONS)}",
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


# Ends the help of a flag whose default is a setting of the preset.
PRESETS_DEFAULT = " (default: the preset's)"

# Flags that choose what kind of thing a part of the configuration is.
KINDS: dict[str, Mapping[str, type]] = {"optimizer": OPTIMIZERS}
KINDS |= {f"{name}_loss": kinds for name, kinds in TERMS.items() if len(kinds) > 1}

# One flag for each address of a setting.
ADDRESSES = {
    address: found
    for address, found in known_addresses().items()
    if found[0].field.metadata.get("flag", True)
}


def takes_several(address: str) -> bool:
    """Whether a flag takes several numbers, separated by commas: an output for each combination."""
    about = ADDRESSES[address][0].field.metadata
    return about["type"] == "number" and about["leaf"] and not about.get("per_run", False)


def _definition(address: str) -> tuple[Callable, str]:
    """What defines an address' flag, and its help."""
    found = ADDRESSES[address]
    about = found[0].field.metadata
    text = about["help"]
    if "choices" in about:
        choices = dict.fromkeys(x for each in found for x in each.field.metadata["choices"])
        return flags.DEFINE_string, f"{text}: {', '.join(choices)}"
    if about["type"] == "switch":
        return flags.DEFINE_boolean, text
    if about["type"] in ("weighted", "numbers") or takes_several(address):
        return flags.DEFINE_list, text
    return flags.DEFINE_integer if about.get("whole") else flags.DEFINE_float, text


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
for _name, _kinds in KINDS.items():
    _what = "how the picture is optimised" if _name == "optimizer" else "how losses are taken"
    flags.DEFINE_string(_name, None, f"{_what}: {', '.join(_kinds)}{PRESETS_DEFAULT}")
for _name in ADDRESSES:
    _define, _help = _definition(_name)
    _define(_name, None, _help + PRESETS_DEFAULT)

FLAGS = flags.FLAGS


def config_from_flags() -> tuple[Config, dict[str, tuple[float, ...]]]:
    """The preset with every setting that a flag gives, and the numbers given several values."""
    check_choice("--preset", FLAGS.preset, presets)
    config = presets[FLAGS.preset]
    for name, kinds in KINDS.items():
        if FLAGS[name].value is not None:
            check_choice(f"--{name}", FLAGS[name].value, kinds)
            config = _of_kind(config, name, kinds[FLAGS[name].value])
    given = {name: FLAGS[name].value for name in ADDRESSES if FLAGS[name].value is not None}
    if "steps" in given:
        given.setdefault("first_steps", None)  # the preset's would outlast them
    if FLAGS.demo:
        steps = {name: _fewer(name) for name in ("first_steps", "steps")}
        given = DEMO | steps | given
    if given.get("init") not in (None, *INITS):
        del given["init"]  # a file, which `run` reads
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
            given[name] = next(filter(None, several), several[0])  # a weight of 0 is no term
            if len(several) > 1 and any(several):
                sweep[name] = several
    config = config.replace(**given)
    for name, several in sweep.items():
        check_sweep(config, name, values=several)
    return config, sweep


def _of_kind(config: Config, flag: str, kind: type) -> Config:
    """`config` with a part of that kind, which takes over what both kinds have."""
    name = flag.removesuffix("_loss")
    before = config.part(name)
    part = kind() if before is None else turned(before, kind)
    if name == "optimizer" and kind.rate != before.rate:  # a rate of one says nothing to the other
        part = dataclasses.replace(part, learning_rate=kind().learning_rate)
    return config.replace(**{name: part})


def settings_by_flag(config: Config) -> dict[str, Any]:
    """Each flag of a setting with its value in `config`; a term that is not there has a weight of
    0."""
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


def _fewer(name: str) -> int | None:
    """Steps of the demonstration, which are not more than the preset's."""
    own = presets[FLAGS.preset][name]
    return DEMO[name] if own is None else min(own, DEMO[name])


def _floats(name: str, texts: Sequence[str]) -> tuple[float, ...]:
    try:
        return tuple(float(text) for text in texts)
    except ValueError:
        raise ValueError(f"--{name} must be numbers, got {','.join(texts)!r}") from None


def _weighted(name: str, texts: Sequence[str]) -> tuple[str, ...] | dict[str, float]:
    """Layers at equal shares, "a,b", or each with its weight, "a:0.7,b:0.3"."""
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
    return [read_image(path).mean(axis=-1) if path else None for path in paths]
