"""What the command says of itself: its flags by purpose, the presets, a network's layers."""

import shutil
import textwrap
from typing import Any

from absl import flags

from nst_jax import vgg
from nst_jax.cli import console
from nst_jax.cli.flags import ADDRESSES, KINDS, PRESETS_DEFAULT, settings_by_flag, takes_several
from nst_jax.config import Config
from nst_jax.presets import descriptions, presets

GROUPS = {
    "Pictures to read": (
        "content",
        "styles",
        "pairing",
        "demo",
        "mixing",
        "masks",
        "style_masks",
    ),
    "Files to write": ("output_dir", "format", "overwrite", "log_every", "quiet"),
    "Looking at the run": ("report", "animate", "save_every", "tensorboard_dir", "profile_dir"),
    "Long runs": ("checkpoint_dir", "checkpoint_every", "retries", "batch_size"),
    "Size of the pictures": (),
    "Network": ("model", "weights"),
    "Objective": ("preset",),
    "Optimiser": ("seed",),
    "Devices and memory": (
        *(
            "mesh",
            "tile",
            "remat",
            "strips",
            "distributed",
            "coordinator_address",
            "num_processes",
            "process_id",
        ),
        *("compilation_cache",),
    ),
    "Questions, answered on stdout": ("help", "list_presets", "list_layers", "show_config"),
    "Flags of absl": ("flagfile", "verbosity", "helpfull"),
}

# The group of a setting that is of a part of the configuration.
_OF_PARTS = {"network": "Network", "optimizer": "Optimiser"}


def groups() -> dict[str, tuple[str, ...]]:
    """The flags of each group: those of a run, and then those of settings."""
    found = {group: list(names) for group, names in GROUPS.items()}
    for flag in KINDS:
        found["Optimiser" if flag == "optimizer" else "Objective"].append(flag)
    for address, (where, *_) in ADDRESSES.items():
        group = where.field.metadata.get("group") or _OF_PARTS.get(where.owner, "Objective")
        found[group].append(address)
    return {group: tuple(names) for group, names in found.items()}


# What a value is, or its unit, where the type of the flag does not say it.
_VALUES = {
    **dict.fromkeys(("content", "styles", "masks", "style_masks"), "FILES"),
    **dict.fromkeys(("weights", "show_config", "flagfile"), "FILE"),
    **dict.fromkeys(("output_dir", "profile_dir", "tensorboard_dir", "checkpoint_dir"), "FOLDER"),
    "tile": "PIXELS",
    **dict.fromkeys(("log_every", "save_every", "checkpoint_every"), "STEPS"),
    **{"mixing": "ROWS", "mesh": "SIZES"},
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
    for group, names in groups().items():
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


def flags_page(values: flags.FlagValues, config: Config) -> str:
    """What `flags_by_group` says, as a page of Markdown: docs/flags.md."""
    about = """\
# Flags

`nst-jax --help` prints this with the defaults of the `--preset`. Here they are those of the preset
`default`. A value that ends in `,...` may be several numbers, which make a picture each. Most flags
of settings are also names for `Config.replace`. In Python `--style_loss=wasserstein` is
`style=WassersteinStyle()`, and `--optimizer=adam` is `optimizer=Adam()`. `scripts/flags_page.py`
makes this page.
"""
    lines = about.splitlines()
    for group, names in groups().items():
        lines += ["", f"## {group}", "", "| flag | meaning |", "|---|---|"]
        for name in names:
            meaning = _meaning(values, name, config).replace("|", "\\|").replace("<", "&lt;")
            lines.append(f"| `{_usage(values, name)}` | {meaning} |")
    return "\n".join(lines) + "\n"


def _usage(values: flags.FlagValues, name: str) -> str:
    if name in _SWITCHES:
        return f"--{name}"
    if name not in _VALUES and values[name].boolean:
        return f"--[no]{name}"
    return f"--{name}={_value(values, name)}"


def _value(values: flags.FlagValues, name: str) -> str:
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
    if name in _ABSL:
        return _ABSL[name]
    text = " ".join(values[name].help.split()).rstrip(".")
    if text.endswith(PRESETS_DEFAULT):
        text = text.removesuffix(PRESETS_DEFAULT)
        known = settings_by_flag(config)
        # Of what the preset does not have, the default of whoever chooses it.
        default = known[name] if name in known else ADDRESSES[name][0].field.default
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
    if isinstance(value, dict):
        if len(set(value.values())) == 1 and abs(sum(value.values()) - 1) < 1e-6:
            return ",".join(value)  # equal shares
        return ",".join(f"{layer}:{_shown(weight)}" for layer, weight in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _wrap(text: str, width: int, start: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def list_presets(*, width: int | None = None) -> str:
    """Each preset with what it is; all settings of the default, and where others differ from it."""
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
    lines += ["", *_wrap("All else is as in the default.", width, "", 2)]
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
