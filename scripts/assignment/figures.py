"""The figures of the report, as JPEG files."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from assignment import experiments, findings
from assignment.experiments import CHANNELS, CLOSE, MODELS, PATHS_FROM, STYLES, Painted, Setting
from assignment.findings import METHODS
from nst_jax import vgg
from nst_jax.files.atomic import replacing
from nst_jax.files.images import resize, to_uint8, write_image

COLOURS = ("#1f5fa8", "#c4452f", "#2f8f5b", "#8a5bb3", "#c98a1b", "#5f6b76", "#2ba3a8")
Curve = tuple[Sequence[float], Sequence[float]]


class Runs(NamedTuple):
    """What the figures show.

    Attributes:
      reported, constant: the experiment by each network, and at a constant rate.
      methods: the same objective by other optimisers.
      effects: style losses with other rates, decays and seeds, `[variants, styles, steps]`.
      judged: the pictures of the comparison by each network, `[pairs, H, W, 3]`.
    """

    reported: dict[str, Painted]
    constant: dict[str, Painted]
    methods: dict[str, Painted]
    effects: dict[str, np.ndarray]
    judged: dict[str, np.ndarray]


def draw(folder: Path, setting: Setting, runs: Runs, results: Mapping[str, Any]) -> None:
    """Draws all figures into `folder`; their numbers are those of the report's text."""
    methods = {METHODS["report"]: runs.reported[CLOSE]}
    methods |= {METHODS[name]: painted for name, painted in runs.methods.items()}

    def file(number: int) -> Path:
        return folder / f"figure_{number:02d}.jpg"

    for n, (name, style) in enumerate(zip(STYLES, setting.styles, strict=True)):
        first = 4 + 4 * n
        pictures(file(first), [[setting.content, style]], columns=("content", name), cell=2.6)
        for number, model in enumerate(MODELS):
            picture(file(first + 1 + number), runs.reported[model].images[n])
        terms = {model.upper(): _terms(runs.reported[model], n) for model in MODELS}
        curves(file(first + 3), terms, y="weighted loss", dashed=("total",))
    products = {}
    for number, model in enumerate(MODELS):
        losses, gradients, constant = {}, {}, {}
        for n, style in enumerate(STYLES):
            run = f"{model.upper()}, {style}"
            rows = results["reported"][model]["styles"][n]["rows"]
            close = [row for row in rows if "gradients" in row]
            losses[run] = _by_layer(rows, [row["losses"] for row in rows])
            gradients[run] = _by_layer(close, [findings.gradient_shares(row) for row in close])
            products[run] = _steps(close), [row["rate"] * row["eigenvalue"] for row in close]
            steps = np.arange(1, setting.half + 1)
            totals = runs.reported[model].history["total"][: setting.half, n]
            constant[run] = {"as reported": (steps, totals)}
            if not runs.constant[model].lost[n]:
                totals = runs.constant[model].history["total"][:, n]
                constant[run]["at a constant rate"] = (steps, totals)
        curves(file(12 + number), losses, y="weighted loss", points=True)
        curves(file(15 + number), gradients, y="share of the gradients' norms", points=True)
        curves(file(17 + number), constant, y="weighted loss")
    curves(
        file(14),
        {"rate times largest eigenvalue": products},
        y="rate x eigenvalue",
        lines={"2: the edge of stability": findings.EDGE},
        points=True,
    )
    steps = np.arange(1, setting.short + 1)
    for number, (name, varied) in enumerate(runs.effects.items()):
        labels = [
            f"{name.removesuffix('s')} {value}" for value in results["effects"][name]["names"]
        ]
        panels = {
            style: {label: (steps, run[n]) for label, run in zip(labels, varied, strict=True)}
            for n, style in enumerate(STYLES)
        }
        curves(file(19 + number), panels, y="weighted style loss")
    gaps = {
        style: {
            f"{model.upper()}, {METHODS[method]}": {
                layer.partition("_")[0]: gap for layer, gap in own.items()
            }
            for model, by_method in by_model.items()
            for method, own in by_method.items()
        }
        for style, by_model in findings.gaps_left(results).items()
    }
    bars(file(22), gaps, y="distance left to the style's Gram matrix", lines={"at the start": 1.0})
    style_losses, paths = {}, {}
    for n, style in enumerate(STYLES):
        style_losses[style] = {name: _terms(run, n)["style"] for name, run in methods.items()}
        paths[style] = {
            name: tuple(run.history[kind][PATHS_FROM:, n] for kind in ("content", "style"))
            for name, run in methods.items()
        }
    curves(file(23), style_losses, y="weighted style loss")
    curves(file(24), paths, x="weighted content loss", y="weighted style loss")
    pictures(
        file(25),
        [
            [style, *(run.images[n] for run in methods.values())]
            for n, style in enumerate(setting.styles)
        ],
        columns=("style", *methods),
        names=list(STYLES),
    )
    columns = list(setting.judged_styles)
    rows = {"style": list(setting.judged_styles.values())}
    for n, content in enumerate(setting.judged_contents):
        for model in MODELS:
            own = runs.judged[model][n * len(columns) : (n + 1) * len(columns)]
            rows[f"{content}\n{model.upper()}"] = list(own)
    pictures(file(26), list(rows.values()), columns=columns, names=list(rows), cell=1.5)
    layers = tuple(f"block{block}_conv1" for block in range(1, 6))
    for number, model in enumerate(MODELS):
        params = experiments.params_of(model)
        maps = vgg.features(params, setting.content, layers=layers)
        pictures(
            file(27 + number),
            [list(np.moveaxis(np.asarray(maps[layer]), -1, 0)[:CHANNELS]) for layer in layers],
            columns=[f"channel {n + 1}" for n in range(CHANNELS)],
            names=[layer.partition("_")[0] for layer in layers],
            cell=1.1,
        )


