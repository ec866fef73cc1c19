"""Sequences: the frames of a film in, painted frames and films out.

Each frame continues from the files of the frames before. So the same command continues a run that
was interrupted, and makes the same files, byte by byte.
"""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nst_jax import flow, vgg
from nst_jax.cli import speeds
from nst_jax.cli.console import complain, say
from nst_jax.cli.dataset.manifest import Manifest, check_others, find_job, records_of
from nst_jax.cli.dataset.pairs import Pair
from nst_jax.cli.look.observers import Observers
from nst_jax.cli.outputs import Output, check_free, recipe
from nst_jax.cli.progress import Pace, PictureProgress
from nst_jax.cli.run import DIVERGED, Delivery, Painting, PictureJob, Runner
from nst_jax.cli.shared_folder import (
    CONFIG,
    free_number,
    names_of_kind,
    number_of,
    numbered,
    writing,
)
from nst_jax.cli.signals import Stopping, run_until_stopped
from nst_jax.coarse_to_fine import check_content, prepared_on
from nst_jax.files.atomic import check_folder, replacing
from nst_jax.files.footage import FlowFolder, Footage, film_suffix, write_film
from nst_jax.files.images import (
    ANIMATED,
    read_animation,
    read_image,
    to_uint8,
    write_animation,
    write_image,
)
from nst_jax.objective import Combine
from nst_jax.sequence import Flows, Follower, Link, Task, frame_task, neighbour


@dataclasses.dataclass(frozen=True, kw_only=True)
class Motion:
    """How the frames of a sequence follow each other.

    Attributes:
      flow: "dis", "still", or a folder of .flo files.
      cuts: numbers from 0 of the frames that begin a shot; None finds them.
      passes: how often the sequence is painted.
      steps: of a frame that starts from another one; None is the default.
    """

    flow: str = "dis"
    cuts: tuple[int, ...] | None = None
    passes: int = 1
    steps: int | None = None

    def flows(self) -> Flows:
        """The flows, as `nst_jax.sequence` takes them."""
        if self.flow == "dis":
            return flow.dis
        return None if self.flow == "still" else FlowFolder(pathlib.Path(self.flow))


class Files(NamedTuple):
    """The names of the files of a sequence, in its folder.

    Attributes:
      outputs: what is made of each frame.
      suffix: of the frames.
      film: the suffix of the films.
      passes: how often the sequence is painted.
    """

    outputs: Sequence[Output]
    suffix: str
    film: str
    passes: int

    def frame(self, output: Output, number: int, *, in_pass: int | None = None) -> str:
        """The file of a frame after a pass; None is the last pass."""
        folder = output.stem
        if in_pass is not None and in_pass < self.passes - 1:
            folder += f"/pass_{in_pass + 1}"
        return f"{folder}/{number + 1:06d}{self.suffix}"

    def frames(self, number: int, *, in_pass: int | None = None) -> list[str]:
        """The files of a frame, of all outputs."""
        return [self.frame(output, number, in_pass=in_pass) for output in self.outputs]

    def films(self) -> list[str]:
        """The films of all outputs."""
        return [f"{output.stem}{self.film}" for output in self.outputs]


def run_sequence(
    job: PictureJob,
    footage: Footage,
    motion: Motion,
    params: Mapping[str, Any],
    delivery: Delivery,
    *,
    frame_rate: float,
    described: Mapping[str, Any],
) -> int:
    """Paints a sequence into a folder and returns the exit code.

    Args:
      job: what to paint. Its one content is the first frame.
      footage: the frames.
      motion: how they follow each other.
      params: the network's parameters.
      delivery: the folder, and the format of the frames.
      frame_rate: of the animation, if the frames are files.
      described: further settings for config.json.

    Raises:
      ValueError: a frame or a flow cannot be read, the folder belongs to a run with other settings,
        or the job does not fit into memory. Finished frames stay.
    """
    return run_until_stopped(
        lambda stopping: _paint(
            job, footage, motion, params, delivery, stopping, frame_rate, described
        ),
        left=f"finished frames are in {delivery.folder}; the same command continues from there",
    )


