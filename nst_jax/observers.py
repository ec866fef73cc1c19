"""What observes a run: the protocol, and what runs of the command have, their progress and records.

An `Observer` is told of every group of outputs that is begun, of each dispatch of the optimisation,
and of the pictures that the group ends with. With several processes all of them observe, since it
takes all to bring a divided picture together.
"""

import contextlib
import functools
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from nst_jax import console, files, sharding
from nst_jax.console import say
from nst_jax.optimize import Progress
from nst_jax.stylize import Result


class Picture(NamedTuple):
    """A named picture, `[H, W, 3]` in [0, 1], and its transparency `[H, W]`, if it has any."""

    name: str
    image: np.ndarray
    alpha: np.ndarray | None = None


class Group(NamedTuple):
    """Outputs that are made together.

    Attributes:
      contents: their contents, each for as many outputs, one after the other.
      styles: to show for each output.
      labels, stems: of each output: what it is called, and its file without the extension.
      history: `{term: [step, N]}` of the steps before what follows, in a run that goes on.
      steps: of the whole run.
      attempt: the number of earlier attempts at the same outputs.
    """

    contents: Sequence[Picture]
    styles: Sequence[Picture]
    labels: Sequence[str]
    stems: Sequence[str]
    history: Mapping[str, np.ndarray] | None = None
    steps: int = 0
    attempt: int = 0

    @property
    def taken(self) -> int:
        """Steps of the history."""
        return 0 if self.history is None else len(self.history["total"])


Pictures = Callable[[], np.ndarray]
"""Gives the pictures `[N, H, W, 3]` in this process' memory; all processes have to call it."""


class Observer:
    """Does nothing: what a kind of observer leaves out. As a context manager it closes itself."""

    def __enter__(self):
        return self

    def __exit__(self, _, error, __):
        self.close(error)

    def begin(self, group: Group) -> None:
        """The outputs that what follows is of; the same ones again are another attempt."""

    def __call__(self, progress: Progress, pictures: Pictures | None = None) -> None:
        """A dispatch of the optimisation is done."""

    def window(self, done: int, total: int) -> None:
        """So many windows of a tiled step are done."""

    def pause(self) -> None:
        """The attempt is over, by an error or without."""

    def end(self, result: Result) -> list[pathlib.Path] | None:
        """The group is done, with a result whose pictures are in this process' memory; returns the
        files that are now whole. A run that goes on may be found to be over: then no dispatch came
        before, and what an earlier run has finished is left alone."""

    def close(self, error: BaseException | None) -> list[pathlib.Path] | None:
        """The run is over, by an error or without; returns the files that are now whole."""


class Observers:
    """Several of them as one, which is a callback of `stylize` and a context manager. They are told
    in their order, and closed in the opposite one; of each file that is whole it says so."""

    def __init__(self, observers: Sequence[Observer]):
        self._observers = observers

    def after(self, first: Observer) -> "Observers":
        """These, told of everything after `first`."""
        return Observers([first, *self._observers])

    def __enter__(self):
        return self

    def __exit__(self, _, error, __):
        with contextlib.ExitStack() as stack:  # each is closed, whatever becomes of the others
            for observer in self._observers:
                stack.push(
                    lambda _, later, __, close=observer.close: self._close(close, error or later)
                )

    def _close(self, close, error):
        # Of an error already there, that another file cannot be written is no news.
        with contextlib.suppress(OSError, ValueError) if error else contextlib.nullcontext():
            self._tell(close(error))

    def begin(self, group: Group) -> None:
        for observer in self._observers:
            observer.begin(group)

    def __call__(self, progress: Progress) -> None:
        pictures = functools.cache(lambda: sharding.whole(progress.images))
        for observer in self._observers:
            observer(progress, pictures)

    def window(self, done: int, total: int) -> None:
        for observer in self._observers:
            observer.window(done, total)

    def pause(self) -> None:
        for observer in self._observers:
            observer.pause()

    def end(self, result: Result) -> None:
        result = result._replace(images=np.asarray(result.images))
        for observer in self._observers:
            self._tell(observer.end(result))

    def _tell(self, paths):
        for path in paths or ():
            say(f"wrote {path}")


