"""Curves as SVG, in strings, and numbers as people write them; pure functions of what they show.

Colours are left to the style sheet: a curve is of the class "curve" and of that of its term.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 240, 50, 390, 10, 212


def positive(values: Iterable[float | None]) -> list[float]:
    """Those that have a logarithm."""
    return [value for value in values if value is not None and value > 0]


def curves(
    steps: Sequence[int],
    terms: Mapping[str, Sequence[float | None]],
    *,
    label: str,
    output: int,
    last: int,
    low: float,
    high: float,
    marks: Iterable[int] = (),
) -> str:
    """Values over the steps on a logarithmic scale, as SVG.

    Args:
      steps: of the values.
      terms: `{name: values}`; the name is the class of the curve. What is None or not above zero
        leaves a gap.
      label: says in words what is shown.
      output: number of the output, for the script that shows the values under the pointer.
      last: step at which the axis ends.
      low, high: values at the ends of the other axis.
      marks: steps to mark by a line.
    """

    def across(step):
        return _LEFT + (_RIGHT - _LEFT) * step / last

    def down(value):
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
    """A line through points, with a gap at each None; a point alone is a dot."""
    commands, pen_is_up = [], True
    for point in points:
        if point is not None:
            commands.append(f"{'M' if pen_is_up else 'L'}{point[0]:.1f} {point[1]:.1f}")
            if pen_is_up:
                commands.append("h0")  # drawn with round ends
        pen_is_up = point is None
    return "".join(commands)


def _ticks(last: int, most: int = 5) -> list[int]:
    """Round numbers from 0 up to `last`."""
    rough = max(last / most, 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough)
    return list(range(0, last + 1, step))


def _log_ticks(low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Values between `low` and `high`, powers of ten where there are two, with their names."""
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    if len(powers) >= 2:
        found = [10.0**power for power in powers[:: math.ceil(len(powers) / most)]]
    else:
        around = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [k * 10.0**power for power in around for k in (1, 2, 3, 5, 7)]
    return [(value, _round_number(value)) for value in found if low <= value <= high]


def spark(values: Sequence[float | None], *, kind: str) -> str:
    """A small curve of the class `kind`, logarithmic, without axes."""
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
    """Three significant digits, without an exponent where that stays short."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    if -3 <= power < 6:
        return f"{value:,.{max(0, 2 - power)}f}"
    return f"{value / 10.0**power:.2f}{_times(power)}"


def _round_number(value: float) -> str:
    """A digit and a power of ten, for the axes."""
    power = math.floor(math.log10(value) + 1e-9)
    if -2 <= power < 4:
        return f"{value:,.{max(0, -power)}f}"
    digit = round(value / 10.0**power)
    return _times(power)[1:] if digit == 1 else f"{digit}{_times(power)}"


def _times(power: int) -> str:
    return "×10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
