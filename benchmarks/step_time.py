"""How long does a step take, and how close is it to what the device can do?

    python -m benchmarks.step_time [--models=vgg16,vgg19] [--sizes=256x192,512x512]
        [--styles=1,4] [--precisions=float32,bfloat16] [--optimizers=sgd,adam,lbfgs]
        [--repeats=10] [--seconds=60] [--matmul_size=N] [--json=PATH]

Every combination is a row. The timed program is the one that `stylize` runs through
`optimize.run`: on a CPU one call per step, elsewhere a scanned chunk of steps. A dispatch ends when
its losses are on the host; the first two are not timed. The columns of the table:

s/step           median seconds of a step on all styles at once
s/style-step     the same divided by the number of styles; style-steps/s is its inverse
GFLOP/s          operations of the convolutions per second, counted by layer for direct
                 convolutions; on a CPU Winograd's algorithm does fewer
of matmul        the same divided by the rate of a large matrix product in the same precision,
                 measured when the run begins
XLA/counted      XLA's count of one step's operations, as lowered, divided by ours
compiled/counted the same for the compiled program, as far as XLA sees it: it counts one pass of
                 the loop over a chunk of steps, and nothing of calls into libraries
trace, compile   seconds before the first step
program MiB      memory of arguments, results and intermediates, by XLA's analysis
MiB/style        the same without the network's parameters, divided by the number of styles
device peak MiB  the most that the device had allocated, if it tells and this row raised it
"""

from absl import flags

from benchmarks import common, stepping
from benchmarks.reporting import JSON_FLAG

NAME = "step_time"
TITLE = "Seconds of a step"
COLUMNS = [*stepping.CASE_COLUMNS, *stepping.MEASURE_COLUMNS]
FLAGS = {**stepping.CASE_FLAGS, **stepping.MEASURE_FLAGS, **JSON_FLAG}


def main(options: flags.FlagValues) -> dict:
    cases = stepping.cases(options)
    return stepping.run(options, cases, name=NAME, title=TITLE, columns=COLUMNS)


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
