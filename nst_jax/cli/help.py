"""Answers about the command itself: its flags by group, the presets, a network's layers."""

import shutil
import textwrap
from typing import Any

from absl import flags

from nst_jax import vgg
from nst_jax.cli import console
from nst_jax.cli.flags import ADDRESSES, KINDS, PRESETS_DEFAULT, settings_by_flag, takes_several
from nst_jax.config import Config
from nst_jax.presets import descriptions, presets

# Groups of flags, in the order of `--help`. Flags of settings join them in `groups`.
GROUPS = {
    "Pictures to read": (
        "content",
        "styles",
        "pairing",
        "pairs",
        "demo",
        "mixing",
        "masks",
        "style_masks",
        "regions",
        "legend",
    ),
    "Sequences": ("sequence", "flow", "cuts", "passes", "next_steps", "frame_rate"),
    "Files to write": ("output_dir", "format", "quality", "overwrite", "log_every", "quiet"),
    "Looking at the run": ("report", "animate", "save_every", "tensorboard_dir", "profile_dir"),
    "Long runs": ("checkpoint_dir", "checkpoint_every", "retries", "batch_size"),
    "Size of the pictures": (),
    "Network": ("model", "weights"),
    "Objective": ("preset",),
    "Optimiser": ("seed",),
    "Devices and memory": (
        "mesh",
        "tile",
        "remat",
        "strips",
        "steps_per_dispatch",
        "distributed",
        "coordinator_address",
        "num_processes",
        "process_id",
        "compilation_cache",
    ),
    "Questions, answered on stdout": (
        "help",
        "version",
        "devices",
        "list_presets",
        "list_layers",
        "show_config",
    ),
    "Flags of absl": ("flagfile", "verbosity", "helpfull"),
}

# The group of a setting that names none, by the part of the configuration that has it.
_GROUPS_OF_PARTS = {"network": "Network", "optimizer": "Optimiser"}


def groups() -> dict[str, tuple[str, ...]]:
    """The flags of each group: first the flags in `GROUPS`, then those of settings."""
    found = {group: list(names) for group, names in GROUPS.items()}
    for flag in KINDS:
        found["Optimiser" if flag == "optimizer" else "Objective"].append(flag)
    for address, (where, *_) in ADDRESSES.items():
        group = where.field.metadata.get("group")
        found[group or _GROUPS_OF_PARTS.get(where.owner or "", "Objective")].append(address)
    return {group: tuple(names) for group, names in found.items()}


# The kind or unit of a flag's value, where the flag's type does not tell it.
_VALUES = {
    **dict.fromkeys(("content", "styles", "masks", "style_masks"), "FILES"),
    **dict.fromkeys(("weights", "show_config", "flagfile", "pairs", "regions"), "FILE"),
    **dict.fromkeys(("output_dir", "profile_dir", "tensorboard_dir", "checkpoint_dir"), "FOLDER"),
    "tile": "PIXELS",
    **dict.fromkeys(("log_every", "save_every", "checkpoint_every"), "STEPS"),
    **{"mixing": "ROWS", "mesh": "SIZES", "legend": "COLOURS", "cuts": "FRAMES"},
    **{"coordinator_address": "HOST:PORT", "verbosity": "N"},
}
# Shown without [no].
_SWITCHES = ("help", "helpfull", "version", "devices", "list_layers", "list_presets")
_TYPES = {"int": "N", "float": "X", "string": "NAME", "comma separated list of strings": "X,..."}

# Help for flags that absl defines.
_ABSL = {
    "help": "print this, with the defaults of the --preset",
    "flagfile": "read flags from a file, one per line",
    "verbosity": "log on stderr: -1, warnings; 0, messages too; 1, everything, and errors in full",
    "helpfull": "print every flag, also those of libraries",
}

_INTRODUCTION = "Neural style transfer: paints content pictures in the style of others."
_EXAMPLES = """
  nst-jax --content=photo.jpg --styles=painting.jpg,drawing.png
  nst-jax --demo
""".splitlines()


def flags_by_group(values: flags.FlagValues, config: Config, *, width: int | None = None) -> str:
    """Lists every flag with its meaning, unit and default, in groups.

    Args:
      values: the flags.
      config: the preset that gives the defaults of settings.
      width: columns of the text. None is the terminal's width, up to 100.
    """
    width = width or min(shutil.get_terminal_size().columns, 100)
    indent = 26 if width >= 60 else 8
    lines = [*_wrap(_INTRODUCTION, width, "", 0), *_EXAMPLES, ""]
    for group, names in groups().items():
        lines.append(f"{group}:")
        for name in names:
            start = f"  {_usage(values, name)}  "
            if len(start) > indent:
                lines.append(start.rstrip())
                start = " " * indent
            lines += _wrap(_meaning(values, name, config), width, start.ljust(indent), indent)
        lines.append("")
    several = (
        "A value that ends in ,... may be several numbers: each makes a picture. "
        "A list may be given in parts: --styles=a.jpg --styles=b.jpg."
    )
    lines += _wrap(several, width, "", 0)
    return "\n".join(lines)


