"""Is the picture of the default preset clean, and what does it cost?

    python -m benchmarks.defaults [--presets=default,lbfgs] [--other=CHECKOUT] [--size=256]
        [--steps=N] [--contents=FOLDER] [--styles=FOLDER] [--extremes] [--pairs=N]
        [--output_dir=FOLDER] [--json=PATH]

Each preset of this checkout paints each pair of a content and a style. With `--other` the default
of another checkout does too, for example a `git worktree` of an earlier version. They paint one
after the other, every second pair in reverse order, so that a machine that slows down slows all
alike. Each checkout paints in its own process. Without `--contents` the contents are photographs
of scikit-image; without `--styles` the styles are generated. With `--extremes` both are a flat
picture, noise and `rainbow`. So three of the nine pairs are perfect from the start.

The columns of the table:

seconds      of a whole call of `stylize` with all programs compiled
own loss     the loss that this preset minimises, before the last step
loss         the loss that this checkout's default minimises, of the final picture
highest      the highest loss of a scale divided by the scale's first; the largest over all scales.
             A loss counts as at least a thousandth
checkerboard of the final picture, see `checkerboard`; below are those of the content and the style

The JSON also has `moved`, the mean distance of the picture from the content in grey levels.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

import nst_jax
from benchmarks import common, quality, reporting
from nst_jax import examples
from nst_jax.cli.flag_types import define_list, define_path
from nst_jax.config import Config
from nst_jax.files.images import write_image
from nst_jax.settings import check_choice

ROOT = Path(__file__).resolve().parent.parent
OTHER = "other"
SIDE = Path(__file__).with_name("checkout_side.py")

_value = jax.jit(nst_jax.objective_value)


def checkerboard(image: np.ndarray) -> float:
    """The strength of 2x2 alternation in a picture `[H, W, 3]` in [0, 1], in grey levels.

    It is the root mean square of (a - b - c + d) / 2 over all windows of 2x2, the diagonal
    coefficient of Haar's wavelet. Grain has it as well as dither, so compare it with the inputs'.
    """
    levels = 255.0 * np.asarray(image, np.float64)
    rows = levels[:-1] - levels[1:]
    return float(np.sqrt(np.mean(((rows[:, :-1] - rows[:, 1:]) / 2) ** 2)))


class Painter:
    """A process that paints with the presets of a checkout.

    Raises:
      ValueError: the process has ended; the message tells its exit code.
    """

    def __init__(self, checkout: Path):
        self._process = subprocess.Popen(
            [sys.executable, str(SIDE)],
            env=os.environ | {"PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._checkout = checkout

    def __call__(self, **task: Any) -> dict[str, Any]:
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ValueError(f"{self._checkout}: painting ended with {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def painters(checkouts: Mapping[str, Path]) -> Iterator[dict[str, Painter]]:
    with contextlib.ExitStack() as stack:
        found = {}
        for name, checkout in checkouts.items():
            found[name] = Painter(checkout)
            stack.callback(found[name].close)
        yield found


def highest_over_first(losses: Sequence[Sequence[float]]) -> float:
    """The highest loss of a scale divided by the scale's first; the largest over all scales."""
    return max(_ratio(max(scale), scale[0]) for scale in losses)


