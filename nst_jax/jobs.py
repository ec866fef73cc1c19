"""A job of the command line: pictures in, a folder of pictures, curves and records out."""

import contextlib
import dataclasses
import importlib.metadata
import itertools
import json
import math
import pathlib
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from nst_jax import io, preflight, report, sharding, vgg
from nst_jax.config import Config
from nst_jax.optimize import Progress
from nst_jax.profiling import Profile
from nst_jax.stylize import check_content, fit_shape, stylize
from nst_jax.version import __version__

DIVERGED = 3


class Picture(NamedTuple):
    """A named picture, `[H, W, 3]` in [0, 1]."""

    name: str
    image: np.ndarray


class Output(NamedTuple):
    """One picture to be made.

    Attributes:
      content: name of the content.
      label: of the style or blend, and of the settings explored.
      thumbnail: index of the style to show for it.
      row: index into the rows of the mixing, or of the styles.
      settings: the explored numbers.
      stem: its file's name without the extension.
    """

    content: str
    label: str
    thumbnail: int
    row: int
    settings: Mapping[str, float]
    stem: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for.

    Attributes:
      contents, styles: the pictures; the outputs are contents x styles (or rows of `mixing`, or
        one of all styles where there are `masks`) x the combinations of `sweep`.
      config: the settings.
      sweep: numbers of the configuration with several values.
      mixing: `[rows, styles]` or None.
      masks: for each style its mask `[h, w]` over the contents, or None.
      style_masks: for each style its mask or None, or None.
      initial: a picture to start from, or None.
      seed: of the random key.
      tile: longest side of the windows in which larger pictures are looked at, or None.
      mesh: sizes of the mesh's axes; None is as `sharding.make_mesh` divides by itself.
    """

    contents: Sequence[Picture]
    styles: Sequence[Picture]
    config: Config
    sweep: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    mixing: np.ndarray | None = None
    masks: Sequence[np.ndarray] | None = None
    style_masks: Sequence[np.ndarray | None] | None = None
    initial: np.ndarray | None = None
    seed: int = 0
    tile: int | None = None
    mesh: Mapping[str, int] | None = None

    def rows(self) -> list[tuple[str, int]]:
        """(label, index of the style to show) of each row of styles."""
        names = [style.name for style in self.styles]
        if self.masks is not None:
            return [("+".join(names), 0)]
        if self.mixing is None:
            return [(name, index) for index, name in enumerate(names)]
        labels = [
            "+".join(f"{w:g}_{name}" for w, name in zip(row, names, strict=True) if w)
            for row in self.mixing
        ]
        return [
            (label, int(np.argmax(row)))
            for label, row in zip(unique(labels), self.mixing, strict=True)
        ]

    def outputs(self, contents: Sequence[Picture]) -> list[Output]:
        """The outputs of `contents`, in the order in which `stylize` gives them."""
        combinations = [
            dict(zip(self.sweep, values, strict=True))
            for values in itertools.product(*self.sweep.values())
        ]
        outputs = [
            Output(
                content.name,
                "__".join([label, *(f"{name}={value:g}" for name, value in settings.items())]),
                thumbnail,
                row,
                settings,
            )
            for content in contents
            for row, (label, thumbnail) in enumerate(self.rows())
            for settings in combinations
        ]
        # Of the sheets and curves, too, no output may take the name; nor one too long for a disk.
        taken = [f"{c.name}__{kind}" for c in contents for kind in ("contact_sheet", "loss_curves")]
        stems = [f"{output.content}__{output.label}" for output in outputs]
        stems = unique([*taken, *(stem[:100] for stem in stems)])[len(taken) :]
        return [output._replace(stem=stem) for output, stem in zip(outputs, stems, strict=True)]


def unique(names: Sequence[str]) -> list[str]:
    """Names with a number behind those that came before, so that no output hides another."""
    found: dict[str, None] = {}  # quick to look up, and in order
    for name in names:
        candidate, number = name, 1
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found[candidate] = None
    return list(found)


def say(line: str) -> None:
    """A line for whoever runs the command, on stderr."""
    print(line, file=sys.stderr, flush=True)


class Records:
    """config.json and metrics.jsonl of a run, begun with its first step: what ends before, such
    as bad input, leaves those of an earlier run alone.
    """

    def __init__(self, folder: pathlib.Path, described: Mapping):
        self._folder, self._described = folder, described
        self._metrics = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._metrics is not None:
            self._metrics.close()

    def write(self, lines: Sequence[Mapping]) -> None:
        """Appends lines to metrics.jsonl."""
        if self._metrics is None:
            text = json.dumps(self._described, indent=2) + "\n"
            (self._folder / "config.json").write_text(text, "utf-8")
            self._metrics = (self._folder / "metrics.jsonl").open("w", encoding="utf-8")
        self._metrics.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self._metrics.flush()


class Monitor:
    """Follows a run: a progress bar on a terminal, plain lines elsewhere, and the records.

    Attributes:
      pictures: `[N, H, W, 3]` after the last step, for when the next one runs out of memory; of
        one process and untiled.
    """

    def __init__(self, records: Records, outputs: Sequence[Output], log_every: int, keeps: bool):
        self._records, self._outputs, self._log_every = records, outputs, log_every
        self._keeps = keeps and jax.process_count() == 1
        self._start = time.perf_counter()
        self.pictures = None
        self._bar = self._windows = None
        if sys.stderr.isatty():
            self._bar = tqdm(unit="step", dynamic_ncols=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for bar in (self._windows, self._bar):
            if bar is not None:
                bar.close()

    def window(self, done: int, total: int) -> None:
        """Follows the windows of a tiled step, on a terminal."""
        if self._bar is None:
            return
        if self._windows is None:
            self._windows = tqdm(unit="window", dynamic_ncols=True, leave=False, position=1)
        if done == 1:
            self._windows.reset(total)
        self._windows.update()

    def __call__(self, progress: Progress) -> None:
        seconds = time.perf_counter() - self._start
        if self._keeps:
            self.pictures = np.array(progress.images)
        total = progress.terms["total"]
        first = progress.step - len(total) + 1
        lines = []
        for row, step in enumerate(range(first, progress.step + 1)):
            if step == 1 or step % self._log_every == 0 or step == progress.steps:
                for index, output in enumerate(self._outputs):
                    terms = {name: float(v[row, index]) for name, v in progress.terms.items()}
                    # "style" is the picture's name, so the term goes by another.
                    terms["style_loss"] = terms.pop("style")
                    line = {"step": step, "style": output.label, "output": output.stem}
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


def environment(packages: Iterable[str] = ()) -> dict:
    """Device and versions, also of further `packages`, for the record."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", *packages)
    return {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "versions": {"python": platform.python_version(), "nst_jax": __version__}
        | {package: importlib.metadata.version(package) for package in packages},
    }


