"""Data-set jobs of the command line: folders of pictures in, a folder of pictures out.

Where `jobs` paints a few pictures and shows them side by side, a data-set job paints pairs of a
content and a style in batches. It reads the files batch by batch, records in manifest.jsonl what
is finished, and goes on from there when it is started again. Pictures are brought to the size of
the run when they are read, and to coarser scales from there: a set of many resolutions compiles
what its few shapes at that size take.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from nst_jax import objective, sharding, vgg
from nst_jax.cli import signals
from nst_jax.cli.console import complain, say, shows_progress
from nst_jax.cli.dataset.manifest import Manifest, check_settings
from nst_jax.cli.dataset.pairs import Batch, Pair, Source, pair, plan
from nst_jax.cli.look.observers import Group, Observers, Picture
from nst_jax.cli.outputs import check_free
from nst_jax.cli.progress import PictureProgress
from nst_jax.cli.run import DIVERGED, Job, Painting, Runner
from nst_jax.cli.signals import Stopping
from nst_jax.coarse_to_fine import check_content, fit_shape, scales
from nst_jax.config import Config
from nst_jax.files.atomic import check_folder, replacing
from nst_jax.files.images import ImageError, read_image, read_shape, resize, write_image
from nst_jax.objective import Combine

# Pictures painted at once on each device: on a CPU more of them gain nothing, see `batch_scaling`
# in docs/benchmarks.md; an accelerator with memory to spare takes more.
BATCH_SIZE = 4

BAD_FILES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSetJob(Job):
    """What is asked for, besides what any job is.

    Attributes:
      contents, styles: the files, from `expand`.
      pairing: of `PAIRINGS`, see `pair`.
      batch_size: the most pictures that are painted at once; None is `BATCH_SIZE` a device.
      process, processes: the number of this process, and of all that share the work.
    """

    contents: Sequence[Source]
    styles: Sequence[Source]
    pairing: str
    batch_size: int | None = None
    process: int = 0
    processes: int = 1
    apart: ClassVar[bool] = True


def run(job: DataSetJob, params: Mapping, folder: pathlib.Path, *, described: Mapping) -> int:
    """Paints this process's share of `job` into `folder`; returns the exit code.

    Writes the pictures, manifest.jsonl, and config.json with `described` in it. What is finished
    already is left alone. A file that cannot be read, or is too small for the layers, is recorded
    and passed over. A first SIGINT or SIGTERM ends it after the step that it is in; the pictures of
    that batch are then still to be made.

    Raises:
      ValueError: a folder of a job with other settings, nothing that can be read, a picture that
        does not fit into memory, or what `stylize` refuses.
    """
    return signals.run(
        lambda stopping: _paint_share(job, params, folder, described, stopping),
        left=f"what is finished is in {folder}; the same command goes on from there",
    )


def _paint_share(job, params, folder, described, stopping) -> int:
    settings = {
        **described,
        "network": vgg.network_name(params),
        "pairing": job.pairing,
        "seed": job.seed,
        "batch_size": job.batch_size,
        **job.settings(),
    }
    check_settings(folder / "config.json", settings)
    manifest = Manifest(folder, process=job.process)
    # What even a square could not be painted with is no file's fault.
    check_content(params, (512, 512), job.config, tile=job.placement.tile)
    pairs = pair(job.contents, job.styles, pairing=job.pairing, seed=job.seed)
    # Shared out before anything is known of files and devices: a file that is bad to one process
    # may be mended before another starts, and each may have other devices.
    share = sharding.share_of_process(len(pairs), process=job.process, processes=job.processes)
    shapes, bad = _look_at_files(job, stopping)

    def readable(one):
        return one.content not in bad and one.style not in bad

    if not any(map(readable, pairs)):
        raise ValueError(f"no pair of pictures can be read: {next(iter(bad.values()))}")
    devices = 1 if job.placement.tile is not None else jax.local_device_count()
    batch_size = BATCH_SIZE * devices if job.batch_size is None else job.batch_size
    good = [pairs[n] for n in share if readable(pairs[n])]
    own = plan(good, shapes, batch_size=batch_size, devices=devices)

    def finished(one):
        path = folder / one.output
        return one in manifest.finished and path.is_file() and path.stat().st_size > 0

    todo = [batch for batch in own if not all(finished(one) for one in batch.pairs)]
    painter = Runner(job=job, params=params, stopping=stopping)
    painter.check_memory(_largest(job, todo, shapes))
    _refuse_to_overwrite(job, pairs, folder)
    check_folder(folder)
    unfinished = folder / f".unfinished-{job.process}"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir()
    try:
        if not (folder / "config.json").exists():
            # In the process' own folder first: all of them may be writing it, the same to a byte.
            with replacing(unfinished / "config.json") as file:
                file.write((json.dumps(settings, indent=2) + "\n").encode())
            os.replace(unfinished / "config.json", folder / "config.json")
        if job.process == 0:
            _record_bad(manifest, bad)
        every = [one for batch in own for one in batch.pairs]
        progress = PictureProgress(total=len(every), done=sum(map(finished, every)))
        with (
            Observers([progress]) as watch,
            # Closed here: its thread is not to be at work while the process ends.
            contextlib.closing(_read_ahead(todo, _Reader(job.config, finished))) as pictures,
        ):
            for batch, (places, broken) in pictures:
                stopping.check()
                _record_bad(manifest, broken)
                bad |= broken
                left = sum(not finished(one) for one in batch.pairs)
                progress.pass_over(left - sum(map(bool, places)))
                if any(places):
                    _paint(painter, batch, places, folder, unfinished, manifest, watch)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return _summary(manifest, folder, every, bad, missing=len(share) - len(good))


def _refuse_to_overwrite(job: DataSetJob, pairs: Sequence[Pair], folder: pathlib.Path) -> None:
    """Refuses a folder where pictures would replace inputs, or files that are no data set's."""
    inputs = {os.path.realpath(source.path) for source in (*job.contents, *job.styles)}
    for one in pairs:
        if os.path.realpath(folder / one.output) in inputs:
            raise ValueError(f"{folder / one.output} is an input: choose another --output_dir")
    if not (folder / "config.json").exists():
        check_free(folder, [one.output for one in pairs])


