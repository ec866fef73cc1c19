"""Which precisions of products change the final picture, compared with the highest precision?

    python -m benchmarks.precisions [--size=128] [--steps=200] [--contents=FOLDER] [--styles=FOLDER]
        [--pairs=6] [--output_dir=FOLDER] [--json=PATH]

In the precision "default", a GPU multiplies float32 as TF32, and a TPU in one pass of bfloat16. In
the precision "high", a TPU takes three passes. A CPU has none of these. So this benchmark rounds on
a CPU as these devices do. It rounds the operands of each convolution and of its gradient, and sums
in float32.

The rows of a table are rungs. A rung is a way of rounding, see `RUNGS`. Each rung paints each pair
of a content and a style by the objective of the default. The rung "nudged" is "highest" from a
start that is moved by 1e-6 of the range. No precision can be nearer to "highest" than "nudged".

features       largest error of an activation of the first content, divided by the largest
               activation of its layer
loss           loss of the final picture, evaluated in the highest precision, divided by the loss
               of "highest"
largest loss   the largest of these quotients over all pairs
levels         mean distance from the picture of "highest", in grey levels
checkerboard   checkerboard of the final picture, divided by that of "highest"

The table of a pair has loss, levels and checkerboard. The last table is for all pairs. It has
geometric means of loss and checkerboard, and the mean of levels. Without `--contents` the contents
are photographs of scikit-image. Without `--styles` the styles are generated.
"""

import dataclasses
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import nst_jax
from benchmarks import common, quality, reporting
from benchmarks.defaults import checkerboard
from nst_jax import vgg
from nst_jax.cli.flag_types import define_path
from nst_jax.extractor import Geometry, VGGExtractor
from nst_jax.files.images import write_image

NAME = "precisions"


def rounded(x: jax.Array, bits: int) -> jax.Array:
    """float32 with `bits` bits of mantissa, rounded to nearest, ties to even."""
    return jax.lax.reduce_precision(x.astype(jnp.float32), exponent_bits=8, mantissa_bits=bits)


def one_pass(product: Callable, a: jax.Array, b: jax.Array, bits: int) -> jax.Array:
    """A product of operands with `bits` bits of mantissa: TF32 has 10, bfloat16 has 7."""
    return product(rounded(a, bits), rounded(b, bits))


def three_passes(product: Callable, a: jax.Array, b: jax.Array, bits: int) -> jax.Array:
    """A product of operands, each split into a large and a small part of `bits` bits of mantissa.

    It leaves out the product of the two small parts.
    """
    high_a, high_b = rounded(a, bits), rounded(b, bits)
    low_a, low_b = rounded(a - high_a, bits), rounded(b - high_b, bits)
    return product(high_a, high_b) + (product(high_a, low_b) + product(low_a, high_b))


# {rung: (how operands are multiplied, whether activations are stored in bfloat16)}
RUNGS: dict[str, tuple[Callable | None, str]] = {
    "highest": (None, "float32"),
    "high on a TPU: 3 passes": (functools.partial(three_passes, bits=7), "float32"),
    "default on a GPU: TF32": (functools.partial(one_pass, bits=10), "float32"),
    "default on a TPU: bfloat16": (functools.partial(one_pass, bits=7), "float32"),
    "bfloat16 storage": (functools.partial(one_pass, bits=7), "bfloat16"),
}


def shifted_products(x: jax.Array, kernel: jax.Array, pads: Sequence[tuple[int, int]]) -> jax.Array:
    """A convolution of `[..., H, W, in]` as a sum of products of matrices, one a kernel element.

    XLA:CPU joins the rounding of operands with a convolution, and then convolves slowly.
    """
    beyond = ((0, 0),) * (x.ndim - 3)
    padded = jnp.pad(x.astype(jnp.float32), (*beyond, *pads, (0, 0)))
    rows, columns = kernel.shape[:2]
    height, width = padded.shape[-3] - rows + 1, padded.shape[-2] - columns + 1
    total: Any = 0.0
    for row, column in itertools.product(range(rows), range(columns)):
        part = padded[..., row : row + height, column : column + width, :]
        total += jnp.matmul(part, kernel[row, column].astype(jnp.float32), precision="highest")
    return total