def run(
    job: Job,
    params: Mapping,
    folder: pathlib.Path,
    *,
    described: dict,
    log_every: int,
    profile_dir: str | None = None,
) -> int:
    """Runs `job` and writes its files into `folder`; returns the exit code.

    Contents of one shape are painted together; `described` goes into config.json. With a
    `profile_dir`, a few steps of the first of them are traced into that folder.
    """
    groups: dict[tuple[int, int], list[Picture]] = {}
    for content in job.contents:
        groups.setdefault(content.image.shape[:2], []).append(content)
    if len(groups) > 1:  # or a later one might be refused when the first is painted already
        for shape in groups:
            check_content(params, shape, job.config, masks=job.masks)
    folder.mkdir(parents=True, exist_ok=True)
    described = described | {
        "network": vgg.network_name(params),
        "seed": job.seed,
        "tile": job.tile,
        "mesh": job.mesh and dict(job.mesh),
        "processes": jax.process_count(),
        "sweep": dict(job.sweep),
        "config": dataclasses.asdict(job.config),
        **environment(),
    }
    diverged = []
    leads = jax.process_index() == 0  # of several processes one writes what they share
    with contextlib.ExitStack() as stack:
        records = stack.enter_context(Records(folder, described))
        profile = None
        if profile_dir is not None and leads:
            size = fit_shape(next(iter(groups)), job.config)
            profile = stack.enter_context(Profile(profile_dir, size))
        for contents in groups.values():
            outputs = job.outputs(contents)
            with contextlib.ExitStack() as inner:
                monitor = None
                if leads:
                    keeps = job.tile is None
                    monitor = inner.enter_context(Monitor(records, outputs, log_every, keeps))
                try:
                    result = _stylize(job, params, contents, outputs, monitor, profile)
                except (jax.errors.JaxRuntimeError, MemoryError) as error:
                    if not preflight.ran_out(error) or not leads:
                        raise
                    if monitor.pictures is not None:
                        write_pictures(folder, outputs, monitor.pictures)
                    shape = contents[0].image.shape[:2]
                    line = preflight.advice(params, shape, len(outputs), job.config)
                    raise ValueError(f"out of memory: {line}") from error
            write_outputs(job, folder, contents, outputs, result)
            diverged += [o.stem for o, bad in zip(outputs, result.diverged, strict=True) if bad]
    if profile is not None:
        say(
            f"traced {profile.traced} steps into {profile_dir}"
            if profile.traced
            else "nst-jax: --profile_dir: too few steps at the last scale to trace steady ones"
        )
    if diverged and leads:
        say(
            f"nst-jax: {', '.join(diverged)}: stopped at a value that is not finite, the last "
            "finite picture is kept; try a smaller --learning_rate"
        )
    return DIVERGED if diverged else 0


