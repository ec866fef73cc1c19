"""Following a job of the command line: its progress on the terminal, and its records."""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from tqdm import tqdm

from nst_jax import console, files, observers
from nst_jax.console import say
from nst_jax.optimize import Progress
from nst_jax.results import Output


class Records:
    """config.json and metrics.jsonl of a run, begun with its first step: what ends before, such
    as bad input, leaves those of an earlier run alone. A run that goes on and is found to be over
    writes what they lack.
    """

    def __init__(self, folder: pathlib.Path, described: Mapping):
        self._folder, self._described = folder, described
        self._metrics = None
        self._kept: list[Mapping] = []
        self._earlier: list[Mapping] = []
        # None, or the end of one that was killed.
        with contextlib.suppress(OSError, ValueError, TypeError):
            for text in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
                line = dict(files.from_json(text))
                if not {"output", "step", "seconds"} <= line.keys():
                    break  # not ours
                self._earlier.append(line)

    def earlier(self, wanted: Callable[[Mapping], bool]) -> list[Mapping]:
        """The lines of an earlier run that are `wanted`."""
        return [line for line in self._earlier if wanted(line)]

    def keep(self, lines: Sequence[Mapping]) -> None:
        """Takes over lines of an earlier run, to come before what is written from now on."""
        if self._metrics is None:
            self._kept += lines
        else:
            self.write(lines)

    def __enter__(self):
        return self

    def __exit__(self, _, error, __):
        over = self._metrics is None and self._kept and error is None
        there = self._kept == self._earlier and (self._folder / "config.json").exists()
        if over and not there:
            self.write([])
        if self._metrics is not None:
            # What could not be written is tried again here: that it fails again is no news.
            quietly = contextlib.suppress(files.FileError if error else ())
            with quietly, files.writing(self._folder / "metrics.jsonl"):
                self._metrics.close()

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


def _jsonl(lines: Sequence[Mapping]) -> str:
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)


class Bars:
    """Progress bars on a terminal, none elsewhere: one over all of it and, in a tiled run, one over
    the windows of a step.
    """

    def __init__(self, **options):
        self._bar = self._windows = None
        if console.shows_progress():
            self._bar = tqdm(dynamic_ncols=True, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for bar in (self._windows, self._bar):
            if bar is not None:
                bar.close()

    def window(self, done: int, total: int) -> None:
        """Follows the windows of a tiled step."""
        if self._bar is None:
            return
        if self._windows is None:
            self._windows = tqdm(unit="window", dynamic_ncols=True, leave=False, position=1)
        if done == 1:
            self._windows.reset(total)
        self._windows.update()


class Latest:
    """Follows a run for when something fails.

    Attributes:
      images: `[N, H, W, 3]` after the last step, in host memory; None before the first one, and
        in a run of several processes.
    """

    images: np.ndarray | None = None

    def __call__(self, progress: Progress) -> None:
        if jax.process_count() == 1:
            self.images = np.array(progress.images)


class Monitor(Bars):
    """Follows a run: a progress bar on a terminal, plain lines elsewhere, and the records."""

    def __init__(
        self,
        records: Records,
        outputs: Sequence[Output],
        log_every: int,
        *,
        steps: int,
        attempt: int = 0,
        history: Mapping[str, np.ndarray] | None = None,
    ):
        """Args:
        records: where the losses go.
        outputs: what is painted.
        log_every: steps between lines of the records.
        steps: of the whole run.
        attempt: the number of earlier ones of the same outputs.
        history: `{term: [step, N]}` of an earlier run, whose lines stay.
        """
        self._records, self._outputs, self._log_every = records, outputs, log_every
        self._attempt = attempt
        self._resumed = 0 if history is None else len(history["total"])
        self._start = time.perf_counter()
        if history is not None:
            lines = records.earlier(self._is_earlier)
            times = [line["seconds"] for line in lines if line["seconds"] is not None]
            self._start -= times[-1] if times else 0.0
            records.keep([*lines, *self._lost(lines, history, steps)])
        super().__init__(unit="step", initial=self._resumed)

    def _is_earlier(self, line: Mapping) -> bool:
        """Whether a line of the records is of these outputs, before this run goes on."""
        own = line["output"] in [output.stem for output in self._outputs]
        return own and line.get("attempt", 0) == self._attempt and line["step"] <= self._resumed

    def _lost(self, lines, history, steps) -> list[Mapping]:
        """What an earlier run had not written when it was ended, or was deleted since; how long
        it took nobody knows."""
        found = {(line["step"], line["output"]) for line in lines}
        last = max((line["step"] for line in lines), default=0)
        done = self._resumed
        rows = observers.logged_rows(done, done, steps, self._log_every)
        made = self._lines(history, [(row, step) for row, step in rows if step >= last], None)
        return [line for line in made if (line["step"], line["output"]) not in found]

    def _lines(self, terms, rows, seconds, kept_start=None) -> list[Mapping]:
        """Lines of the records, of each of `rows`, (row of the terms, step)."""
        lines = []
        for row, step in rows:
            for index, output in enumerate(self._outputs):
                values = {name: float(v[row, index]) for name, v in terms.items()}
                # "style" is the picture's name, so the term goes by another.
                if "style" in values:
                    values["style_loss"] = values.pop("style")
                line = {"step": step, "style": output.label, "output": output.stem}
                if self._attempt:
                    line["attempt"] = self._attempt
                # JSON has no NaN.
                line |= {k: v if math.isfinite(v) else None for k, v in values.items()}
                line["seconds"] = seconds
                if kept_start is not None and kept_start[index]:
                    line["kept_start"] = int(kept_start[index])
                lines.append(line)
        return lines

    def __call__(self, progress: Progress) -> None:
        seconds = time.perf_counter() - self._start
        total = progress.terms["total"]
        first = progress.step - len(total) + 1
        rows = observers.logged(progress, self._log_every)
        kept_start = progress.kept_start
        self._records.write(self._lines(progress.terms, rows, round(seconds, 3), kept_start))
        losses = ", ".join(
            f"{output.label} {loss:.4g}"
            for output, loss in zip(self._outputs[:4], total[-1], strict=False)
        )
        losses += ", ..." if len(self._outputs) > 4 else ""
        if self._bar is not None:
            self._bar.total = progress.steps
            self._bar.set_postfix_str(f"loss: {losses}", refresh=False)
            self._bar.update(len(total))
        elif (
            first == 1 or progress.step * 10 // progress.steps > (first - 1) * 10 // progress.steps
        ):
            say(f"step {progress.step}/{progress.steps}, {seconds:.1f} s, loss: {losses}")
