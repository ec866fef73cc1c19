"""How does a step scale with the number of devices?

    python -m benchmarks.device_scaling [--devices=1,2,4,8] [--axes=style,space] [--model=vgg19]
        [--size=128] [--styles=1] [--precision=float32] [--optimizer=sgd] [--repeats=5]
        [--json=PATH]

Each row has its own process, because JAX fixes the number of devices when it starts. On a CPU the
devices are simulated and share its cores. Their times show what the division itself costs, but not
how real devices would scale; every row says so. By default the numbers are powers of two: up to
eight on a CPU, elsewhere up to the number of devices. The columns of the table:

scaling      weak along `style`: every device paints `--styles` pictures; strong along `space`:
             there are `--styles` pictures in all, and the devices divide the height of each
s/step       median seconds of a step on all pictures
speed-up     pictures per second, divided by those with the fewest devices
efficiency   the speed-up divided by the ratio of the numbers of devices

The kernels are not prepared for a CPU's convolutions, as in any run on several devices.
"""

import itertools
import json
import statistics
from typing import Any

import jax
from absl import flags

from benchmarks import common, processes, stepping
from benchmarks.reporting import JSON_FLAG, Column, Report, percent, ratio, significant
from nst_jax import optimize, sharding, vgg
from nst_jax.cli.flag_types import define_list
from nst_jax.settings import check_choice

NAME = "device_scaling"
TITLE = "Scaling over devices"
SCALINGS = {"style": "weak", "space": "strong"}
SIMULATED = 8
COLUMNS = [
    Column("scaling", "scaling"),
    Column("axis", "axis", width=5),
    Column("devices", "devices"),
    Column("simulated", "simulated", lambda value: "yes" if value else "no"),
    *stepping.CASE_COLUMNS,
    Column("s/step", "step_seconds", significant, width=8),
    Column("style-steps/s", "style_steps_per_second", "{:.2f}".format),
    Column("speed-up", "speed_up", ratio),
    Column("efficiency", "efficiency", percent),
]
CASE_FLAGS = {
    "model": (flags.DEFINE_string, "vgg19", "Network: vgg16 or vgg19."),
    "size": (flags.DEFINE_string, "128", "HEIGHTxWIDTH, or the side of a square, in pixels."),
    "styles": (
        common.positive,
        1,
        "Pictures: of each device along style, of all devices along space.",
    ),
    "precision": (flags.DEFINE_string, "float32", "Type of the features."),
    "optimizer": (flags.DEFINE_string, "sgd", f"Optimiser: one of {', '.join(stepping.CONFIGS)}."),
    "repeats": (common.positive, 5, "Timed dispatches; the median is shown."),
}
FLAGS = {
    "devices": (define_list, None, "Numbers of devices; by default powers of two."),
    "axes": (define_list, list(SCALINGS), "Axes of the mesh: style, space."),
    **CASE_FLAGS,
    **JSON_FLAG,
    **processes.HERE_FLAG,
}


def case_of(options: flags.FlagValues, devices: int, axis: str) -> stepping.Case:
    (shape,) = common.shapes("size", [options.size])
    styles = options.styles * (devices if axis == "style" else 1)
    return stepping.Case(options.model, *shape, styles, options.precision, options.optimizer)


def measure(options: flags.FlagValues, devices: int, axis: str) -> dict[str, Any]:
    """The times on `devices` of the devices of this process.

    Raises:
      ValueError: the process has fewer.
    """
    if devices > len(jax.devices()):
        raise ValueError(f"{devices} devices wanted, but there are {len(jax.devices())}")
    case = case_of(options, devices, axis)
    work = stepping.problem(stepping.load(case.model), case, prepare=False)
    sizes = dict.fromkeys(sharding.AXES, 1) | {axis: devices}
    mesh = sharding.make_mesh(case.styles, sizes=sizes)
    _, taken = work.run(dispatches=2 + options.repeats, mesh=mesh)
    seconds = statistics.median(taken[1:]) / optimize.steps_per_dispatch()
    return {"step_seconds": seconds, "style_steps_per_second": case.styles / seconds}


def in_a_process(options: flags.FlagValues, devices: int | None, axis: str = "") -> dict[str, Any]:
    """`measure` in a process with `devices` devices, or a note.

    Without a number: the environment and the number of devices that a process sees.
    """
    arguments = [f"--axes={axis}", f"--devices={devices or ''}"]
    arguments += [f"--{name}={options[name].value}" for name in CASE_FLAGS]
    # It changes a CPU alone; the devices of other platforms are given.
    environment = {"JAX_NUM_CPU_DEVICES": str(devices or 1)}
    return processes.measured(NAME, arguments, environment)


def here(options: flags.FlagValues) -> dict[str, Any]:
    """The result of a process of `in_a_process`."""
    if not options.devices:
        return {"environment": common.environment(), "devices": len(jax.devices())}
    (devices,) = common.whole_numbers("devices", options.devices)
    return stepping.or_note(lambda: measure(options, devices, options.axes[0]))


def main(options: flags.FlagValues) -> dict[str, Any] | None:
    check_choice("--model", options.model, vgg.CONVOLUTIONS)
    check_choice("--precision", options.precision, stepping.PRECISIONS)
    check_choice("--optimizer", options.optimizer, stepping.CONFIGS)
    common.shapes("size", [options.size])
    for axis in options.axes:
        check_choice("--axes", axis, SCALINGS)
    if options.here:
        print(json.dumps(here(options)))
        return None
    counts = None if options.devices is None else common.whole_numbers("devices", options.devices)
    load = common.load()
    # A child asks, because some devices serve one process at a time.
    seen = in_a_process(options, None)
    simulated = seen["environment"]["platform"] == "cpu"
    most = SIMULATED if simulated else seen["devices"]
    counts = sorted(counts or [2**power for power in range(most.bit_length())])
    report = Report(
        NAME,
        TITLE,
        COLUMNS,
        environment=seen["environment"] | {"load": load, "arguments": common.arguments()},
        settings={"repeats": options.repeats},
        path=options.json,
    )
    first = {}
    for count, axis in itertools.product(counts, options.axes):
        row = {"scaling": SCALINGS[axis], "axis": axis, "devices": count, "simulated": simulated}
        row |= case_of(options, count, axis).described() | in_a_process(options, count, axis)
        if "note" not in row:
            least = first.setdefault(axis, row)
            speed_up = row["style_steps_per_second"] / least["style_steps_per_second"]
            more = count / least["devices"]
            row |= {"speed_up": speed_up, "efficiency": speed_up / more}
        report.add(row)
    return report.report


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