def _paint(
    job: PictureJob,
    footage: Footage,
    motion: Motion,
    params: Mapping[str, Any],
    delivery: Delivery,
    stopping: Stopping,
    frame_rate: float,
    described: Mapping[str, Any],
) -> int:
    """Does what `run_sequence` says."""

    # --- Settings, and what an earlier run has finished. ---
    (first,) = job.contents
    folder = delivery.folder
    described = {
        **described,
        "network": vgg.network_name(params),
        "seed": job.seed,
        "format": delivery.picture_format,
        "quality": delivery.quality,
        "flow": motion.flow,
        "cuts": motion.cuts,
        "passes": motion.passes,
        "next_steps": motion.steps,  # `steps` is the configuration's
        "processes": 1,
        "devices": jax.device_count(),
        **job.settings(),
    }
    outputs = job.outputs(job.contents)
    files = Files(outputs, delivery.kind.suffix, _film_suffix(footage), motion.passes)
    own = [*(output.stem for output in outputs), *files.films()]
    described["pictures"] = own
    settings = {name: value for name, value in described.items() if name != "flags"}
    known = None if delivery.overwrite else find_job(folder, settings)
    check_content(
        params,
        first.image.shape,
        job.config,
        styles=[style.image.shape for style in job.styles],
        combine=Combine(style_masks=job.style_masks),
        tile=job.placement.tile,
    )
    if known is None and not delivery.overwrite:
        check_others(folder, settings, files.frames(0))
        check_free(folder, own)

    # --- Memory and folders. ---
    runner = Runner(job=job, params=params, stopping=stopping, retries=delivery.retries)
    paint = _Painter(job, outputs, motion)
    runner.check_memory([paint.painting(frame_task(first.image, job.config))])
    check_folder(folder)

    def choose(taken: Collection[int]) -> int:
        if known is not None:
            return known
        if delivery.overwrite:
            _forget(folder, {output.stem for output in outputs})
        return free_number(folder, records_of, taken=taken, own=own)

    # --- Painting. ---
    with contextlib.ExitStack() as stack:
        number = stack.enter_context(writing(folder, own, choose=choose))
        manifest = stack.enter_context(contextlib.closing(Manifest(folder, number=number)))
        if known is None:
            with replacing(folder / numbered(CONFIG, number)) as file:
                file.write((json.dumps(settings, indent=2) + "\n").encode())
        # Once: otherwise each frame would do it.
        prepared = prepared_on(runner.placement(len(outputs)), params, job.config)
        runner = dataclasses.replace(runner, params=prepared)
        text = recipe(described)
        write = functools.partial(
            write_image,
            bits=delivery.kind.bits,
            quality=delivery.quality,
            text=text if len(text) <= delivery.kind.longest_text else None,
        )
        book = _Book(folder, files, manifest, write, footage)
        painted = _paint_frames(runner, footage, motion, paint, book)
        # The rate of files is a flag, so their animation is written each time.
        again = painted or footage.kind == "files"
        films = _write_films(footage, folder, files, frame_rate, count=book.count, again=again)
    for path in films:
        say(f"wrote {path}")
    diverged = sum(manifest.finished.values())
    pictures = "1 output" if len(outputs) == 1 else f"{len(outputs)} outputs"
    say(f"{folder} holds {book.count} frames of {pictures}")
    if diverged:
        complain(
            f"{diverged} pictures stopped at a value that is not finite, the last finite ones are "
            "kept; try a smaller --learning_rate"
        )
    return DIVERGED if diverged else 0


def _forget(folder: pathlib.Path, stems: Collection[str]) -> None:
    """Deletes the records of earlier runs whose frames are about to be replaced."""
    for name in names_of_kind(folder, CONFIG):
        number = number_of(name)
        finished = Manifest(folder, number=number).finished
        if any(pair.output.partition("/")[0] in stems for pair in finished):
            for record in records_of(number):
                (folder / record).unlink(missing_ok=True)


# ------------------------------------ Frames ------------------------------------


@dataclasses.dataclass(frozen=True)
class _Painter:
    """Makes the painting of each frame."""

    job: PictureJob
    outputs: Sequence[Output]
    motion: Motion

    def task(self, frame: np.ndarray, **options: Any) -> Task:
        """What to paint; the options are those of `frame_task`."""
        return frame_task(frame, self.job.config, steps=self.motion.steps, **options)

    def painting(self, task: Task) -> Painting:
        """The painting of a frame."""
        content = self.job.contents[0]._replace(image=np.asarray(task.frame), alpha=None)
        painting = self.job.painting([content], self.outputs, name="0")
        return dataclasses.replace(
            painting, config=task.config, inputs=task.inputs, initial=task.initial
        )


class _Book:
    """The files of a sequence and its manifest: writes frames, and reads them again."""

    def __init__(
        self,
        folder: pathlib.Path,
        files: Files,
        manifest: Manifest,
        write: Any,
        footage: Footage,
    ):
        self._folder, self._files, self._manifest = folder, files, manifest
        self._write, self._footage = write, footage
        self.count = 0

    def is_finished(self, number: int, in_pass: int) -> bool:
        """Whether a frame has been painted in a pass, in all outputs."""
        return all(
            self._pair(number, output, in_pass) in self._manifest.finished
            and (self._folder / self._files.frame(output, number, in_pass=in_pass)).is_file()
            for output in self._files.outputs
        )

    def _pair(self, number: int, output: Output, in_pass: int) -> Pair:
        name = self._files.frame(output, number, in_pass=in_pass)
        return Pair(self._footage.name_of(number), output.label, name)

    def begin(self) -> None:
        """Deletes the films: they would not have the frames that are painted now."""
        for name in self._files.films():
            (self._folder / name).unlink(missing_ok=True)

    def read(self, number: int, in_pass: int) -> np.ndarray:
        """The pictures of a frame, `[N, H, W, 3]`, as the files hold them."""
        names = self._files.frames(number, in_pass=in_pass)
        return np.stack([read_image(self._folder / name) for name in names])

    def keep(
        self, number: int, in_pass: int, images: Any, *, shot: bool, seconds: float, **found: Any
    ) -> None:
        """Writes the pictures of a frame and records them.

        Args:
          number: of the frame.
          in_pass: number of the pass, from 0.
          images: `[N, H, W, 3]`.
          shot: whether the frame begins a shot.
          seconds: that it took.
          **found: fields of the `Result`, `[N]` each.
        """
        lines = []
        for index, output in enumerate(self._files.outputs):
            name = self._files.frame(output, number, in_pass=in_pass)
            self._write(self._folder / name, np.asarray(images[index]))
            own = {field: values[index].item() for field, values in found.items()}
            if not math.isfinite(own.get("loss", 0.0)):
                own["loss"] = None  # JSON has no NaN
            lines.append(
                {
                    **self._pair(number, output, in_pass)._asdict(),
                    **{"frame": number + 1, "pass": in_pass + 1, "begins_shot": shot},
                    **{"diverged": False, "seconds": round(seconds, 3)},
                    **own,
                }
            )
        self._manifest.write(lines)


