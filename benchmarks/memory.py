"""How much memory does a pixel take, and what do rematerialisation and bfloat16 save?

    python -m benchmarks.memory [--models=vgg19] [--sizes=512,1024] [--styles=1]
        [--precisions=float32,bfloat16] [--optimizers=sgd] [--repeats=0] [--json=PATH]

Every combination has two rows, without and with `remat`. The step is compiled; it runs only with
`--repeats`. The columns of the table:

bytes/px     arguments, results and intermediates of the compiled step, by XLA's analysis, per pixel
             of each picture, without the network's kernels
program MiB  the same in all, with the kernels
kernels MiB  the kernels; on a CPU those in float32 are transformed to eight times their size
compile s    seconds of compilation
s/step       median seconds of `--repeats` steps
"""

import functools
import itertools
import statistics
import time
from typing import Any

import jax
from absl import flags

from benchmarks import common, flops, stepping
from benchmarks.reporting import JSON_FLAG, Column, Report, mebibytes, significant
from nst_jax import objective, vgg
from nst_jax.cli import preflight
from nst_jax.cli.flag_types import define_list
from nst_jax.optimize import steps_per_dispatch
from nst_jax.partition import Placement

NAME = "memory"
TITLE = "Memory of a step"
COLUMNS = [
    *stepping.CASE_COLUMNS,
    Column("remat", "remat", lambda value: "yes" if value else "no"),
    Column("bytes/px", "pixel_bytes", "{:.0f}".format),
    Column("program MiB", "program_bytes", mebibytes),
    Column("kernels MiB", "kernel_bytes", mebibytes),
    Column("compile s", "compile_seconds", "{:.1f}".format),
    Column("s/step", "step_seconds", significant, of=lambda report: report["repeats"] > 0),
]
FLAGS = {
    **stepping.CASE_FLAGS,
    "sizes": (define_list, ["512", "1024"], "Sizes, HEIGHTxWIDTH, in pixels."),
    "styles": (define_list, ["1"], "Numbers of styles painted at once."),
    "precisions": (define_list, ["float32", "bfloat16"], "Of the features."),
    "repeats": (
        functools.partial(flags.DEFINE_integer, lower_bound=0),
        0,
        "Timed dispatches of each row; 0 only compiles.",
    ),
    **JSON_FLAG,
}


def measure(case: stepping.Case, *, repeats: int) -> dict[str, Any]:
    """The row of one case."""
    config = stepping.in_precision(stepping.CONFIGS[case.optimizer], case.precision)
    params = jax.eval_shape(lambda key: vgg.init_params(key, case.model), jax.random.key(0))
    start = time.perf_counter()
    program = preflight.Plan(
        params=params,
        shape=(case.height, case.width),
        outputs=case.styles,
        config=config,
        placement=Placement(remat=case.remat),
    ).program_bytes()
    seconds = time.perf_counter() - start
    within = Placement(remat=case.remat).partition_of(config.network)
    prepared = jax.eval_shape(
        lambda params: objective.prepare(params, config, partition=within), params
    )
    kernels = flops.parameter_bytes(prepared, objective.Objective.of(config).layers())
    row = {
        "program_bytes": program,
        "kernel_bytes": kernels,
        "pixel_bytes": (program - kernels) / (case.styles * case.height * case.width),
        "compile_seconds": seconds,
    }
    if repeats:
        work = stepping.problem(stepping.load(case.model), case)
        _, taken = work.run(dispatches=2 + repeats)
        row["step_seconds"] = statistics.median(taken[1:]) / steps_per_dispatch()
    return row


def main(options: flags.FlagValues) -> dict[str, Any]:
    cases = stepping.cases(options)
    report = Report(
        NAME,
        TITLE,
        COLUMNS,
        environment=common.environment(),
        settings={"repeats": options.repeats},
        path=options.json,
    )
    for case, remat in itertools.product(cases, (False, True)):
        row = case.described() | {"remat": remat}
        case = case._replace(remat=remat)
        measured = functools.partial(measure, case, repeats=options.repeats)
        report.add(row | stepping.or_note(measured))
    return report.report


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
