"""Measures a new device in a few minutes.

    scripts/on_device.sh [--minutes=8] [--results=FOLDER] [--size=smallest]

It runs benchmarks in order of importance until the time is over. It keeps the rows that each
benchmark has measured. It downloads nothing. The order is:

1. agreement with a CPU
2. steps in every precision, with their share of the rate of a matrix product
3. PyTorch on the same device, if it is installed
4. leads on layouts and pooling
5. memory
6. a trace of a few steps
7. finished pictures a minute
8. steps with 1, 8 and 32 styles

`--size=smallest` is for a test on a CPU. It runs all but 4 and 8, at the smallest size.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from benchmarks import common, reporting
from benchmarks.stepping import PRECISIONS
from benchmarks.suite import platform
from nst_jax.cli.flag_types import define_path
from nst_jax.settings import check_choice

NAME = "on_device"
ROOT = Path(__file__).resolve().parent.parent
ALL = ",".join(PRECISIONS)


class Task(NamedTuple):
    """A benchmark to run.

    Attributes:
      name: the name of the module in `benchmarks`, or "nst_jax" for the command itself.
      flags: its flags.
      share: the largest part of the whole time that it may take, from 0 to 1.
      needs: a package that it needs. If the package is not installed, the task is left out.
    """

    name: str
    flags: Sequence[str]
    share: float
    needs: str | None = None


def tasks(size: str, folder: Path) -> list[Task]:
    """The tasks of a size, "full" or "smallest", in order of importance."""
    trace = ["--demo", "--quiet", "--overwrite", f"--output_dir={folder / 'demo'}"]
    trace += [f"--profile_dir={folder / 'trace'}"]
    if size == "smallest":
        steps = ["--models=vgg16", "--sizes=32", "--styles=1", "--repeats=1", "--matmul_size=32"]
        return [
            Task("agreement", ["--precisions=float32"], 0.3),
            Task("step_time", [*steps, "--precisions=float32,bfloat16"], 0.3),
            Task("memory", [*steps[:3], "--precisions=float32"], 0.2),
            Task(
                "against_torch",
                [
                    *("--models=vgg16", "--sizes=32", "--styles=1", "--variants=eager"),
                    *("--nopastiche", "--optimizers=sgd", "--steps=1", "--rounds=1"),
                ],
                0.3,
                "torch",
            ),
            Task("end_to_end", ["--model=vgg16", "--sizes=32", "--styles=1", "--steps=1"], 0.2),
            Task(
                "nst_jax",
                [
                    *(*trace, "--model=vgg16", "--size=64", "--steps=4", "--nearest_weight=0"),
                    *("--style_layers=block1_conv1", "--content_layers=block1_conv2"),
                ],
                0.3,
            ),
        ]
    timed = ["--repeats=3", "--seconds=3"]
    torch = ["--sizes=512", "--styles=8", "--steps=10", "--rounds=3", "--nopastiche"]
    torch += ["--optimizers=sgd", f"--precisions={ALL}"]
    return [
        Task("agreement", [], 0.2),
        Task("step_time", ["--sizes=512", "--styles=1,8", f"--precisions={ALL}", *timed], 0.4),
        Task("against_torch", torch, 0.3, "torch"),
        Task("leads", ["--size=512", "--repeats=3"], 0.15),
        Task("memory", ["--sizes=512,1024", "--styles=8", "--precisions=bfloat16"], 0.2),
        Task("nst_jax", [*trace, "--size=1024", "--steps=50"], 0.15),
        Task("end_to_end", ["--sizes=512", "--styles=8"], 0.2),
        Task(
            "batch_scaling",
            ["--sizes=512,1024", "--styles=1,8,32", "--precisions=float32:default", *timed],
            0.4,
        ),
    ]


FLAGS = {
    "minutes": (flags.DEFINE_float, 8.0, "Time for everything; what has not begun then is left."),
    "results": (define_path, str(reporting.RESULTS), "Folder for the results."),
    "size": (flags.DEFINE_string, "full", "full, or smallest for a test."),
}


def run(task: Task, folder: Path, seconds: float) -> str | None:
    """Runs a task; returns why it failed, or None."""
    if task.name == "nst_jax":
        command = [sys.executable, "-m", "nst_jax", *task.flags]
    else:
        command = [sys.executable, "-m", f"benchmarks.{task.name}", f"--json={folder}", *task.flags]
    print(f"\n$ python {' '.join(command[1:])}", flush=True)
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=seconds, env=os.environ)
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s; the rows above are kept"
    return f"exit code {done.returncode}" if done.returncode else None


def main(options: flags.FlagValues) -> None:
    check_choice("--size", options.size, ("full", "smallest"))
    if options.minutes <= 0:
        raise ValueError(f"--minutes must be above 0, got {options.minutes:g}")
    folder = Path(options.results).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    whole, begun, failed = 60 * options.minutes, time.monotonic(), []
    where = platform()
    print(f"platform {where}, {options.minutes:g} minutes, results in {folder}")
    for task in tasks(options.size, folder):
        left = whole - (time.monotonic() - begun)
        if task.needs and not common.installed(task.needs):
            print(f"\n{task.name}: left out, {task.needs} is not installed")
            continue
        if task.name == "against_torch" and where == "tpu":
            print(f"\n{task.name}: left out, PyTorch has no TPU")
            continue
        if left < 10:
            print(f"\n{task.name}: left out, the time is over")
            continue
        if reason := run(task, folder, min(left, task.share * whole)):
            failed.append(f"{task.name} ({reason})")
            print(f"{task.name}: {reason}", flush=True)
    taken = time.monotonic() - begun
    print(f"\n{taken:.0f} seconds; results in {folder}", flush=True)
    if failed:
        raise ValueError(f"these did not finish: {'; '.join(failed)}")


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
