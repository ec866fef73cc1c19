"""What does the compiler of a TPU estimate for a step? You need no TPU.

    python -m benchmarks.tpu_compiled [--topology=v5e:2x2] [--mesh=style:4,space:2] [--model=vgg19]
        [--sizes=512] [--styles=1,8] [--precisions=bfloat16] [--optimizers=default] [--regions=0]
        [--remat] [--strips=N] [--steps=N] [--operations=N] [--json] [--results=PATH]

It compiles the program that `stylize` dispatches on a TPU. The chips need not be there: a
description is enough. It then reads the estimate that the compiler wrote beside each operation.
Cycles are estimates, not measured times: nothing runs. The extra `tpu` installs the compiler
(`pip install -e '.[tpu]'`). Only one compiler runs at a time on a machine, so a second benchmark
waits for the first.

steps              how many steps one dispatch takes
cycles/style-step  estimated cycles of one step on one picture, on each chip of the mesh
of matrix rate     cycles that the multiplications of the network's convolutions need at the chip's
                   rate for bfloat16, divided by the estimated cycles. Only for a v5e
temporaries, MiB   memory of a chip for intermediate arrays
arguments, MiB     memory of a chip for pictures, state, targets and parameters
exchanges          collectives between chips in one dispatch: their number and MiB by kind
compile s          seconds that this machine took to compile the program

Lines below each row give the share of each kind of operation in the cycles. `--operations=N` also
lists the N operations with the most cycles. `--json` prints one JSON object for each program on
stdout, and nothing else. `--results=PATH` keeps the table in a file or folder.
"""

import fcntl
import itertools
import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.experimental import topologies

import nst_jax
from benchmarks import common, flops, hlo, stepping
from benchmarks.reporting import Column, Report, device_file, mebibytes, read_results
from nst_jax import objective, optimize, partition, sharding, vgg
from nst_jax.cli.flag_types import define_list, define_path
from nst_jax.optimizers import SGD, Adam, Optimizer
from nst_jax.settings import check_choice

NAME = "tpu_compiled"
TITLE = "A step on a TPU"
PLATFORM = "tpu compiler"
# The figures are from before nearest neighbours joined the default, so they are left out.
PRESET = nst_jax.presets["default"].replace(
    size=None, first_size=None, first_steps=None, nearest=None
)
OPTIMIZERS: dict[str, Optimizer] = {
    "default": PRESET.optimizer,
    "sgd": SGD(),
    "adam": Adam(),
    "lbfgs": nst_jax.presets["lbfgs"].optimizer,
}
# Multiplications in a cycle, in bfloat16. A v5e has four matrix units of 128x128 at 1.5 GHz, which
# is its 197 TFLOP/s: https://cloud.google.com/tpu/docs/v5e
MATRIX_RATES = {"TPU v5 lite": 4 * 128 * 128}
# Without these, the compiler asks the network which TPU this is, and says that it has found none.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_HOST_BOUNDS": "1,1,1",
    "TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1",
    "TPU_WORKER_ID": "0",
}


class Program(NamedTuple):
    """A program to compile; see the flags."""

    case: stepping.Case
    steps: int
    regions: int = 0
    strips: int | None = None
    mesh: str | None = None


def wait_for_others() -> None:
    """Waits until no other process of this kind uses the compiler: it runs once on a machine.

    The lock ends with the process, because the compiler keeps its own until then.
    """
    path = Path(tempfile.gettempdir(), "nst_jax_tpu_compiled.lock")
    # Python closes its own files before the compiler lets go, but not such a number.
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def chips(topology: str) -> list[Any]:
    """Descriptions of the chips of a topology such as "v5e:2x2".

    Raises:
      ImportError: the compiler is not installed.
      ValueError: the compiler does not know the topology, or another process uses it.
    """
    if not common.installed("libtpu"):
        raise ImportError("needs the TPU's compiler: pip install -e '.[tpu]'")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        if "lockfile" in reason:
            raise ValueError(f"another program uses the TPU's compiler: {reason}") from error
        raise ValueError(
            f"--topology must be one that the compiler knows, such as v5e:2x2, v5e:16x16, "
            f"v5p:2x2x1 or v6e:2x2, got {topology!r}: {reason}"
        ) from error
    return list(found.devices)


def mesh_of(devices: Sequence[Any], text: str | None) -> jax.sharding.Mesh:
    """The mesh of a text like "style:4,space:2", on the first of `devices`. None is one chip.

    Raises:
      ValueError: the text describes no mesh, or there are too few chips.
    """
    sizes = sharding.parse_mesh(text or "style:1,space:1")
    wanted = math.prod(sizes.values())
    if wanted > len(devices):
        raise ValueError(f"--mesh={text} needs {wanted} chips, and the topology has {len(devices)}")
    return sharding.mesh_of(sizes, devices[:wanted])


