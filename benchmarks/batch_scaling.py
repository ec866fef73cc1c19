"""How does the cost of a step grow with the number of styles painted at once?

    python -m benchmarks.batch_scaling [--styles=1,2,4,8,16,32,64] [--models=vgg19]
        [--sizes=256x192] [--precisions=float32,bfloat16] [--optimizers=sgd] [--repeats=10]
        [--seconds=60] [--matmul_size=N] [--json=PATH]

The columns are those of `step_time`, and:

/ first            seconds per style-step, divided by those of the same case with the fewest
                   styles; at 1 the cost grows with the work, below 1 a batch is cheaper
MiB/further style  memory that each style adds to the case with the fewest
"""

from absl import flags

from benchmarks import common, stepping
from benchmarks.reporting import JSON_FLAG, Column, mebibytes, ratio
from nst_jax.cli.flag_types import define_list

NAME = "batch_scaling"
TITLE = "Cost of a step by the number of styles"
_MEASURED = {column.heading: column for column in stepping.MEASURE_COLUMNS}
COLUMNS = [
    *stepping.CASE_COLUMNS,
    *(_MEASURED[name] for name in ("s/step", "s/style-step", "style-steps/s")),
    Column("/ first", "first_ratio", ratio),
    *(_MEASURED[name] for name in ("GFLOP/s", "of matmul", "compile s")),
    _MEASURED["program MiB"],
    Column("MiB/further style", "further_bytes", mebibytes),
    _MEASURED["device peak MiB"],
]
_STYLES = (define_list, [str(2**power) for power in range(7)], "Numbers of styles.")
FLAGS = {**stepping.CASE_FLAGS, "styles": _STYLES, **stepping.MEASURE_FLAGS, **JSON_FLAG}


def main(options: flags.FlagValues) -> dict:
    # Keeps the rows of one case with its several numbers of styles together.
    cases = sorted(stepping.cases(options), key=lambda case: (case._replace(styles=0), case))
    first = {}

    def complete(case, row):
        if "note" in row:
            return row
        least = first.setdefault(case._replace(styles=0), row)
        found = {"first_ratio": row["style_step_seconds"] / least["style_step_seconds"]}
        further = case.styles - least["styles"]
        if further and row["program_bytes"]:
            found["further_bytes"] = (row["program_bytes"] - least["program_bytes"]) / further
        return row | found

    return stepping.run(options, cases, name=NAME, title=TITLE, columns=COLUMNS, complete=complete)


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
