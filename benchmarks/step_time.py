"""How long does a step take, and how near is it to what the device can do?

    python -m benchmarks.step_time [--models=vgg16,vgg19] [--sizes=256x192,512x512]
        [--styles=1,4] [--precisions=float32,bfloat16] [--optimizers=sgd,adam,lbfgs]
        [--repeats=10] [--seconds=60] [--matmul_size=N] [--json=PATH]

Every combination is a row. Timed is the program that `stylize` runs, through `optimize.run`: one
call a step on a CPU, a scanned chunk of steps elsewhere, until its losses are on the host; after
two dispatches to warm up. The columns of the table:

s/step           median seconds of a step on all styles at once
s/style-step     the same divided by the styles; style-steps/s is its inverse
GFLOP/s          operations of the convolutions, counted out of the layer table as done directly,
                 a second; a CPU does fewer, by Winograd's algorithm
of matmul        that as a share of the rate of a large matrix product in the same precision,
                 measured at the beginning of the run
XLA/counted      XLA's count of one step's operations as lowered / ours
compiled/counted the same of the compiled program, as far as XLA can see into it: of a chunk of
                 steps it counts one pass through the loop, of calls into libraries nothing
trace, compile   seconds before the first step
program MiB      memory of arguments, results and intermediates by XLA's analysis
MiB/style        that without the network's parameters, divided by the styles
device peak MiB  the most the device had allocated, where it tells and this row raised it
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
