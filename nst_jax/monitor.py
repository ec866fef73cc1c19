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
    as bad input, leaves those of an earlier run alone.
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

    def keep(self, wanted: Callable[[Mapping], bool]) -> float:
        """Takes over the lines of an earlier run that are `wanted`; the seconds of the last one."""
        found = [line for line in self._earlier if wanted(line)]
        if self._metrics is None:
            self._kept += found
        else:
            self.write(found)
        return found[-1]["seconds"] if found else 0.0

    def __enter__(self):
        return self

    def __exit__(self, _, error, __):
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


class Monitor(Bars):
    """Follows a run: a progress bar on a terminal, plain lines elsewhere, and the records.

    Attributes:
      pictures: `[N, H, W, 3]` after the last step, in host memory, for when the next one runs out
        of memory; of one process.
    """

    def __init__(
        self,
        records: Records,
        outputs: Sequence[Output],
        log_every: int,
        *,
        attempt: int = 0,
        resumed: int = 0,
    ):
        """Args:
        records: where the losses go.
        outputs: what is painted.
        log_every: steps between lines of the records.
        attempt: the number of earlier ones of the same outputs.
        resumed: the step that an earlier run got to, whose lines stay.
        """
        self._records, self._outputs, self._log_every = records, outputs, log_every
        self._attempt, self._resumed = attempt, resumed
        self._start = time.perf_counter()
        if resumed:
            self._start -= records.keep(self._is_earlier)
        self.pictures = None
        super().__init__(unit="step", initial=resumed)

    def _is_earlier(self, line: Mapping) -> bool:
        """Whether a line of the records is of these outputs, before this run goes on."""
        own = line["output"] in [output.stem for output in self._outputs]
        return own and line.get("attempt", 0) == self._attempt and line["step"] <= self._resumed

    def __call__(self, progress: Progress) -> None:
        seconds = time.perf_counter() - self._start
        if jax.process_count() == 1:
            self.pictures = np.array(progress.images)
        total = progress.terms["total"]
        first = progress.step - len(total) + 1
        lines = []
        for row, step in observers.logged(progress, self._log_every):
            for index, output in enumerate(self._outputs):
                terms = {name: float(v[row, index]) for name, v in progress.terms.items()}
                # "style" is the picture's name, so the term goes by another.
                terms["style_loss"] = terms.pop("style")
                line = {"step": step, "style": output.label, "output": output.stem}
                if self._attempt:
                    line["attempt"] = self._attempt
                # JSON has no NaN.
                line |= {k: v if math.isfinite(v) else None for k, v in terms.items()}
                line["seconds"] = round(seconds, 3)
                lines.append(line)
        self._records.write(lines)
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
