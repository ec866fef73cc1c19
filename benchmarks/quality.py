"""How good are the pictures, and how soon are they done, compared with pastiche?

    python -m benchmarks.quality [--size=256] [--iterations=200] [--presets=default@pastiche,gatys]
        [--contents=FOLDER] [--styles=FOLDER] [--pairs=N] [--[no]pastiche]
        [--torch_threads=N] [--output_dir=FOLDER] [--json=PATH]

pastiche (`pip install pastiche==1.6.0`, on PyTorch) runs L-BFGS on the loss of Gatys et al. It
paints each pair of a content and a style, and so does each preset. Every second pair goes in
reverse order, so that a machine that slows down slows all alike. Without `--contents` the contents
are photographs of scikit-image (`pip install scikit-image`). Without `--styles` the styles are the
eight of `nst_jax.examples`.

Seconds need an idle machine. Other work slows PyTorch's threads far more than ours, because they
wait for each other. The load before the run is therefore written down.

A preset's name with `@pastiche` added, such as `default@pastiche`, means the optimisation of that
preset on pastiche's loss.

Both sides read the same PNG files, which have the final size, so that neither resizes. The columns
of the table:

loss     of the final picture by pastiche's own code, in floating point, neither rounded nor
         clipped; without pastiche, by our code for the same formula
8 bit    the same after rounding and clipping to what a picture file holds
VGG16    the same formula (our code) on the network that was not used for painting, in floating
         point
seconds  ours: a whole call of `stylize` with all programs compiled; pastiche: its calls of `draw`
set-up   seconds before that. Ours: a run of the fewest steps that compile everything. pastiche:
         its construction, which also reads its network, and one gradient
reached  seconds (as above, without set-up) until the running picture had pastiche's final loss, by
         the history of that loss; only for presets that minimise pastiche's formula
"""

import dataclasses
import functools
import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

import nst_jax
from benchmarks import common, reporting
from benchmarks.pastiche_side import Painted, Pastiche, Picture, import_pastiche
from nst_jax import examples, optimize
from nst_jax.cli.flag_types import define_list, define_path
from nst_jax.coarse_to_fine import fit
from nst_jax.config import Config
from nst_jax.files.images import read_image, to_uint8, write_image
from nst_jax.settings import check_choice

AGREEMENT = 1e-3  # relative, between our loss and pastiche's of one picture with one network

PASTICHE = "pastiche"
FORMULA = nst_jax.presets["gatys"]  # its loss is pastiche's
# Without --styles, in the order of the pairs.
STYLES = (
    "brush_strokes",
    "mosaic",
    "watercolour",
    "woodcut",
    "stained_glass",
    "hatching",
    "rainbow",
    "triangles",
)
_value = jax.jit(nst_jax.objective_value)


def paint(params: Mapping, content: Picture, style: Picture, config: Config) -> Painted:
    """Paints one content in one style with our code."""
    jax.clear_caches()  # each pair pays for its compilation
    start = time.perf_counter()
    few = config.replace(steps=_compiling_steps(config.steps))
    if config.first_steps is not None:
        few = few.replace(first_steps=_compiling_steps(config.first_steps))
    jax.block_until_ready(nst_jax.stylize(params, content.pixels, [style.pixels], few).images)
    setup = time.perf_counter() - start

    clock = {}
    start = time.perf_counter()

    def note(progress: optimize.Progress) -> None:
        clock[progress.step] = time.perf_counter() - start

    result = nst_jax.stylize(params, content.pixels, [style.pixels], config, callback=note)
    picture = np.asarray(result.images[0])
    seconds = time.perf_counter() - start
    painted = Painted(picture, seconds, setup, diverged=bool(result.diverged[0]))
    if not minimises_formula(config):
        return painted
    # The loss before step i belongs to the picture after i - 1 steps. A dispatch of many steps
    # returns its pictures at its end.
    ends = sorted(clock)
    taken = [next(clock[end] for end in ends if end > step) for step in range(ends[-1])]
    losses = result.history["total"][:, 0].tolist()
    curve = list(zip([0.0, *taken], losses, strict=False))
    return painted._replace(
        curve=curve[-config.steps :]
    )  # the losses of coarser scales do not compare


def minimises_formula(config: Config) -> bool:
    """Whether the loss that `config` minimises is pastiche's."""
    return config == _on_formula(config)


