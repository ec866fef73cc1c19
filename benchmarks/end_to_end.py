"""How many finished pictures a minute?

    python -m benchmarks.end_to_end [--presets=default] [--model=vgg19] [--sizes=192x256]
        [--styles=2] [--steps=N] [--repeats=1] [--precisions=float32] [--json=PATH]

It times whole calls of `stylize` on generated pictures, including the writing of PNG files: a first
call, which compiles, and further ones. Without `--steps` each preset takes its own number.

steps             over all scales
first call s      seconds of the first call, with compilation
call s            median seconds of the further calls
pictures a minute of the further calls; then of the first call
"""

import functools
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import nst_jax
from benchmarks import common, stepping
from benchmarks.reporting import JSON_FLAG, Column, Report, significant
from nst_jax import vgg
from nst_jax.cli.flag_types import define_list
from nst_jax.config import Config
from nst_jax.files.images import write_image
from nst_jax.settings import check_choice

NAME = "end_to_end"
TITLE = "Finished pictures a minute"
COLUMNS = [
    Column("preset", "preset", width=10),
    Column("size", "size", width=9),
    Column("styles", "styles"),
    Column("precision", "precision"),
    Column("steps", "steps"),
    Column("first call s", "first_seconds", significant),
    Column("call s", "seconds", significant),
    Column("pictures a minute", "pictures_per_minute", significant),
    Column("of the first call", "first_pictures_per_minute", significant),
]
FLAGS = {
    "presets": (define_list, ["default"], "Presets, by name."),
    "model": (flags.DEFINE_string, "vgg19", "Network: vgg16 or vgg19."),
    "sizes": (define_list, ["192x256"], "Sizes, HEIGHTxWIDTH, in pixels."),
    "styles": (define_list, ["2"], "Numbers of styles painted at once."),
    "precisions": stepping.CASE_FLAGS["precisions"],
    "steps": (common.positive, None, "Steps at each scale; by default the preset's."),
    "repeats": (common.positive, 1, "Number of calls after the first."),
    **JSON_FLAG,
}


def paint(params, config: Config, height: int, width: int, styles: int) -> tuple[float, int]:
    """One call with the writing of its pictures; returns its seconds and its steps."""
    pictures = [stepping.picture(name, height, width) for name in ("rainbow", "triangles")]
    pictures = [pictures[index % len(pictures)] for index in range(styles)]
    content = stepping.picture("butterfly", height, width)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = nst_jax.stylize(params, content, pictures, config)
        for index, image in enumerate(np.asarray(result.images)):
            write_image(Path(folder, f"{index}.png"), image)
        return time.perf_counter() - start, len(result.history["total"])


def measure(params, config: Config, size, styles: int, *, repeats: int) -> dict[str, Any]:
    (first, steps), *further = (paint(params, config, *size, styles) for _ in range(1 + repeats))
    seconds = statistics.median(taken for taken, _ in further)
    return {
        "steps": steps,
        "first_seconds": first,
        "seconds": seconds,
        "pictures_per_minute": 60 * styles / seconds,
        "first_pictures_per_minute": 60 * styles / first,
    }


def main(options: flags.FlagValues) -> dict:
    check_choice("--model", options.model, vgg.CONVOLUTIONS)
    for name in options.presets:
        check_choice("--presets", name, nst_jax.presets)
    cases = itertools.product(
        options.presets,
        common.shapes("sizes", options.sizes),
        common.whole_numbers("styles", options.styles),
        stepping.precisions(options.precisions),
    )
    report = Report(
        NAME,
        TITLE,
        COLUMNS,
        environment=common.environment(),
        settings={"model": options.model, "repeats": options.repeats},
        path=options.json,
    )
    params = nst_jax.load_params(options.model)
    for name, size, styles, precision in cases:
        config = stepping.in_precision(nst_jax.presets[name], precision)
        config = config.replace(size=max(size), size_of="longer")
        if options.steps:
            config = config.replace(steps=options.steps, first_steps=None)
        row = {"preset": name, "size": "x".join(map(str, size)), "styles": styles}
        row |= {"precision": precision}
        measured = functools.partial(measure, params, config, size, styles, repeats=options.repeats)
        report.add(row | stepping.or_note(measured))
    return report.report


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
