"""Draws losses: as SVG for the report page, and as a file by matplotlib.

The SVG functions return markup, with labels escaped. The page's style sheet holds the colours: a
curve has the class "curve" and the class of its term.
"""

import html
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from nst_jax.cli.look.contact_sheet import check_labels, in_rows
from nst_jax.files.atomic import replacing
from nst_jax.files.paths import path_of

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 240, 50, 390, 10, 212


def positive(values: Iterable[float | None]) -> list[float]:
    """Returns the values that have a logarithm."""
    return [value for value in values if value is not None and value > 0]


def curves(
    steps: Sequence[float],
    terms: Mapping[str, Sequence[float | None]],
    *,
    label: str,
    output: int,
    last: int,
    low: float,
    high: float,
    marks: Iterable[int] = (),
) -> str:
    """Draws values over the steps on a logarithmic scale, as SVG.

    Args:
      steps: the step of each value.
      terms: `{name: values}`; the name is the class of the curve. A value that is None or not
        above zero leaves a gap.
      label: says in words what the chart shows, for readers who do not see it.
      output: index of the output, for the script that shows the values under the pointer.
      last: the step at which the horizontal axis ends.
      low: the value at the lower end of the vertical axis, above zero.
      high: the value at its upper end.
      marks: steps to mark by a vertical line.

    Returns:
      An `svg` element.
    """

    def across(step: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * step / last

    def down(value: float) -> float:
        share = math.log(value / low) / math.log(high / low)
        return _BOTTOM - (_BOTTOM - _TOP) * min(max(share, 0), 1)

    lines = []
    for value, name in _log_ticks(low, high):
        y = f"{down(value):.1f}"
        lines.append(f'<line class="grid-line" x1="{_LEFT}" x2="{_RIGHT}" y1="{y}" y2="{y}"/>')
        lines.append(f'<text x="{_LEFT - 8}" y="{y}" dy="4" text-anchor="end">{name}</text>')
    for step in _ticks(last):
        lines.append(
            f'<text x="{across(step):.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{step:,}</text>'
        )
    for step in marks:
        x = f"{across(step):.1f}"
        lines.append(f'<line class="scale" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_BOTTOM}"/>')
    for name, values in terms.items():
        points = [
            None if value is None or value <= 0 else (across(step), down(value))
            for step, value in zip(steps, values, strict=True)
        ]
        lines.append(f'<path class="curve {name}" d="{_path(points)}"/>')
    lines.append(f'<line class="cursor" y1="{_TOP}" y2="{_BOTTOM}"/>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(label)}" '
        f'data-output="{output}" data-left="{_LEFT}" data-right="{_RIGHT}" data-last="{last}">'
        f"{''.join(lines)}</svg>"
    )


def _path(points: Iterable[tuple[float, float] | None]) -> str:
    """Returns an SVG path through points, with a gap at each None. A single point is a dot."""
    commands, pen_is_up = [], True
    for point in points:
        if point is not None:
            commands.append(f"{'M' if pen_is_up else 'L'}{point[0]:.1f} {point[1]:.1f}")
            if pen_is_up:
                commands.append("h0")  # round line ends make a line of length 0 a dot
        pen_is_up = point is None
    return "".join(commands)


def _ticks(last: int, most: int = 5) -> list[int]:
    """Returns about `most` round numbers from 0 up to `last`."""
    rough = max(last / most, 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough)
    return list(range(0, last + 1, step))


def _log_ticks(low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Returns (value, name) of the ticks between `low` and `high`.

    They are powers of ten. If fewer than two lie there, other round numbers are used.
    """
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    if len(powers) >= 2:
        found = [10.0**power for power in powers[:: math.ceil(len(powers) / most)]]
    else:
        around = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [k * 10.0**power for power in around for k in (1, 2, 3, 5, 7)]
    return [(value, _round_number(value)) for value in found if low <= value <= high]


def spark(values: Sequence[float | None], *, kind: str) -> str:
    """Draws a small logarithmic curve without axes, as SVG.

    Args:
      values: at equal distances. A value that is None or not above zero leaves a gap.
      kind: class of the curve.

    Returns:
      An `svg` element.
    """
    logs = [math.log(v) if v is not None and v > 0 else None for v in values]
    found = [v for v in logs if v is not None]
    low, high = min(found, default=0), max(found, default=1)
    span, steps = (high - low) or 1, max(len(logs) - 1, 1)
    points = [
        None if v is None else (2 + 60 * index / steps, 17 - 14 * (v - low) / span)
        for index, v in enumerate(logs)
    ]
    return (
        '<svg class="spark" viewBox="0 0 64 20" aria-hidden="true">'
        f'<path class="curve {kind}" d="{_path(points)}"/></svg>'
    )


def number(value: float | None) -> str:
    """Returns three significant digits of a number, with an exponent only if that is shorter."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    if -3 <= power < 6:
        return f"{value:,.{max(0, 2 - power)}f}"
    return f"{value / 10.0**power:.2f}{_times(power)}"


def _round_number(value: float) -> str:
    """Returns a digit and a power of ten, for the axes."""
    power = math.floor(math.log10(value) + 1e-9)
    if -2 <= power < 4:
        return f"{value:,.{max(0, -power)}f}"
    digit = round(value / 10.0**power)
    return _times(power)[1:] if digit == 1 else f"{digit}{_times(power)}"


def _times(power: int) -> str:
    return "×10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


# Okabe and Ito's palette. Colour-blind readers can tell these colours apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def _check_history(history: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """Returns the arrays of `history` as float64, if their shapes are right."""
    arrays = {name: np.asarray(values, np.float64) for name, values in history.items()}
    if "total" not in arrays:
        raise ValueError(f'history must have a "total", got {sorted(arrays)}')
    shape = arrays["total"].shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"history['total'] must have shape [steps, N], got {list(shape)}")
    for name, values in arrays.items():
        if values.shape != shape:
            raise ValueError(
                f"history[{name!r}] must have the shape of the total, {list(shape)}, "
                f"got {list(values.shape)}"
            )
    return arrays


def loss_curves(
    path: str | os.PathLike[str],
    history: Mapping[str, ArrayLike],
    labels: Sequence[str],
    *,
    title: str | None = None,
) -> None:
    """Draws the loss and its terms over the steps, with a panel for each style.

    All panels share one logarithmic scale. Values that are not finite or not above zero leave a
    gap. A term that is zero at every step is not drawn.

    Args:
      path: the file to write. Its suffix gives the format: .png, .svg or .pdf. The file appears
        whole or not at all.
      history: `{name: [steps, N]}`: "total" and the weighted terms that sum to it.
      labels: N texts, the headings of the panels. Long ones are broken as by `contact_sheet`.
      title: text above all panels.

    Raises:
      ImportError: matplotlib (the extra `plots`) is not installed.
      ValueError: `history` has no "total", its arrays differ in shape, the number of labels is not
        N, or the file cannot be written.
    """
    path = path_of(path)
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise ImportError(f"{path.name} needs matplotlib: pip install matplotlib") from None

    arrays = _check_history(history)
    steps, count = arrays["total"].shape
    labels = check_labels("labels", labels, count)
    # matplotlib refuses what stands for a byte that is no UTF-8.
    labels = [label.encode("utf-8", "replace").decode() for label in labels]

    # Other values have no logarithm. matplotlib draws NaN as a gap.
    curves = {
        name: np.where(np.isfinite(values) & (values > 0), values, np.nan)
        for name, values in arrays.items()
    }
    terms = [name for name in curves if name != "total" and np.isfinite(curves[name]).any()]
    # The total is drawn first and wide, so that a term that equals it stays visible.
    looks: dict[str, dict[str, Any]] = {
        "total": {"color": "black", "linewidth": 3, "markersize": 10}
    }
    looks |= {name: {"color": _COLOURS[i % len(_COLOURS)]} for i, name in enumerate(terms)}

    columns = count if count <= 3 else math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    width, height = max(5, 3.4 * columns) + 0.9, 2.7 * rows + 0.5
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    x = np.arange(1, steps + 1)
    for i, (panel, label) in enumerate(zip(panels, labels, strict=False)):
        for name, look in looks.items():
            # A line does not show a single step, so it gets a marker.
            marker = "o" if steps == 1 else None
            text = name.replace("_", " ")
            panel.plot(x, curves[name][:, i], label=text, marker=marker, **look)
        panel.set_title("\n".join(in_rows(label, 36, len)), fontsize=10, parse_math=False)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelbottom=i + columns >= count)  # only if no panel is below
    for panel in panels[count:]:
        panel.remove()
    panels[0].set_xlim(0, steps * 1.03)
    panels[0].xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=True))
    positive = np.concatenate([values[np.isfinite(values)] for values in curves.values()])
    if positive.size:
        panels[0].set_yscale("log")
        # A content term that starts near zero would press every other curve against the top.
        low, high = max(positive.min(), positive.max() * 1e-4), positive.max()
        panels[0].set_ylim(low / 1.5, high * 1.5)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9
    )
    figure.supxlabel("step", fontsize=10)
    figure.supylabel("loss", fontsize=10)
    if title is not None:
        figure.suptitle(title, fontsize=12, parse_math=False)

    with replacing(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix("."))
