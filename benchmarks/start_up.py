"""How long until the first step is done?

    python -m benchmarks.start_up [--model=vgg19] [--size=256] [--styles=2] [--repeats=3]
        [--interfaces=api,command_line] [--json=PATH]

Each start is a process that runs the default preset on generated pictures: through the API
(`benchmarks.first_step`) or the command line (`python -m nst_jax`). The API gets arrays, and the
command reads files. Each is measured three times: without JAX's persistent compilation cache, with
an empty one, and with the one that was just filled. The machine's cache of files is warm, because
the very first start is not counted.

import s      from the start of the process until the package is imported
load s        until the parameters are read, checked and on the device
first step s  from the call of `stylize` until the first dispatch returns: targets, tracing,
              compilation, and the step itself (on accelerators a chunk of steps)
trace s       part of the first step: tracing, and lowering to what the compiler reads
compile s     part of the first step: compiling, with writing to or reading from the cache. What is
              compiled while JAX traces counts in both.
total s       import, load and first step; for the command line, from the start of the process to
              the first line about a step
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import common, first_step
from benchmarks.reporting import JSON_FLAG, Column, Report
from nst_jax import vgg
from nst_jax.cli.flag_types import define_list
from nst_jax.files.images import write_image
from nst_jax.settings import check_choice

NAME = "start_up"
TITLE = "Seconds until the first step is done"
COLUMNS = [
    Column("start of", "interface", width=14),
    Column("compilation cache", "cache"),
    Column("import s", "import_seconds", "{:.2f}".format),
    Column("load s", "load_seconds", "{:.2f}".format),
    Column("first step s", "first_step_seconds", "{:.2f}".format),
    Column("trace s", "trace_seconds", "{:.2f}".format),
    Column("compile s", "compile_seconds", "{:.2f}".format),
    Column("total s", "total_seconds", "{:.2f}".format),
]
INTERFACES = ("api", "command_line")
FLAGS = {
    "interfaces": (define_list, list(INTERFACES), "What is started."),
    "model": (flags.DEFINE_string, "vgg19", "Network: vgg16 or vgg19."),
    "size": (common.pixels, 256, "Longer side of the pictures in pixels."),
    "styles": (common.positive, 2, "Number of styles."),
    "repeats": (common.positive, 3, "Starts of each kind; the medians are shown."),
    **JSON_FLAG,
}
ROOT = Path(__file__).resolve().parent.parent


def start_api(environment: dict[str, str], *, model: str, size: int, styles: int) -> dict[str, Any]:
    """One start of the API: its times and its environment."""
    command = [sys.executable, "-m", "benchmarks.first_step", model, str(size), str(styles)]
    # Children use the same clock: time since the epoch.
    ended = subprocess.run(
        [*command, str(time.time())], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if ended.returncode:
        raise ValueError(f"a start failed: {_last_line(ended.stderr)}")
    found = json.loads(ended.stdout.splitlines()[-1])
    parts = ("import_seconds", "load_seconds", "first_step_seconds")
    found["moments"]["total_seconds"] = sum(found["moments"][part] for part in parts)
    return found


def write_pictures(folder: Path, *, size: int, styles: int) -> tuple[str, ...]:
    """Writes a content and styles, and returns the flags that name them."""
    content, *pictures = first_step.pictures(size, styles)
    write_image(folder / "content.png", content)
    paths = [folder / f"style_{number}.png" for number in range(styles)]
    for path, picture in zip(paths, pictures, strict=True):
        write_image(path, picture)
    return f"--content={folder / 'content.png'}", f"--styles={','.join(map(str, paths))}"


def start_command_line(
    environment: dict[str, str], files: Sequence[str], *, model: str, size: int
) -> dict[str, float]:
    """One start of the command line, which is ended after its first step.

    Args:
      environment: of the process.
      files: flags that name the pictures.
      model: network.
      size: longer side of the pictures in pixels.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags_given = [*files, f"--model={model}", f"--size={size}", f"--output_dir={folder}"]
        start = time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", "nst_jax", *flags_given],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if line.startswith("step "):
                    return {"total_seconds": time.time() - start}
        finally:
            process.kill()
            process.stderr.close()
            process.wait()
    raise ValueError(f"a start of the command line failed: {_last_line(''.join(lines))}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def caches(folder: str) -> dict[str, dict[str, str]]:
    """Variables for each kind of start, added to this process's environment."""
    on = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": folder,
        # By default JAX does not keep a program that compiles within a second.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return {"none": {"JAX_ENABLE_COMPILATION_CACHE": "false"}, "filling": on, "filled": on}


def main(options: flags.FlagValues) -> dict:
    check_choice("--model", options.model, vgg.CONVOLUTIONS)
    for name in options.interfaces:
        check_choice("--interfaces", name, INTERFACES)
    with tempfile.TemporaryDirectory() as folder:
        files = write_pictures(Path(folder), size=options.size, styles=options.styles)
        return _measured(options, files)


def _measured(options: flags.FlagValues, files: Sequence[str]) -> dict:
    same = {"model": options.model, "size": options.size}
    interfaces = {
        "api": lambda environment: start_api(environment, **same, styles=options.styles)["moments"],
        "command_line": lambda environment: start_command_line(environment, files, **same),
    }
    settings = same | {"styles": options.styles, "repeats": options.repeats}
    load = common.load()
    # A child asks, because some devices serve one process at a time.
    seen = start_api(os.environ | caches("")["none"], **same, styles=options.styles)["environment"]
    seen = seen | {"load": load, "arguments": common.arguments()}
    report = Report(NAME, TITLE, COLUMNS, environment=seen, settings=settings, path=options.json)
    for interface in options.interfaces:
        start = interfaces[interface]
        found = {"none": [], "filling": [], "filled": []}
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory() as folder:
                for cache, variables in caches(folder).items():
                    found[cache].append(start(os.environ | variables))
        for cache, starts in found.items():
            medians = {key: statistics.median(one[key] for one in starts) for key in starts[0]}
            report.add({"interface": interface, "cache": cache, **medians})
    return report.report


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
