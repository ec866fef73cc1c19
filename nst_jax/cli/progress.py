"""Progress on the terminal: bars, or plain lines where stderr is not a terminal."""

import os
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from nst_jax.cli import speeds
from nst_jax.cli.console import STDERR, escaped, say, shows_progress
from nst_jax.cli.look.observers import Group, Observer, Pictures
from nst_jax.coarse_to_fine import Result
from nst_jax.optimize import Progress, all_held


def _width() -> dict[str, Any]:
    """tqdm's options for the width: the terminal's own, or 80 columns if it does not tell."""
    try:
        known = os.get_terminal_size(STDERR.fileno()).columns > 0
    except (OSError, ValueError):
        known = True  # no terminal; tqdm knows what to do
    return {"dynamic_ncols": True} if known else {"ncols": 80}


class Bars(Observer):
    """Draws progress bars on a terminal, and nothing elsewhere.

    One bar covers the whole run. A tiled run has a second bar over the windows of a step.
    """

    _bar: tqdm | None = None
    _windows: tqdm | None = None

    def open(self, **options: Any) -> None:
        """Draws the bar of the whole run, with these options of tqdm."""
        if shows_progress():
            self._bar = tqdm(file=STDERR, **_width(), **options)

    def window(self, done: int, total: int) -> None:
        if self._bar is None:
            return
        if self._windows is None:
            self._windows = tqdm(file=STDERR, unit="window", leave=False, position=1, **_width())
        if done == 1:
            self._windows.reset(total)
        self._windows.update()

    def close(self, error: BaseException | None) -> None:
        for bar in (self._windows, self._bar):
            if bar is not None:
                bar.close()
        self._bar = self._windows = None


ENOUGH = 5
"""So many measured dispatches say how long the next run will take."""


class Pace(Observer):
    """Measures how long steps take for a pixel, by the dispatches that compiled nothing.

    Time counts pixels, because steps of a later scale take longer. At the end of a group, the pace
    is kept for later runs.
    """

    def __init__(self, kind: str = ""):
        """Takes the kind of the program, see `speeds.kind_of`; "" keeps nothing."""
        self._kind = kind

    def begin(self, group: Group) -> None:
        self._pixels = np.asarray(group.pixels, float)
        self._outputs = len(group.stems)
        # The dispatch that begins a scale compiles, and so does the one that ends it.
        ends = (np.flatnonzero(np.diff(self._pixels)) + 1).tolist()
        self.begins, self._ends = {group.taken, *ends}, {*ends, len(self._pixels)}
        self._now, self._measured, self._dispatches = time.perf_counter(), np.zeros(2), 0

    def __call__(self, progress: Progress, pictures: Pictures | None = None) -> None:
        before, now = progress.step - len(progress.terms["total"]), time.perf_counter()
        # Once all pictures have settled, a dispatch counts steps that nobody took.
        self.settled = progress.states is not None and all_held(progress.states)
        if before not in self.begins and progress.step not in self._ends and not self.settled:
            self._dispatches += 1
            self._measured += now - self._now, self._pixels[before : progress.step].sum()
        self._now = now

    def left(self, step: int) -> float | None:
        """Seconds that the steps after this one will take; None if nothing is measured yet."""
        seconds, pixels = self._measured
        return seconds / pixels * self._pixels[step:].sum() if pixels else None

    def end(self, result: Result) -> None:
        seconds, pixels = self._measured
        if self._kind and self._dispatches >= ENOUGH:
            speeds.remember(self._kind, seconds / pixels / self._outputs)


class StepProgress(Bars):
    """Shows the steps of a run: a progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, seconds: Callable[[], float], pace: Pace):
        """Takes the observer that comes before this one, and how long the group has taken."""
        self._seconds, self._pace = seconds, pace

    def begin(self, group: Group) -> None:
        self._labels = group.labels
        self.open(
            total=group.steps,
            initial=group.taken,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} steps [{elapsed}{postfix}]",
        )
        if self._bar is not None:
            self._bar.set_postfix_str("compiling")
        elif group.taken < group.steps:
            say("compiling")

    def __call__(self, progress: Progress, pictures: Pictures | None = None) -> None:
        total = progress.terms["total"]
        before = progress.step - len(total)
        losses = ", ".join(
            f"{label} {loss:.4g}" for label, loss in zip(self._labels[:4], total[-1], strict=False)
        )
        losses += ", ..." if len(self._labels) > 4 else ""
        seconds = self._pace.left(progress.step)
        left = f"about {spoken(seconds)} left, " if seconds else ""
        if self._bar is not None:
            state = "compiling, " if progress.step in self._pace.begins else ""
            state += "settled, " if self._pace.settled else ""
            text = f"{state}{left}loss: {escaped(losses)}"
            self._bar.total = progress.steps
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(len(total))
        elif before == 0 or progress.step * 10 // progress.steps > before * 10 // progress.steps:
            seconds = self._seconds()
            left += "settled, " if self._pace.settled else ""
            say(f"step {progress.step}/{progress.steps}, {seconds:.1f} s, {left}loss: {losses}")

    def pause(self) -> None:
        self.close(None)


def spoken(seconds: float) -> str:
    """A time in the unit that suits an estimate."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{int(seconds < 10 * size)}f} {unit}"
    return f"{seconds:.0f} s"


class PictureProgress(Bars):
    """Shows the pictures of a data set, or the frames of a sequence.

    On a terminal it is a bar, elsewhere a line for each batch or frame.
    """

    def __init__(self, total: int, done: int, *, unit: Literal["pictures", "frames"] = "pictures"):
        """Shows `total` pictures or frames, of which `done` are finished already."""
        self._total, self._first, self._done = total, done, done
        self._unit = unit
        self._start = time.perf_counter()
        self.open(
            total=total,
            initial=done,
            bar_format=f"{{l_bar}}{{bar}}| {{n_fmt}}/{{total_fmt}} {unit} "
            "[{elapsed}<{remaining}{postfix}]",
            miniters=0,
            smoothing=0,  # the time left follows from the rate that is shown
        )

    def _rate(self) -> float:
        """Pictures or frames per minute."""
        return 60 * (self._done - self._first) / (time.perf_counter() - self._start)

    def pass_over(self, pictures: int) -> None:
        """Takes this number of pictures off the total, because they will not be made."""
        self._total -= pictures
        if self._bar is not None:
            self._bar.total = self._total

    def begin(self, group: Group) -> None:
        # Empty places of a batch repeat a picture. All outputs of a frame are one frame.
        self._pictures = 1 if self._unit == "frames" else len(set(group.stems))

    def __call__(self, progress: Progress, pictures: Pictures | None = None) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"{self._rate():.3g} a minute, step {progress.step}/{progress.steps}",
                refresh=False,
            )
            self._bar.update(0)  # redraws the bar, at tqdm's own rate

    def end(self, result: Result) -> None:
        self._done += self._pictures
        if self._bar is not None:
            self._bar.update(self._pictures)
            return
        rate = self._rate()
        say(
            f"{self._done}/{self._total} {self._unit}, {rate:.3g} a minute, "
            f"{(self._total - self._done) / rate:.1f} minutes left"
        )
