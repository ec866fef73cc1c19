"""What follows a run: the protocol, the records, and what can be looked at.

An `Observer` is told of every group of outputs that begins, of each dispatch of the optimisation,
and of the pictures that the group ends with. With several processes all of them observe, because
all are needed to bring a divided picture together. The first process writes.
"""

import contextlib
import functools
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nst_jax import sharding
from nst_jax.cli.console import say
from nst_jax.cli.look import report_page
from nst_jax.coarse_to_fine import Result
from nst_jax.files.atomic import FileError, from_json, replacing, writing
from nst_jax.files.images import FORMATS, to_uint8, write_animation, write_image
from nst_jax.optimize import Progress

ANIMATIONS = {"gif": 65_535, "webp": FORMATS["webp"].longest_side}  # in pixels
FRAMES = 60
FRAME_BYTES = 2**29


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
        pictures = functools.cache(lambda: sharding.to_host(progress.images))
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
                line = dict(from_json(text))
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
            with replacing(self._folder / "config.json") as file:
                file.write((json.dumps(self._described, indent=2) + "\n").encode())
            with replacing(path) as file:
                file.write(_jsonl(self._kept).encode())
        with writing(path):
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
            quietly = contextlib.suppress(FileError if error else ())
            with quietly, writing(self._folder / "metrics.jsonl"):
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


def _passes(progress: Progress, *, every: int = 1, parts: int | None = None) -> bool:
    """Whether this dispatch takes a step whose number is a multiple of `every`; or one at which
    the next of `parts` equal parts of the run is done."""
    times, every = (1, every) if parts is None else (parts, progress.steps)
    before = progress.step - len(progress.terms["total"])
    return progress.step * times // every > before * times // every


def _leads() -> bool:
    return jax.process_index() == 0


class Snapshots(Observer):
    """The pictures as they are after every so many steps, `<folder>/<stem>/step_000123.png`.

    An accelerator takes some steps at once: there it is the next step that can be seen.
    """

    def __init__(self, folder: Path, *, every: int):
        self._folder, self._every = folder, every

    def begin(self, group: Group) -> None:
        self._stems = group.stems

    def __call__(self, progress: Progress, pictures: Pictures) -> None:
        if not _passes(progress, every=self._every):
            return
        images = pictures()
        if _leads():
            for stem, image in zip(self._stems, images, strict=True):
                write_image(self._folder / stem / f"step_{progress.step:06d}.png", image)


class Animation(Observer):
    """The optimisation of each output as an animation, `<folder>/<stem>/animation.<suffix>`.

    At most `FRAMES` pictures, evenly spread over the steps; of those that would take more than
    `FRAME_BYTES` of memory every second one is left out. Those of coarser scales are brought to the
    final size.
    """

    def __init__(self, folder: Path, *, suffix: str):
        self._folder, self._suffix = folder, suffix

    def begin(self, group: Group) -> None:
        self._stems = group.stems
        self._frames: list[np.ndarray] = []
        self._bytes: list[int] = []  # of each: other processes than the first keep no frame
        self._parts = FRAMES - 1
        self._followed = False

    def __call__(self, progress: Progress, pictures: Pictures) -> None:
        self._followed = True
        if progress.step == progress.steps:  # `end` has its picture
            return
        if self._bytes and not _passes(progress, parts=self._parts):
            return
        images = pictures()
        if _leads():
            self._frames.append(to_uint8(images))
        self._bytes.append(images.size)
        while sum(self._bytes) > FRAME_BYTES and len(self._bytes) > 1:
            self._frames, self._bytes = self._frames[::2], self._bytes[::2]
            self._parts //= 2

    def end(self, result: Result) -> list[Path]:
        if not _leads():
            return []
        frames = [*self._frames, to_uint8(result.images)]
        paths = []
        for number, stem in enumerate(self._stems):
            path = self._folder / stem / f"animation.{self._suffix}"
            if self._followed or not path.exists():
                write_animation(path, [frame[number] for frame in frames])
                paths.append(path)
        self._frames = []
        return paths