def _paint_frames(
    runner: Runner, footage: Footage, motion: Motion, paint: _Painter, book: _Book
) -> bool:
    """Paints what is not finished; returns whether there was anything."""
    painted = False
    follower = Follower(runner.job.config, motion.flows(), cuts=motion.cuts)
    links: list[Link | None] = []
    kept: list[np.ndarray] = []
    progress = PictureProgress(total=footage.count * motion.passes, done=0, unit="frames")

    def one(number: int, frame: np.ndarray, in_pass: int, *, shot: bool, **options: Any) -> None:
        nonlocal painted
        if not painted:
            book.begin()
        start = time.perf_counter()
        result = runner.paint(paint.painting(paint.task(frame, **options)), watch)
        book.keep(
            *(number, in_pass, result.images),
            shot=shot,
            seconds=time.perf_counter() - start,
            **{name: getattr(result, name) for name in ("loss", "steps", "diverged")},
        )
        watch.end(result)
        painted = True

    kind = speeds.kind_of(runner.job.config, runner.job.placement)
    with Observers([Pace(kind), progress]) as watch:
        for number, frame in enumerate(footage.frames()):
            runner.stopping.check()
            follower.add(frame)
            book.count = number + 1
            if motion.passes > 1:
                links.append(follower.link())
                kept.append(frame)
            if book.is_finished(number, 0):
                progress.pass_over(1)
                continue
            earlier = follower.earlier(lambda distance, at=number: book.read(at - distance, 0))
            one(number, frame, 0, shot=follower.is_first, earlier=earlier)
        for in_pass in range(1, motion.passes):
            back = in_pass % 2 == 1
            for number in sorted(range(len(kept)), reverse=back):
                runner.stopping.check()
                if book.is_finished(number, in_pass):
                    progress.pass_over(1)
                    continue
                before = book.read(number, in_pass - 1)
                pictures = functools.partial(book.read, in_pass=in_pass)
                near = neighbour(number, links, pictures, back=back)
                shot = links[number] is None
                if near is None:  # the last frame of a shot, seen from the pass
                    book.keep(number, in_pass, before, shot=shot, seconds=0.0)
                    progress.pass_over(1)
                    continue
                one(number, kept[number], in_pass, shot=shot, earlier=[near], own=before)
    return painted


# ------------------------------------ Films -------------------------------------


def _film_suffix(footage: Footage) -> str:
    """The suffix of the film that is made of the painted frames."""
    (path, *_) = footage.paths
    if footage.kind == "film":
        return film_suffix(path)
    suffix = path.suffix.lower()
    return suffix if footage.kind == "animation" and suffix in ANIMATED else ".webp"


def _write_films(
    footage: Footage,
    folder: pathlib.Path,
    files: Files,
    frame_rate: float,
    *,
    count: int,
    again: bool,
) -> list[pathlib.Path]:
    """Writes the film of each output, with the rate and the length of the source.

    Args:
      footage: the source.
      folder: of the files.
      files: their names.
      frame_rate: of files that have none of their own.
      count: how many frames there are.
      again: whether to write films that are there.

    Returns:
      The files that were written.
    """
    written = []
    for output, name in zip(files.outputs, files.films(), strict=True):
        path = folder / name
        if path.exists() and not again:
            continue
        pictures = (
            to_uint8(read_image(folder / files.frame(output, number))) for number in range(count)
        )
        if footage.kind == "film":
            write_film(path, pictures, footage.paths[0])
        elif footage.kind == "animation":
            shown = [milliseconds for _, milliseconds in read_animation(footage.paths[0])]
            write_animation(path, list(pictures), milliseconds=shown, hold=None)
        else:
            ends = np.rint(1000 * np.arange(count + 1) / frame_rate).astype(int)
            write_animation(path, list(pictures), milliseconds=np.diff(ends).tolist(), hold=None)
        written.append(path)
    return written