def lowered(program: Program, mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    """The program that `stylize` dispatches on a TPU, lowered for the mesh."""
    case, outputs = program.case, program.case.styles
    config = PRESET.replace(optimizer=OPTIMIZERS[case.optimizer])
    config = stepping.in_precision(config, case.precision)
    picture = jax.ShapeDtypeStruct((case.height, case.width, 3), jnp.float32)
    combine = nst_jax.Combine()
    if program.regions:
        shape = (outputs, program.regions, case.height, case.width)
        combine = nst_jax.Combine(masks=np.full(shape, 1 / program.regions, np.float32))
    placement = nst_jax.Placement(remat=case.remat, strips=program.strips, mesh=mesh)
    within = placement.partition_of(config.network, height=case.height)

    def arguments(params, content):
        targets = objective.compute_targets(
            params,
            content,
            [content] * (program.regions or outputs),
            config,
            combine=combine,
            partition=within,
        )
        return objective.prepare(params, config, partition=within, mesh=mesh), targets

    params = jax.eval_shape(lambda: vgg.init_params(jax.random.key(0), case.model))
    params, targets = jax.eval_shape(arguments, params, picture)
    numbers = jax.eval_shape(lambda: optimize.batch_numbers(config, outputs))
    return optimize.lower(
        objective.value_by(within),
        jax.ShapeDtypeStruct((outputs, *picture.shape), jnp.float32),
        config,
        shared=(params,),
        each=(targets, numbers),
        length=program.steps,
        mesh=mesh,
        lean=case.remat,
        in_turn=partition.is_packed(within),
    )


def measure(
    program: Program, devices: Sequence[Any], topology: str, *, top: int = 0
) -> dict[str, Any]:
    """Compiles a program; returns its row of the table: what it is, and the compiler's estimates.

    Args:
      program: what to compile.
      devices: the chips of the topology.
      topology: its name.
      top: how many of the dearest operations to list.
    """
    mesh = mesh_of(devices, program.mesh)
    begun = time.perf_counter()
    compiled = lowered(program, mesh).compile()
    seconds = time.perf_counter() - begun
    return {
        **identity(program, devices, topology),
        **estimates(compiled, program, mesh, top),
        "compile_seconds": seconds,
    }


def identity(program: Program, devices: Sequence[Any], topology: str) -> dict[str, Any]:
    """The part of a row that is known before compiling: the program and the chips."""
    case = program.case
    return {
        "program": f"nst_jax {nst_jax.__version__}",
        "topology": topology,
        "device_kind": devices[0].device_kind,
        "chips": mesh_of(devices, program.mesh).size,
        "mesh": program.mesh,
        **case.described(),
        "height": case.height,
        "width": case.width,
        "regions": program.regions,
        "remat": case.remat,
        "strips": program.strips,
        "steps": program.steps,
    }


def earlier(path: str | os.PathLike | None) -> list[dict[str, Any]]:
    """The rows that earlier runs left in a file of results."""
    return [] if path is None else read_results(path).get(NAME, {}).get("rows", [])


def estimates(
    compiled: jax.stages.Compiled, program: Program, mesh: jax.sharding.Mesh, top: int
) -> dict[str, Any]:
    """What the compiler says of a program: the cycles, memory and exchanges of each chip."""
    case = program.case
    found = hlo.operations(compiled.as_text())
    by_kind = hlo.cycles_by_kind(found)
    # The pictures that one chip paints; a chip of `space` and `width` paints a part of one.
    sharing = mesh.size // mesh.shape["style"]
    style_steps = case.styles / mesh.shape["style"] * program.steps
    cycles = sum(by_kind.values()) / style_steps
    layers = objective.Objective.of(PRESET).layers()
    multiplications = flops.step_flops(case.model, layers, height=case.height, width=case.width) / 2
    rate = MATRIX_RATES.get(mesh.devices.flat[0].device_kind)
    memory = compiled.memory_analysis()
    assert memory is not None  # this compiler has it
    row = {
        "estimated_cycles_per_style_step": round(cycles),
        "matrix_rate_share": rate and multiplications / sharing / rate / cycles,
        "cycles_by_kind": {name: round(each / style_steps) for name, each in by_kind.items()},
        "temp_bytes_per_chip": memory.temp_size_in_bytes,
        "argument_bytes_per_chip": memory.argument_size_in_bytes,
        "collectives": hlo.collectives(found),
    }
    if top:
        dearest = sorted(found, key=lambda each: -each.cycles * each.times)[:top]
        row["dearest"] = [
            {
                "cycles": round(each.cycles * each.times / style_steps),
                "kind": hlo.kind_of(each),
                "opcode": each.opcode,
                "name": each.name,
                "shape": each.shape,
            }
            for each in dearest
        ]
    return row


def _exchanges(found: Mapping[str, Mapping[str, int]]) -> str:
    return "; ".join(
        f"{each['number']} {kind}, {each['bytes'] / 2**20:.1f} MiB" for kind, each in found.items()
    )


COLUMNS = [
    Column("program", "program", width=13),
    Column("topology", "topology"),
    Column("mesh", "mesh"),
    Column("size", "size", width=11),
    Column("styles", "styles"),
    Column("precision", "precision"),
    Column("optimizer", "optimizer"),
    Column("regions", "regions"),
    Column("remat", "remat", lambda value: "yes" if value else "no"),
    Column("steps", "steps"),
    Column("cycles/style-step", "estimated_cycles_per_style_step", "{:.3g}".format),
    Column("of matrix rate", "matrix_rate_share", "{:.1%}".format),
    Column("temporaries, MiB", "temp_bytes_per_chip", mebibytes),
    Column("arguments, MiB", "argument_bytes_per_chip", mebibytes),
    Column("exchanges", "collectives", lambda found: _exchanges(found) or "-"),
    Column("compile s", "compile_seconds", "{:.0f}".format),
]
FLAGS = {
    "topology": (flags.DEFINE_string, "v5e:2x2", "Chips, as the compiler names them."),
    "mesh": (flags.DEFINE_string, None, "Mesh of chips, such as style:4,space:2; default one."),
    "model": (flags.DEFINE_string, "vgg19", "Network: vgg16 or vgg19."),
    "sizes": (define_list, ["512"], "Sizes, HEIGHTxWIDTH, in pixels."),
    "styles": (define_list, ["1", "8"], "Numbers of pictures painted at once."),
    "precisions": (
        define_list,
        ["bfloat16"],
        f"Types of the features, and precisions of products: {', '.join(stepping.PRECISIONS)}.",
    ),
    "optimizers": (define_list, ["default"], f"Any of {', '.join(OPTIMIZERS)}."),
    "regions": (flags.DEFINE_integer, 0, "Masks of each picture; 0 is no mask."),
    "remat": (flags.DEFINE_bool, False, "Rematerialisation, see the flag of nst-jax."),
    "strips": (flags.DEFINE_integer, None, "Strips of a picture; default as stylize chooses."),
    "steps": (flags.DEFINE_integer, None, "Steps of a dispatch; default as stylize takes."),
    "operations": (flags.DEFINE_integer, 0, "List so many of the dearest operations."),
    "json": (flags.DEFINE_bool, False, "Print one JSON object a program and nothing else."),
    "results": (define_path, None, "File or folder that keeps the table."),
}


def programs(options: flags.FlagValues) -> list[Program]:
    """All combinations of the flags."""
    check_choice("--model", options.model, vgg.CONVOLUTIONS)
    for value in options.optimizers:
        check_choice("--optimizers", value, OPTIMIZERS)
    return [
        Program(
            stepping.Case(options.model, *size, styles, precision, optimizer, options.remat),
            options.steps or optimize.steps_per_dispatch(platform="tpu"),
            options.regions,
            options.strips,
            options.mesh,
        )
        for size, styles, precision, optimizer in itertools.product(
            common.shapes("sizes", options.sizes),
            common.whole_numbers("styles", options.styles),
            stepping.precisions(options.precisions),
            options.optimizers,
        )
    ]


def environment(devices: Sequence[Any]) -> dict[str, Any]:
    """The environment of a report. It names the compiler's device, not that of this machine."""
    return common.environment(packages=["libtpu"]) | {
        "platform": PLATFORM,
        "device": devices[0].device_kind,
        "runtime": "TPU compiler",
    }


def main(options: flags.FlagValues) -> None:
    planned = programs(options)
    wait_for_others()
    devices = chips(options.topology)
    rows = [identity(program, devices, options.topology) for program in planned]
    report = None
    if not options.json:
        told, path = environment(devices), options.results
        path = path and device_file(path, told, prefix="compiled-for-")
        kept = [row for row in earlier(path) if not any(own.items() <= row.items() for own in rows)]
        report = Report(NAME, TITLE, COLUMNS, environment=told, settings={}, path=path, rows=kept)
    for program in planned:
        row = measure(program, devices, options.topology, top=options.operations)
        if report is None:
            print(json.dumps(row), flush=True)
            continue
        report.add(row)
        whole = sum(row["cycles_by_kind"].values())
        for kind, cycles in row["cycles_by_kind"].items():
            print(f"    {cycles / whole:6.1%} {kind}")
        for each in row.get("dearest", ()):
            name = re.sub(r"^jit\(\w+\)/", "", each["name"])
            share = each["cycles"] / whole
            print(f"    {share:6.1%} {each['kind']}: {name} {each['shape'][:60]}")
        sys.stdout.flush()


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"  # an attached TPU is left alone
    jax.config.update("jax_platforms", "cpu")
    common.run_command(NAME, FLAGS, main)
