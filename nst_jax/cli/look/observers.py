"""Observers of a run: its records, snapshots, animations, TensorBoard and the report page.

An `Observer` is told when a group of outputs begins, after each dispatch of the optimisation, and
when the group is done. With several processes, all of them observe, because a picture that is
divided among them needs all of them to be collected. Only the first process writes.
"""

import collections
import contextlib
import functools
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

import jax
import numpy as np
from jax.typing import ArrayLike

from nst_jax import sharding
from nst_jax.cli.console import say
from nst_jax.cli.look import report_page
from nst_jax.cli.shared_folder import CONFIG, METRICS, REPORT, numbered
from nst_jax.coarse_to_fine import Result
from nst_jax.files.atomic import FileError, first_line, from_json, replacing, writing
from nst_jax.files.images import FORMATS, to_uint8, write_animation, write_image
from nst_jax.files.lines import Lines
from nst_jax.files.paths import exists, read_bytes
from nst_jax.optimize import Progress

if TYPE_CHECKING:
    import tensorboardX

ANIMATIONS = {"gif": 65_535, "webp": FORMATS["webp"].longest_side}
"""The kinds of animations, each with its longest side in pixels."""

FRAMES = 60
"""The most frames of an animation."""

FRAME_BYTES = 2**29
"""The most memory for the frames of all animations of a group, in bytes."""


class Picture(NamedTuple):
    """A named picture.

    Attributes:
      name: part of the names of its outputs.
      image: `[H, W, 3]` in [0, 1].
      alpha: its transparency `[H, W]`, if it has any.
      path: its file as the user named it; "" without a file.
      blank: whether it only gives a texture its shape, and is not worth showing.
    """

    name: str
    image: np.ndarray
    alpha: np.ndarray | None = None
    path: str = ""
    blank: bool = False


class Group(NamedTuple):
    """N outputs that are made together.

    Attributes:
      contents: the contents. Each has the same number of outputs, and the outputs are ordered by
        content.
      styles: the styles of each output.
      labels: the name of each output.
      stems: the name of each output's file, without the extension.
      masks: the masks of each output, as pictures; none at all if no output has one.
      history: in a resumed run, `{term: [step, N]}` of the steps taken before; None otherwise.
      steps: steps of the whole run.
      pixels: how many pixels each of these steps evaluates in an output.
      attempt: the number of earlier attempts at the same outputs.
    """

    contents: Sequence[Picture]
    styles: Sequence[Sequence[Picture]]
    labels: Sequence[str]
    stems: Sequence[str]
    masks: Sequence[Sequence[Picture]] = ()
    history: Mapping[str, np.ndarray] | None = None
    steps: int = 0
    pixels: Sequence[int] = ()
    attempt: int = 0

    @property
    def taken(self) -> int:
        """The number of steps in the history."""
        return 0 if self.history is None else len(self.history["total"])


Pictures = Callable[[], np.ndarray]
"""Returns the pictures `[N, H, W, 3]` in this process's memory. All processes must call it."""


