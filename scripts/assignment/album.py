"""The figures of the report in their order, and how the text names them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from assignment.document import Figure
from assignment.experiments import RATE, SIDE, Setting
from assignment.findings import short

FIRST_FIGURE = 4  # the report's first one of results


class Album:
    """The figures in their order, `figure_04.jpg` the first."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._count = FIRST_FIGURE

    def add(self, draw, *arguments, caption: str, **options) -> Figure:
        """Draws the next figure by a function of `figures`."""
        name = f"figure_{self._count:02d}.jpg"
        draw(self._folder / name, *arguments, **options)
        figure = Figure(name, f"Figure {self._count}. {caption}")
        self._count += 1
        return figure


def name_of(figure: Figure) -> str:
    return figure.caption.partition(".")[0]


def names_of(first: Figure, last: Figure) -> str:
    if first is last:
        return name_of(first)
    return f"Figures {name_of(first).split()[1]} to {name_of(last).split()[1]}"


def terms_of(history: Mapping[str, np.ndarray], n: int) -> dict[str, tuple]:
    """The terms over the steps; the content's from the second on, since the start is the content
    and what is left is rounding."""
    steps = np.arange(1, len(history["total"]) + 1)
    begin = {"style": 0, "content": 1, "total": 0}
    return {name: (steps[at:], history[name][at:, n]) for name, at in begin.items()}


def rate_text(setting: Setting, rate: float) -> str:
    """A rate as it acts here, and as the report would have it."""
    return f"{short(rate)} ({short(rate / setting.rate * RATE)} at {SIDE}x{SIDE})"