def _stylize(job: Job, params, contents, outputs, monitor, profile):
    """`stylize` on contents of one shape, with a row of styles and a number for each output."""
    of_one = outputs[: len(outputs) // len(contents)]  # the outputs of one content
    config, mixing, masks = job.config, job.mixing, job.masks
    if job.sweep:
        numbers = {name: np.array([o.settings[name] for o in outputs]) for name in job.sweep}
        config = config.replace(**numbers)
        if masks is None:
            rows = np.eye(len(job.styles)) if mixing is None else mixing
            mixing = rows[[output.row for output in of_one]]
    if masks is not None:
        shapes = {np.shape(mask) for mask in masks}
        if len(shapes) > 1:
            raise ValueError(f"--masks must be of one size, got {sorted(shapes)}")
        masks = np.stack([np.stack(masks)] * len(of_one))

    def follow(progress):
        for callback in (monitor, profile):
            if callback is not None:
                callback(progress)

    mesh = None
    if job.tile is None or job.mesh is not None:
        mesh = sharding.make_mesh(len(outputs), sizes=job.mesh)
    if mesh is None and job.tile is None:
        regions = 0 if masks is None else masks.shape[1]
        shape = contents[0].image.shape[:2]
        preflight.check(params, shape, len(outputs), config, regions=regions)
    return stylize(
        params,
        [content.image for content in contents],
        [style.image for style in job.styles],
        config,
        key=jax.random.key(job.seed),
        mixing=mixing,
        masks=masks,
        style_masks=job.style_masks,
        initial=job.initial,
        callback=follow,
        tile=job.tile,
        on_window=monitor and monitor.window,
        mesh=mesh,
    )


def write_pictures(folder: pathlib.Path, outputs: Sequence[Output], images: np.ndarray) -> None:
    """This process's share of the pictures `[N, H, W, 3]`."""
    for number in sharding.share(len(outputs)):
        path = folder / f"{outputs[number].stem}.png"
        io.write_image(path, images[number])
        say(f"wrote {path}")


def write_outputs(
    job: Job,
    folder: pathlib.Path,
    contents: Sequence[Picture],
    outputs: Sequence[Output],
    result,
) -> None:
    """The pictures, and for each content a contact sheet and the loss curves; of several
    processes each writes its share of the pictures, and the first one the rest."""
    images = np.asarray(result.images)
    write_pictures(folder, outputs, images)
    if jax.process_index() > 0:
        return
    share = len(outputs) // len(contents)
    for number, content in enumerate(contents):
        prefix = "" if len(job.contents) == 1 else f"{content.name}__"
        own = slice(number * share, (number + 1) * share)
        labels = [output.label for output in outputs[own]]
        sheet = report.contact_sheet(
            content.image,
            [job.styles[output.thumbnail].image for output in outputs[own]],
            images[own],
            content_label=content.name,
            style_labels=labels,
        )
        io.write_image(folder / f"{prefix}contact_sheet.png", sheet)
        history = {name: values[:, own] for name, values in result.history.items()}
        try:
            report.loss_curves(folder / f"{prefix}loss_curves.png", history, labels)
        except ImportError as error:
            say(f"nst-jax: {error}")