def _on_formula(config: Config) -> Config:
    """pastiche's loss with the optimisation of `config`."""
    own = config.network
    network = dataclasses.replace(FORMULA.network, dtype=own.dtype, precision=own.precision)
    return config.replace(terms=FORMULA.terms, network=network, color=FORMULA.color)


def _compiling_steps(steps: int) -> int:
    """The fewest steps that compile all programs of a run of `steps`."""
    chunk = optimize.steps_per_dispatch()
    whole, rest = divmod(steps, chunk)
    return chunk * bool(whole) + bool(rest)


def own_loss(params: Mapping, content: Picture, style: Picture, picture: np.ndarray) -> float:
    """Our loss of a picture by pastiche's formula, with any network."""
    # By default accelerators multiply float32 with fewer digits.
    with jax.default_matmul_precision("highest"):
        targets = nst_jax.compute_targets(params, content.pixels, [style.pixels], FORMULA)
        return float(_value(picture, params, targets, FORMULA)[0])


def compare(
    content: Picture,
    style: Picture,
    configs: Mapping[str, Config],
    *,
    networks: Mapping[str, Mapping],
    iterations: int,
    with_pastiche: bool,
    backwards: bool,
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]], dict[str, float]]:
    """Paints one pair by every method.

    Returns:
      The pictures and the figures by method; and the relative difference between our loss and
      pastiche's of pastiche's picture, with its weights (a check of the formula) and with ours.
    """
    methods = ([PASTICHE] if with_pastiche else []) + list(configs)
    painted = {}
    for method in reversed(methods) if backwards else methods:
        if method == PASTICHE:
            artist = Pastiche(content, style)
            painted[method] = artist.paint(iterations)
        else:
            painted[method] = paint(networks["vgg19"], content, style, configs[method])
    ours = functools.partial(own_loss, networks["vgg19"], content, style)
    loss = artist.loss if with_pastiche else ours
    figures = {}
    for method in methods:
        picture, seconds, setup, curve, diverged = painted[method]
        rounded = to_uint8(picture).astype(np.float32) / 255
        figures[method] = {
            "loss": loss(picture),
            "loss_8bit": loss(rounded),
            "loss_vgg16": own_loss(networks["vgg16"], content, style, picture),
            "seconds": seconds,
            "setup_seconds": setup,
            "diverged": diverged,
        }
        if not math.isfinite(sum(figures[method].values())):
            raise ValueError(f"{method}: {content.name} in {style.name} has no finite loss")
        if with_pastiche and curve:
            goal = figures[PASTICHE]["loss"]
            running = [*curve, (seconds, figures[method]["loss"])]
            figures[method]["reached_seconds"] = next(
                (moment for moment, value in running if value <= goal), None
            )
    apart = {}
    if with_pastiche:
        goal = figures[PASTICHE]["loss"]
        picture = painted[PASTICHE].picture
        same = own_loss(artist.params(), content, style, picture)
        apart = {
            "its_weights": abs(same - goal) / goal,
            "our_weights": abs(ours(picture) - goal) / goal,
        }
    return {method: painted[method].picture for method in methods}, figures, apart