def logged(progress: Progress, every: int) -> Iterator[tuple[int, int]]:
    """(row of the terms, step) of the steps that are logged: the first, the last, each `every`."""
    return logged_rows(len(progress.terms["total"]), progress.step, progress.steps, every)


def logged_rows(taken: int, step: int, steps: int, every: int) -> Iterator[tuple[int, int]]:
    """As `logged`, of the rows of `taken` steps up to `step`."""
    for row, number in enumerate(range(step - taken + 1, step + 1)):
        if number == 1 or number % every == 0 or number == steps:
            yield row, number


class Records(Observer):
    """config.json and metrics.jsonl of a run, begun with its first step: what ends before, such
    as bad input, leaves those of an earlier run alone. A run that goes on and is found to be over
    writes what they lack.

    Attributes:
      earlier: lines that an earlier run has left.
    """

    def __init__(self, folder: pathlib.Path, described: Mapping, *, log_every: int = 10):
        self._folder, self._described, self._log_every = folder, described, log_every
        self._metrics = None
        self._kept: list[Mapping] = []
        self.earlier: list[Mapping] = []
        # None, or the end of one that was killed.
        with contextlib.suppress(OSError, ValueError, TypeError):
            for text in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
                line = dict(files.from_json(text))
                if not {"output", "step", "seconds"} <= line.keys():
                    break  # not ours
                self.earlier.append(line)

    def keep(self, lines: Sequence[Mapping]) -> None:
        """Takes over lines of an earlier run, to come before what is written from now on."""
        if self._metrics is None:
            self._kept += lines
        else:
            self.write(lines)

    def write(self, lines: Sequence[Mapping]) -> None:
        """Appends lines to metrics.jsonl."""
        path = self._folder / "metrics.jsonl"
        if self._metrics is None:
            with files.replacing(self._folder / "config.json") as file:
                file.write((json.dumps(self._described, indent=2) + "\n").encode())
            with files.replacing(path) as file:
                file.write(_jsonl(self._kept).encode())
        with files.writing(path):
            self._metrics = self._metrics or path.open("a", encoding="utf-8")
            self._metrics.write(_jsonl(lines))
            self._metrics.flush()

    def seconds(self) -> float:
        """Since the group was begun, by an earlier run if this one goes on."""
        return time.perf_counter() - self._start

    def begin(self, group: Group) -> None:
        self._group, self._start = group, time.perf_counter()
        if group.history is not None:
            lines = list(filter(self._is_earlier, self.earlier))
            times = [line["seconds"] for line in lines if line["seconds"] is not None]
            self._start -= times[-1] if times else 0.0
            self.keep([*lines, *self._lost(lines)])

    def __call__(self, progress: Progress, pictures: Pictures | None = None) -> None:
        rows = logged(progress, self._log_every)
        seconds = round(self.seconds(), 3)
        self.write(self._lines(progress.terms, rows, seconds, progress.kept_start))

    def close(self, error: BaseException | None) -> None:
        over = self._metrics is None and self._kept and error is None
        there = self._kept == self.earlier and (self._folder / "config.json").exists()
        if over and not there:
            self.write([])
        if self._metrics is not None:
            # What could not be written is tried again here: that it fails again is no news.
            quietly = contextlib.suppress(files.FileError if error else ())
            with quietly, files.writing(self._folder / "metrics.jsonl"):
                self._metrics.close()

    def _is_earlier(self, line: Mapping) -> bool:
        """Whether a line of the records is of these outputs, before this run goes on."""
        own = line["output"] in self._group.stems and line["step"] <= self._group.taken
        return own and line.get("attempt", 0) == self._group.attempt

    def _lost(self, lines: Sequence[Mapping]) -> list[Mapping]:
        """What an earlier run had not written when it was ended, or was deleted since; how long
        it took nobody knows."""
        found = {(line["step"], line["output"]) for line in lines}
        last = max((line["step"] for line in lines), default=0)
        done = self._group.taken
        rows = logged_rows(done, done, self._group.steps, self._log_every)
        rows = [(row, step) for row, step in rows if step >= last]
        made = self._lines(self._group.history, rows, None)
        return [line for line in made if (line["step"], line["output"]) not in found]

    def _lines(self, terms, rows, seconds, kept_start=None) -> list[Mapping]:
        """Lines of the records, of each of `rows`, (row of the terms, step)."""
        lines, group = [], self._group
        for row, step in rows:
            for index, (label, stem) in enumerate(zip(group.labels, group.stems, strict=True)):
                values = {name: float(v[row, index]) for name, v in terms.items()}
                # "style" is the picture's name, so the term goes by another.
                if "style" in values:
                    values["style_loss"] = values.pop("style")
                line = {"step": step, "style": label, "output": stem}
                if group.attempt:
                    line["attempt"] = group.attempt
                # JSON has no NaN.
                line |= {k: v if math.isfinite(v) else None for k, v in values.items()}
                line["seconds"] = seconds
                if kept_start is not None and kept_start[index]:
                    line["kept_start"] = int(kept_start[index])
                lines.append(line)
        return lines


