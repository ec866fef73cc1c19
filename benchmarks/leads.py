"""What would make the step faster, and does it?

    python -m benchmarks.leads [--size=256x192] [--model=vgg19] [--repeats=5] [--json=PATH]

Each row compares a step, or a part of it, with and without one change: one style, SGD, float32.
The two sides take turns, in reverse order in every second round. A process fixes flags of XLA and
cores when it starts. For those leads a turn is a process on a CPU, and its time is the median of
`--repeats` steps.

of          what is timed: a step, or the part that changes
seconds     median seconds with the change
as it is    median seconds without it
ratio       the first divided by the second; below 1 the change is faster

convolutions in NCHW   the network's direct convolutions with bias, ReLU and pooling, and their
                       gradient, with channels first instead of last
half by symmetry       Gram matrices by products of the blocks of the upper triangle alone
pooling by windows     flax's `max_pool`, a `reduce_window`, instead of maxima of slices
direct convolutions    instead of Winograd's algorithm; on accelerators the other way round
a scan of 4 steps      in one dispatch
nothing fused          no elementwise operation is fused with another. A barrier cannot keep bias
                       and ReLU apart: on a CPU, XLA drops barriers before it fuses
"""

import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import common, processes, stepping
from benchmarks.reporting import JSON_FLAG, Column, Report, ratio, significant
from nst_jax import losses, objective, optimize, vgg
from nst_jax.partition import is_packed
from nst_jax.settings import check_choice

NAME = "leads"
TITLE = "Leads on a faster step"
COLUMNS = [
    Column("lead", "lead", width=42),
    Column("of", "of", width=13),
    Column("seconds", "seconds", significant, width=8),
    Column("as it is", "as_it_is", significant),
    Column("ratio", "ratio", ratio, width=5),
]
CASE_FLAGS = {
    "size": (flags.DEFINE_string, "256x192", "HEIGHTxWIDTH, or the side of a square, in pixels."),
    "model": (flags.DEFINE_string, "vgg19", "Network: vgg16 or vgg19."),
    "repeats": (common.positive, 5, "Turns of each side, and timed steps of a process."),
}
FLAGS = {
    **CASE_FLAGS,
    **JSON_FLAG,
    **processes.HERE_FLAG,
    "cores": (common.positive, None, "Cores of a process; by default all."),
}
BLOCKS = 4  # along the side of a Gram matrix
SCAN = 4
PROCESS_ROUNDS = 2
# Leads that need a process: {lead: (flags of XLA, cores)}
IN_A_PROCESS = {
    "one core": ("", 1),
    "--xla_cpu_multi_thread_eigen=false": ("--xla_cpu_multi_thread_eigen=false", None),
    "nothing fused (--xla_disable_hlo_passes=fusion)": ("--xla_disable_hlo_passes=fusion", None),
    "--xla_cpu_scheduler_type: memory": (
        "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        None,
    ),
    "--xla_cpu_scheduler_type: concurrency": (
        "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_CONCURRENCY_OPTIMIZED",
        None,
    ),
}

Turn = Callable[[], float]  # takes a turn and returns its seconds


class Lead(NamedTuple):
    """A change, what it applies to, and the turns of both sides."""

    name: str
    of: str
    changed: Turn
    as_it_is: Turn


def case_of(options: flags.FlagValues) -> stepping.Case:
    (shape,) = common.shapes("size", [options.size])
    return stepping.Case(options.model, *shape, 1, "float32", "sgd")


def step(
    work: stepping.Problem,
    *,
    loss: optimize.Loss | None = None,
    length: int | None = None,
) -> float:
    """Seconds of a step in a dispatch of `length`, after one that is not timed.

    The loss None is evaluated as `stylize` evaluates it on this backend.
    """
    length = length or optimize.steps_per_dispatch()
    with mock.patch.object(optimize, "steps_per_dispatch", lambda **_: length):
        _, (seconds,) = work.run(dispatches=2, loss=loss)
    return seconds / length


def pooled_by_windows(*arguments, **options):
    """The objective with flax's pooling."""
    pool = functools.partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
    with mock.patch.dict(vgg.POOLINGS, max=pool):
        return objective.objective_value(*arguments, **options)


def timed(function: Callable, *arguments) -> Turn:
    """Turns of a compiled function; each makes a call first that is not timed."""
    compiled = jax.jit(function)

    def turn():
        jax.block_until_ready(compiled(*arguments))
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        return time.perf_counter() - start

    return turn