def summary(pairs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means by method; with pastiche also ratios to it, as geometric means over pairs."""
    rows = [pair["methods"] for pair in pairs]
    found = {}
    for method in rows[0]:
        keys = ("loss", "loss_8bit", "loss_vgg16", "seconds", "setup_seconds")
        means = {f"mean_{key}": statistics.mean(row[method][key] for row in rows) for key in keys}
        found[method] = means
        if PASTICHE not in rows[0]:
            continue
        for key in keys[:-1]:
            ratios = [row[method][key] / row[PASTICHE][key] for row in rows]
            means[f"{key}_ratio"] = statistics.geometric_mean(ratios)
            means[f"{key}_ratio_largest"] = max(ratios)
        if "reached_seconds" in rows[0][method]:
            reached = [
                row[method]["reached_seconds"] / row[PASTICHE]["seconds"]
                for row in rows
                if row[method]["reached_seconds"] is not None
            ]
            means["reached"] = len(reached)
            means["reached_ratio_mean"] = statistics.mean(reached) if reached else None
            means["reached_ratio_largest"] = max(reached, default=None)
    return found


def write_sized(pictures: Mapping[str, np.ndarray], folder: Path, size: int) -> list[Picture]:
    """Brings pictures to the final size and writes the files that both sides read."""
    sized = []
    for name, pixels in pictures.items():
        path = folder / f"{name}.png"
        write_image(path, fit(pixels, Config(size=size)))
        sized.append(Picture(name, path, read_image(path)))
    return sized


def pairs_of(contents: Sequence, styles: Sequence) -> list[tuple]:
    """All pairs, in an order that shows many contents and styles early."""
    return [
        (content, styles[(index + shift) % len(styles)])
        for shift in range(len(styles))
        for index, content in enumerate(contents)
    ]


def configured(name: str, *, size: int, iterations: int, iterations_all: bool) -> Config:
    """A preset at the benchmark's size. A preset of several scales keeps its numbers of steps."""
    name, _, weights = name.partition("@")
    check_choice("presets", name, nst_jax.presets)
    check_choice("presets: the weights", weights or PASTICHE, (PASTICHE,))
    config = nst_jax.presets[name]
    if weights:
        config = _on_formula(config)
    if config.first_size is None:
        return config.replace(size=None, steps=iterations)  # the files are of the final size
    config = config.replace(size=size)
    return config.replace(steps=iterations, first_steps=None) if iterations_all else config


def run(
    contents: Mapping[str, np.ndarray],
    styles: Mapping[str, np.ndarray],
    configs: Mapping[str, Config],
    *,
    size: int,
    iterations: int,
    limit: int | None,
    with_pastiche: bool,
    output_dir: str | None,
    json_path: str | None,
) -> dict[str, Any]:
    """Paints all pairs and prints the tables.

    Returns:
      The printed numbers. They are written to JSON after each pair, because a run is long.
    """
    report = common.environment(packages=("pastiche", "torch") if with_pastiche else ())
    report |= {"size": size, "iterations": iterations}
    report["evaluator"] = PASTICHE if with_pastiche else "nst_jax"
    report["steps"] = {
        name: [config.first_steps or config.steps, config.steps]
        if config.first_size
        else config.steps
        for name, config in configs.items()
    }
    print(f"Quality at {size} pixels, {iterations} iterations; loss by {report['evaluator']}")
    common.print_environment(report)
    if with_pastiche:
        import torch
        from pastiche.pastiche import get_devices

        report["torch_threads"] = torch.get_num_threads()
        report["torch_device"] = "cuda" if "cuda" in get_devices() else "cpu"
        print(f"torch on {report['torch_device']}, {report['torch_threads']} threads")
    if json_path:
        json_path = reporting.device_file(json_path, report, prefix="quality-")
    names = ("loss", "8 bit", "VGG16", "seconds", "set-up", "reached")
    print("\n" + common.row(("content", "style", "method"), names), flush=True)
    report |= {"apart": {}, "summary": {}, "pairs": []}
    networks = {name: nst_jax.load_params(name) for name in ("vgg16", "vgg19")}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        chosen = pairs_of(
            write_sized(contents, Path(folder, "contents"), size),
            write_sized(styles, Path(folder, "styles"), size),
        )[:limit]
        for number, (content, style) in enumerate(chosen):
            pictures, figures, apart = compare(
                content,
                style,
                configs,
                networks=networks,
                iterations=iterations,
                with_pastiche=with_pastiche,
                backwards=number % 2 == 1,
            )
            for method, found in figures.items():
                print(common.row((content.name, style.name, method), _cells(found)), flush=True)
            report["pairs"].append(
                {"content": content.name, "style": style.name, "methods": figures}
            )
            report["summary"] = summary(report["pairs"])
            for weights, value in apart.items():
                report["apart"][weights] = max(value, report["apart"].get(weights, 0.0))
            if json_path:
                common.write_json(json_path, report)
            rows.append([content.pixels, style.pixels, *pictures.values()])
            if output_dir:
                for method, picture in pictures.items():
                    name = f"{content.name}__{style.name}__{method}.png"
                    write_image(Path(output_dir, name), picture)
                headings = ("content", "style", *pictures)
                write_image(Path(output_dir, "grid.jpg"), common.grid(rows, headings, size))
    _print_summary(report)
    return report


def _print_summary(report: Mapping[str, Any]) -> None:
    pairs = len(report["pairs"])
    print(f"\nMean over {pairs} pairs")
    print(common.row(("method",), ("loss", "8 bit", "VGG16", "seconds", "set-up")))
    for method, found in report["summary"].items():
        keys = ("loss", "loss_8bit", "loss_vgg16", "seconds", "setup_seconds")
        print(common.row((method,), (common.number(found[f"mean_{key}"]) for key in keys)))
    if not report["apart"]:
        return
    print("\nAgainst pastiche: geometric mean of the ratios (largest)")
    print(common.row(("method",), ("loss", "8 bit", "VGG16", "seconds", "reached after"), 18))
    for method, found in report["summary"].items():
        cells = [
            f"{found[f'{key}_ratio']:.3f} ({found[f'{key}_ratio_largest']:.3f})"
            for key in ("loss", "loss_8bit", "loss_vgg16", "seconds")
        ]
        print(common.row((method,), (*cells, _reached(found)), 18) + _in(found, pairs))
    print("reached after: share of pastiche's seconds, mean of the pairs that reached its loss")
    print(
        f"\nOur loss of pastiche's pictures differs from pastiche's by at most "
        f"{report['apart']['its_weights']:.1e} with its weights, "
        f"{report['apart']['our_weights']:.1e} with ours"
    )


def _reached(found: Mapping[str, Any]) -> str:
    if not found.get("reached"):
        return "-"
    return f"{found['reached_ratio_mean']:.3f} ({found['reached_ratio_largest']:.3f})"


def _in(found: Mapping[str, Any], pairs: int) -> str:
    return f"  in {found['reached']} of {pairs}" if "reached" in found else ""


def _cells(found: Mapping[str, Any]) -> list[str]:
    cells = [common.number(found[key]) for key in ("loss", "loss_8bit", "loss_vgg16")]
    cells += [f"{found[key]:.1f}" for key in ("seconds", "setup_seconds")]
    reached = found.get("reached_seconds", math.nan)
    if reached is None:
        cells.append("never")
    else:
        cells.append("-" if math.isnan(reached) else f"{reached:.1f}")
    return [*cells, "  diverged"] if found["diverged"] else cells


INPUT_FLAGS = {
    "contents": (define_path, None, "Folder of content pictures."),
    "styles": (define_path, None, "Folder of style pictures."),
}
FLAGS = {
    "size": (common.pixels, 256, "Longer side of all pictures in pixels."),
    "iterations": (common.positive, 200, "Steps of pastiche and of ours."),
    "iterations_all": (flags.DEFINE_boolean, False, "Take them at each of several scales too."),
    "presets": (define_list, ["default@pastiche", "gatys"], "Presets of ours, by name."),
    "pastiche": (flags.DEFINE_boolean, True, "Paint with pastiche too, if it is installed."),
    "torch_threads": (common.positive, None, "Threads of pastiche; by default PyTorch's choice."),
    **INPUT_FLAGS,
    "pairs": (common.positive, None, "Number of pairs after which to stop."),
    "output_dir": (define_path, None, "Folder for the pictures and their grid, grid.jpg."),
    "json": (define_path, None, "File or folder for the result as JSON."),
}


def inputs(options: flags.FlagValues) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The contents and the styles by name, from the flags' folders or built in."""
    contents = common.read_folder(options.contents) if options.contents else None
    styles = common.read_folder(options.styles) if options.styles else None
    return (
        contents or common.photographs(),
        styles or {name: examples.by_name[name](options.size) for name in STYLES},
    )


def main(options: flags.FlagValues) -> None:
    configs = {
        name: configured(
            name,
            size=options.size,
            iterations=options.iterations,
            iterations_all=options.iterations_all,
        )
        for name in options.presets
    }
    report = run(
        *inputs(options),
        configs,
        size=options.size,
        iterations=options.iterations,
        limit=options.pairs,
        with_pastiche=options.pastiche and import_pastiche(options.torch_threads),
        output_dir=options.output_dir,
        json_path=options.json,
    )
    apart = report["apart"].get("its_weights", 0.0)
    if apart > AGREEMENT:
        raise ValueError(
            f"our loss of one of pastiche's pictures is {apart:.1e} from pastiche's, more "
            f"than {AGREEMENT:g}: the two are not of one formula"
        )


if __name__ == "__main__":
    common.run_command("quality", FLAGS, main)
