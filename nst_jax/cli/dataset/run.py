"""Data-set jobs: folders of pictures in, a folder of pictures out.

A data-set job paints pairs of a content and a style in batches. It reads the files batch by batch
and records finished pairs in manifest.jsonl. When the same job is started again, it continues from
there.

Pictures are resized to the size of the run when they are read. Coarser scales are made from these.
So a set of many resolutions compiles programs only for its few shapes at that size.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import numpy as np
from tqdm import tqdm

from nst_jax import objective, sharding, vgg
from nst_jax.cli import speeds
from nst_jax.cli.console import STDERR, complain, say, shows_progress
from nst_jax.cli.dataset.manifest import Manifest, check_others, find_job, records_of
from nst_jax.cli.dataset.pairs import Batch, Pair, Pairing, Source, draw_again, pair, plan
from nst_jax.cli.inputs import style_mask, tell_enlarged
from nst_jax.cli.look.observers import Group, Observers, Picture
from nst_jax.cli.outputs import check_free, remarks_on_clipping, remarks_on_still_losses
from nst_jax.cli.progress import Pace, PictureProgress
from nst_jax.cli.run import DIVERGED, Job, Painting, Runner, planned
from nst_jax.cli.shared_folder import CONFIG, free_number, numbered, writing
from nst_jax.cli.signals import Stopping, run_until_stopped
from nst_jax.coarse_to_fine import (
    Result,
    at_scale,
    check_content,
    fit_shape,
    fit_style_shape,
    for_content,
    scales,
    steps_at_scales,
)
from nst_jax.config import Config
from nst_jax.files.atomic import check_folder, replacing
from nst_jax.files.images import (
    FORMATS,
    Format,
    ImageError,
    read_shape,
    read_with_alpha,
    resize,
    resize_mask,
    write_image,
)
from nst_jax.files.paths import existing, is_remote, real
from nst_jax.objective import Combine

# Pictures painted at once on each device. On a CPU, more of them gain nothing: see `batch_scaling`
# in docs/benchmarks.md. An accelerator with enough memory takes more.
BATCH_SIZE = 4

# Threads that look at remote files before the first step.
READERS = 16

BAD_FILES = 4

Shapes = Mapping[str, tuple[int, int]]
"""`(H, W)` of each resized picture, by its path."""

T = TypeVar("T")


# ------------------------------------ The job -----------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSetJob(Job):
    """A job over folders of pictures.

    Attributes:
      contents: the content files, from `expand`.
      styles: the style files, from `expand`.
      pairing: see `pair`. None if `pairs` are given.
      pairs: from `read_pairs`. None if `pairing` is given.
      picture_format: of the pictures, a name in `nst_jax.files.images.FORMATS`.
      quality: of the pictures, in a format that has one; None is its default.
      batch_size: the largest number of pictures painted at once. None is `BATCH_SIZE` per device.
      process: number of this process.
      processes: number of the processes that share the work.
    """

    contents: Sequence[Source]
    styles: Sequence[Source]
    pairing: Pairing | None = None
    pairs: Sequence[Pair] | None = None
    picture_format: str = "png"
    quality: int | None = None
    batch_size: int | None = None
    process: int = 0
    processes: int = 1
    apart: ClassVar[bool] = True

    @property
    def kind(self) -> Format:
        """The format of the pictures."""
        return FORMATS[self.picture_format]


def run_data_set(
    job: DataSetJob,
    params: Mapping[str, Any],
    folder: pathlib.Path,
    *,
    described: Mapping[str, Any],
) -> int:
    """Paints this process's share of a job into a folder, and returns the exit code.

    Writes the pictures, manifest.jsonl and config.json. Pictures that are already finished stay as
    they are. A file is recorded and skipped if it cannot be read, or is too small for the layers.

    A first SIGINT, SIGTERM or SIGHUP ends the run after the current step. The pictures of that
    batch are then not made.

    Args:
      job: what to paint.
      params: the network's parameters.
      folder: for the pictures and records.
      described: further settings for config.json.

    Raises:
      ValueError: the folder belongs to a job with other settings, nothing can be read, a picture
        does not fit into memory, or `stylize` refuses the job.
    """
    return run_until_stopped(
        lambda stopping: _paint_share(job, params, folder, described, stopping),
        left=f"finished pictures are in {folder}; the same command continues from there",
    )


def _paint_share(
    job: DataSetJob,
    params: Mapping[str, Any],
    folder: pathlib.Path,
    described: Mapping[str, Any],
    stopping: Stopping,
) -> int:
    """Does what `run_data_set` says."""

    # --- Settings, and what an earlier run has finished. ---
    settings = {
        **described,
        "network": vgg.network_name(params),
        "pairing": job.pairing,
        "format": job.picture_format,
        "quality": job.quality,
        "seed": job.seed,
        "batch_size": job.batch_size,
        **job.settings(),
    }
    known = find_job(folder, settings)
    number = free_number(folder, records_of) if known is None else known
    manifest = Manifest(folder, process=job.process, number=number)
    whole = _whole(folder)
    # If even a square of this size cannot be painted, the settings are at fault and not a file.
    check_content(params, (512, 512), job.config, tile=job.placement.tile)

    # --- Pairs and batches. ---
    if job.pairing is None:
        pairs = list(job.pairs or ())
    else:
        pairs = pair(
            *(job.contents, job.styles),
            pairing=job.pairing,
            seed=job.seed,
            suffix=job.kind.suffix,
        )
    # The shares do not depend on files and devices, which may differ between processes: a bad file
    # may be repaired before another process starts.
    share = sharding.share_of_process(len(pairs), process=job.process, processes=job.processes)
    if known is None:
        check_others(folder, settings, {one.output for one in pairs})
    shapes, bad = _look_at_files(job, stopping)

    unplanned = frozenset(bad)  # files that break later keep their places in the batches

    def readable(one: Pair) -> bool:
        return one.content not in unplanned and one.style not in unplanned

    def finished(one: Pair) -> bool:
        return one in manifest.finished and whole(one.output)

    first: dict[str, str] = {}  # the style that was drawn first for each content
    if job.pairing == "random":
        first = {one.content: one.style for one in pairs}
        kept = {one.content: one for one in manifest.finished if finished(one)}
        pairs = [kept.get(one.content, one) for one in pairs]
        pairs = _drawn_again(job, pairs, bad, finished)
    if not any(map(readable, pairs)):
        raise ValueError(f"no pair of pictures can be read: {next(iter(bad.values()))}")
    devices = 1 if job.placement.tile is not None else jax.local_device_count()
    batch_size = BATCH_SIZE * devices if job.batch_size is None else job.batch_size

    def batches(pairs: Sequence[Pair]) -> list[Batch]:
        good = [pairs[n] for n in share if readable(pairs[n])]
        contents = {one.content: fit_shape(shapes[one.content], job.config) for one in good}
        return plan(good, contents, batch_size=batch_size, devices=devices)

    def unfinished(batches: Sequence[Batch]) -> list[Batch]:
        return [batch for batch in batches if not all(map(finished, batch.pairs))]

    own = batches(pairs)
    good = [one for batch in own for one in batch.pairs]

    # --- Memory and folders. ---
    runner = Runner(job=job, params=params, stopping=stopping)
    runner.check_memory(_largest(unfinished(own), shapes, job.config))
    _keep_inputs(job, pairs, folder)
    check_folder(folder)
    tell_enlarged(
        [
            (path, shapes[path], fitted(shapes[path], job.config))
            for paths, fitted in (
                ({one.content for one in good}, fit_shape),
                ({one.style for one in good}, _read_shape_of_style),
            )
            for path in sorted(paths)
        ]
    )

    def choose(taken: Collection[int]) -> int:
        known = find_job(folder, settings)  # another process may have begun this job meanwhile
        if known is not None:
            return known
        check_free(folder, [one.output for one in pairs])
        number = free_number(folder, records_of, taken=taken)
        _write_settings(folder, numbered(CONFIG, number), settings)
        return number

    # --- Painting. ---
    reader = _Reader(job.config, finished)
    write = functools.partial(write_image, bits=job.kind.bits, quality=job.quality)
    own_outputs = [pairs[n].output for n in share]
    with contextlib.ExitStack() as stack:
        chosen = stack.enter_context(writing(folder, own_outputs, choose=choose))
        if chosen != number:  # another job has begun meanwhile
            manifest = Manifest(folder, process=job.process, number=chosen)
        if chosen > 1:
            say(f"nst-jax: the records of this run are {numbered(CONFIG, chosen)} and so on")
        stack.enter_context(contextlib.closing(manifest))
        put = stack.enter_context(_putting(folder, process=job.process, number=chosen))
        if job.process == 0:
            _record_bad(manifest, bad)
        kind = speeds.kind_of(job.config, job.placement)
        left = [(batch.shape, sum(not finished(one) for one in batch.pairs)) for batch in own]
        if any(many for _, many in left):
            say(f"painting {planned(left, job.config, pace=speeds.recall(kind))}")
        while True:
            pace = Pace(kind)
            progress = PictureProgress(total=len(good), done=sum(map(finished, good)))
            with (
                Observers([pace, progress]) as watch,
                # Closed here, so that its thread does not work while the process ends.
                contextlib.closing(_read_ahead(unfinished(own), reader)) as pictures,
            ):
                for batch, (places, broken) in pictures:
                    stopping.check()
                    _record_bad(manifest, broken)
                    bad |= broken
                    left = sum(not finished(one) for one in batch.pairs)
                    progress.pass_over(left - sum(map(bool, places)))
                    if any(places):
                        _paint(runner, batch, places, put, write, manifest, watch, first=first)
            # Styles that broke while they were decoded are drawn again, too.
            again = pairs
            if job.pairing == "random":
                again = _drawn_again(job, pairs, bad, finished)
            if again == pairs:
                break
            pairs, own = again, batches(again)
            good = [one for batch in own for one in batch.pairs]
            runner.check_memory(_largest(unfinished(own), shapes, job.config))
    return _summary(manifest, folder, good, bad, missing=len(share) - len(good))


# ---------------------------- Checks before painting ----------------------------


def _look_at_files(job: DataSetJob, stopping: Stopping) -> tuple[Shapes, dict[str, str]]:
    """Returns the shapes of pictures as they are read, and the errors of bad files, by path."""
    contents = {content.path for content in job.contents}
    styles = {style.path for style in job.styles}
    terms = objective.Objective.of(job.config)
    shapes, bad = {}, {}
    paths = dict.fromkeys(source.path for source in (*job.contents, *job.styles))
    found = _shapes_of(list(paths))
    looking = tqdm(
        found,
        file=STDERR,
        total=len(paths),
        desc="looking at files",
        unit="file",
        delay=2,
        leave=False,
        disable=not shows_progress(),
    )
    with contextlib.closing(found):
        for path, shape in looking:
            stopping.check()
            if isinstance(shape, ImageError):
                bad[path] = str(shape)
                continue
            shapes[path] = shape
            roles = [(fit_shape, terms.layers())] * (path in contents)
            roles += [(fit_style_shape, terms.layers("style"))] * (path in styles)
            if path in contents:
                longest, most = max(fit_shape(shape, job.config)), job.kind.longest_side
                if longest > most:
                    bad[path] = (
                        f"{path}: a {job.picture_format} has at most {most} pixels a side, got "
                        f"{longest}"
                    )
            # With the size of the content, a style is looked at as if it were its own content.
            config = for_content(job.config, shape)
            first = at_scale(config, scales(config)[0])
            for fitted, layers in roles:
                wanted = max(map(vgg.smallest_side, layers), default=1)
                height, width = fitted(shape, first)
                if min(height, width) < wanted:
                    bad[path] = (
                        f"{path}: the layers need {wanted} pixels a side, but it is resized to "
                        f"{width} x {height} (width x height)"
                    )
    return shapes, bad


def _shapes_of(
    paths: Sequence[str],
) -> Generator[tuple[str, tuple[int, int] | ImageError], None, None]:
    """Gives each path with the shape of its picture, or with the error of a bad file.

    Threads read remote files, because most of their time is waiting for an answer.
    """

    def look(path: str) -> tuple[str, tuple[int, int] | ImageError]:
        try:
            return path, read_shape(path)
        except ImageError as error:
            return path, error

    if not any(map(is_remote, paths)):
        yield from map(look, paths)
        return
    with concurrent.futures.ThreadPoolExecutor(READERS) as threads:
        yield from threads.map(look, paths)


def _keep_inputs(job: DataSetJob, pairs: Sequence[Pair], folder: pathlib.Path) -> None:
    """Refuses a folder where pictures would replace inputs.

    Raises:
      ValueError: they would.
    """
    inputs = {real(source.path) for source in (*job.contents, *job.styles)}
    for one in pairs:
        if real(folder / one.output) in inputs:
            raise ValueError(f"{folder / one.output} is an input: choose another --output_dir")


def _largest(batches: Sequence[Batch], shapes: Shapes, config: Config) -> Iterator[Painting]:
    """The largest batch with the largest styles of all, as blank pictures without memory.

    Gives nothing if there are no batches.
    """

    def blank(shape: tuple[int, int]) -> np.ndarray:
        return np.broadcast_to(np.float32(0), (*shape, 3))

    if batches:
        batch = max(batches, key=lambda batch: batch.size * math.prod(batch.shape))
        pairs = itertools.chain(*(batch.pairs for batch in batches))
        styles = [_read_shape_of_style(shapes[one.style], config) for one in pairs]
        styles = sorted(styles, key=math.prod)[-batch.size :]
        styles = itertools.islice(itertools.cycle(styles), batch.size)
        content = blank(batch.shape)
        yield _painting([_Place(batch.pairs[0], content, blank(style)) for style in styles])


def _drawn_again(
    job: DataSetJob,
    pairs: Sequence[Pair],
    bad: Mapping[str, str],
    finished: Callable[[Pair], bool],
) -> list[Pair]:
    """The pairs, with another style in place of each that cannot be read. Says how many."""
    again = draw_again(
        *(pairs, job.contents, job.styles),
        seed=job.seed,
        bad=bad,
        suffix=job.kind.suffix,
        finished=finished,
    )
    count = sum(new != old for new, old in zip(again, pairs, strict=True))
    if count:
        say(f"nst-jax: another style was drawn for {count} contents, as theirs cannot be read")
    return again


# ------------------------------- Reading pictures -------------------------------


class _Place(NamedTuple):
    """A pair with its pictures, and the part of the style to learn from; None is all of it.

    All are resized to the size of the run.
    """

    pair: Pair
    content: np.ndarray
    style: np.ndarray
    style_mask: np.ndarray | None = None


class _Reader:
    """Reads the unfinished pairs of a batch: `places, broken = reader(batch)`.

    `places` has an entry for each pair: a `_Place`, or None if the pair is finished or one of its
    files is bad. `broken` has the errors of files that were not known to be bad, by path.
    """

    def __init__(self, config: Config, finished: Callable[[Pair], bool]):
        self._config, self._finished = config, finished
        self._bad: set[str] = set()
        self._told: set[str] = set()  # styles whose transparency was told

    def __call__(self, batch: Batch) -> tuple[list[_Place | None], dict[str, str]]:
        images, masks, broken = {}, {}, {}
        todo = [not self._finished(one) for one in batch.pairs]
        for one in itertools.compress(batch.pairs, todo):
            for path, fitted in ((one.content, fit_shape), (one.style, _read_shape_of_style)):
                if (path, fitted) in images or path in self._bad:
                    continue
                try:
                    image, alpha = read_with_alpha(path)
                    shape = fitted(image.shape, self._config)
                    if fitted is _read_shape_of_style:
                        masks[path] = self._style_mask(path, alpha, shape)
                    images[path, fitted] = resize(image, *shape)
                except ValueError as error:
                    broken[path] = str(error)
                    self._bad.add(path)
        return [
            _Place(
                one,
                images[one.content, fit_shape],
                images[one.style, _read_shape_of_style],
                masks[one.style],
            )
            if left and not {one.content, one.style} & self._bad
            else None
            for one, left in zip(batch.pairs, todo, strict=True)
        ], broken

    def _style_mask(
        self, path: str, alpha: np.ndarray | None, shape: tuple[int, int]
    ) -> np.ndarray | None:
        """The part of a style to learn from, `shape`. Its transparency is told once.

        Raises:
          ValueError: all of it is transparent.
        """
        mask, line = style_mask(path, alpha, None, self._config)
        if line and path not in self._told:
            with tqdm.external_write_mode(file=STDERR):  # not into the bar
                say(f"nst-jax: {line}")
            self._told.add(path)
        return None if mask is None else resize_mask(mask, *shape)


def _read_shape_of_style(shape: Sequence[int], config: Config) -> tuple[int, int]:
    """The shape to which a style is resized when it is read.

    A style that keeps its own size is resized later, by `stylize`, and must not be resized twice.
    """
    if not isinstance(config.size, int) and config.style_size is None:
        return shape[0], shape[1]
    return fit_style_shape(shape, config)


def _read_ahead(
    batches: Sequence[Batch], read: Callable[[Batch], T]
) -> Generator[tuple[Batch, T], None, None]:
    """Gives each batch with the result of `read`, and reads the next batch meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        ahead = [thread.submit(read, batch) for batch in batches[:1]]
        for number, batch in enumerate(batches, start=1):
            pictures = ahead.pop().result()
            ahead += [thread.submit(read, following) for following in batches[number : number + 1]]
            yield batch, pictures