def chain(x: jax.Array, params: Mapping, *, layout: str, layers: tuple[str, ...]) -> jax.Array:
    """The sum of squares after the direct convolutions of `x`, `[1, ...]` in `layout`."""
    channels, height, width = (layout.index(letter) for letter in "CHW")
    for name in layers:
        if name.endswith("_pool"):
            for axis in (height, width):
                even = x.shape[axis] // 2 * 2
                halves = (jax.lax.slice_in_dim(x, i, even, 2, axis) for i in (0, 1))
                x = jnp.maximum(*halves)
            continue
        x = jax.lax.conv_general_dilated(
            x,
            params[name]["kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=(layout, "HWIO", layout),
            precision=jax.lax.Precision.HIGHEST,
        )
        others = [axis for axis in range(4) if axis != channels]
        x = nn.relu(x + jnp.expand_dims(params[name]["bias"], others))
    return jnp.sum(jnp.square(x))


def half_gram(features: jax.Array) -> jax.Array:
    """`losses.gram_matrix` of `[H, W, C]`, by the blocks of its upper triangle."""
    channels = features.shape[-1]
    rows = features.reshape(-1, channels)
    upper = []
    for start in range(0, channels, channels // BLOCKS):
        own = rows[:, start : start + channels // BLOCKS]
        product = jnp.matmul(own.T, rows[:, start:], precision="highest")
        upper.append(jnp.pad(product, ((0, 0), (start, 0))))
    upper = jnp.concatenate(upper)
    return jnp.triu(upper) + jnp.triu(upper, 1).T


def leads(options: flags.FlagValues) -> Iterator[Lead]:
    """The leads that one process can measure."""
    case = case_of(options)
    params = stepping.load(case.model)
    work = stepping.problem(params, case)
    as_it_is = functools.partial(step, work)

    layers = objective.Objective.of(work.config).layers()
    names = vgg.layer_names(case.model)
    deepest = 1 + max(names.index(layer) for layer in layers)
    picture = jnp.asarray(stepping.picture("butterfly", case.height, case.width))[None]
    channels_last, channels_first = (
        timed(
            jax.value_and_grad(functools.partial(chain, layout=layout, layers=names[:deepest])),
            jnp.asarray(array),
            params,
        )
        for layout, array in (("NHWC", picture), ("NCHW", picture.transpose(0, 3, 1, 2)))
    )
    yield Lead("convolutions in NCHW", "convolutions", channels_first, channels_last)

    features = vgg.features(params, picture[0], layers=tuple(work.config["style_layers"]))
    half, full = (
        timed(functools.partial(jax.tree.map, gram), features)
        for gram in (half_gram, losses.gram_matrix)
    )
    yield Lead("half by symmetry", "Gram matrices", half, full)

    direct = stepping.problem(params, case, prepare=False)
    # The way of a TPU takes parameters of its own, so there the plain network is compared.
    base = direct if is_packed(work.within()) else work
    plain = functools.partial(step, base, loss=objective.objective_value)
    by_windows = functools.partial(step, base, loss=pooled_by_windows)
    yield Lead("pooling by windows", "step", by_windows, plain)

    if jax.default_backend() == "cpu":
        yield Lead("direct convolutions", "step", functools.partial(step, direct), as_it_is)
    else:
        prepared = direct._replace(shared=(vgg.prepare(params, layers=layers),))
        other = functools.partial(step, prepared, loss=objective.objective_value)
        plain = functools.partial(step, direct, loss=objective.objective_value)
        yield Lead("Winograd's algorithm", "step", other, plain)
    scan = functools.partial(step, work, length=SCAN)
    yield Lead(f"a scan of {SCAN} steps", "step", scan, as_it_is)


def process_turn(options: flags.FlagValues, flags_of_xla: str = "", cores: int | None = None):
    """A turn in its own process.

    Raises:
      ValueError: the process failed, for example because this XLA lacks the flag.
    """
    arguments = [f"--{name}={options[name].value}" for name in CASE_FLAGS]
    arguments += [f"--cores={cores}"] if cores else []
    given = " ".join([os.environ.get("XLA_FLAGS", ""), flags_of_xla]).strip()
    found = processes.measured(NAME, arguments, {"XLA_FLAGS": given})
    if "note" in found:
        raise ValueError(found["note"])
    return found["seconds"]


def process_leads(options: flags.FlagValues) -> Iterator[Lead]:
    """The leads that need their own processes."""
    as_it_is = functools.partial(process_turn, options)
    for name, (flags_of_xla, cores) in IN_A_PROCESS.items():
        changed = functools.partial(process_turn, options, flags_of_xla, cores)
        yield Lead(name, "step", changed, as_it_is)


def compared(lead: Lead, rounds: int) -> dict[str, Any]:
    """The row of a lead, after `rounds` turns of both sides."""
    row = {"lead": lead.name, "of": lead.of}
    turns = {"seconds": [], "as_it_is": []}
    sides = [("seconds", lead.changed), ("as_it_is", lead.as_it_is)]
    try:
        for number in range(rounds):
            for key, turn in reversed(sides) if number % 2 else sides:
                turns[key].append(turn())
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        return row | {"note": str(error).strip().splitlines()[0][:120]}
    medians = {key: statistics.median(taken) for key, taken in turns.items()}
    return row | medians | {"ratio": medians["seconds"] / medians["as_it_is"], "turns": turns}


def here(options: flags.FlagValues) -> dict[str, Any]:
    """The result of a process of `process_turn`."""
    if options.cores:
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[: options.cores])
    work = stepping.problem(stepping.load(options.model), case_of(options))
    _, taken = work.run(dispatches=2 + options.repeats)
    return {"seconds": statistics.median(taken[1:]) / optimize.steps_per_dispatch()}


def main(options: flags.FlagValues) -> dict[str, Any] | None:
    check_choice("--model", options.model, vgg.CONVOLUTIONS)
    case_of(options)
    if options.here:
        print(json.dumps(here(options)))
        return None
    report = Report(
        NAME,
        TITLE,
        COLUMNS,
        environment=common.environment(),
        settings={name: options[name].value for name in CASE_FLAGS},
        path=options.json,
    )
    for lead in leads(options):
        report.add(compared(lead, options.repeats))
    if jax.default_backend() == "cpu":
        for lead in process_leads(options):
            report.add(compared(lead, PROCESS_ROUNDS))
    return report.report


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
