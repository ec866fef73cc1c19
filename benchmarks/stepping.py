"""The step that the benchmarks time: the program of `stylize`, on generated pictures."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import nst_jax
from benchmarks import common, flops
from benchmarks.reporting import (
    Column,
    Report,
    giga,
    mebibytes,
    percent,
    ratio,
    significant,
    tells_memory,
)
from nst_jax import examples, objective, optimize, vgg
from nst_jax.cli.flag_types import define_list
from nst_jax.config import Config
from nst_jax.optimizers import SGD, Adam
from nst_jax.partition import Partition, is_packed
from nst_jax.settings import check_choice

_PASTICHE = nst_jax.presets["gatys"].replace(size=None)
_SINGLE_SCALE = _PASTICHE.replace(optimizer=SGD(), clip=True, steps=200)
# One objective (Gatys' layers, pastiche's constants) with three optimisers.
CONFIGS = {
    "sgd": _SINGLE_SCALE,
    "adam": _SINGLE_SCALE.replace(optimizer=Adam()),
    "lbfgs": _PASTICHE,
}
# Types of kernels and activations, with a precision of products if it is not the type's own.
PRECISIONS = ("float32", "float32:high", "float32:default", "bfloat16")


def split_precision(name: str) -> tuple[str, str | None]:
    """The type of one of `PRECISIONS`, and its precision of products if it names one."""
    dtype, _, products = name.partition(":")
    return dtype, products or None


def in_precision(config: Config, precision: str) -> Config:
    """`config` in one of `PRECISIONS`."""
    dtype, products = vgg.resolved_precision(*split_precision(precision))
    return config.replace(dtype=dtype, precision=products)


class Case(NamedTuple):
    """What is timed: a network, `styles` pictures of one size, and how they are optimised."""

    model: str
    height: int
    width: int
    styles: int
    precision: str
    optimizer: str
    remat: bool = False

    def described(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "size": f"{self.height}x{self.width}",
            "styles": self.styles,
            "precision": self.precision,
            "optimizer": self.optimizer,
        }


class Problem(NamedTuple):
    """The arguments of `optimize.run`, as `stylize` makes them."""

    images: jax.Array
    config: Config
    shared: tuple
    each: tuple
    remat: bool = False

    def within(self, mesh: jax.sharding.Mesh | None = None) -> Partition:
        """How a picture is divided, as `stylize` chooses it."""
        placement = nst_jax.Placement(remat=self.remat, mesh=mesh)
        return placement.partition_of(self.config.network, height=self.images.shape[1])

    def arguments(self) -> dict[str, Any]:
        return {"shared": self.shared, "each": self.each}

    def run(
        self,
        *,
        dispatches: int,
        mesh: jax.sharding.Mesh | None = None,
        loss: optimize.Loss | None = None,
    ) -> tuple[optimize.State, list[float]]:
        """Runs `dispatches` dispatches of the compiled program, with `loss` as its objective.

        Returns:
          The final states, and the seconds of each dispatch except the first, which may compile.
          A dispatch ends when its losses are on the host, as in any run.
        """
        ends = []
        within = self.within(mesh)
        states, _ = optimize.run(
            loss or objective.value_by(within),
            self.images,
            self.config.replace(steps=dispatches * optimize.steps_per_dispatch()),
            **self.arguments(),
            callback=lambda _: ends.append(time.perf_counter()),
            mesh=mesh,
            lean=self.remat,
            in_turn=is_packed(within),
        )
        return states, np.diff(ends).tolist()


CASE_FLAGS = {
    "models": (define_list, ["vgg19"], "Networks: vgg16, vgg19."),
    "sizes": (define_list, ["256x192"], "Sizes, HEIGHTxWIDTH, in pixels."),
    "styles": (define_list, ["1", "4"], "Numbers of styles painted at once."),
    "precisions": (
        define_list,
        None,
        "Types of the features; by default float32 on a CPU, elsewhere all types.",
    ),
    "optimizers": (define_list, ["sgd"], f"Any of {', '.join(CONFIGS)}."),
}
MEASURE_FLAGS = {
    "repeats": (common.positive, 10, "Timed dispatches of each case; the median is shown."),
    "seconds": (
        functools.partial(flags.DEFINE_float, lower_bound=0.0),
        60.0,
        "Time for a case, in seconds; after it there are fewer repeats, but at least one.",
    ),
    "matmul_size": (common.pixels, None, "Side of the matrices whose product's rate is measured."),
}


def precisions(names: Sequence[str] | None) -> list[str]:
    if names is None:
        names = PRECISIONS[:1] if jax.default_backend() == "cpu" else PRECISIONS
    for name in names:
        check_choice("--precisions", name, PRECISIONS)
    return list(names)


def cases(options: flags.FlagValues) -> list[Case]:
    """All combinations of the `CASE_FLAGS`."""
    for name, known in (("models", vgg.CONVOLUTIONS), ("optimizers", CONFIGS)):
        for value in options[name].value:
            check_choice(f"--{name}", value, known)
    return [
        Case(model, *size, styles, precision, optimizer)
        for model, size, styles, precision, optimizer in itertools.product(
            options.models,
            common.shapes("sizes", options.sizes),
            common.whole_numbers("styles", options.styles),
            precisions(options.precisions),
            options.optimizers,
        )
    ]


load = functools.lru_cache(nst_jax.load_params)


@functools.lru_cache(maxsize=8)
def picture(name: str, height: int, width: int) -> np.ndarray:
    """A generated picture by its name, `[height, width, 3]`."""
    return examples.by_name[name]((height, width))


def problem(params: Mapping, case: Case, *, prepare: bool = True) -> Problem:
    """The butterfly in `case.styles` styles.

    With `prepare` the kernels are prepared, as `stylize` does on one device.
    """
    config = in_precision(CONFIGS[case.optimizer], case.precision)
    content, *styles = (
        picture(name, case.height, case.width) for name in ("butterfly", "rainbow", "triangles")
    )
    within = nst_jax.Placement(remat=case.remat).partition_of(config.network)
    if prepare:
        params = objective.prepare(params, config, partition=within)
    # The statistics of two styles, repeated: their values do not change the time of a step.
    targets = nst_jax.compute_targets(params, content, styles, config, partition=within)
    which = np.arange(case.styles) % len(styles)
    targets = jax.tree.map(lambda leaf: leaf[which], targets)
    images = jnp.repeat(jnp.asarray(content)[None], case.styles, axis=0)
    numbers = optimize.batch_numbers(config, case.styles)
    return Problem(images, config, (params,), (targets, numbers), case.remat)


def measure(
    params: Mapping, case: Case, *, repeats: int, limit: float, matmul: float
) -> dict[str, Any]:
    """Compiles, analyses and times the step of one case.

    Args:
      params: parameters of the case's network.
      case: what to time.
      repeats: number of timed dispatches.
      limit: seconds after which there are fewer.
      matmul: rate to compare with, in operations per second.

    Returns:
      The row: the case and its measurements, or a note if it does not fit into the device's memory.
    """
    return case.described() | or_note(lambda: _measured(params, case, repeats, limit, matmul))


def or_note(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The measurements, or a note if the case does not fit into the device's memory."""
    try:
        return measure()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"note": "out of memory"}