class TensorBoard(Observer):
    """Terms of the loss, and pictures, for TensorBoard, by tensorboardX (the extra `tensorboard`).

    Events are written here and now: tensorboardX's `SummaryWriter` leaves them to a thread, which
    ends where a disk is full, and the run would wait for it.

    Raises:
      ValueError: tensorboardX is not installed, or, while it follows a run, the folder cannot be
        written to.
    """

    SECONDS = 5.0  # after which what is there goes out to the disk

    def __init__(self, folder: str, *, log_every: int, pictures_every: int | None):
        try:
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2
        except ImportError:
            raise ValueError(
                "--tensorboard_dir needs tensorboardX: pip install 'nst-jax[tensorboard]'"
            ) from None
        self._folder = Path(folder)
        self._new, self._summary = event_file_writer.EventsWriter, summary
        self._event = event_pb2.Event
        self._writer = None  # begun with the first step, as all files of a run
        self._flushed = -math.inf
        self._log_every, self._pictures_every = log_every, pictures_every

    def begin(self, group: Group) -> None:
        self._stems = group.stems

    def __call__(self, progress: Progress, pictures: Pictures) -> None:
        self._step = progress.step
        every = self._pictures_every
        shown = every is not None and _passes(progress, every=every)
        images = pictures() if shown else None
        if not _leads():
            return
        with writing(self._folder):
            if self._writer is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._writer = self._new(str(self._folder.absolute() / "events"))
            for row, step in logged(progress, self._log_every):
                for name, values in progress.terms.items():
                    for stem, value in zip(self._stems, values[row], strict=True):
                        self._add(self._summary.scalar(f"{name}/{stem}", float(value)), step)
            if shown:
                self._show(images)
            if time.perf_counter() - self._flushed >= self.SECONDS:
                self._writer.flush()
                self._flushed = time.perf_counter()

    def end(self, result: Result) -> None:
        if self._writer is not None:
            with writing(self._folder):
                self._show(result.images)
                self._writer.flush()

    def close(self, error: BaseException | None) -> None:
        if self._writer is not None:
            with writing(self._folder):
                self._writer.close()

    def _show(self, images):
        for stem, image in zip(self._stems, to_uint8(images), strict=True):
            shown = self._summary.image(f"picture/{stem}", image, dataformats="HWC")
            self._add(shown, self._step)

    def _add(self, summary, step):
        event = self._event(wall_time=time.time(), step=step, summary=summary)
        self._writer.write_event(event)


