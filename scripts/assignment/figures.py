"""Pictures and curves, as JPEG files."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from nst_jax.files.atomic import replacing
from nst_jax.files.images import resize, to_uint8, write_image

COLOURS = ("#1f5fa8", "#c4452f", "#2f8f5b", "#8a5bb3", "#c98a1b", "#5f6b76", "#2ba3a8")


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _legend(figure, axes) -> None:
    """Below all panels, where no curve is."""
    lines, names = axes[0].get_legend_handles_labels()
    columns = min(len(names), 2 * len(axes))
    figure.legend(
        lines, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )


def _lines(axis, lines: Mapping[str, float]) -> None:
    """Dotted, at heights, with their names."""
    for name, height in lines.items():
        axis.axhline(height, color="0.25", linewidth=1, linestyle=":")
        axis.annotate(
            name, (0.01, height), xycoords=("axes fraction", "data"), fontsize=8, va="bottom"
        )


def _save(path: Path, figure) -> None:
    with replacing(path) as file:
        figure.savefig(file, format="jpeg", pil_kwargs={"quality": 88, "optimize": True})


def _positive(values) -> np.ndarray:
    """A logarithm has no place for the others; NaN is matplotlib's gap."""
    values = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def pictures(
    path: Path,
    rows: Sequence[Sequence[np.ndarray | None]],
    *,
    columns: Sequence[str],
    names: Sequence[str] = (),
    cell: float = 1.9,
) -> None:
    """A table of pictures `[H, W, 3]` or of single channels `[H, W]`, each on its own scale.

    Args:
      path: the file.
      rows: of pictures; None leaves a place free.
      columns: headings.
      names: of the rows, if they have any.
      cell: side of a picture, inches.
    """
    figure = _figure(cell * len(columns) + 0.3 * bool(names), cell * len(rows) + 0.3)
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for number, (row, line) in enumerate(zip(rows, panels, strict=True)):
        for column, (picture, panel) in enumerate(zip(row, line, strict=True)):
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(False)
            if number == 0:
                panel.set_title(columns[column], fontsize=9, parse_math=False)
            if column == 0 and names:
                panel.set_ylabel(names[number], fontsize=9, parse_math=False)
            if picture is None:
                continue
            if picture.ndim == 2:
                panel.imshow(picture, cmap="magma", interpolation="nearest")
            else:
                panel.imshow(to_uint8(np.asarray(picture)), interpolation="nearest")
    _save(path, figure)


def picture(path: Path, image: np.ndarray, *, side: int = 448) -> None:
    """One picture, enlarged to about `side` pixels if it is smaller."""
    times = max(1, round(side / max(image.shape[:2])))
    larger = resize(np.clip(image, 0, 1), *(times * length for length in image.shape[:2]))
    write_image(path, larger)


def curves(
    path: Path,
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    *,
    x: str = "step",
    y: str,
    lines: Mapping[str, float] | None = None,
    points: bool = False,
    dashed: Collection[str] = (),
) -> None:
    """Curves on logarithmic scales, a panel each group, the same colour for the same name.

    Args:
      path: the file.
      panels: `{heading: {name: (x values, y values)}}`.
      x, y: labels of the axes.
      lines: heights of horizontal lines, by their names.
      points: mark each value.
      dashed: names of curves that are drawn above others and let them be seen.
    """
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    figure = _figure(4.4 * len(panels) + 0.4, 3.5)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (heading, group) in zip(axes, panels.items(), strict=True):
        for name, (across, values) in group.items():
            color = COLOURS[names.index(name) % len(COLOURS)]
            look = {"marker": "o", "markersize": 3} if points else {}
            style = "-" if names.index(name) < len(COLOURS) else "--"
            if name in dashed:
                look |= {"dashes": (4, 4), "zorder": 3}
                color = "0.1"
            values = _positive(values)
            axis.plot(across, values, style, label=name, color=color, linewidth=1.3, **look)
        _lines(axis, lines or {})
        axis.set_title(heading, fontsize=10, parse_math=False)
        axis.set_yscale("log")
        axis.set_xscale("log")
        axis.set_xlabel(x, fontsize=9)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    axes[0].set_ylabel(y, fontsize=9)
    _legend(figure, axes)
    _save(path, figure)


def bars(
    path: Path,
    panels: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    y: str,
    lines: Mapping[str, float],
) -> None:
    """Bars side by side, `{panel: {series: {category: height}}}`, with lines as of `curves`."""
    figure = _figure(4.4 * len(panels) + 0.4, 3.3)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (heading, series) in zip(axes, panels.items(), strict=True):
        width = 0.8 / len(series)
        for number, (name, heights) in enumerate(series.items()):
            places = np.arange(len(heights)) + (number - (len(series) - 1) / 2) * width
            color = COLOURS[number % len(COLOURS)]
            axis.bar(places, list(heights.values()), width, label=name, color=color)
        _lines(axis, lines)
        axis.set_xticks(range(len(heights)), list(heights), fontsize=7)
        axis.set_title(heading, fontsize=10, parse_math=False)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="y", labelsize=8)
    axes[0].set_ylabel(y, fontsize=9)
    _legend(figure, axes)
    _save(path, figure)
