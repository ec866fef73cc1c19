"""Runs of the command: a few pictures in, a folder of pictures, curves and records out.

A job divides its pictures into paintings. Each painting is one call of `stylize`. `Runner` has what
stands around that call: devices, the check of memory, checkpoints, observers, and another attempt
where pictures diverge. Data sets use it too.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import pathlib
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import jax
import numpy as np

from nst_jax import sharding, vgg
from nst_jax.cli import console, preflight, signals
from nst_jax.cli import outputs as cli_outputs
from nst_jax.cli.console import complain, say
from nst_jax.cli.look.observers import ANIMATIONS, Group, Look, Observers, Picture, Records
from nst_jax.cli.outputs import (
    HEADINGS,
    Output,
    check_free,
    sheet_names,
    summary,
    write_pictures,
    write_sheets,
)
from nst_jax.cli.profiling import Profile
from nst_jax.cli.progress import StepProgress
from nst_jax.cli.signals import Stopping
from nst_jax.coarse_to_fine import Result, check_content, fit_shape, steps_at_scales, stylize
from nst_jax.config import Config
from nst_jax.files.atomic import FileError, check_folder, check_place, short, unique
from nst_jax.files.checkpoints import Checkpoints
from nst_jax.files.images import FORMATS
from nst_jax.objective import Combine
from nst_jax.partition import Placement
from nst_jax.version import __version__

DIVERGED = 3


def environment(*, packages: Iterable[str] = ()) -> dict:
    """Device and versions, also of further `packages`, for the record."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", *packages)
    return {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "versions": {"python": platform.python_version(), "nst_jax": __version__}
        | {package: importlib.metadata.version(package) for package in packages},
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for by jobs of all kinds.

    Attributes:
      config: the settings.
      initial: a picture to start from, or None.
      seed: of the random key.
      placement: where pictures are looked at, but for the mesh.
      mesh: sizes of the mesh's axes; None is as `sharding.make_mesh` divides by itself.
      apart: whether each of several processes computes by itself, on its own devices.
    """

    config: Config
    initial: np.ndarray | None = None
    seed: int = 0
    placement: Placement = Placement()
    mesh: Mapping[str, int] | None = None
    apart: ClassVar[bool] = False

    def settings(self) -> dict:
        """What config.json says of the settings and of what they are computed with."""
        placed = {name: getattr(self.placement, name) for name in ("tile", "remat", "strips")}
        placed["mesh"] = self.mesh and dict(self.mesh)
        network = self.config.network
        if hasattr(network, "resolved"):  # what None stood for here, whatever it will later
            network = network.resolved()
        config = self.config.replace(network=network)
        return placed | {"config": config.to_dict(), **environment()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Painting:
    """Outputs that one call of `stylize` makes.

    Attributes:
      group: the outputs, and their contents, all of one shape.
      styles: `[h, w, 3]`; of theirs and of the contents' pictures the check of memory needs no
        more than the shapes.
      combine: how contents and styles are combined.
      sweep: what is explored, a number for each output.
      hint: what else takes less memory, to end the advice with.
      name: of the folder of its checkpoints.
    """

    group: Group
    styles: Sequence[np.ndarray]
    combine: Combine
    sweep: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    hint: str = ""
    name: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runner:
    """Makes the paintings of a job.

    Attributes:
      job, params: what is asked for, and the network.
      stopping: asks for the end.
      saving: gives the checkpoints by the name of a painting and its attempt.
      retries: how often pictures that diverged are painted again, at a tenth of the learning rate
        each time.
    """

    job: Job
    params: Mapping
    stopping: Stopping
    saving: Callable[[str], Checkpoints] = lambda name: Checkpoints(None, {})
    retries: int = 0

    def check_memory(self, paintings: Iterable[Painting]) -> None:
        """Refuses paintings of which one would not fit into memory.

        Raises:
          preflight.DoesNotFit: it would not.
        """
        available = preflight.available_bytes()
        if not self.job.apart:  # they compile together, and refuse together
            available = sharding.smallest_of_processes(available)
        for painting in paintings:
            try:
                self._plan(painting).check(available=available)
            except preflight.DoesNotFit as error:
                raise preflight.DoesNotFit(f"{error}{painting.hint}") from error

    def paint(
        self,
        painting: Painting,
        watch: Observers,
        *,
        keep: Callable[[np.ndarray], Iterable[pathlib.Path]] | None = None,
    ) -> Result:
        """Paints, again where outputs diverge. Whoever calls it tells `watch` of the end. Where
        the run ends too early `keep` writes the pictures as they are; None lets them go.

        Raises:
          Stopped: by a signal; the pictures are kept.
          ValueError: out of memory, or a file that cannot be written; the last pictures are kept.
        """
        sweep = dict(painting.sweep)
        rates = sweep.get("learning_rate", self.job.config.optimizer.learning_rate)
        rates = np.broadcast_to(rates, len(painting.group.stems))
        for attempt in range(self.retries + 1):
            result = self._attempt(painting, sweep, attempt, watch, keep)
            if attempt == self.retries or not result.diverged.any():
                break
            if keep is not None:
                keep(np.asarray(result.images))
            self.stopping.check()
            again = itertools.compress(painting.group.stems, result.diverged)
            complain(f"{', '.join(again)}: diverged, once more at a tenth of the learning rate")
            # All of them in the same program: the others come out as they did.
            rates = np.where(result.diverged, rates / 10, rates)
            sweep["learning_rate"] = rates
        return result

    def _attempt(self, painting, sweep, attempt, watch, keep) -> Result:
        leads = self.job.apart or jax.process_index() == 0
        steps, latest = sum(steps_at_scales(self.job.config)), None

        # Checkpoints first: they claim the run before it leaves anything in its folder.
        def follow(progress):
            nonlocal latest
            if keep is not None and jax.process_count() == 1:
                latest = np.array(progress.images)
            checkpoints(progress)
            watch(progress)
            if self.stopping.received and progress.step < progress.steps:
                if keep is not None:
                    keep(latest)
                checkpoints.save(progress)
                checkpoints.wait()
                self.stopping.check()

        try:
            again = f"-again{attempt}" if attempt else ""
            with self.saving(f"{painting.name}{again}") as checkpoints:
                resume = checkpoints.latest()
                if resume is not None and leads:
                    passed = [f"checkpoint of step {n} is damaged: " for n in checkpoints.damaged]
                    say(f"{''.join(passed)}going on from step {resume.step} of {steps}")
                group = painting.group._replace(
                    history=resume and resume.history, steps=steps, attempt=attempt
                )
                try:
                    watch.begin(group)
                    return stylize(
                        self.params,
                        [content.image for content in group.contents],
                        painting.styles,
                        self.job.config,
                        sweep=sweep,
                        combine=painting.combine,
                        key=jax.random.key(self.job.seed),
                        initial=self.job.initial,
                        resume=resume,
                        callback=follow,
                        placement=self._placement(len(group.stems)),
                        on_window=watch.window,
                    )
                finally:
                    watch.pause()
        except (jax.errors.JaxRuntimeError, MemoryError, FileError) as error:
            full = isinstance(error, FileError)
            if not (full or preflight.ran_out(error)) or not leads:
                raise
            if latest is not None:
                # Their folder may be what cannot be written to: that is told already.
                with contextlib.suppress(FileError):
                    for path in keep(latest):
                        say(f"wrote {path}")
            if full:
                raise
            advice = self._plan(painting).advice()
            raise ValueError(f"out of memory: {advice}{painting.hint}") from error

    def _plan(self, painting: Painting) -> preflight.Plan:
        contents, outputs = painting.group.contents, len(painting.group.stems)
        masks = painting.combine.masks
        return preflight.Plan(
            params=self.params,
            shape=contents[0].image.shape[:2],
            outputs=outputs,
            config=self.job.config,
            sweep=painting.sweep,
            styles=[style.shape[:2] for style in painting.styles],
            contents=len(contents),
            regions=0 if masks is None else masks.shape[1],
            placement=self._placement(outputs),
        )

    def _placement(self, outputs: int) -> Placement:
        """Where so many outputs are made: on all devices, if there are several."""
        if self.job.placement.tile is not None and self.job.mesh is None:
            return self.job.placement
        devices = jax.local_devices() if self.job.apart else None
        mesh = sharding.make_mesh(outputs, sizes=self.job.mesh, devices=devices)
        return self.job.placement.replace(mesh=mesh)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureJob(Job):
    """What is asked for, besides what any job is.

    Attributes:
      contents, styles: the pictures; the outputs are contents x styles (or rows of `mixing`, or
        one of all styles where there are `masks`) x the combinations of `sweep`.
      sweep: numbers of the configuration with several values.
      mixing: `[rows, styles]` or None.
      masks: for each style its mask `[h, w]` over the contents, or None.
      style_masks: for each style its mask or None, or None.
    """

    contents: Sequence[Picture]
    styles: Sequence[Picture]
    sweep: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    mixing: np.ndarray | None = None
    masks: Sequence[np.ndarray] | None = None
    style_masks: Sequence[np.ndarray | None] | None = None

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

    def outputs(self, contents: Sequence[Picture], *, taken: Sequence[str] = ()) -> list[Output]:
        """The outputs of `contents`, in the order in which `stylize` gives them; their files take
        none of the names that are `taken`."""
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
        # Of the sheets and curves of any content, too, no output may take the name.
        sheets = itertools.chain(*sheet_names(self.contents).values())
        taken = unique([*taken, *(pathlib.PurePath(name).stem for name in sheets)])
        stems = [short(f"{output.content}__{output.label}") for output in outputs]
        stems = unique([*taken, *stems])[len(taken) :]
        return [output._replace(stem=stem) for output, stem in zip(outputs, stems, strict=True)]

    def painting(
        self, contents: Sequence[Picture], outputs: Sequence[Output], *, name: str
    ) -> Painting:
        """What makes the `outputs` of contents of one shape.

        Raises:
          ValueError: masks of several sizes.
        """
        of_one = outputs[: len(outputs) // len(contents)]  # the outputs of one content
        mixing, masks = self.mixing, self.masks
        if self.sweep and masks is None:
            rows = np.eye(len(self.styles)) if mixing is None else mixing
            mixing = rows[[output.row for output in of_one]]
        if masks is not None:
            shapes = {np.shape(mask) for mask in masks}
            if len(shapes) > 1:
                raise ValueError(f"--masks must be of one size, got {sorted(shapes)}")
            masks = np.stack([np.stack(masks)] * len(of_one))
        return Painting(
            group=Group(
                contents,
                [self.styles[output.thumbnail] for output in outputs],
                [output.label for output in outputs],
                [output.stem for output in outputs],
            ),
            styles=[style.image for style in self.styles],
            combine=Combine(mixing=mixing, masks=masks, style_masks=self.style_masks),
            sweep={n: np.array([output.settings[n] for output in outputs]) for n in self.sweep},
            name=name,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delivery:
    """Where and how a job leaves what it makes.

    Attributes:
      folder: of the pictures, sheets, curves and records.
      picture_format: a name in `io.FORMATS`.
      overwrite: replace files that are in the folder already, which are refused otherwise.
      log_every: steps between lines of metrics.jsonl.
      profile_dir: folder for a trace of a few steps, or None.
      look: what is to be looked at.
      checkpoint_dir: folder for checkpoints, or None. A job that was begun with them goes on.
      checkpoint_every: steps between them.
      retries: how often outputs that diverged are painted again, at a tenth of the learning rate
        each time.
    """

    folder: pathlib.Path
    picture_format: str = "png"
    overwrite: bool = False
    log_every: int = 10
    profile_dir: str | None = None
    look: Look = Look()
    checkpoint_dir: pathlib.Path | None = None
    checkpoint_every: int = 50
    retries: int = 0


def run(job: PictureJob, params: Mapping, delivery: Delivery, *, described: Mapping) -> int:
    """Runs `job`, leaves its files as `delivery` says, and returns the exit code.

    Contents of one shape are painted together; `described` goes into config.json, and what of it
    makes the pictures again into their metadata. A first SIGINT or SIGTERM ends a run of one
    process after the step that it is in, with a checkpoint and the pictures as they are.

    Raises:
      ValueError: bad input, files that would be overwritten, or checkpoints of another job.
    """
    again = "; the same command goes on from there" if delivery.checkpoint_dir else ""
    return signals.run(
        lambda stopping: _paint_groups(job, params, delivery, described, stopping),
        left=f"the pictures are as they were then{again}",
    )


def _paint_groups(job, params, delivery, described, stopping) -> int:
    groups: dict[tuple[int, int], list[Picture]] = {}
    for content in job.contents:
        groups.setdefault(content.image.shape[:2], []).append(content)
    kind = FORMATS[delivery.picture_format]
    for shape in groups:
        _check_shape(job, params, delivery, shape)
    described = {
        **described,
        "network": vgg.network_name(params),
        "seed": job.seed,
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "sweep": dict(job.sweep),
        **job.settings(),
    }
    outputs, taken = [], []
    for contents in groups.values():
        outputs.append(job.outputs(contents, taken=taken))
        taken += [output.stem for output in outputs[-1]]
    sheets = sheet_names(job.contents)
    saving = _saving(job, described, delivery)
    if not (delivery.overwrite or saving("0").begun):
        pictures = [f"{stem}{kind.suffix}" for stem in taken]
        others = itertools.chain(("config.json", "metrics.jsonl"), *sheets.values())
        check_free(delivery.folder, [*pictures, *others, *delivery.look.names(taken)])
    paintings = [
        job.painting(contents, own, name=str(number))
        for number, (contents, own) in enumerate(zip(groups.values(), outputs, strict=True))
    ]
    painter = Runner(
        job=job, params=params, stopping=stopping, saving=saving, retries=delivery.retries
    )
    painter.check_memory(paintings)
    for folder in (delivery.checkpoint_dir, delivery.look.tensorboard_dir):
        if folder is not None:
            check_place(pathlib.Path(folder))
    check_folder(delivery.folder)
    recipe = cli_outputs.recipe(described)
    text = recipe if len(recipe) <= kind.longest_text else None
    if text is None:
        say(
            f"nst-jax: the settings are too long for the metadata of a {delivery.picture_format}: "
            "left out"
        )
    write = functools.partial(write_pictures, delivery.folder, kind=kind, text=text)
    diverged, rows, risen = [], [], []
    leads = jax.process_index() == 0  # of several processes one writes what they share
    watching, profile = [], None
    if leads:
        records = Records(delivery.folder, described, log_every=delivery.log_every)
        watching = [records, StepProgress(records.seconds)]
        if delivery.profile_dir is not None:
            size = fit_shape(next(iter(groups)), job.config)
            profile = Profile(delivery.profile_dir, size)
            watching.append(profile)
    watching += delivery.look.observers(
        delivery.folder, settings=described, log_every=delivery.log_every, outputs=len(taken)
    )
    with Observers(watching) as watch:
        for painting, own in zip(paintings, outputs, strict=True):
            stopping.check()
            start = time.perf_counter()
            contents = painting.group.contents
            keep = functools.partial(write, contents, own)
            result = painter.paint(painting, watch, keep=keep)
            paths = keep(np.asarray(result.images))
            rows += summary(paths, own, result, time.perf_counter() - start)
            if leads:
                risen += _risen(own, result, steps_at_scales(job.config))
                write_sheets(
                    delivery.folder, contents, job.styles, own, result, names=sheets, text=recipe
                )
            watch.end(result)
            diverged += itertools.compress(painting.group.stems, result.diverged)
    if rows:
        say(console.table(HEADINGS, rows))
    for line in risen:
        say(f"nst-jax: {line}")
    if profile is not None:
        say(
            f"traced {profile.traced} steps into {delivery.profile_dir}"
            if profile.traced
            else "nst-jax: --profile_dir: too few steps at the last scale to trace steady ones"
        )
    if diverged and leads:
        complain(
            f"{', '.join(diverged)}: stopped at a value that is not finite, the last "
            "finite picture is kept; try a smaller --learning_rate"
        )
    return DIVERGED if diverged else 0


def _check_shape(job, params, delivery, shape) -> None:
    """Refuses contents of a shape that the format, the animation or the network cannot take."""
    kind = FORMATS[delivery.picture_format]
    longest_sides = {delivery.picture_format: kind.longest_side}
    if delivery.look.animate is not None:
        suffix = delivery.look.animate
        longest_sides[f"{suffix} animation"] = ANIMATIONS[suffix]
    height, width = fit_shape(shape, job.config)
    longest = max(height, width)
    for name, most in longest_sides.items():
        if longest > most:
            raise ValueError(f"a {name} has at most {most} pixels a side, got {longest}")
    if height * width > kind.most_pixels:
        raise ValueError(
            f"a {delivery.picture_format} has at most {kind.most_pixels} pixels, got "
            f"{height * width}, {height}x{width}: choose a smaller --size or another --format"
        )
    check_content(
        params,
        shape,
        job.config,
        styles=[style.image.shape for style in job.styles],
        combine=Combine(masks=job.masks, style_masks=job.style_masks),
        tile=job.placement.tile,
    )


def _saving(
    job: PictureJob, described: Mapping, delivery: Delivery
) -> Callable[[str], Checkpoints]:
    """What gives the checkpoints of a part of the job, by the part's name."""
    if delivery.checkpoint_dir is None:
        return lambda part: Checkpoints(None, {})
    settings = {
        name: described[name]
        for name in ("weights_sha256", "network", "processes", "devices", "platform", "device")
    }
    # Another version or device rounds otherwise, and the picture would be neither one's.
    settings |= {name: described["versions"][name] for name in ("jax", "jaxlib")}
    settings = (
        described["config"]
        | settings
        | {
            "seed": job.seed,
            **{name: described[name] for name in ("tile", "remat", "strips", "mesh")},
            **described["sweep"],
            "mixing": None if job.mixing is None else np.asarray(job.mixing).tolist(),
            # Or files that are another run's would be taken for this one's.
            "output_dir": str(delivery.folder.absolute()),
            "format": delivery.picture_format,
            **delivery.look._asdict(),
        }
    )
    for kind in ("contents", "styles"):
        settings[kind] = [picture.name for picture in getattr(job, kind)]
        for picture in getattr(job, kind):
            digests = [digest(picture.image), digest(picture.alpha)]
            settings[f"{kind[:-1]} {picture.name}"] = digests
    for kind in ("masks", "style_masks"):
        for number, mask in enumerate(getattr(job, kind) or ()):
            settings[f"{kind}[{number}]"] = digest(mask)
    settings["initial"] = digest(job.initial)
    return lambda part: Checkpoints(
        delivery.checkpoint_dir / part, settings, every=delivery.checkpoint_every
    )


def digest(array: np.ndarray | None) -> str | None:
    """The beginning of the SHA-256 of an array, as good as the whole against mistakes."""
    if array is None:
        return None
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()[:16]


def _risen(outputs: Sequence[Output], result: Result, steps: Sequence[int]) -> list[str]:
    """A line for each output whose loss rose at one of the scales, which had so many `steps`."""
    firsts = result.history["total"][-steps[-1]]
    scales = f"{len(steps)} scale{'s' if len(steps) > 1 else ''}"
    lines = []
    for output, kept, first, last in zip(
        outputs, result.kept_start, firsts, result.loss, strict=True
    ):
        if kept:
            told = f"the loss rose at {kept} of {scales}, which returned the picture unchanged"
        elif last > first:  # with an average or jitter, and not where it is not finite
            told = f"the loss rose from {first:.4g} to {last:.4g}"
        else:
            continue
        lines.append(f"{output.stem}: {told}; a smaller --learning_rate may help")
    return lines