class Observer:
    """Follows a run. Each method here does nothing, so that a subclass writes only what it needs.

    As a context manager, an observer closes itself.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(error)

    def begin(self, group: Group) -> None:
        """Called before the first dispatch of a group, and before another attempt at it."""

    def __call__(self, progress: Progress, pictures: Pictures | None = None) -> None:
        """Called after each dispatch of the optimisation."""

    def window(self, done: int, total: int) -> None:
        """Called after each window of a tiled step, with the number of windows done and in all."""

    def pause(self) -> None:
        """Called at the end of an attempt, also if an error ended it."""

    def end(self, result: Result) -> list[pathlib.Path] | None:
        """Called when a group is done.

        A resumed run may have no steps left. Then there was no dispatch before, and the observer
        leaves alone the files that the earlier run completed.

        Args:
          result: its pictures are in this process's memory.

        Returns:
          The files that are now complete.
        """

    def close(self, error: BaseException | None) -> list[pathlib.Path] | None:
        """Called at the end of the run.

        Args:
          error: what ended the run; None if nothing went wrong.

        Returns:
          The files that are now complete.
        """


class Observers:
    """Several observers as one, which is a callback of `stylize` and a context manager.

    The observers are called in their order and closed in the opposite order. Each file that is
    complete is announced on stderr.
    """

    def __init__(self, observers: Sequence[Observer]):
        self._observers = observers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.ExitStack() as stack:  # closes each, even if another one fails
            for observer in self._observers:
                stack.push(
                    lambda _, later, __, close=observer.close: self._close(close, error or later)
                )

    def _close(
        self,
        close: Callable[[BaseException | None], Iterable[Path] | None],
        error: BaseException | None,
    ) -> None:
        # A file that cannot be written must not hide the error that came before.
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

    def _tell(self, paths: Iterable[Path] | None) -> None:
        for path in paths or ():
            say(f"wrote {path}")


def logged(progress: Progress, every: int) -> Iterator[tuple[int, int]]:
    """Yields (row of the terms, step) of the logged steps of a dispatch.

    These are the first and the last step of the run, and every step divisible by `every`.
    """
    return logged_rows(len(progress.terms["total"]), progress.step, progress.steps, every)


def logged_rows(taken: int, step: int, steps: int, every: int) -> Iterator[tuple[int, int]]:
    """Yields what `logged` does, for `taken` steps that end with `step`, in a run of `steps`."""
    for row, number in enumerate(range(step - taken + 1, step + 1)):
        if number == 1 or number % every == 0 or number == steps:
            yield row, number


class Records(Observer):
    """Writes config.json and metrics.jsonl of a run, or those of a later run in the folder.

    The files are begun after the first step. So a run that ends before it, for example because of
    bad input, leaves the files of an earlier run alone. A resumed run that has no steps left adds
    the lines that are missing.

    Attributes:
      earlier: the lines of an earlier run in the folder.
    """

    SECONDS = 10.0
    """Seconds between two writes of a remote metrics.jsonl, which is written whole each time."""

    def __init__(
        self, folder: pathlib.Path, described: Mapping, *, log_every: int = 10, number: int = 1
    ):
        """Args:
        folder: the folder of the run.
        described: what config.json holds.
        log_every: steps between the lines.
        number: of the run in its folder.
        """
        self._config = folder / numbered(CONFIG, number)
        self._path = folder / numbered(METRICS, number)
        self._described, self._log_every = described, log_every
        self._metrics: Lines | None = None
        self._kept: list[Mapping] = []
        self.earlier: list[Mapping] = []
        # There may be no file, or its last line may be cut if the earlier run was killed.
        with contextlib.suppress(OSError, ValueError, TypeError):
            for text in read_bytes(self._path).decode().splitlines():
                line = dict(from_json(text))
                if not {"output", "step", "seconds"} <= line.keys():
                    break  # not ours
                self.earlier.append(line)

    def keep(self, lines: Sequence[Mapping]) -> None:
        """Keeps lines of an earlier run: they come before the lines that are written later."""
        if self._metrics is None:
            self._kept += lines
        else:
            self.write(lines)

    def write(self, lines: Sequence[Mapping]) -> None:
        """Appends lines to metrics.jsonl.

        Raises:
          FileError: a file cannot be written.
        """
        if self._metrics is None:
            with replacing(self._config) as file:
                file.write((json.dumps(self._described, indent=2) + "\n").encode())
            kept = _jsonl(self._kept).encode()
            with replacing(self._path) as file:
                file.write(kept)
            self._metrics = Lines(self._path, start=kept, seconds=self.SECONDS)
        self._metrics.write(_jsonl(lines))
        self._metrics.flush()

    def seconds(self) -> float:
        """Returns the seconds spent on the group, with those of the run that is resumed."""
        return time.perf_counter() - self._start

    def begin(self, group: Group) -> None:
        self._group, self._start = group, time.perf_counter()
        if not group.steps:
            self.write([])
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
        if over and not (self._kept == self.earlier and exists(self._config)):
            self.write([])
        if self._metrics is not None:
            # Closing writes again what could not be written. It must not hide the first error.
            hidden = () if error is None else (FileError,)
            with contextlib.suppress(*hidden):
                self._metrics.close()

    def _is_earlier(self, line: Mapping) -> bool:
        """Returns whether a line is about these outputs and about a step before the resumed one."""
        own = line["output"] in self._group.stems and line["step"] <= self._group.taken
        return own and line.get("attempt", 0) == self._group.attempt

    def _lost(self, lines: Sequence[Mapping]) -> list[Mapping]:
        """Returns the lines that an earlier run did not write, or that were deleted since.

        Their seconds are None, because nobody knows them.

        Args:
          lines: the lines that are there.
        """
        assert self._group.history is not None
        found = {(line["step"], line["output"]) for line in lines}
        last = max((line["step"] for line in lines), default=0)
        done = self._group.taken
        rows = logged_rows(done, done, self._group.steps, self._log_every)
        rows = [(row, step) for row, step in rows if step >= last]
        made = self._lines(self._group.history, rows, None)
        return [line for line in made if (line["step"], line["output"]) not in found]

    def _lines(
        self,
        terms: Mapping[str, np.ndarray],
        rows: Iterable[tuple[int, int]],
        seconds: float | None,
        kept_start: np.ndarray | None = None,
    ) -> list[Mapping]:
        """Returns a line for each output at each of `rows`, (row of the terms, step)."""
        lines: list[Mapping] = []
        group = self._group
        for row, step in rows:
            for index, (label, stem) in enumerate(zip(group.labels, group.stems, strict=True)):
                values = {name: float(v[row, index]) for name, v in terms.items()}
                # The key "style" holds the style's name, so the term gets another key.
                if "style" in values:
                    values["style_loss"] = values.pop("style")
                line: dict[str, Any] = {"step": step, "style": label, "output": stem}
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
    """Returns whether this dispatch passes a step divisible by `every`.

    With `parts`, returns instead whether it passes the end of one of `parts` equal parts of the
    run.
    """
    times, every = (1, every) if parts is None else (parts, progress.steps)
    before = progress.step - len(progress.terms["total"])
    return progress.step * times // every > before * times // every


def _leads() -> bool:
    """Returns whether this process writes."""
    return jax.process_index() == 0


class Snapshots(Observer):
    """Writes the pictures every `every` steps, as `<folder>/<stem>/step_000123.png`.

    A dispatch may take several steps. Then the snapshot shows the last step of the dispatch.
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
    """Writes the course of each output as an animation, `<folder>/<stem>/animation.<suffix>`.

    It has at most `FRAMES` frames, evenly spread over the steps. If they take more than
    `FRAME_BYTES` of memory, every second one is dropped. Frames of coarser scales are enlarged to
    the final size.
    """

    def __init__(self, folder: Path, *, suffix: str):
        self._folder, self._suffix = folder, suffix

    def begin(self, group: Group) -> None:
        self._stems = group.stems
        self._frames: list[np.ndarray] = []
        self._bytes: list[int] = []  # of each frame, also in processes that keep no frames
        self._parts = FRAMES - 1
        self._followed = False

    def __call__(self, progress: Progress, pictures: Pictures) -> None:
        self._followed = True
        if progress.step == progress.steps:  # `end` adds the last picture
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
            if self._followed or not exists(path):
                write_animation(path, [frame[number] for frame in frames])
                paths.append(path)
        self._frames = []
        return paths