def _measured(params, case, repeats, limit, matmul):
    before = _device_peak()
    work = problem(params, case)
    layers = objective.Objective.of(work.config).layers()
    arguments = (objective.value_by(work.within()), work.images, work.config)
    options = {**work.arguments(), "in_turn": is_packed(work.within())}
    start = time.perf_counter()
    lowered = optimize.lower(*arguments, **options)
    traced = time.perf_counter()
    compiled = lowered.compile()
    ended = time.perf_counter()
    single = optimize.lower(*arguments, **options, length=1)
    counted = flops.step_flops(case.model, layers, height=case.height, width=case.width)
    program = optimize.compiled_bytes(compiled)
    kernels = flops.parameter_bytes(*work.shared, layers)  # as prepared for this backend
    _, warm = work.run(dispatches=3)
    fewer = max(1, min(repeats, int(limit / warm[-1])))
    _, taken = work.run(dispatches=1 + fewer)
    steps = optimize.steps_per_dispatch()
    step = statistics.median(taken) / steps
    peak = _device_peak()
    return {
        "steps_per_dispatch": steps,
        "repeats": fewer,
        "step_seconds": step,
        "step_seconds_range": [min(taken) / steps, max(taken) / steps],
        "style_step_seconds": step / case.styles,
        "style_steps_per_second": case.styles / step,
        "style_step_flops": counted,
        "flops_per_second": counted * case.styles / step,
        "matmul_share": counted * case.styles / step / matmul,
        "xla_lowered_ratio": _flops(single) / (counted * case.styles),
        "xla_compiled_ratio": _flops(compiled) / (counted * case.styles),
        "trace_seconds": traced - start,
        "compile_seconds": ended - traced,
        "program_bytes": program,
        "style_bytes": program and (program - kernels) / case.styles,
        # This is the peak of the whole process; it is the case's only if it rose.
        "device_peak_bytes": peak if peak and peak > (before or 0) else None,
    }


