"""Runs the benchmarks, keeps their results and writes them into the document.

    python -m benchmarks.suite [--suite=quick|full|smallest] [--only=step_time,end_to_end]
        [--results=benchmarks/results] [--docs=docs/benchmarks.md]

Each benchmark has its own process and memory. If one fails, because PyTorch is not installed for
example, the others go on, and the exit code is 1. `quick` takes some minutes, `full` takes an hour
or more on a CPU. `smallest` shows that everything runs; its numbers mean nothing.
"""

import functools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import common, tables
from nst_jax.cli.flag_types import define_list
from nst_jax.settings import check_choice

# {suite: {benchmark: flags}}; on accelerators `ACCELERATOR` replaces these flags.
SUITES = {
    "smallest": {
        "agreement": ["--precisions=float32"],
        "step_time": ["--sizes=32", "--styles=1", "--repeats=1", "--matmul_size=64"],
        "batch_scaling": ["--sizes=32", "--styles=1,2", "--repeats=1", "--matmul_size=64"],
        "memory": ["--sizes=32", "--precisions=float32"],
        "device_scaling": ["--size=32", "--devices=1,2", "--repeats=1"],
        "tiling_memory": ["--sizes=208x32", "--tiles=200", "--steps=1", "--model=vgg16"],
        "against_torch": ["--sizes=32", "--variants=eager", "--rounds=1", "--steps=1"],
        "start_up": ["--size=32", "--styles=1", "--repeats=1"],
        "end_to_end": ["--sizes=32", "--styles=1", "--steps=1", "--model=vgg16"],
    },
    "quick": {
        "agreement": [],
        "step_time": ["--sizes=256x192", "--styles=1,4"],
        "batch_scaling": ["--sizes=128", "--styles=1,2,4,8"],
        "memory": ["--sizes=512,1024"],
        "device_scaling": [],
        "tiling_memory": [],
        "against_torch": ["--sizes=256x192"],
        "start_up": ["--repeats=1"],
        "end_to_end": ["--sizes=128"],
    },
    "full": {
        "agreement": [],
        "step_time": [
            *("--models=vgg16,vgg19", "--sizes=128,256x192,512"),
            *("--styles=1,4", "--optimizers=sgd,adam,lbfgs"),
        ],
        "batch_scaling": ["--sizes=256x192"],
        "memory": ["--sizes=256x192,512,1024", "--repeats=3"],
        "device_scaling": ["--size=256"],
        "tiling_memory": ["--sizes=768x576,1024x768,2048x1536,4096x3072", "--tiles=512,1024"],
        "against_torch": ["--sizes=256x192,512"],
        "start_up": [],
        "end_to_end": [],
        "leads": [],
    },
}
ACCELERATOR = {
    "quick": {
        "agreement": [],
        "step_time": ["--sizes=512", "--styles=1,8"],
        "batch_scaling": ["--sizes=512", "--styles=1,4,16"],
        "memory": ["--sizes=512,1024", "--repeats=3"],
        "device_scaling": ["--size=512", "--styles=4"],
        "tiling_memory": ["--sizes=1024,2048,4096", "--tiles=1024"],
        "against_torch": ["--sizes=512", "--styles=8", "--steps=25"],
        "end_to_end": ["--sizes=512", "--styles=8"],
    },
    "full": {
        "agreement": [],
        "step_time": [
            *("--models=vgg16,vgg19", "--sizes=256,512,1024"),
            *("--styles=1,8", "--optimizers=sgd,adam,lbfgs"),
        ],
        "batch_scaling": ["--sizes=512"],
        "memory": ["--sizes=512,1024,2048", "--repeats=3"],
        "device_scaling": ["--size=1024", "--styles=4"],
        "tiling_memory": ["--sizes=1024,2048,4096,8192", "--tiles=1024,2048"],
        "against_torch": ["--sizes=256,512,1024", "--styles=1,8", "--steps=25"],
        "end_to_end": ["--presets=default,fast,gatys", "--sizes=512,1024", "--styles=1,8"],
        "leads": ["--size=512"],
    },
}
FLAGS = {
    "suite": (flags.DEFINE_string, "quick", f"Which: {', '.join(SUITES)}."),
    "only": (define_list, [], "Only these benchmarks."),
    **tables.FLAGS,
}


@functools.cache
def platform() -> str:
    """JAX's platform. A child finds it, because some devices serve one process at a time."""
    ended = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.default_backend())"],
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        raise ValueError(f"JAX does not start: {ended.stderr.strip().splitlines()[-1]}")
    return ended.stdout.split()[-1]


def plan(suite: str, platform: str, only: Sequence[str] = ()) -> dict[str, list[str]]:
    """The benchmarks of a suite that suit the platform, with their flags."""
    check_choice("--suite", suite, SUITES)
    for name in only:
        check_choice("--only", name, tables.BENCHMARKS)
    chosen = SUITES[suite] | (ACCELERATOR.get(suite, {}) if platform != "cpu" else {})
    return {
        name: given
        for name, given in chosen.items()
        if (not only or name in only) and not (name == "against_torch" and platform == "tpu")
    }


def main(options: flags.FlagValues) -> None:
    planned = plan(options.suite, platform(), options.only)
    Path(options.results).mkdir(parents=True, exist_ok=True)
    failed = []
    for name, given in planned.items():
        command = [sys.executable, "-m", f"benchmarks.{name}", f"--json={options.results}", *given]
        print(f"\n$ python {' '.join(command[1:])}", flush=True)
        if subprocess.run(command).returncode:
            failed.append(name)
    tables.main(options)
    if failed:
        raise ValueError(f"these failed, see above: {', '.join(failed)}")


if __name__ == "__main__":
    common.run_command("suite", FLAGS, main)