class _Events:
    """The file system that tensorboardX writes its events to: a buffer in memory.

    tensorboardX writes in a thread of its own. An error there ends the thread, and the run would
    then wait for it for ever. So the thread only fills this buffer, and the observer writes the
    bytes to the disk, where an error reaches the run.

    Attributes:
      name: the file's name, chosen by tensorboardX.
    """

    SCHEME = "nst-jax"

    def __init__(self) -> None:
        self.name = ""
        self._parts: collections.deque[bytes] = collections.deque()

    # What tensorboardX asks of a file system.
    def directory_check(self, path: str) -> None:
        """Does nothing: the observer makes the folder."""

    def open(self, path: str) -> Self:
        self.name = path.partition(":")[2].lstrip("/\\")
        return self

    # What it asks of a file.
    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def flush(self) -> None:
        """Does nothing: the observer takes the bytes."""

    def close(self) -> None:
        """Does nothing: the observer takes the bytes."""

    def take(self) -> bytes:
        """Returns the bytes written since the last call."""
        return b"".join(self._parts.popleft() for _ in range(len(self._parts)))


class TensorBoard(Observer):
    """Writes losses and pictures for TensorBoard, by tensorboardX (the extra `tensorboard`).

    Raises:
      ValueError: tensorboardX is not installed.
      FileError: while it follows a run, the folder cannot be written to.
    """

    SECONDS = 5.0
    """Seconds after which new events are flushed to the disk."""

    def __init__(self, folder: str, *, log_every: int, pictures_every: int | None):
        """Args:
        folder: the folder of the events, made after the first step.
        log_every: steps between the losses.
        pictures_every: steps between the pictures; None shows only the last ones.
        """
        try:
            from tensorboardX import SummaryWriter, record_writer
        except ImportError:
            raise ValueError(
                "--tensorboard_dir needs tensorboardX: pip install tensorboardX"
            ) from None
        self._folder = Path(folder)
        self._events = _Events()
        self._register, self._new = record_writer.register_writer_factory, SummaryWriter
        self._writer: SummaryWriter | None = None
        self._file: IO[bytes] | None = None
        self._flushed = -math.inf
        self._log_every, self._pictures_every = log_every, pictures_every

    def begin(self, group: Group) -> None:
        self._stems = group.stems
        if self._writer is None and _leads():
            with writing(self._folder):
                self._register(_Events.SCHEME, self._events)
                self._writer = self._new(f"{_Events.SCHEME}:")

    def __call__(self, progress: Progress, pictures: Pictures) -> None:
        self._step = progress.step
        every = self._pictures_every
        shown = every is not None and _passes(progress, every=every)
        images = pictures() if shown else None
        if self._writer is None:
            return
        with writing(self._folder):
            if self._file is None:  # only now, as for all files of a run
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = (self._folder / self._events.name).open("wb")
            for row, step in logged(progress, self._log_every):
                for name, values in progress.terms.items():
                    for stem, value in zip(self._stems, values[row], strict=True):
                        self._writer.add_scalar(
                            f"{name}/{stem}", float(value), global_step=step, walltime=time.time()
                        )
            if images is not None:
                self._show(self._writer, images)
            flush = time.perf_counter() - self._flushed >= self.SECONDS
            self._write(self._file, flush=flush)

    def end(self, result: Result) -> None:
        if self._writer is not None and self._file is not None:
            with writing(self._folder):
                self._show(self._writer, result.images)
                self._write(self._file, flush=True)

    def close(self, error: BaseException | None) -> None:
        if self._writer is not None:
            self._writer.close()  # waits for the thread
        if self._file is not None:
            with writing(self._folder), self._file:
                self._write(self._file, flush=True)

    def _show(self, writer: "tensorboardX.SummaryWriter", images: ArrayLike) -> None:
        """Adds the pictures as they are now."""
        for stem, image in zip(self._stems, to_uint8(images), strict=True):
            writer.add_image(
                f"picture/{stem}",
                image,
                global_step=self._step,
                walltime=time.time(),
                dataformats="HWC",
            )

    def _write(self, file: IO[bytes], *, flush: bool) -> None:
        """Writes the events that tensorboardX's thread has finished."""
        file.write(self._events.take())
        if flush:
            file.flush()
            self._flushed = time.perf_counter()