def _look_at_files(
    job: DataSetJob, stopping: Stopping
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """By their paths, the shapes that pictures are brought to, and the errors of bad files."""
    contents = {content.path for content in job.contents}
    styles = {style.path for style in job.styles}
    first = job.config.replace(size=scales(job.config)[0], first_size=None)
    shapes, bad = {}, {}
    looking = tqdm(
        dict.fromkeys(source.path for source in (*job.contents, *job.styles)),
        desc="looking at files",
        unit="file",
        delay=2,
        leave=False,
        disable=not shows_progress(),
    )
    for path in looking:
        stopping.check()
        try:
            shapes[path] = fit_shape(read_shape(path), job.config)
        except ImageError as error:
            bad[path] = str(error)
            continue
        terms = objective.Objective.of(job.config)
        layers = terms.layers() if path in contents else ()
        layers += terms.layers("style") if path in styles else ()
        wanted = max(map(vgg.smallest_side, layers), default=1)
        height, width = fit_shape(shapes[path], first)
        if min(height, width) < wanted:
            bad[path] = (
                f"{path}: the layers need {wanted} pixels a side, and it is brought to "
                f"{width} x {height} (width x height)"
            )
    return shapes, bad


class _Place(NamedTuple):
    """A pair with its pictures, brought to the size of the run."""

    pair: Pair
    content: np.ndarray
    style: np.ndarray


def _painting(job: DataSetJob, places: Sequence[_Place]) -> Painting:
    """What paints each of `places`."""
    count = len(places)
    return Painting(
        group=Group(
            [Picture(place.pair.content, place.content) for place in places],
            [Picture(place.pair.style, place.style) for place in places],
            [place.pair.style for place in places],
            [place.pair.output for place in places],
        ),
        styles=[place.style for place in places],
        combine=Combine(paired=True),
        hint=f"; a --batch_size below {count} takes less" if count > 1 else "",
    )


def _largest(
    job: DataSetJob, batches: Sequence[Batch], shapes: Mapping[str, tuple[int, int]]
) -> Iterator[Painting]:
    """The largest of the batches, as if with the largest styles of all; pictures as their shapes.
    None where there are no batches."""

    def blank(shape):
        return jax.ShapeDtypeStruct((*shape, 3), np.float32)

    if batches:
        batch = max(batches, key=lambda batch: batch.size * math.prod(batch.shape))
        styles = [shapes[one.style] for one in itertools.chain(*(b.pairs for b in batches))]
        styles = sorted(styles, key=math.prod)[-batch.size :]
        styles = itertools.islice(itertools.cycle(styles), batch.size)
        content = blank(batch.shape)
        yield _painting(job, [_Place(batch.pairs[0], content, blank(style)) for style in styles])


class _Reader:
    """Reads what is left to do of a batch: `places, broken = reader(batch)`.

    `places` has a `_Place` for each pair, or None where it is finished or one of its files is bad;
    `broken` the errors of files that were not known to be bad.
    """

    def __init__(self, config: Config, finished: Callable[[Pair], bool]):
        self._config, self._finished = config, finished
        self._bad: set[str] = set()

    def __call__(self, batch: Batch) -> tuple[list[_Place | None], dict[str, str]]:
        images, broken = {}, {}
        todo = [not self._finished(one) for one in batch.pairs]
        for one in itertools.compress(batch.pairs, todo):
            for path in (one.content, one.style):
                if path in images or path in self._bad:
                    continue
                try:
                    image = read_image(path)
                    images[path] = resize(image, *fit_shape(image.shape, self._config))
                except ImageError as error:
                    broken[path] = str(error)
                    self._bad.add(path)
        return [
            _Place(one, images[one.content], images[one.style])
            if left and one.content in images and one.style in images
            else None
            for one, left in zip(batch.pairs, todo, strict=True)
        ], broken


def _read_ahead(batches: Sequence[Batch], read: Callable[[Batch], tuple]) -> Iterator[tuple]:
    """Each batch and what `read` gives for it; the next one is read meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        ahead = [thread.submit(read, batch) for batch in batches[:1]]
        for number, batch in enumerate(batches, start=1):
            pictures = ahead.pop().result()
            ahead += [thread.submit(read, following) for following in batches[number : number + 1]]
            yield batch, pictures


def _record_bad(manifest: Manifest, bad: Mapping[str, str]) -> None:
    lines = []
    for path, error in bad.items():
        if (path, error) not in manifest.bad:
            with tqdm.external_write_mode(file=sys.stderr):  # not into the bar
                complain(f"passed over {error}")
            lines.append({"path": path, "error": error})
    if lines:
        manifest.write(lines)


def _paint(painter, batch, places, folder, unfinished, manifest, watch) -> None:
    """Paints the pictures of a batch, writes them and records them in the manifest.

    Each keeps its place, and the program its size, whatever else of the batch is painted.
    """
    start = time.perf_counter()
    painted = [number for number, place in enumerate(places) if place is not None]
    filler = places[painted[0]]
    filled = [place or filler for place in places] + [filler] * (batch.size - len(places))
    result = painter.paint(_painting(painter.job, filled), watch)
    images, losses = np.asarray(result.images), result.loss
    for number in painted:
        # An unfinished file is to be found where the next run looks for it.
        write_image(unfinished / "picture.png", images[number])
        path = folder / batch.pairs[number].output
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished / "picture.png", path)
    seconds = round((time.perf_counter() - start) / len(painted), 3)
    manifest.write(
        [
            {
                **batch.pairs[number]._asdict(),
                "loss": float(losses[number]) if math.isfinite(losses[number]) else None,  # no NaN
                "seconds": seconds,
                "diverged": bool(result.diverged[number]),
                "kept_start": int(result.kept_start[number]),
            }
            for number in painted
        ]
    )
    watch.end(result)


def _summary(manifest, folder, pairs, bad, *, missing) -> int:
    """What the job came to, in a line each; the exit code."""
    diverged = [manifest.finished[one] for one in pairs if one in manifest.finished]
    say(f"{len(diverged)} pictures are in {folder}")
    missing += len(pairs) - len(diverged)
    if any(diverged):
        complain(
            f"{sum(diverged)} pictures stopped at a value that is not finite, the last "
            "finite ones are kept; try a smaller --learning_rate"
        )
    if bad:
        complain(
            f"{len(bad)} bad files, named in manifest.jsonl, are passed over, and "
            f"{missing} pictures not made"
        )
        return BAD_FILES
    return DIVERGED if any(diverged) else 0