# --------------------------------- The folder -----------------------------------

Put = Callable[[str, Callable[[pathlib.Path], None]], None]
"""`put(name, write)` puts a file into the folder, which `write(path)` writes."""


@contextlib.contextmanager
def _putting(folder: pathlib.Path, *, process: int, number: int) -> Iterator[Put]:
    """Gives a `Put` whose files appear whole, also if several processes write one at once.

    Remote files always do. Local files are written in a folder that the next run removes, then
    moved as a whole.
    """
    if is_remote(folder):
        yield lambda name, write: write(folder / name)
        return
    unfinished = folder / f".{numbered('unfinished', number)}-{process}"
    shutil.rmtree(unfinished, ignore_errors=True)  # a killed process may have left it
    unfinished.mkdir()

    def put(name: str, write: Callable[[pathlib.Path], None]) -> None:
        target = folder / name
        begun = unfinished / target.name
        write(begun)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(begun, target)

    try:
        yield put
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _whole(folder: pathlib.Path) -> Callable[[str], bool]:
    """Returns a function that tells whether a picture is in the folder as a whole."""
    if is_remote(folder):
        return existing(folder)

    def whole(name: str) -> bool:
        path = folder / name
        return path.is_file() and path.stat().st_size > 0

    return whole


def _write_settings(folder: pathlib.Path, name: str, settings: Mapping[str, Any]) -> None:
    """Writes config.json, which appears whole also if several processes write it at once."""
    begun = name if is_remote(folder) else f".{uuid.uuid4().hex}.tmp"
    with replacing(folder / begun) as file:
        file.write((json.dumps(settings, indent=2) + "\n").encode())
    if not is_remote(folder):
        os.replace(folder / begun, folder / name)