def compare(
    content: quality.Picture,
    style: quality.Picture,
    methods: Mapping[str, tuple[Painter, str]],
    *,
    params: Mapping,
    config: Config,
    changes: Mapping[str, int],
    folder: Path,
    backwards: bool,
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """Paints one pair by every method; returns pictures and figures by method."""
    paths = {}
    for kind, picture in (("content", content), ("style", style)):
        paths[kind] = str(folder / f"{kind}.npy")
        np.save(paths[kind], picture.pixels)
    targets = nst_jax.compute_targets(params, content.pixels, [style.pixels], config)
    pictures, figures = {}, {}
    for method in reversed(methods) if backwards else methods:
        painter, preset = methods[method]
        output = str(folder / "picture.npy")
        done = painter(**paths, preset=preset, changes=changes, output=output)
        pictures[method] = np.load(output)
        figures[method] = {
            "seconds": done["seconds"],
            "setup_seconds": done["setup_seconds"],
            "steps": [len(scale) for scale in done["losses"]],
            "own_loss": done["losses"][-1][-1],
            "loss": float(_value(pictures[method], params, targets, config)[0]),
            "highest_over_first": highest_over_first(done["losses"]),
            "checkerboard": checkerboard(pictures[method]),
            "moved": 255 * float(np.abs(pictures[method] - content.pixels).mean()),
        }
    return {method: pictures[method] for method in methods}, figures


def extremes(size: int) -> dict[str, np.ndarray]:
    """A flat picture, one of noise and a generated one, `[size, size, 3]`."""
    noise = np.random.default_rng(0).random((size, size, 3), np.float32)
    flat = np.full((size, size, 3), 0.5, np.float32)
    return {"flat": flat, "noise": noise, "rainbow": examples.rainbow((size, size))}


def summary(pairs: Sequence[Mapping[str, Any]], presets: Sequence[str]) -> dict[str, dict]:
    """For each method its ratios to the first: the geometric mean over pairs, and the largest."""
    found = {}
    for method in presets:
        rows = [(pair["methods"][method], pair["methods"][presets[0]]) for pair in pairs]
        found[method] = {}
        for key in ("seconds", "loss", "checkerboard"):
            ratios = [_ratio(own[key], first[key]) for own, first in rows]
            found[method][f"{key}_ratio"] = statistics.geometric_mean(ratios)
        found[method]["highest_over_first_largest"] = max(
            own["highest_over_first"] for own, _ in rows
        )
        found[method]["checkerboard_over_style_largest"] = max(
            _ratio(pair["methods"][method]["checkerboard"], pair["style_checkerboard"])
            for pair in pairs
        )
    return found


def _ratio(value: float, of: float) -> float:
    """`value / of`, each taken as at least a thousandth, because a flat picture may have none."""
    return max(value, 1e-3) / max(of, 1e-3)


def commit(checkout: Path) -> str | None:
    """The commit of a checkout, or None if git does not know it."""
    done = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return done.stdout.strip() or None


def run(
    contents: Mapping[str, np.ndarray],
    styles: Mapping[str, np.ndarray],
    presets: Sequence[str],
    *,
    other: Path | None,
    size: int,
    steps: int | None,
    limit: int | None,
    output_dir: str | None,
    json_path: str | None,
) -> dict[str, Any]:
    """Paints all pairs and prints the tables; returns the report that is written to JSON."""
    changes = {"size": size} | ({} if steps is None else {"steps": steps, "first_steps": None})
    report = common.environment() | {"size": size}
    print(f"Presets at {size} pixels")
    common.print_environment(report)
    if other is not None:
        report["other"] = {"commit": commit(other)}
        print(f"{OTHER}: the default of commit {report['other']['commit']}")
    if json_path:
        json_path = reporting.device_file(json_path, report, prefix="defaults-")
    headings = ("seconds", "own loss", "loss", "highest", "checkerboard")
    print("\n" + common.row(("content", "style", "method"), headings, 13), flush=True)
    config = nst_jax.presets["default"].replace(size=None, first_size=None)
    params = nst_jax.load_params("vgg19")
    report |= {"summary": {}, "pairs": []}
    names = [*presets, *([OTHER] if other is not None else [])]
    checkouts = {"own": ROOT} | ({OTHER: other} if other is not None else {})
    rows = []
    with tempfile.TemporaryDirectory() as temporary, painters(checkouts) as painter:
        folder = Path(temporary)
        methods = {
            name: (painter[OTHER], "default") if name == OTHER else (painter["own"], name)
            for name in names
        }
        chosen = quality.pairs_of(
            quality.write_sized(contents, folder / "contents", size),
            quality.write_sized(styles, folder / "styles", size),
        )[:limit]
        for index, (content, style) in enumerate(chosen):
            pictures, figures = compare(
                *(content, style, methods),
                params=params,
                config=config,
                changes=changes,
                folder=folder,
                backwards=index % 2 == 1,
            )
            pair = {
                "content": content.name,
                "style": style.name,
                "content_checkerboard": checkerboard(content.pixels),
                "style_checkerboard": checkerboard(style.pixels),
                "methods": figures,
            }
            for method, found in figures.items():
                cells = [f"{found['seconds']:.1f}"]
                cells += [common.number(found[key]) for key in ("own_loss", "loss")]
                cells += [f"{found[key]:.2f}" for key in ("highest_over_first", "checkerboard")]
                print(common.row((content.name, style.name, method), cells, 13), flush=True)
            inputs = [f"{pair[f'{kind}_checkerboard']:.2f}" for kind in ("content", "style")]
            print(f"{'':<36}inputs: {', '.join(inputs)}", flush=True)
            report["pairs"].append(pair)
            report["summary"] = summary(report["pairs"], names)
            if json_path:
                common.write_json(json_path, report)
            rows.append([content.pixels, style.pixels, *pictures.values()])
            if output_dir:
                for method, picture in pictures.items():
                    name = f"{content.name}__{style.name}__{method}.png"
                    write_image(Path(output_dir, name), picture)
                sheet = common.grid(rows, ("content", "style", *names), size)
                write_image(Path(output_dir, "grid.png"), sheet)
    _print_summary(report)
    return report


def _print_summary(report: Mapping[str, Any]) -> None:
    first, *_ = report["summary"]
    print(f"\nOver {len(report['pairs'])} pairs: geometric means of ratios to {first}; the largest")
    headings = ("seconds", "loss", "checkerboard", "highest", "over style's")
    print(common.row(("method",), headings, 14))
    for method, found in report["summary"].items():
        keys = ("seconds_ratio", "loss_ratio", "checkerboard_ratio")
        keys += ("highest_over_first_largest", "checkerboard_over_style_largest")
        print(common.row((method,), (f"{found[key]:.3f}" for key in keys), 14))


FLAGS = {
    "presets": (
        define_list,
        ["default"],
        "Presets of this checkout; ratios are to the first one.",
    ),
    "other": (
        define_path,
        None,
        "Folder of another checkout, to paint with its default too.",
    ),
    "size": (common.pixels, 256, "Longer side of all pictures in pixels."),
    "steps": (common.positive, None, "Steps at each scale, in place of the presets' own."),
    **quality.INPUT_FLAGS,
    "extremes": (flags.DEFINE_boolean, False, "Flat, noisy and perfect pictures in their place."),
    "pairs": (common.positive, None, "Number of pairs after which to stop."),
    "output_dir": (define_path, None, "Folder for the pictures and their grid, grid.png."),
    "json": (define_path, None, "File or folder for the result as JSON."),
}


def main(options: flags.FlagValues) -> None:
    for name in options.presets:
        check_choice("--presets", name, nst_jax.presets)
    if not options.presets:
        raise ValueError("--presets must name at least one, got none")
    other = None if options.other is None else Path(options.other).resolve()
    if other is not None and not (other / "nst_jax" / "__init__.py").is_file():
        raise ValueError(f"--other must be a checkout of nst_jax, got {options.other}")
    if options.extremes and (options.contents or options.styles):
        raise ValueError("--extremes takes no --contents and no --styles")
    run(
        *([extremes(options.size)] * 2 if options.extremes else quality.inputs(options)),
        options.presets,
        other=other,
        size=options.size,
        steps=options.steps,
        limit=options.pairs,
        output_dir=options.output_dir,
        json_path=options.json,
    )


if __name__ == "__main__":
    common.run_command("defaults", FLAGS, main)
