"""Does this device compute what a CPU computes?

    python -m benchmarks.agreement [--precisions=...] [--reference=FILE] [--write] [--json=PATH]

`benchmarks/results/reference.npz` holds figures of a CPU in float32. This benchmark computes the
same figures on this device and compares them. The figures are activations of five layers, the loss
of the default and its gradient, and the losses of ten steps of the default. They are computed with
VGG19, on generated pictures of 64x48 pixels. `--write` computes them in float32 on this device, and
writes the file anew.

precision      type of the features, and precision of products
features       largest error of an activation, divided by the largest activation of its layer
loss           relative error of the loss
gradient       Euclidean norm of the gradient's error, divided by the norm of the gradient
ten steps      largest relative error of the ten losses, each taken before its step
of the bound   each of these four errors is divided by its bound for the precision; the largest

The exit code is 1 if an error is above its bound.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import nst_jax
from benchmarks import common, stepping
from benchmarks.reporting import JSON_FLAG, RESULTS, Column, Report, ratio
from nst_jax import objective, partition
from nst_jax.cli.flag_types import define_list, define_path

NAME = "agreement"
TITLE = "Agreement with a CPU in float32"
REFERENCE = RESULTS / "reference.npz"
HEIGHT, WIDTH = 64, 48
STEPS = 10
# Without nearest neighbours: rounding changes which of two is nearest, and then the whole gradient.
CONFIG = nst_jax.presets["default"].replace(
    size=None, first_size=None, first_steps=None, steps=STEPS, content_weight=2.0, nearest=None
)
LAYERS = tuple(CONFIG["style_layers"])
PARTS = ("features", "loss", "gradient", "ten_steps")
# Bounds of the errors. In float32 they leave room for other orders of summing, which also turn a
# few ReLUs near zero. bfloat16 on a CPU has 6.8e-3, 9.5e-5, 2.7e-2 and 1.3e-3: its bounds are about
# twice that, and ten times for losses, whose errors cancel by chance. "default" is one pass of
# bfloat16 on a TPU. "high" has 16 bits in place of 8.
BOUNDS = {
    "float32": dict(zip(PARTS, (1e-4, 1e-4, 5e-3, 1e-3), strict=True)),
    "float32:high": dict(zip(PARTS, (1e-3, 1e-4, 1e-2, 1e-3), strict=True)),
    "float32:default": dict(zip(PARTS, (1.5e-2, 1e-3, 6e-2, 1e-2), strict=True)),
    "bfloat16": dict(zip(PARTS, (1.5e-2, 1e-3, 6e-2, 1e-2), strict=True)),
}


def _shown(key: str) -> Column:
    return Column(key.replace("_", " "), key, "{:.1e}".format, width=9)


COLUMNS = [
    Column("precision", "precision", width=16),
    *map(_shown, PARTS),
    Column("of the bound", "of_the_bound", ratio),
]
FLAGS = {
    "precisions": (define_list, list(BOUNDS), f"Any of {', '.join(BOUNDS)}."),
    "reference": (define_path, str(REFERENCE), "File of a CPU's figures."),
    "write": (flags.DEFINE_boolean, False, "Write that file from this device in float32."),
    **JSON_FLAG,
}


def figures(params: Mapping, precision: str) -> dict[str, np.ndarray]:
    """Activations, loss, gradient and the losses of ten steps, in a precision."""
    config = stepping.in_precision(CONFIG, precision)
    content, style = (stepping.picture(name, HEIGHT, WIDTH) for name in ("butterfly", "rainbow"))
    image = (0.7 * content + 0.3 * style[::-1]).astype(np.float32)
    # As `stylize` evaluates it on this device.
    within = nst_jax.Placement().partition_of(config.network)
    own = objective.prepare(params, config, partition=within)
    targets = nst_jax.compute_targets(own, content, [style], config, partition=within)
    look = functools.partial(partition.activations, config.network, layers=LAYERS, partition=within)
    features = jax.jit(look)(own, image)
    value = jax.jit(jax.value_and_grad(objective.value_by(within), has_aux=True))
    (loss, _), gradient = value(jnp.asarray(image), own, targets, config)
    # All ten steps in one call of the program, as an accelerator takes steps.
    placement = nst_jax.Placement(steps_per_dispatch=STEPS)
    painted = nst_jax.stylize(params, content, [style], config, placement=placement)
    found = {f"features_{layer}": features[layer].astype(jnp.float32) for layer in LAYERS}
    found |= {"loss": loss, "gradient": gradient, "ten_steps": painted.history["total"]}
    return {name: np.asarray(array, np.float32) for name, array in found.items()}


def errors(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The error of each of `PARTS`, compared with the reference."""
    features = np.max(  # NaN stays NaN
        [
            np.max(np.abs(found[name] - wanted[name].astype(np.float32))) / np.max(wanted[name])
            for name in found
            if name.startswith("features_")
        ]
    )
    gradient = np.linalg.norm(found["gradient"] - wanted["gradient"])
    return {
        "features": float(features),
        "loss": float(abs(found["loss"] / wanted["loss"] - 1)),
        "gradient": float(gradient / np.linalg.norm(wanted["gradient"])),
        "ten_steps": float(np.max(np.abs(found["ten_steps"] / wanted["ten_steps"] - 1))),
    }


def read_reference(path: str) -> dict[str, np.ndarray]:
    """Reads the figures of a CPU.

    Raises:
      ValueError: the file holds something else.
    """
    try:
        with np.load(path) as file:
            found = dict(file)
    except (TypeError, ValueError):
        found = {}
    wanted = {*(f"features_{layer}" for layer in LAYERS), "loss", "gradient", "ten_steps"}
    if found.keys() != wanted:
        raise ValueError(f"{path}: holds no figures of this benchmark")
    return found


def main(options: flags.FlagValues) -> dict[str, Any] | None:
    for name in options.precisions:
        stepping.check_choice("--precisions", name, BOUNDS)
    params = nst_jax.load_params("vgg19")
    if options.write:
        found = figures(params, "float32")
        # Every sixteenth channel, so that the file stays small.
        np.savez_compressed(
            options.reference, **{name: _thinned(name, x) for name, x in found.items()}
        )
        print(f"wrote {options.reference}")
        return None
    wanted = read_reference(options.reference)
    report = Report(
        NAME, TITLE, COLUMNS, environment=common.environment(), settings={}, path=options.json
    )
    missed = []
    for name in options.precisions:
        found = {key: _thinned(key, array) for key, array in figures(params, name).items()}
        row = {"precision": name} | errors(found, wanted)
        shares = [row[part] / bound for part, bound in BOUNDS[name].items()]
        row["of_the_bound"] = float(np.max(shares))
        if not np.isfinite(row["of_the_bound"]):
            raise ValueError(f"the figures in the precision {name} are not finite")
        report.add(row)
        missed += [name] if not row["of_the_bound"] <= 1 else []
    if missed:
        raise ValueError(f"errors are above their bounds in the precisions {', '.join(missed)}")
    return report.report


def _thinned(name: str, array: np.ndarray) -> np.ndarray:
    return array[..., ::16] if name.startswith("features_") else array


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