# ----------------------------- Painting and records -----------------------------


def _painting(places: Sequence[_Place]) -> Painting:
    """The painting of one picture for each place."""
    count = len(places)
    return Painting(
        group=Group(
            [Picture(place.pair.content, place.content) for place in places],
            [[Picture(place.pair.style, place.style)] for place in places],
            [place.pair.style for place in places],
            [place.pair.output for place in places],
        ),
        styles=[place.style for place in places],
        combine=Combine(
            paired=True,
            style_masks=[place.style_mask for place in places]
            if any(place.style_mask is not None for place in places)
            else None,
        ),
        hint=f"; a --batch_size below {count} takes less" if count > 1 else "",
    )


def _paint(
    runner: Runner,
    batch: Batch,
    places: Sequence[_Place | None],
    put: Put,
    write: Callable[..., None],
    manifest: Manifest,
    watch: Observers,
    *,
    first: Mapping[str, str],
) -> None:
    """Paints the given places of a batch, writes the pictures and records them in the manifest.

    A picture keeps its place in the batch and the program keeps its size, so that the picture does
    not depend on which others of the batch are painted.
    The manifest records if the style of a pair took the place of another one, which was the `first`
    for its content.
    """
    start = time.perf_counter()
    given = {number: place for number, place in enumerate(places) if place is not None}
    filler = next(iter(given.values()))
    filled = [given.get(number, filler) for number in range(batch.size)]
    result = runner.paint(_painting(filled), watch)
    images, losses = np.asarray(result.images), result.loss
    written = []
    try:
        for number in given:
            put(batch.pairs[number].output, functools.partial(write, image=images[number]))
            written.append(number)
    finally:  # a picture without a record would pass for an input, if inputs are in the folder too
        seconds = round((time.perf_counter() - start) / len(given), 3)
        manifest.write(
            [
                {
                    **batch.pairs[number]._asdict(),
                    **_instead_of(batch.pairs[number], first),
                    # JSON has no NaN.
                    "loss": float(losses[number]) if math.isfinite(losses[number]) else None,
                    "seconds": seconds,
                    "diverged": bool(result.diverged[number]),
                    "kept_start": int(result.kept_start[number]),
                    "steps": int(result.steps[number]),
                }
                for number in written
            ]
        )
    _remark(
        [batch.pairs[number].output for number in given],
        [given[number].content for number in given],
        result._replace(
            images=images[list(given)],
            history={name: values[:, list(given)] for name, values in result.history.items()},
        ),
        runner.job.config,
    )
    watch.end(result)


