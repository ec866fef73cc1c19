"""Runs a benchmark's main as its command line does, in the tests' process."""

from absl import flags

from benchmarks import common


def parse(module, *arguments):
    values = flags.FlagValues()
    common.define(module.FLAGS, values)
    left = values(["benchmark", *arguments])
    assert left == ["benchmark"], left
    return values


def run(module, *arguments):
    """The benchmark's report."""
    return module.main(parse(module, *arguments))


def table(text):
    """Headings and rows of the printed table, each as a list of words."""
    return [line.split() for line in text.rpartition("\n\n")[2].splitlines()]