class Report(Observer):
    """The report page of the run, `report.html`, written anew while it goes on.

    The page is renewed every few seconds, and less often where that would take more than a
    twentieth of the time; of several processes, a fixed number of times, so that all agree.
    """

    SECONDS = 4.0
    TIMES = 20  # in a run of several processes
    ROWS = 800  # of metrics on the page: twice as many are thinned out
    LAYERS = 200  # measurements of the layers

    def __init__(self, path: Path, *, settings: Mapping[str, Any], log_every: int, outputs: int):
        """`settings` are shown; `outputs` are those of all groups."""
        self._path, self._settings, self._log_every = path, settings, log_every
        # Pages of many pictures show smaller ones.
        self._longest = 1024 if outputs <= 4 else 640
        self._pictures = outputs
        self._start = time.perf_counter()
        self._due = -math.inf
        self._inputs: dict[tuple[str, str], report_page.Embedded] = {}
        self._outputs: list[report_page.Card] = []
        self._scales: list[report_page.Scale] = []
        self._step = self._steps = 0
        self._group: Group | None = None
        self._followed = False

    def begin(self, group: Group) -> None:
        if self._group is None or group.stems != self._group.stems:  # and not another attempt
            self._own = range(len(self._outputs), len(self._outputs) + len(group.stems))
        self._metrics = [{"step": [], "total": []} for _ in self._own]
        self._layers = [[] for _ in self._own]
        self._losses = None  # until the end
        self._group, self._last = group, time.perf_counter()
        if group.history is not None:  # with its last step, or the next page might have nothing new
            self._step = self._steps = done = len(group.history["total"])
            self._log(group.history, logged_rows(done, done, done, self._log_every))

    def __call__(self, progress: Progress, pictures: Pictures) -> None:
        now = time.perf_counter()
        self._time(progress, now - self._last)
        self._step, self._steps = progress.step, progress.steps
        self._diverged = np.asarray(progress.diverged)
        self._kept_start = np.asarray(progress.kept_start)
        self._followed = True
        self._log(progress.terms, logged(progress, self._log_every))
        if self._wanted(progress, now):
            images = pictures()
            for number, found in enumerate(progress.layer_losses()):
                layers = self._layers[number]
                layers.append((progress.step, jax.tree.map(_finite, found)))
                if len(layers) > self.LAYERS:
                    del layers[1:-1:2]
            self._paint(images)
            self._write("running")
            took = time.perf_counter() - now
            self._due = now + max(self.SECONDS, 20 * took)
        self._last = time.perf_counter()

    def end(self, result: Result) -> None:
        self._diverged, self._kept_start = result.diverged, result.kept_start
        self._losses = result.loss
        self._paint(result.images)
        if self._followed:
            self._write("running")

    def close(self, error: BaseException | None) -> list[Path]:
        if not self._outputs or not _leads():
            return []
        if not self._followed and self._is_finished():
            return []
        if error is None:
            self._write("finished")
        elif isinstance(error, KeyboardInterrupt):
            self._write("stopped", message="interrupted")
        else:
            self._write("stopped", message=(str(error).splitlines() or [type(error).__name__])[0])
        return [self._path]

    def _is_finished(self) -> bool:
        """Whether the page that is there is that of the whole run."""
        with contextlib.suppress(OSError):
            return report_page.state(self._path.read_text("utf-8", "replace")) == "finished"
        return False

    def _log(self, terms, rows):
        for row, step in rows:
            for number, metrics in enumerate(self._metrics):
                metrics["step"].append(step)
                for name in dict.fromkeys(("total", *terms)):
                    metrics.setdefault(name, []).append(_finite(terms[name][row, number]))

    def _wanted(self, progress: Progress, now: float) -> bool:
        if progress.step == progress.steps or not self._layers[0]:
            return True
        if jax.process_count() > 1:
            return _passes(progress, parts=self.TIMES)
        return now >= self._due

    def _time(self, progress: Progress, seconds: float) -> None:
        size, steps = progress.images.shape[1:3], len(progress.terms["total"])
        begun = progress.step > steps  # or it is the first dispatch of the group
        if begun and self._scales and self._scales[-1].size == size:
            scale = self._scales.pop()
            seconds += scale.seconds
            self._scales.append(
                scale._replace(last=progress.step, steps=scale.steps + steps, seconds=seconds)
            )
        else:
            self._scales.append(
                report_page.Scale(size, progress.step, steps, (seconds, steps), seconds)
            )

    def _paint(self, images: np.ndarray) -> None:
        """Takes up the pictures as they are now."""
        if not _leads():
            return
        group = self._group
        share = len(group.stems) // len(group.contents)
        size = images.shape[1:3]
        del self._outputs[self._own.start :]
        for number, (label, stem) in enumerate(zip(group.labels, group.stems, strict=True)):
            content, style = group.contents[number // share], group.styles[number]
            uri = report_page.data_uri(images[number], longest=self._longest)
            output = report_page.Card(
                label=label,
                stem=stem,
                content=self._input("content", content),
                style=self._input("style", style),
                picture=report_page.Embedded(stem, uri, size),
                metrics=self._thinned(self._metrics[number]),
                layers=self._layers[number],
                diverged=bool(self._diverged[number]),
                kept_start=int(self._kept_start[number]),
                loss=None if self._losses is None else _finite(self._losses[number]),
            )
            self._outputs.append(output)

    def _input(self, kind: str, picture: Picture) -> report_page.Embedded | None:
        """An input of the page, encoded once; None for the blank that a texture starts from."""
        if kind == "content" and np.ptp(picture.image) == 0:
            return None
        if (kind, picture.name) not in self._inputs:
            longest = self._longest if kind == "content" else 480
            uri = report_page.data_uri(picture.image, longest=longest)
            shown = report_page.Embedded(picture.name, uri, picture.image.shape[:2])
            self._inputs[kind, picture.name] = shown
        return self._inputs[kind, picture.name]

    def _thinned(self, metrics):
        stride = max(1, len(metrics["step"]) // self.ROWS)
        if stride == 1:
            return metrics
        return {name: [*values[:-1:stride], values[-1]] for name, values in metrics.items()}

    def _write(self, state: str, *, message: str = "") -> None:
        if not _leads():
            return
        run = report_page.Run(
            state=state,
            message=message,
            step=self._step,
            steps=self._steps,
            seconds=time.perf_counter() - self._start,
            inputs=sorted(((kind, p) for (kind, _), p in self._inputs.items()), key=lambda i: i[0]),
            outputs=self._outputs,
            scales=self._scales,
            pictures=self._pictures,
            settings=self._settings,
            refresh=math.ceil(self.SECONDS),
            written=time.time(),
        )
        with replacing(self._path) as file:
            file.write(report_page.render(run).encode("utf-8", "replace"))


class Look(NamedTuple):
    """What is to be looked at.

    Attributes:
      save_every: steps between snapshots, or None.
      animate: a name in `ANIMATIONS`, or None.
      report: whether to write the page.
      tensorboard_dir: folder for TensorBoard, or None.
    """

    save_every: int | None = None
    animate: str | None = None
    report: bool = False
    tensorboard_dir: str | None = None

    def names(self, stems: Sequence[str]) -> list[str]:
        """The files and folders that it takes in the folder of a run with outputs of `stems`."""
        folders = list(stems) if self.save_every is not None or self.animate is not None else []
        return [*folders, *(["report.html"] if self.report else [])]

    def observers(
        self, folder: Path, *, settings: Mapping[str, Any], log_every: int, outputs: int
    ) -> list[Observer]:
        """Those that do so in `folder`; `settings` and the number of all `outputs` of the run are
        for the page.

        Raises:
          ValueError: tensorboardX is wanted and not installed.
        """
        found: list[Observer] = []
        if self.save_every is not None:
            found.append(Snapshots(folder, every=self.save_every))
        if self.animate is not None:
            found.append(Animation(folder, suffix=self.animate))
        if self.tensorboard_dir is not None:
            found.append(
                TensorBoard(
                    self.tensorboard_dir, log_every=log_every, pictures_every=self.save_every
                )
            )
        if self.report:
            path = folder / "report.html"
            found.append(Report(path, settings=settings, log_every=log_every, outputs=outputs))
        return found


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None