def _instead_of(one: Pair, first: Mapping[str, str]) -> dict[str, str]:
    """What the manifest records of a pair whose style took the place of another one.

    Args:
      one: the pair.
      first: the style that was drawn first for each content.
    """
    style = first.get(one.content, one.style)
    return {} if style == one.style else {"instead_of": style}


def _remark(
    names: Sequence[str], contents: Sequence[np.ndarray], result: Result, config: Config
) -> None:
    """Says on one line what is remarkable about some pictures."""
    steps = steps_at_scales(for_content(config, contents[0].shape))
    if not steps[-1]:  # a transfer of colours
        return
    lines = remarks_on_still_losses(names, result.history, steps)
    own = [Picture(name, content) for name, content in zip(names, contents, strict=True)]
    lines += remarks_on_clipping(names, np.asarray(result.images), own)
    if lines:
        more = f" (and {len(lines) - 1} more remarks)" if len(lines) > 1 else ""
        with tqdm.external_write_mode(file=STDERR):  # not into the bar
            say(f"nst-jax: {lines[0]}{more}")


def _record_bad(manifest: Manifest, bad: Mapping[str, str]) -> None:
    """Reports and records bad files that the manifest does not have yet."""
    lines = []
    for path, error in bad.items():
        if (path, error) not in manifest.bad:
            with tqdm.external_write_mode(file=STDERR):  # not into the bar
                complain(f"skipped {error}")
            lines.append({"path": path, "error": error})
    if lines:
        manifest.write(lines)


def _summary(
    manifest: Manifest,
    folder: pathlib.Path,
    pairs: Sequence[Pair],
    bad: Mapping[str, str],
    *,
    missing: int,
) -> int:
    """Reports the results of the job and returns the exit code.

    Args:
      manifest: what is finished.
      folder: of the pictures.
      pairs: those of this process that were planned.
      bad: errors of bad files, by path.
      missing: number of pairs of this process that were not planned.
    """
    diverged = [manifest.finished[one] for one in pairs if one in manifest.finished]
    say(f"{folder} holds {len(diverged)} of {len(pairs) + missing} pictures")
    missing += len(pairs) - len(diverged)
    if any(diverged):
        complain(
            f"{sum(diverged)} pictures stopped at a value that is not finite, the last "
            "finite ones are kept; try a smaller --learning_rate"
        )
    if bad:
        complain(
            f"{len(bad)} bad files were skipped and {missing} pictures not made; manifest.jsonl "
            "names the files"
        )
        return BAD_FILES
    return DIVERGED if any(diverged) else 0