def flags_page(values: flags.FlagValues, config: Config) -> str:
    """The text of `flags_by_group` as a page of Markdown, for the documentation."""
    about = """\
# Flags

`nst-jax --help` prints this list with the defaults of the `--preset`. This page has the defaults of
the preset `default`. If a value ends in `,...`, the flag takes several numbers, and each makes a
picture. Most flags of settings are also names for `Config.replace`. In Python,
`--style_loss=wasserstein` is `style=WassersteinStyle()`, and `--optimizer=adam` is
`optimizer=Adam()`. `scripts/flags_page.py` makes this page.
"""
    lines = about.splitlines()
    for group, names in groups().items():
        lines += ["", f"## {group}", "", "| flag | meaning |", "|---|---|"]
        for name in names:
            meaning = _meaning(values, name, config).replace("|", "\\|").replace("<", "&lt;")
            lines.append(f"| `{_usage(values, name)}` | {meaning} |")
    return "\n".join(lines) + "\n"


def _usage(values: flags.FlagValues, name: str) -> str:
    """How a flag is written, such as "--size=PIXELS"."""
    if name in _SWITCHES:
        return f"--{name}"
    if name not in _VALUES and values[name].boolean:
        return f"--[no]{name}"
    return f"--{name}={_value(values, name)}"


def _value(values: flags.FlagValues, name: str) -> str:
    """The kind or unit of a flag's value, in capitals."""
    if name in ADDRESSES:
        about = ADDRESSES[name][0].field.metadata
        if about["type"] in ("weighted", "numbers"):
            return {"weighted": "LAYERS", "numbers": "NUMBERS"}[about["type"]]
        if takes_several(name):
            return f"{about.get('unit', 'X')},..."
        if "unit" in about:
            return about["unit"]
    return _VALUES.get(name) or _TYPES[values[name].flag_type()]


def _meaning(values: flags.FlagValues, name: str, config: Config) -> str:
    """The help of a flag, with its default."""
    if name in _ABSL:
        return _ABSL[name]
    text = " ".join((values[name].help or "").split()).rstrip(".")
    if text.endswith(PRESETS_DEFAULT):
        text = text.removesuffix(PRESETS_DEFAULT)
        known = settings_by_flag(config)
        # If the preset does not have the setting, the default of its class is shown.
        default = known[name] if name in known else ADDRESSES[name][0].field.default
    else:
        default = values[name].default
    if name in _SWITCHES or "(default: " in text or "by default" in text:
        return text
    return f"{text} (default: {_shown(default)})"


def _shown(value: Any) -> str:
    """A default as `--help` shows it."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    if isinstance(value, dict):
        if len(set(value.values())) == 1 and abs(sum(value.values()) - 1) < 1e-6:
            return ",".join(value)  # equal shares
        return ",".join(f"{layer}:{_shown(weight)}" for layer, weight in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _wrap(text: str, width: int, start: str, indent: int) -> list[str]:
    """Lines of at most `width` columns: the first begins with `start`, the others are indented."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def list_presets(*, width: int | None = None) -> str:
    """Lists the presets: all settings of `default`, and the settings of others that differ.

    Args:
      width: columns of the text. None is the terminal's width, up to 100.
    """
    width = width or min(shutil.get_terminal_size().columns, 100)
    plain = settings_by_flag(Config())
    lines = []
    for name, config in presets.items():
        own = settings_by_flag(config)
        if name != "default":
            own = {flag: value for flag, value in own.items() if value != plain.get(flag, ())}
        settings = " ".join(f"{flag}={_shown(value)}" for flag, value in own.items())
        lines.append(name)
        lines += _wrap(descriptions[name], width, "  ", 2)
        lines += _wrap(settings, width, "    ", 4)
    lines += ["", *_wrap("Other settings are those of the default.", width, "", 2)]
    return "\n".join(lines)


def list_layers(model: vgg.Model) -> str:
    """Lists a network's layers: channels, stride, and the side that a position sees, in pixels."""
    rows = []
    for name in vgg.layer_names(model):
        block = int(name[len("block")])
        stride, radius = vgg.receptive_field(model, name)
        sees = stride + 2 * radius
        rows.append((name, str(vgg.CHANNELS[block - 1]), f"{stride} px", f"{sees} px", ""))
    return "\n".join(console.table(("layer", "channels", "stride", "sees", ""), rows))
