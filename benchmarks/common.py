"""Shared parts of the benchmarks: flags, errors, the environment, pictures and JSON files."""

import datetime
import functools
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from jax.extend import backend
from PIL import Image, ImageDraw, ImageFont

from nst_jax import vgg
from nst_jax.cli import console
from nst_jax.cli import run as cli_run
from nst_jax.cli.devices import no_devices
from nst_jax.files.images import read_image, to_uint8

FAILED = 1
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")

# The keys of `environment`.
ENVIRONMENT = (
    *("date", "platform", "device", "runtime", "versions"),
    *("processor", "cores", "load", "products", "arguments"),
)

# {flag: (how absl defines it, default, help)}
Flags = Mapping[str, tuple[Callable, Any, str]]

positive = functools.partial(flags.DEFINE_integer, lower_bound=1)
# Below 32 pixels nothing is left after the fifth pooling.
pixels = functools.partial(flags.DEFINE_integer, lower_bound=32)


def define(table: Flags, values: flags.FlagValues) -> None:
    for name, (define_one, default, text) in table.items():
        define_one(name, default, text, flag_values=values)


def run_command(name: str, table: Flags, command: Callable[[flags.FlagValues], Any]) -> None:
    """Runs a benchmark with its flags; bad input is one line on stderr and exit code 1."""

    def main(argv: Sequence[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            # At INFO JAX reports backends that it could not find.
            logging.set_verbosity(logging.WARNING)
        # A program from an earlier run would seem to compile in no time.
        jax.config.update("jax_enable_compilation_cache", False)
        try:
            if len(argv) > 1:
                raise ValueError(f"unexpected argument {argv[1]!r}")
            command(flags.FLAGS)
        except (ImportError, OSError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return FAILED
        except (RuntimeError, AssertionError):  # either, if JAX starts no device
            if (told := no_devices()) is None:
                raise
            print(f"{name}: {told}", file=sys.stderr)
            return FAILED
        return 0

    define(table, flags.FLAGS)
    for flag in table:
        # `--help` shows the flags of the main module.
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag])
    app.run(main, flags_parser=console.read_flags)


def whole_numbers(name: str, texts: Sequence[str]) -> list[int]:
    """The values of a list flag: one or more whole numbers of at least 1.

    Raises:
      ValueError: there is none, or one is no such number.
    """
    if not texts or not all(re.fullmatch("0*[1-9][0-9]*", text) for text in texts):
        raise ValueError(f"--{name} must be whole numbers of at least 1, got {','.join(texts)!r}")
    return [int(text) for text in texts]


def shapes(name: str, texts: Sequence[str]) -> list[tuple[int, int]]:
    """The values of a list flag of sizes, HEIGHTxWIDTH or one number for a square.

    Raises:
      ValueError: a value is no size, or a side is below 32 pixels.
    """
    known = all(re.fullmatch("[0-9]+(x[0-9]+)?", text) for text in texts)
    sides = [[int(side) for side in text.split("x")] for text in texts] if known else []
    if not sides or min(map(min, sides)) < 32:
        raise ValueError(
            f"--{name} must be HEIGHTxWIDTH or the side of a square, at least 32 pixels, "
            f"got {','.join(texts)!r}"
        )
    return [(pair[0], pair[-1]) for pair in sides]


def cores() -> int:
    """The CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def processor() -> str:
    """Name of the CPU."""
    try:
        found = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M
        )
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def load() -> float:
    """The machine's load in the last minute, in processes."""
    return round(os.getloadavg()[0], 1)


def arguments() -> list[str]:
    """The arguments of the command line without `--json`."""
    given, kept = iter(sys.argv[1:]), []
    for argument in given:
        name, equals, _ = argument.lstrip("-").partition("=")
        if name != "json":
            kept.append(argument)
        elif not equals:
            next(given, None)  # the value stands by itself
    return kept


def products() -> str:
    """The precision of matrix products for each type that the networks compute in."""
    return ", ".join(
        f"{name} {vgg.resolved_precision(name, None)[1]}" for name in ("float32", "bfloat16")
    )


def installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def environment(*, packages: Iterable[str] = ()) -> dict[str, Any]:
    """Date, device, load of its host, arguments and versions.

    The versions include those of `packages`, as far as they are installed.
    """
    packages = filter(installed, packages)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **cli_run.environment(packages=packages),
        # For an accelerator this has the versions of its libraries, on several lines.
        "runtime": " ".join(backend.get_backend().platform_version.split()),
        "processor": processor(),
        "cores": cores(),
        "load": load(),
        "products": products(),
        "arguments": arguments(),
    }


def device_name(report: Mapping[str, Any]) -> str:
    """The readable name of the device of an `environment`."""
    if report["platform"] == "cpu":
        return f"{report['processor']}, {report['cores']} cores"
    return report["device"]


def print_environment(report: Mapping[str, Any]) -> None:
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    print(
        f"{report['runtime']}: {report['device']}, on {report['cores']} cores of "
        f"{report['processor']} with a load of {report['load']} before, "
        f"products {report['products']}, {report['date']}"
    )


def write_json(path: str | os.PathLike, report: Mapping[str, Any]) -> None:
    """Writes a report as JSON. The caller gives None for values that are not finite."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", "utf-8")


def number(value: float) -> str:
    """A loss between 1 and 1e9 in few characters."""
    return f"{value:.1f}" if value < 1e6 else f"{value:.4g}"


def row(names: Iterable[str], cells: Iterable[str], width: int = 11) -> str:
    """A line of a table: names are aligned left, cells right."""
    return "".join(f"{name:<12}" for name in names) + "".join(f"{cell:>{width}}" for cell in cells)


def photographs(names: Iterable[str] = PHOTOGRAPHS) -> dict[str, np.ndarray]:
    """Photographs of scikit-image, `[H, W, 3]` in [0, 1]. Grey ones get three equal channels.

    Args:
      names: of functions of `skimage.data`, or "motorcycle", the left one of a pair.

    Raises:
      ImportError: it is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError(
            f"needs --contents=FOLDER or pip install scikit-image ({error})"
        ) from error
    found = {}
    for name in names:
        levels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
        levels = levels if levels.ndim == 3 else np.stack([levels] * 3, axis=-1)
        found[name] = levels.astype(np.float32) / 255
    return found


def read_folder(folder: str) -> dict[str, np.ndarray]:
    """The pictures of a folder by name, sorted.

    Raises:
      ValueError: the folder holds no picture.
    """
    paths = [path for path in sorted(Path(folder).iterdir()) if not path.name.startswith(".")]
    if not paths:
        raise ValueError(f"{folder}: holds no picture")
    return {path.stem: read_image(path) for path in paths if path.is_file()}


def grid(rows: Sequence[Sequence[np.ndarray]], headings: Sequence[str], cell: int) -> np.ndarray:
    """Pictures in cells of one size under their headings, `[height, width, 3]`."""
    gap, head = 8, 28
    font = ImageFont.load_default(size=16)
    width = gap + len(headings) * (cell + gap)
    sheet = Image.new("RGB", (width, head + len(rows) * (cell + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        left = gap + column * (cell + gap)
        draw.text((left, 4), heading, fill="black", font=font)
        for number, row in enumerate(rows):
            picture = Image.fromarray(to_uint8(row[column]))
            top = head + number * (cell + gap)
            across, down = cell - picture.width, cell - picture.height
            sheet.paste(picture, (left + across // 2, top + down // 2))
    return np.asarray(sheet, np.float32) / 255