class Report(Observer):
    """Writes the report page of the run, and writes it again while the run continues.

    The page is written every `SECONDS` seconds, or less often, so that it takes at most a twentieth
    of the time. With several processes it is written `TIMES` times, so that all of them collect
    the pictures at the same steps.
    """

    SECONDS = 4.0
    """Seconds between two pages."""

    TIMES = 20
    """How often the page is written in a run of several processes."""

    ROWS = 800
    """Rows of metrics on the page. Twice as many are thinned out."""

    LAYERS = 200
    """The most measurements of the layers."""

    def __init__(self, path: Path, *, settings: Mapping[str, Any], log_every: int, outputs: int):
        """Args:
        path: the page's file.
        settings: shown on the page.
        log_every: steps between the losses.
        outputs: how many outputs all groups have together.
        """
        self._path, self._settings, self._log_every = path, settings, log_every
        # A page with many pictures shows them smaller.
        self._longest = 1024 if outputs <= 4 else 640
        self._pictures = outputs
        self._start = time.perf_counter()
        self._due = -math.inf
        self._inputs: dict[tuple[report_page.Kind, str], report_page.Embedded] = {}
        self._outputs: list[report_page.Card] = []
        self._scales: list[report_page.Scale] = []
        self._step = self._steps = 0
        self._group: Group | None = None
        self._followed = False

    def begin(self, group: Group) -> None:
        if self._group is None or group.stems != self._group.stems:  # not just another attempt
            self._own = range(len(self._outputs), len(self._outputs) + len(group.stems))
        self._metrics: list[dict[str, list]] = [{"step": [], "total": []} for _ in self._own]
        self._layers: list[list] = [[] for _ in self._own]
        self._losses: np.ndarray | None = None  # until the end
        self._group, self._last = group, time.perf_counter()
        if group.history is not None:
            # The last step is logged too, or the next page might show nothing new.
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
            assert progress.layer_losses is not None  # as in every run of `stylize`
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
        self._paint(np.asarray(result.images))
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
            self._write("stopped", message=first_line(error))
        return [self._path]

    def _is_finished(self) -> bool:
        """Returns whether the page on disk shows the finished run."""
        with contextlib.suppress(OSError):
            return (
                report_page.state(read_bytes(self._path).decode("utf-8", "replace")) == "finished"
            )
        return False

    def _log(self, terms: Mapping[str, np.ndarray], rows: Iterable[tuple[int, int]]) -> None:
        """Adds the losses of each of `rows`, (row of the terms, step)."""
        for row, step in rows:
            for number, metrics in enumerate(self._metrics):
                metrics["step"].append(step)
                for name in dict.fromkeys(("total", *terms)):
                    metrics.setdefault(name, []).append(_finite(terms[name][row, number]))

    def _wanted(self, progress: Progress, now: float) -> bool:
        """Returns whether to write a page after this dispatch."""
        if progress.step == progress.steps or not self._layers[0]:
            return True
        if jax.process_count() > 1:
            return _passes(progress, parts=self.TIMES)
        return now >= self._due

    def _time(self, progress: Progress, seconds: float) -> None:
        """Adds the time of a dispatch to the timings of its scale."""
        _, height, width, _ = progress.images.shape
        size, steps = (height, width), len(progress.terms["total"])
        begun = progress.step > steps  # not the first dispatch of the group
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
        """Puts the pictures `[N, H, W, 3]` as they are now on the page."""
        if not _leads():
            return
        group = self._group
        assert group is not None
        share = len(group.stems) // len(group.contents)
        _, height, width, _ = images.shape
        del self._outputs[self._own.start :]
        for number, (label, stem) in enumerate(zip(group.labels, group.stems, strict=True)):
            content = group.contents[number // share]
            shown = [self._input("style", style) for style in group.styles[number]]
            if group.masks:
                shown += [self._input("mask", mask) for mask in group.masks[number]]
            uri = report_page.data_uri(images[number], longest=self._longest)
            output = report_page.Card(
                label=label,
                stem=stem,
                content=None if content.blank else self._input("content", content),
                shown=shown,
                picture=report_page.Embedded(stem, uri, (height, width)),
                metrics=self._thinned(self._metrics[number]),
                layers=self._layers[number],
                diverged=bool(self._diverged[number]),
                kept_start=int(self._kept_start[number]),
                loss=None if self._losses is None else _finite(self._losses[number]),
            )
            self._outputs.append(output)

    def _input(self, kind: report_page.Kind, picture: Picture) -> report_page.Embedded:
        """Returns an input as the page shows it. Each input is encoded only once."""
        if (kind, picture.name) not in self._inputs:
            longest = self._longest if kind == "content" else 480
            uri = report_page.data_uri(picture.image, longest=longest)
            height, width, _ = picture.image.shape
            shown = report_page.Embedded(picture.name, uri, (height, width))
            self._inputs[kind, picture.name] = shown
        return self._inputs[kind, picture.name]

    def _thinned(self, metrics: dict[str, list]) -> dict[str, list]:
        """Returns about `ROWS` to `2 * ROWS` rows of the metrics, with the first and the last."""
        stride = max(1, len(metrics["step"]) // self.ROWS)
        if stride == 1:
            return metrics
        return {name: [*values[:-1:stride], values[-1]] for name, values in metrics.items()}

    def _write(self, state: report_page.State, *, message: str = "") -> None:
        """Writes the page."""
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
    """What a run shows of its course.

    Attributes:
      save_every: steps between snapshots; None for no snapshots.
      animate: the kind of animation, a name in `ANIMATIONS`; None for no animation.
      report: whether to write the report page.
      tensorboard_dir: folder for TensorBoard; None for no events.
    """

    save_every: int | None = None
    animate: str | None = None
    report: bool = False
    tensorboard_dir: str | None = None

    def folders(self, stems: Sequence[str]) -> list[str]:
        """Returns the names of the folders that it makes in the folder of a run.

        Args:
          stems: names of the outputs' files, without the extension.
        """
        return list(stems) if self.save_every is not None or self.animate is not None else []

    def observers(
        self,
        folder: Path,
        *,
        settings: Mapping[str, Any],
        log_every: int,
        outputs: int,
        number: int = 1,
    ) -> list[Observer]:
        """Returns the observers that show it.

        Args:
          folder: the folder of the run.
          settings: shown on the report page.
          log_every: steps between the losses.
          outputs: how many outputs the whole run has.
          number: of the run in its folder.

        Raises:
          ValueError: tensorboardX is needed and not installed.
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
            path = folder / numbered(REPORT, number)
            found.append(Report(path, settings=settings, log_every=log_every, outputs=outputs))
        return found


def _finite(value: float) -> float | None:
    """Returns None for NaN and infinities, which JSON lacks."""
    return float(value) if math.isfinite(value) else None
