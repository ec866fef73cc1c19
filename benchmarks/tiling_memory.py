"""How much memory and time does a step take as the picture grows, whole and in tiles?

    python -m benchmarks.tiling_memory [--sizes=768x576,1024x768,2048x1536] [--tiles=512]
        [--[no]whole] [--steps=2] [--model=vgg19] [--optimizer=sgd] [--json=PATH]

Each measurement has its own process and thus its own peak. A whole step is not run if the compiler
says that it would not fit. At 24 megapixels a step takes some minutes:

    python -m benchmarks.tiling_memory --sizes=4000x6000 --tiles=512 --nowhole --steps=1

window           the part of the picture that is on the device at a time, in the tiled step
device MiB       of the whole and the tiled step: the device's peak if it tells. On a CPU, whose
                 memory is the host's, it is the program for the picture or the window with its
                 arguments, by XLA's analysis. That of the tiled step does not grow with the picture
resident MiB     the process's largest resident set (Linux). For a tiled step it includes picture,
                 gradient, the optimiser's state and the content's activations, which stay on the
                 host and grow with the picture
s/step           mean seconds of `--steps` steps, after a dispatch that compiles
tiled / whole    the ratio of these seconds
"""

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

import nst_jax
from benchmarks import common, processes, stepping
from benchmarks.reporting import JSON_FLAG, Column, Report, mebibytes, ratio, significant
from nst_jax import objective, optimize, vgg
from nst_jax.cli import preflight
from nst_jax.cli.flag_types import define_list
from nst_jax.optimizers import LBFGS, OPTIMIZERS
from nst_jax.settings import check_choice

NAME = "tiling_memory"
TITLE = "Memory and time of a step, whole and in tiles"


def _whole(report) -> bool:
    return report["whole"]


COLUMNS = [
    Column("size", "size", width=9),
    Column("megapixels", "megapixels", "{:.2f}".format),
    Column("tile", "tile"),
    Column("window", "window", width=9),
    Column("whole device MiB", "whole_device_bytes", mebibytes, of=_whole),
    Column("tiled device MiB", "tiled_device_bytes", mebibytes),
    Column("whole resident MiB", "whole_resident_bytes", mebibytes, of=_whole),
    Column("tiled resident MiB", "tiled_resident_bytes", mebibytes),
    Column("whole s/step", "whole_step_seconds", significant, of=_whole),
    Column("tiled s/step", "tiled_step_seconds", significant),
    Column("tiled / whole", "ratio", ratio, of=_whole),
]
CASE_FLAGS = {
    "steps": (common.positive, 2, "Timed steps of each measurement."),
    "model": (flags.DEFINE_string, "vgg19", "Network: vgg16 or vgg19."),
    "optimizer": (flags.DEFINE_string, "sgd", "sgd, adam or lbfgs (with a memory of five steps)."),
}
FLAGS = {
    "sizes": (define_list, ["768x576", "1024x768", "2048x1536"], "HEIGHTxWIDTH, in pixels."),
    "tiles": (define_list, ["512"], "Longest sides of the windows, in pixels."),
    "whole": (flags.DEFINE_boolean, True, "Measure whole steps too."),
    **CASE_FLAGS,
    **JSON_FLAG,
    **processes.HERE_FLAG,
}


def configured(options: flags.FlagValues) -> nst_jax.Config:
    optimizer = OPTIMIZERS[options.optimizer]()
    if options.optimizer == "lbfgs":
        optimizer = LBFGS(history_size=5)
    return nst_jax.presets["gatys"].replace(size=None, optimizer=optimizer, clip=True)


def window(options: flags.FlagValues, shape: Sequence[int], tile: int | None) -> tuple[int, int]:
    """The shape of the largest window, or of the whole picture.

    Raises:
      ValueError: the tile is too small for the layers.
    """
    if tile is None:
        return tuple(shape)
    terms = objective.Objective.of(configured(options))
    try:
        return terms.grid(vgg.parameter_shapes(options.model), shape, tile).window
    except ValueError as error:
        raise ValueError(f"--tiles: {error}") from error