def _jsonl(lines: Sequence[Mapping]) -> str:
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)


class Bars(Observer):
    """Progress bars on a terminal, none elsewhere: one over all of it and, in a tiled run, one over
    the windows of a step.
    """

    _bar = _windows = None

    def open(self, **options: Any) -> None:
        """Shows the bar over all of it."""
        if console.shows_progress():
            self._bar = tqdm(dynamic_ncols=True, **options)

    def window(self, done: int, total: int) -> None:
        if self._bar is None:
            return
        if self._windows is None:
            self._windows = tqdm(unit="window", dynamic_ncols=True, leave=False, position=1)
        if done == 1:
            self._windows.reset(total)
        self._windows.update()

    def close(self, error: BaseException | None) -> None:
        for bar in (self._windows, self._bar):
            if bar is not None:
                bar.close()
        self._bar = self._windows = None


class StepProgress(Bars):
    """Shows the steps of a run: a progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, seconds: Callable[[], float]):
        """`seconds` tells how long a group has taken."""
        self._seconds = seconds

    def begin(self, group: Group) -> None:
        self._labels = group.labels
        self.open(unit="step", initial=group.taken)

    def __call__(self, progress: Progress, pictures: Pictures | None = None) -> None:
        total = progress.terms["total"]
        before = progress.step - len(total)
        losses = ", ".join(
            f"{label} {loss:.4g}" for label, loss in zip(self._labels[:4], total[-1], strict=False)
        )
        losses += ", ..." if len(self._labels) > 4 else ""
        if self._bar is not None:
            self._bar.total = progress.steps
            self._bar.set_postfix_str(f"loss: {losses}", refresh=False)
            self._bar.update(len(total))
        elif before == 0 or progress.step * 10 // progress.steps > before * 10 // progress.steps:
            seconds = self._seconds()
            say(f"step {progress.step}/{progress.steps}, {seconds:.1f} s, loss: {losses}")

    def pause(self) -> None:
        self.close(None)


class PictureProgress(Bars):
    """Shows the pictures of a data set: progress bars on a terminal, a line a group elsewhere."""

    def __init__(self, total: int, done: int):
        self._total, self._first, self._done = total, done, done
        self._start = time.perf_counter()
        self.open(
            total=total,
            initial=done,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} pictures "
            "[{elapsed}<{remaining}{postfix}]",
            miniters=0,
            smoothing=0,  # what is left, by the same rate as is shown
        )

    def _rate(self) -> float:
        """Pictures a minute."""
        return 60 * (self._done - self._first) / (time.perf_counter() - self._start)

    def pass_over(self, pictures: int) -> None:
        """So many pictures are not to be made after all."""
        self._total -= pictures
        if self._bar is not None:
            self._bar.total = self._total

    def begin(self, group: Group) -> None:
        self._pictures = len(set(group.stems))  # a place left over repeats another

    def __call__(self, progress: Progress, pictures: Pictures | None = None) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"{self._rate():.3g} a minute, step {progress.step}/{progress.steps}",
                refresh=False,
            )
            self._bar.update(0)  # shows it, not more often than is good for a terminal

    def end(self, result: Result) -> None:
        self._done += self._pictures
        if self._bar is not None:
            self._bar.update(self._pictures)
            return
        rate = self._rate()
        say(
            f"{self._done}/{self._total} pictures, {rate:.3g} a minute, "
            f"{(self._total - self._done) / rate:.1f} minutes left"
        )