def convolution(multiply: Callable) -> Callable:
    """`jax.lax.conv_general_dilated`, with products by `multiply`, also in the gradient."""

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
    def convolve(x, kernel, pads):
        return multiply(lambda a, b: shifted_products(a, b, pads), x, kernel).astype(x.dtype)

    def forward(x, kernel, pads):
        return convolve(x, kernel, pads), (x, kernel)

    def backward(pads, saved, cotangent):
        x, kernel = saved
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        # What a side lacks of a full convolution.
        sides = zip(pads, kernel.shape[:2], strict=True)
        full = tuple((side - 1 - low, side - 1 - high) for (low, high), side in sides)
        slope = multiply(lambda a, b: shifted_products(a, b, full), cotangent, turned)
        return slope.astype(x.dtype), jnp.zeros_like(kernel)

    convolve.defvjp(forward, backward)

    def call(x, kernel, window_strides, padding, **options):
        strides = tuple(window_strides)
        pads = jax.lax.padtype_to_pads(x.shape[-3:-1], kernel.shape[:2], strides, padding)
        return convolve(x, kernel, tuple(map(tuple, pads)))

    return call


@dataclasses.dataclass(frozen=True)
class Rounding:
    """The default's network with rounded products.

    Attributes:
      rung: a name in `RUNGS`, which says how operands are rounded.
      network: the network itself.
    """

    rung: str
    network: VGGExtractor

    def __call__(self, params: Any, image: jax.Array, layers: Sequence[str]) -> Mapping:
        multiply, _ = RUNGS[self.rung]
        assert multiply is not None
        dilated = convolution(multiply)

        def rounding(next_function, args, kwargs, context):
            module = context.module
            if isinstance(module, nn.Conv) and context.method_name == "__call__":
                object.__setattr__(module, "conv_general_dilated", dilated)
            return next_function(*args, **kwargs)

        with nn.intercept_methods(rounding):
            return self.network(params, image, layers)

    def geometry(self, params: Any, layer: str, shape: tuple[int, int]) -> Geometry:
        return self.network.geometry(params, layer, shape)


def network_of(rung: str) -> Any:
    """The default's network with the rounding of a rung."""
    multiply, dtype = RUNGS[rung]
    plain = nst_jax.presets["default"].network
    plain = dataclasses.replace(plain, dtype=dtype, precision=None)
    return plain if multiply is None else Rounding(rung, plain)


@functools.cache
def _looking(rung: str, layers: tuple[str, ...]) -> Callable:
    """The compiled network of a rung, one for all calls."""
    return jax.jit(functools.partial(network_of(rung), layers=layers))


def feature_error(params: Mapping, image: np.ndarray, rung: str) -> float:
    """The largest error of an activation, relative to the largest activation of its layer."""
    layers = vgg.layer_names("vgg19")[:13]  # as deep as the default looks
    found, wanted = (_looking(name, layers)(params, image) for name in (rung, "highest"))
    return max(
        float(jnp.max(jnp.abs(found[layer].astype(jnp.float32) - wanted[layer])))
        / float(jnp.max(wanted[layer]))
        for layer in layers
    )


