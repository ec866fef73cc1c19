"""What the command says of itself: its flags by purpose, the presets, a network's layers."""

import dataclasses
import shutil
import textwrap
from typing import Any

from absl import flags

from nst_jax import console, vgg
from nst_jax.config import Config
from nst_jax.presets import descriptions, presets

# Ends the help of a flag whose default is a field of the preset.
PRESETS_DEFAULT = " (default: the preset's)"

GROUPS = {
    "Pictures to read": (
        "content",
        "styles",
        "pairing",
        "demo",
        "mixing",
        "masks",
        "style_masks",
        "init",
    ),
    "Files to write": ("output_dir", "format", "overwrite", "log_every", "quiet"),
    "Looking at the run": ("report", "animate", "save_every", "tensorboard_dir", "profile_dir"),
    "Long runs": ("checkpoint_dir", "checkpoint_every", "retries", "batch_size"),
    "Size of the pictures": ("size", "size_of", "first_size", "scale_factor", "tile"),
    "Network": (
        "model",
        "weights",
        "pooling",
        "pooling_correction",
        "normalize_features",
        "padding",
        "precision",
        "remat",
    ),
    "Objective": (
        *("preset", "content_layers", "style_layers"),
        *("content_weight", "style_weight", "tv_weight"),
        *("content_layer_weights", "style_layer_weights"),
        *("content_reduction", "style_loss", "style_normalization", "tv_form", "color"),
    ),
    "Optimiser": (
        *("steps", "first_steps", "optimizer", "learning_rate"),
        *("schedule", "decay_rate", "decay_steps", "momentum"),
        *("normalize_gradient", "band_weights"),
        *("beta1", "beta2", "epsilon", "memory", "linesearch"),
        *("average_decay", "clip", "jitter", "seed"),
    ),
    "Devices and processes": (
        *("mesh", "distributed", "coordinator_address", "num_processes", "process_id"),
        *("compilation_cache",),
    ),
    "Questions, answered on stdout": ("help", "list_presets", "list_layers", "show_config"),
    "Flags of absl": ("flagfile", "verbosity", "helpfull"),
}

# What a value is, or its unit, where the type of the flag does not say it.
_VALUES = {
    **dict.fromkeys(("content", "styles", "masks", "style_masks"), "FILES"),
    **dict.fromkeys(("weights", "show_config", "flagfile"), "FILE"),
    **dict.fromkeys(("output_dir", "profile_dir", "tensorboard_dir", "checkpoint_dir"), "FOLDER"),
    **dict.fromkeys(("size", "first_size", "tile", "jitter"), "PIXELS"),
    **dict.fromkeys(
        ("steps", "first_steps", "log_every", "memory", "save_every", "checkpoint_every"), "STEPS"
    ),
    **dict.fromkeys(("content_layers", "style_layers"), "LAYERS"),
    **dict.fromkeys(("content_layer_weights", "style_layer_weights", "band_weights"), "NUMBERS"),
    **{
        "learning_rate": "LEVELS,...",
        "decay_steps": "STEPS,...",
        "mixing": "ROWS",
        "mesh": "SIZES",
    },
    **{"coordinator_address": "HOST:PORT", "verbosity": "N"},
}
_SWITCHES = ("help", "helpfull", "list_layers", "list_presets")  # that no one says no to
_TYPES = {"int": "N", "float": "X", "string": "NAME", "comma separated list of strings": "X,..."}

# Of flags that absl defines, and not always lists with the others.
_ABSL = {
    "help": "print this, with the defaults of the --preset",
    "flagfile": "take flags from a file, a line each",
    "verbosity": "what is logged on stderr: -1 warnings, 0 news too, 1 all, and errors in full",
    "helpfull": "print every flag that there is, those of libraries too",
}

_INTRODUCTION = "Neural style transfer: paints content pictures in the style of others."
_EXAMPLES = """
  nst-jax --content=photo.jpg --styles=painting.jpg,drawing.png
  nst-jax --demo
""".splitlines()


def flags_by_group(values: flags.FlagValues, config: Config, *, width: int | None = None) -> str:
    """Every flag with its meaning, unit and default, in groups.

    Args:
      values: where the flags are defined.
      config: the preset, whose fields are the defaults.
      width: columns to fit the text to; None is the terminal's, up to 100.
    """
    width = width or min(shutil.get_terminal_size().columns, 100)
    indent = 26 if width >= 60 else 8
    lines = [*_wrap(_INTRODUCTION, width, "", 0), *_EXAMPLES, ""]
    for group, names in GROUPS.items():
        lines.append(f"{group}:")
        for name in names:
            start = f"  {_usage(values, name)}  "
            if len(start) > indent:
                lines.append(start.rstrip())
                start = " " * indent
            lines += _wrap(_meaning(values, name, config), width, start.ljust(indent), indent)
        lines.append("")
    lines += _wrap("Where it says ,... several numbers make a picture each.", width, "", 0)
    return "\n".join(lines)


def _usage(values: flags.FlagValues, name: str) -> str:
    if name in _SWITCHES:
        return f"--{name}"
    if name not in _VALUES and values[name].boolean:
        return f"--[no]{name}"
    return f"--{name}={_VALUES.get(name) or _TYPES[values[name].flag_type()]}"


def _meaning(values: flags.FlagValues, name: str, config: Config) -> str:
    if name in _ABSL:
        return _ABSL[name]
    text = " ".join(values[name].help.split()).rstrip(".")
    if text.endswith(PRESETS_DEFAULT):
        text, default = text.removesuffix(PRESETS_DEFAULT), getattr(config, name)
    else:
        default = values[name].default
    if name in _SWITCHES or "(default: " in text or "by default" in text:  # no value of a flag
        return text
    return f"{text} (default: {_shown(default)})"


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _wrap(text: str, width: int, start: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )


def list_presets(*, width: int | None = None) -> str:
    """Each preset with what it is, and its fields that differ from a `Config`'s defaults."""
    width = width or min(shutil.get_terminal_size().columns, 100)
    plain = dataclasses.asdict(Config())
    lines = []
    for name, config in presets.items():
        own = {k: v for k, v in dataclasses.asdict(config).items() if v != plain[k]}
        settings = " ".join(f"{field}={_shown(value)}" for field, value in own.items())
        lines.append(name)
        lines += _wrap(descriptions[name], width, "  ", 2)
        lines += _wrap(settings, width, "    ", 4)
    common = " ".join(f"{k}={_shown(v)}" for k, v in plain.items() if v not in (None, ()))
    lines += ["", *_wrap(f"All else, in every one: {common}", width, "", 2)]
    return "\n".join(lines)


def list_layers(model: str) -> str:
    """The layers of a network, with their channels, their steps and what a position sees."""
    rows = []
    for name in vgg.layer_names(model):
        block = int(name[len("block")])
        stride, radius = vgg.receptive_field(model, name)
        sees = stride + 2 * radius
        rows.append((name, str(vgg.CHANNELS[block - 1]), f"{stride} px", f"{sees} px", ""))
    return console.table(("layer", "channels", "stride", "sees", ""), rows)