def measure(options: flags.FlagValues, shape: Sequence[int], tile: int | None) -> dict[str, Any]:
    """Runs steps on one picture of noise in this process: bytes and seconds, or a note."""
    params = nst_jax.load_params(options.model)
    config = configured(options)
    need = preflight.Plan(
        params=params, shape=window(options, shape, tile), outputs=1, config=config
    ).program_bytes()
    found = {"device_bytes": need}
    there = preflight.available_bytes()
    if tile is None and None not in (need, there) and need > there:
        return found | {"note": f"does not fit into {mebibytes(there)} MiB"}
    rng = np.random.default_rng(0)
    content = rng.random((*shape, 3), np.float32)
    style = rng.random((128, 128, 3), np.float32)
    length = 1 if tile else optimize.steps_per_dispatch()
    ends = []
    result = nst_jax.stylize(
        params,
        content,
        [style],
        config.replace(steps=length + -(-options.steps // length) * length),
        placement=nst_jax.Placement(tile=tile),
        callback=lambda progress: ends.append((progress.step, time.perf_counter())),
    )
    if result.diverged.any():
        raise ValueError("a step was not finite")
    steps, seconds = np.subtract(ends[-1], ends[0])
    device_peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return found | {
        "device_bytes": device_peak or need,
        "resident_bytes": resident_bytes(),
        "step_seconds": float(seconds / steps),
    }


def resident_bytes() -> int | None:
    """The largest resident set of this process so far; None if the system does not tell."""
    # This is the program's alone; getrusage includes the process that started it, before exec.
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return None


def in_a_process(
    options: flags.FlagValues, shape: Sequence[int] | None = None, tile: int | None = None
) -> dict[str, Any]:
    """`measure` in its own process; without a shape, the environment of a process."""
    arguments = [f"--{name}={options[name].value}" for name in CASE_FLAGS]
    arguments.append(f"--sizes={'x'.join(map(str, shape)) if shape else ''}")
    arguments.append(f"--tiles={tile or ''}")
    return processes.measured(NAME, arguments)


def here(options: flags.FlagValues) -> dict[str, Any]:
    """The result of a process of `in_a_process`."""
    if not options.sizes:
        return common.environment()
    (shape,) = common.shapes("sizes", options.sizes)
    tile = int(options.tiles[0]) if options.tiles else None
    return stepping.or_note(lambda: measure(options, shape, tile))


def main(options: flags.FlagValues) -> dict[str, Any] | None:
    check_choice("--model", options.model, vgg.CONVOLUTIONS)
    check_choice("--optimizer", options.optimizer, OPTIMIZERS)
    if options.here:
        print(json.dumps(here(options)))
        return None
    shapes = common.shapes("sizes", options.sizes)
    tiles = common.whole_numbers("tiles", options.tiles)
    windows = {
        (shape, tile): window(options, shape, tile)
        for shape, tile in itertools.product(shapes, tiles)
    }
    load = common.load()
    # A child asks, because some devices serve one process at a time.
    environment = in_a_process(options) | {"load": load, "arguments": common.arguments()}
    settings = {name: options[name].value for name in ("model", "optimizer", "steps", "whole")}
    report = Report(
        NAME, TITLE, COLUMNS, environment=environment, settings=settings, path=options.json
    )
    for shape in shapes:
        whole = in_a_process(options, shape) if options.whole else {}
        for tile in tiles:
            row = {"size": "x".join(map(str, shape)), "megapixels": shape[0] * shape[1] / 1e6}
            row |= {"tile": tile, "window": "x".join(map(str, windows[shape, tile]))}
            report.add(row | compared(whole, in_a_process(options, shape, tile)))
    return report.report


def compared(whole: dict[str, Any], tiled: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row that need both measurements."""
    row, notes = {}, []
    for kind, found in (("whole", whole), ("tiled", tiled)):
        row |= {f"{kind}_{key}": value for key, value in found.items() if key != "note"}
        notes += [f"{kind}: {found['note']}"] if "note" in found else []
    if {"whole_step_seconds", "tiled_step_seconds"} <= row.keys():
        row["ratio"] = row["tiled_step_seconds"] / row["whole_step_seconds"]
    return row | {"note": "; ".join(notes)} if notes else row


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