def _terms(painted: Painted, n: int) -> dict[str, Curve]:
    """The terms over the steps; the content's from the second on: the start is the content."""
    steps = np.arange(1, len(painted.history["total"]) + 1)
    begin = {"style": 0, "content": 1, "total": 0}
    return {name: (steps[at:], painted.history[name][at:, n]) for name, at in begin.items()}


def _steps(rows) -> list[float]:
    """A logarithmic axis has step 0 at 0.7."""
    return [max(row["step"], 0.7) for row in rows]


def _by_layer(rows, values: Sequence[Mapping[str, float]]) -> dict[str, Curve]:
    """A curve for each layer."""
    return {layer: (_steps(rows), [value[layer] for value in values]) for layer in values[0]}


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _panels(number: int, height: float):
    figure = _figure(4.4 * number + 0.4, height)
    return figure, figure.subplots(1, number, sharey=True, squeeze=False)[0]


def _finish(path: Path, figure, axes, *, y: str, lines: Mapping[str, float]) -> None:
    """Named dotted lines at heights, and a legend below all panels, where no curve is."""
    for axis in axes:
        for name, height in lines.items():
            axis.axhline(height, color="0.25", linewidth=1, linestyle=":")
            axis.annotate(
                name, (0.01, height), xycoords=("axes fraction", "data"), fontsize=8, va="bottom"
            )
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(y, fontsize=9)
    handles, names = axes[0].get_legend_handles_labels()
    columns = min(len(names), 2 * len(axes))
    figure.legend(
        handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )
    _save(path, figure)


def _save(path: Path, figure) -> None:
    with replacing(path) as file:
        figure.savefig(file, format="jpeg", pil_kwargs={"quality": 88, "optimize": True})


def pictures(
    path: Path,
    rows: Sequence[Sequence[np.ndarray]],
    *,
    columns: Sequence[str],
    names: Sequence[str] = (),
    cell: float = 1.9,
) -> None:
    """A table of pictures `[H, W, 3]` or of single channels `[H, W]`, each on its own scale.

    Args:
      path: the file.
      rows: of pictures.
      columns: headings.
      names: of the rows, if they have any.
      cell: side of a picture, inches.
    """
    figure = _figure(cell * len(columns) + 0.3 * bool(names), cell * len(rows) + 0.3)
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for number, (row, line) in enumerate(zip(rows, panels, strict=True)):
        for column, (shown, panel) in enumerate(zip(row, line, strict=True)):
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(False)
            if number == 0:
                panel.set_title(columns[column], fontsize=9, parse_math=False)
            if column == 0 and names:
                panel.set_ylabel(names[number], fontsize=9, parse_math=False)
            if shown.ndim == 2:
                panel.imshow(shown, cmap="magma", interpolation="nearest")
            else:
                panel.imshow(to_uint8(np.asarray(shown)), interpolation="nearest")
    _save(path, figure)


def picture(path: Path, image: np.ndarray, *, side: int = 448) -> None:
    """One picture, enlarged to about `side` pixels if it is smaller."""
    times = max(1, round(side / max(image.shape[:2])))
    larger = resize(np.clip(image, 0, 1), *(times * length for length in image.shape[:2]))
    write_image(path, larger)


def curves(
    path: Path,
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    x: str = "step",
    y: str,
    lines: Mapping[str, float] | None = None,
    points: bool = False,
    dashed: Collection[str] = (),
) -> None:
    """Curves on logarithmic scales, one panel for each group, one colour for each name.

    Args:
      path: the file.
      panels: `{heading: {name: (x values, y values)}}`.
      x, y: labels of the axes.
      lines: heights of horizontal lines, by their names.
      points: mark each value.
      dashed: names of curves that are dashed above the others, so that these can be seen.
    """
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    figure, axes = _panels(len(panels), 3.5)
    for axis, (heading, group) in zip(axes, panels.items(), strict=True):
        for name, (across, values) in group.items():
            number = names.index(name)
            look = {"color": COLOURS[number % len(COLOURS)]}
            if points:
                look |= {"marker": "o", "markersize": 3}
            if name in dashed:
                look |= {"dashes": (4, 4), "zorder": 3, "color": "0.1"}
            values = np.asarray(values, np.float64)
            with np.errstate(invalid="ignore"):  # NaN is a gap; a logarithm takes no others
                values = np.where(np.isfinite(values) & (values > 0), values, np.nan)
            style = "-" if number < len(COLOURS) else "--"
            axis.plot(across, values, style, label=name, linewidth=1.3, **look)
        axis.set_title(heading, fontsize=10, parse_math=False)
        axis.set_yscale("log")
        axis.set_xscale("log")
        axis.set_xlabel(x, fontsize=9)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    _finish(path, figure, axes, y=y, lines=lines or {})


def bars(
    path: Path,
    panels: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    y: str,
    lines: Mapping[str, float],
) -> None:
    """Bars side by side, `{panel: {series: {category: height}}}`, with lines as in `curves`."""
    figure, axes = _panels(len(panels), 3.3)
    for axis, (heading, series) in zip(axes, panels.items(), strict=True):
        width = 0.8 / len(series)
        for number, (name, heights) in enumerate(series.items()):
            places = np.arange(len(heights)) + (number - (len(series) - 1) / 2) * width
            color = COLOURS[number % len(COLOURS)]
            axis.bar(places, list(heights.values()), width, label=name, color=color)
        axis.set_xticks(range(len(heights)), list(heights), fontsize=7)
        axis.set_title(heading, fontsize=10, parse_math=False)
        axis.tick_params(axis="y", labelsize=8)
    _finish(path, figure, axes, y=y, lines=lines)
