"""How fast is a loop of your own, compared with `stylize`?

    python -m benchmarks.own_loop [--size=256x192] [--steps=20] [--repeats=5] [--model=vgg19]
        [--json=PATH]

Every loop finds the targets and takes the same number of steps of SGD on the loss of the preset
`default`, on one picture. `stylize` evaluates the last picture besides. The loops take turns, and
each turn begins with another one.

stylize        the whole call, whose programs and prepared parameters are there
step           a jitted step of `jax.value_and_grad(objective_value)` and optax, as in the guide
scan           the same step in `jax.lax.scan`, all steps in one program
plain step     the step with the parameters as they were loaded, without `nst_jax.prepare`
plain scan     the scan with these parameters

s/step         median seconds of a turn, over the steps
/ stylize      median of the ratios to `stylize` of the same turn
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

import nst_jax
from benchmarks import common
from benchmarks.reporting import JSON_FLAG, Column, Report, ratio, significant
from nst_jax import examples

NAME = "own_loop"
TITLE = "A loop of your own beside stylize"
COLUMNS = [
    Column("loop", "loop", width=10),
    Column("s/step", "seconds", significant),
    Column("/ stylize", "ratio", ratio),
    Column("lowest", "lowest", ratio),
    Column("highest", "highest", ratio),
]
FLAGS = {
    "size": (flags.DEFINE_string, "256x192", "HEIGHTxWIDTH, in pixels."),
    "steps": (common.positive, 20, "Steps of a turn."),
    "repeats": (common.positive, 5, "Turns of each loop."),
    "model": (flags.DEFINE_string, "vgg19", "Network: vgg16 or vgg19."),
    **JSON_FLAG,
}


def loops(params: Any, prepared: Any, content: np.ndarray, config: nst_jax.Config, steps: int):
    """`{name: function}`; each takes all steps and returns when they are done."""
    style = examples.rainbow(content.shape[:2])
    sgd = optax.sgd(0.01, momentum=0.9)

    def step(carried, network, target, config):
        image, state = carried
        objective = jax.value_and_grad(nst_jax.objective_value, has_aux=True)
        (loss, _), gradient = objective(image, network, target, config)
        update, state = sgd.update(gradient, state, image)
        return (jnp.clip(image + update, 0.0, 1.0), state), loss

    one = jax.jit(step)

    @jax.jit
    def scan(carried, network, target, config):
        return jax.lax.scan(
            lambda carried, _: step(carried, network, target, config), carried, length=steps
        )

    def begin(network):
        targets = nst_jax.compute_targets(network, content, [style], config)
        image = jnp.asarray(content)
        return (image, sgd.init(image)), jax.tree.map(lambda leaf: leaf[0], targets)

    def by_steps(network):
        carried, target = begin(network)
        for _ in range(steps):
            carried, loss = one(carried, network, target, config)
        jax.block_until_ready(carried)

    def by_scan(network):
        carried, target = begin(network)
        jax.block_until_ready(scan(carried, network, target, config))

    def by_stylize():
        run = config.replace(size=None, steps=steps)
        jax.block_until_ready(nst_jax.stylize(prepared, content, [style], run).images)

    return {
        "stylize": by_stylize,
        "step": functools.partial(by_steps, prepared),
        "scan": functools.partial(by_scan, prepared),
        "plain step": functools.partial(by_steps, params),
        "plain scan": functools.partial(by_scan, params),
    }


def take_turns(functions: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each turn, after one that compiles."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    names = list(functions)
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            functions[name]()
            found[name].append(time.perf_counter() - start)
    return found


def main(options: flags.FlagValues) -> dict[str, Any]:
    ((height, width),) = common.shapes("size", [options.size])
    config = nst_jax.presets["default"].replace(first_size=None, first_steps=None)
    params = nst_jax.load_params(options.model)
    prepared = nst_jax.prepare(params, config)
    content = examples.butterfly((height, width))
    report = Report(
        NAME,
        TITLE,
        COLUMNS,
        environment=common.environment(),
        settings={"model": options.model, "size": options.size, "steps": options.steps},
        path=options.json,
    )
    functions = loops(params, prepared, content, config, options.steps)
    seconds = take_turns(functions, options.repeats)
    for name, own in seconds.items():
        ratios = [one / of for one, of in zip(own, seconds["stylize"], strict=True)]
        report.add(
            {
                "loop": name,
                "seconds": statistics.median(own) / options.steps,
                "ratio": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
            }
        )
    return report.report


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