def compare(
    params: Mapping, content: np.ndarray, style: np.ndarray, config: nst_jax.Config
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """Paints one pair on every rung; returns pictures and figures by rung."""
    value = jax.jit(nst_jax.objective_value)
    targets = nst_jax.compute_targets(params, content, [style], config)
    moved = np.clip(
        content + 1e-6 * np.sign(np.sin(np.arange(content.size)).reshape(content.shape)), 0, 1
    )
    pictures, figures = {}, {}
    for rung in (*RUNGS, "nudged"):
        own = config.replace(network=network_of("highest" if rung == "nudged" else rung))
        start = time.perf_counter()
        result = nst_jax.stylize(
            *(params, content, [style], own),
            initial=moved.astype(np.float32) if rung == "nudged" else None,
        )
        pictures[rung] = np.asarray(result.images[0])
        figures[rung] = {
            "seconds": time.perf_counter() - start,
            "loss": float(value(pictures[rung], params, targets, config)[0]),
            "levels": 255 * float(np.abs(pictures[rung] - pictures["highest"]).mean()),
            "checkerboard": checkerboard(pictures[rung]),
        }
    for own in figures.values():
        own["loss_ratio"] = own["loss"] / figures["highest"]["loss"]
        own["checkerboard_ratio"] = own["checkerboard"] / figures["highest"]["checkerboard"]
    return pictures, figures


def summary(pairs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """For each rung: geometric means of ratios, the largest ratio of losses, the mean distance."""
    found = {}
    for rung in (*RUNGS, "nudged"):
        rows = [pair["rungs"][rung] for pair in pairs]
        found[rung] = {
            "loss_ratio": statistics.geometric_mean(row["loss_ratio"] for row in rows),
            "loss_ratio_largest": max(row["loss_ratio"] for row in rows),
            "levels": statistics.mean(row["levels"] for row in rows),
            "checkerboard_ratio": statistics.geometric_mean(
                row["checkerboard_ratio"] for row in rows
            ),
        }
    return found


def run(
    contents: Mapping[str, np.ndarray],
    styles: Mapping[str, np.ndarray],
    *,
    size: int,
    steps: int,
    limit: int | None,
    output_dir: str | None,
    json_path: str | None,
) -> dict[str, Any]:
    """Paints all pairs and prints the tables; returns the report that is written to JSON."""
    report = common.environment() | {"size": size, "steps": steps, "features": {}, "pairs": []}
    print(f"Precisions at {size} pixels, {steps} steps")
    common.print_environment(report)
    if json_path:
        json_path = reporting.device_file(json_path, report, prefix="precisions-")
    params = nst_jax.load_params("vgg19")
    config = nst_jax.presets["default"].replace(
        size=None, first_size=None, first_steps=None, steps=steps
    )
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        chosen = quality.pairs_of(
            quality.write_sized(contents, Path(temporary, "contents"), size),
            quality.write_sized(styles, Path(temporary, "styles"), size),
        )[:limit]
    first = chosen[0][0].pixels
    report["features"] = {rung: feature_error(params, first, rung) for rung in RUNGS}
    for content, style in chosen:
        pictures, figures = compare(params, content.pixels, style.pixels, config)
        report["pairs"].append({"content": content.name, "style": style.name, "rungs": figures})
        report["summary"] = summary(report["pairs"])
        print(f"\n{content.name} in {style.name}: loss, levels, checkerboard, each by rung")
        for rung, own in figures.items():
            cells = (own["loss_ratio"], own["levels"], own["checkerboard_ratio"])
            print(f"{rung:<32}" + "".join(f"{cell:>10.3f}" for cell in cells), flush=True)
        rows.append([content.pixels, style.pixels, *pictures.values()])
        if json_path:
            common.write_json(json_path, report)
        if output_dir:
            # What follows the colon fits above a small picture.
            labels = ("content", "style", *(rung.rpartition(": ")[2] for rung in pictures))
            sheet = common.grid(rows, labels, size)
            write_image(Path(output_dir, "grid.png"), sheet)
    print(
        f"\nOver {len(report['pairs'])} pairs: features, loss, largest loss, levels, checkerboard"
    )
    for rung, own in report["summary"].items():
        cells = (report["features"].get(rung, 0.0), *own.values())
        print(
            f"{rung:<32}"
            + "".join(f"{cell:>10.2g}" for cell in cells[:1])
            + "".join(f"{cell:>10.3f}" for cell in cells[1:])
        )
    return report


FLAGS = {
    "size": (common.pixels, 128, "Longer side of all pictures in pixels."),
    "steps": (common.positive, 200, "Steps of each picture."),
    **quality.INPUT_FLAGS,
    "pairs": (common.positive, 6, "Number of pairs after which to stop."),
    "output_dir": (define_path, None, "Folder for the pictures in a grid, grid.png."),
    "json": (define_path, None, "File or folder for the result as JSON."),
}


def main(options: flags.FlagValues) -> None:
    run(
        *quality.inputs(options),
        size=options.size,
        steps=options.steps,
        limit=options.pairs,
        output_dir=options.output_dir,
        json_path=options.json,
    )


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