def _flops(stage: jax.stages.Lowered | jax.stages.Compiled) -> float:
    """XLA's count of operations, which has one pass of a loop's body."""
    return (stage.cost_analysis() or {}).get("flops", 0.0)


def _device_peak() -> int | None:
    """The largest memory allocated so far; None if the device does not tell, as a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


CASE_COLUMNS = [
    Column("model", "model", width=5),
    Column("size", "size", width=9),
    Column("styles", "styles"),
    Column("precision", "precision", width=15),
    Column("optimizer", "optimizer"),
]
MEASURE_COLUMNS = [
    Column("s/step", "step_seconds", significant, width=8),
    Column("s/style-step", "style_step_seconds", significant),
    Column("style-steps/s", "style_steps_per_second", "{:.2f}".format),
    Column("GFLOP/s", "flops_per_second", giga),
    Column("of matmul", "matmul_share", percent),
    Column("XLA/counted", "xla_lowered_ratio", ratio),
    Column("compiled/counted", "xla_compiled_ratio", ratio),
    Column("trace s", "trace_seconds", "{:.2f}".format),
    Column("compile s", "compile_seconds", "{:.1f}".format),
    Column("program MiB", "program_bytes", mebibytes),
    Column("MiB/style", "style_bytes", mebibytes),
    Column("device peak MiB", "device_peak_bytes", mebibytes, of=tells_memory),
]


def run(
    options: flags.FlagValues,
    wanted: Sequence[Case],
    *,
    name: str,
    title: str,
    columns: Sequence[Column],
    complete: Callable[[Case, dict[str, Any]], dict[str, Any]] = lambda case, row: row,
) -> dict[str, Any]:
    """Measures each case and reports its row, extended by `complete`; returns the report."""
    size = options.matmul_size or flops.default_matmul_size()
    matmul = {}
    for precision in dict.fromkeys(case.precision for case in wanted):
        dtype, products = split_precision(precision)
        matmul[precision] = flops.matmul_rate(dtype, size=size, precision=products)
    report = Report(
        name,
        title,
        columns,
        environment=common.environment(),
        settings={f"matmul_{key}_gflops": rate / 1e9 for key, rate in matmul.items()},
        path=options.json,
    )
    for case in wanted:
        row = measure(
            load(case.model),
            case,
            repeats=options.repeats,
            limit=options.seconds,
            matmul=matmul[case.precision],
        )
        report.add(complete(case, row))
    return report.report
