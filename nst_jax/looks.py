"""What can be looked at while a run goes on, or after it: snapshots, an animation, TensorBoard, a
report page, a trace of a few steps.

Each is an `Observer`. With several processes all of them observe, and the first one writes.
"""

import contextlib
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nst_jax import files, io, page
from nst_jax.observers import Group, Observer, Picture, Pictures, logged, logged_rows
from nst_jax.optimize import Progress
from nst_jax.stylize import Result

ANIMATIONS = {"gif": 65_535, "webp": io.FORMATS["webp"].longest_side}  # in pixels
FRAMES = 60
FRAME_BYTES = 2**29
TRACED = 3  # steps


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
                io.write_image(self._folder / stem / f"step_{progress.step:06d}.png", image)


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
            self._frames.append(io.to_uint8(images))
        self._bytes.append(images.size)
        while sum(self._bytes) > FRAME_BYTES and len(self._bytes) > 1:
            self._frames, self._bytes = self._frames[::2], self._bytes[::2]
            self._parts //= 2

    def end(self, result: Result) -> list[Path]:
        if not _leads():
            return []
        frames = [*self._frames, io.to_uint8(result.images)]
        paths = []
        for number, stem in enumerate(self._stems):
            path = self._folder / stem / f"animation.{self._suffix}"
            if self._followed or not path.exists():
                io.write_animation(path, [frame[number] for frame in frames])
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
        with files.writing(self._folder):
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
            with files.writing(self._folder):
                self._show(result.images)
                self._writer.flush()

    def close(self, error: BaseException | None) -> None:
        if self._writer is not None:
            with files.writing(self._folder):
                self._writer.close()

    def _show(self, images):
        for stem, image in zip(self._stems, io.to_uint8(images), strict=True):
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
        self._inputs: dict[tuple[str, str], page.Embedded] = {}
        self._outputs: list[page.Card] = []
        self._scales: list[page.Scale] = []
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
            return page.state(self._path.read_text("utf-8", "replace")) == "finished"
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
            self._scales.append(page.Scale(size, progress.step, steps, (seconds, steps), seconds))

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
            uri = page.data_uri(images[number], longest=self._longest)
            output = page.Card(
                label=label,
                stem=stem,
                content=self._input("content", content),
                style=self._input("style", style),
                picture=page.Embedded(stem, uri, size),
                metrics=self._thinned(self._metrics[number]),
                layers=self._layers[number],
                diverged=bool(self._diverged[number]),
                kept_start=int(self._kept_start[number]),
                loss=None if self._losses is None else _finite(self._losses[number]),
            )
            self._outputs.append(output)

    def _input(self, kind: str, picture: Picture) -> page.Embedded | None:
        """An input of the page, encoded once; None for the blank that a texture starts from."""
        if kind == "content" and np.ptp(picture.image) == 0:
            return None
        if (kind, picture.name) not in self._inputs:
            longest = self._longest if kind == "content" else 480
            uri = page.data_uri(picture.image, longest=longest)
            shown = page.Embedded(picture.name, uri, picture.image.shape[:2])
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
        run = page.Run(
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
        with files.replacing(self._path) as file:
            file.write(page.render(run).encode("utf-8", "replace"))


class Profile(Observer):
    """A trace of a few steady steps of a run, by JAX's profiler.

    Steady are the dispatches of a program that has been dispatched twice: the first compiles it.
    Of a coarse-to-fine run those at the last scale are traced. The trace holds the first
    dispatches that take at least `TRACED` steps together; it lies under
    `plugins/profile/<time>/` of the folder, for XProf, and there as `perfetto_trace.json.gz`.

    Source: https://docs.jax.dev/en/latest/profiling.html.

    Attributes:
      traced: number of steps in the trace.
    """

    def __init__(self, folder: str | os.PathLike[str], size: Sequence[int]):
        """Args:
        folder: where the trace goes, made if absent.
        size: height and width of the pictures at the last scale.

        Raises:
          ValueError: no folder can be made there.
        """
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"profile_dir must be a folder, or a place for one, got {str(folder)!r}: "
                f"{error.strerror}"
            ) from error
        self._folder, self._size = folder, tuple(size)
        self._program, self._dispatches = None, 0
        self._tracing, self.traced = False, 0

    def __call__(self, progress: Progress, pictures: Pictures | None = None) -> None:
        length = len(progress.terms["total"])
        program = (length, progress.images.shape)
        self._dispatches = self._dispatches + 1 if program == self._program else 1
        self._program = program
        # The steps left over at the end are dispatched one by one, by a program of their own.
        ends = progress.steps - progress.step < length
        if self._tracing:
            self.traced += length
            if ends or self.traced >= TRACED:
                self.close(None)
            return
        last_scale = progress.images.shape[1:3] == self._size
        if last_scale and self._dispatches == 2 and not (self.traced or ends):
            self._tracing = True
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)

    def close(self, error: BaseException | None) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False


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
