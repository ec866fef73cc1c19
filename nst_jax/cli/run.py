"""Runs of the command: a few pictures in; a folder of pictures, curves and records out.

A job is divided into paintings. Each painting is one call of `stylize`. `Runner` does the work
around that call: devices, the check of memory, checkpoints, observers, and further attempts for
pictures that diverge. Data sets use it too.
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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from nst_jax import sharding, vgg
from nst_jax.cli import console, preflight, shared_folder, speeds
from nst_jax.cli.console import complain, say
from nst_jax.cli.inputs import tell_enlarged
from nst_jax.cli.look.observers import (
    ANIMATIONS,
    Group,
    Look,
    Observer,
    Observers,
    Picture,
    Records,
)
from nst_jax.cli.outputs import (
    HEADINGS,
    Output,
    check_free,
    recipe,
    remarks_on_clipping,
    remarks_on_overflow,
    remarks_on_still_losses,
    sheet_names,
    summary,
    terms_at,
    write_pictures,
    write_sheets,
)
from nst_jax.cli.profiling import Profile
from nst_jax.cli.progress import Pace, StepProgress, spoken
from nst_jax.cli.shared_folder import CONFIG, METRICS, REPORT, numbered
from nst_jax.cli.signals import Stopping, run_until_stopped
from nst_jax.coarse_to_fine import (
    Result,
    check_content,
    fit_shape,
    fit_style_shape,
    for_content,
    pixels_at_steps,
    scales,
    steps_at_scales,
    stylize,
)
from nst_jax.config import Config
from nst_jax.extractor import is_circular
from nst_jax.files.atomic import FileError, check_folder, check_place, short, unique
from nst_jax.files.checkpoints import Checkpoints
from nst_jax.files.images import FORMATS, Format
from nst_jax.files.paths import absolute, path_of
from nst_jax.objective import Combine
from nst_jax.optimize import Progress
from nst_jax.partition import Placement
from nst_jax.version import __version__

DIVERGED = 3
# Choices of a `Placement` that config.json records.
PLACED = ("tile", "remat", "strips", "steps_per_dispatch")

Keep = Callable[[np.ndarray], Sequence[pathlib.Path]]
"""Writes pictures `[N, H, W, 3]` and returns the paths of the files."""


# ------------------------------ Jobs and paintings ------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Settings that jobs of all kinds have.

    Attributes:
      config: the settings of the style transfer.
      initial: a picture `[h, w, 3]` to start from, or None.
      seed: of the random key.
      placement: the parts in which pictures are evaluated, without the mesh.
      mesh: sizes of the mesh's axes. None lets `sharding.make_mesh` choose them.
      apart: whether each of several processes computes by itself, on its own devices.
    """

    config: Config
    initial: np.ndarray | None = None
    seed: int = 0
    placement: Placement = Placement()
    mesh: Mapping[str, int] | None = None
    apart: ClassVar[bool] = False

    def settings(self) -> dict[str, Any]:
        """The settings, the devices and the versions, as config.json records them."""
        placed = {name: getattr(self.placement, name) for name in PLACED}
        placed["mesh"] = self.mesh and dict(self.mesh)
        config = self.config.on(self.placement.platform)  # records what None means there
        return placed | {"config": config.to_dict(), **environment()}


def environment(*, packages: Iterable[str] = ()) -> dict[str, Any]:
    """The device and the versions of packages, for the record.

    Args:
      packages: further packages whose versions are recorded.
    """
    return {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "versions": versions(packages=packages),
    }


def versions(*, packages: Iterable[str] = ()) -> dict[str, str]:
    """The versions of Python, of nst_jax and of the packages that it needs. It starts no device.

    Args:
      packages: further packages.
    """
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", *packages)
    return {"python": platform.python_version(), "nst_jax": __version__} | {
        package: importlib.metadata.version(package) for package in packages
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Painting:
    """Outputs that one call of `stylize` makes.

    For the check of memory, only the shapes of the pictures matter.

    Attributes:
      group: the outputs and their contents. All have one shape.
      styles: pictures `[h, w, 3]`.
      combine: how contents and styles are combined.
      sweep: `{address: [N]}`, a number for each output.
      hint: the end of the advice about memory: what else needs less memory.
      name: of its checkpoints' folder.
      config: settings in place of the job's; None is the job's.
      inputs: data of the run, as in `stylize`.
      initial: pictures to start from in place of the job's; None is the job's.
    """

    group: Group
    styles: Sequence[np.ndarray]
    combine: Combine
    sweep: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    hint: str = ""
    name: str = ""
    config: Config | None = None
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    initial: Sequence[Any] | None = None


# ------------------------------------ Runner ------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runner:
    """Makes the paintings of a job.

    Attributes:
      job: the settings.
      params: the network's parameters.
      stopping: says whether a signal asked to stop.
      saving: returns the checkpoints of an attempt by its name.
      retries: how often diverged pictures are painted again, each time at a tenth of the learning
        rate.
    """

    job: Job
    params: Mapping[str, Any]
    stopping: Stopping
    saving: Callable[[str], Checkpoints] = lambda name: Checkpoints(None, {})
    retries: int = 0

    def check_memory(self, paintings: Iterable[Painting]) -> None:
        """Refuses the paintings if one of them would not fit into memory.

        Raises:
          preflight.DoesNotFit: one would not fit.
        """
        available = preflight.available_bytes()
        if not self.job.apart:  # the processes compile together, so they must refuse together
            available = sharding.smallest_of_processes(available)
        for painting in paintings:
            try:
                self._plan(painting).check(available=available)
            except preflight.DoesNotFit as error:
                raise preflight.DoesNotFit(f"{error}{painting.hint}") from error

    def paint(self, painting: Painting, watch: Observers, *, keep: Keep | None = None) -> Result:
        """Makes a painting, and makes it again if outputs diverge.

        Args:
          painting: what to make.
          watch: observes the run. The caller tells it about the result.
          keep: writes the pictures as they are if the run ends too early. None drops them.

        Raises:
          Stopped: a signal ended the run. The pictures are kept.
          ValueError: memory ran out, or a file cannot be written. The last pictures are kept.
        """
        sweep = dict(painting.sweep)
        rates = sweep.get("learning_rate", self._config(painting).optimizer.learning_rate)
        rates = np.broadcast_to(np.asarray(rates), len(painting.group.stems))
        attempt = 0
        while True:
            result = self._attempt(painting, sweep, attempt, watch, keep)
            if attempt == self.retries or not result.diverged.any():
                return result
            if keep is not None:
                keep(np.asarray(result.images))
            self.stopping.check()
            again = itertools.compress(painting.group.stems, result.diverged)
            complain(f"{', '.join(again)}: diverged, trying again at a tenth of the learning rate")
            # All outputs run again in the same program. The others come out as they did before.
            rates = np.where(result.diverged, rates / 10, rates)
            sweep["learning_rate"] = rates
            attempt += 1

    def _attempt(
        self,
        painting: Painting,
        sweep: Mapping[str, np.ndarray],
        attempt: int,
        watch: Observers,
        keep: Keep | None,
    ) -> Result:
        """Calls `stylize` once, from the last checkpoint if there is one."""
        leads = self.job.apart or jax.process_index() == 0
        shape = painting.group.contents[0].image.shape
        config = for_content(self._config(painting), shape)
        steps = sum(steps_at_scales(config))
        initial = self.job.initial if painting.initial is None else painting.initial
        latest: np.ndarray | None = None  # the pictures after the last dispatch
        again = f"-again{attempt}" if attempt else ""
        try:
            with self.saving(f"{painting.name}{again}") as checkpoints:
                resume = checkpoints.latest()
                if resume is not None and leads:
                    passed = [f"checkpoint of step {n} is damaged: " for n in checkpoints.damaged]
                    say(f"{''.join(passed)}continuing from step {resume.step} of {steps}")
                group = painting.group._replace(
                    history=resume and resume.history,
                    steps=steps,
                    pixels=pixels_at_steps(config, shape),
                    attempt=attempt,
                )

                def follow(progress: Progress) -> None:
                    nonlocal latest
                    if keep is not None and jax.process_count() == 1:
                        latest = np.array(progress.images)
                    if progress.step == len(progress.terms["total"]) and jax.process_count() == 1:
                        for line in remarks_on_overflow(group.stems, progress):
                            complain(line)
                    # Checkpoints come first, so that a refused run writes nothing to the folder.
                    checkpoints(progress)
                    watch(progress)
                    if self.stopping.received and progress.step < progress.steps:
                        if keep is not None and latest is not None:
                            keep(latest)
                        checkpoints.save(progress)
                        checkpoints.wait()
                        self.stopping.check()

                try:
                    watch.begin(group)
                    return stylize(
                        self.params,
                        [content.image for content in group.contents],
                        painting.styles,
                        self._config(painting),
                        sweep=sweep,
                        combine=painting.combine,
                        inputs=painting.inputs,
                        key=jax.random.key(self.job.seed),
                        initial=initial,
                        resume=resume,
                        callback=follow,
                        placement=self.placement(len(group.stems)),
                        on_window=watch.window,
                    )
                finally:
                    watch.pause()
        except (jax.errors.JaxRuntimeError, MemoryError, FileError) as error:
            full = isinstance(error, FileError)
            if not (full or preflight.ran_out(error)) or not leads:
                raise
            if keep is not None and latest is not None:
                # If their folder is the one that cannot be written, `error` already says so.
                with contextlib.suppress(FileError):
                    for path in keep(latest):
                        say(f"wrote {path}")
            if full:
                raise
            advice = self._plan(painting).advice()
            raise ValueError(f"out of memory: {advice}{painting.hint}") from error

    def _config(self, painting: Painting) -> Config:
        """The settings of a painting."""
        return self.job.config if painting.config is None else painting.config

    def _plan(self, painting: Painting) -> preflight.Plan:
        """The parts of a painting that its memory depends on."""
        contents, outputs = painting.group.contents, len(painting.group.stems)
        masks = painting.combine.masks
        return preflight.Plan(
            params=self.params,
            shape=contents[0].image.shape[:2],
            outputs=outputs,
            config=self._config(painting),
            sweep=painting.sweep,
            inputs=painting.inputs,
            styles=[style.shape[:2] for style in painting.styles],
            contents=len(contents),
            regions=0 if masks is None else np.asarray(masks).shape[1],
            placement=self.placement(outputs),
        )

    def placement(self, outputs: int) -> Placement:
        """The job's placement, with a mesh of all devices if there are several."""
        if self.job.placement.tile is not None and self.job.mesh is None:
            return self.job.placement
        devices = jax.local_devices() if self.job.apart else None
        mesh = sharding.make_mesh(outputs, sizes=self.job.mesh, devices=devices)
        return self.job.placement.replace(mesh=mesh)


# ------------------------------- Jobs of pictures -------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureJob(Job):
    """A job over given pictures.

    The outputs of each content are its rows times the combinations of `sweep`. The rows are the
    styles, or the rows of `mixing`. With `masks`, a single row holds all styles.

    Attributes:
      contents: the content pictures.
      styles: the style pictures.
      sweep: addresses of numbers in the configuration, each with several values.
      mixing: `[rows, styles]`, or None.
      masks: a mask `[h, w]` over the contents for each style, or None.
      style_masks: a mask or None for each style, or None.
    """

    contents: Sequence[Picture]
    styles: Sequence[Picture]
    sweep: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    mixing: np.ndarray | None = None
    masks: Sequence[np.ndarray] | None = None
    style_masks: Sequence[np.ndarray | None] | None = None

    def rows(self) -> list[tuple[str, tuple[int, ...]]]:
        """(label, indices of its styles) for each row of styles."""
        names = [style.name for style in self.styles]
        if self.masks is not None:
            return [("+".join(names), tuple(range(len(names))))]
        if self.mixing is None:
            return [(name, (index,)) for index, name in enumerate(names)]
        labels = [
            "+".join(f"{w:g}_{name}" for w, name in zip(row, names, strict=True) if w)
            for row in self.mixing
        ]
        return [
            (label, tuple(np.flatnonzero(row).tolist()))
            for label, row in zip(unique(labels), self.mixing, strict=True)
        ]

    def masks_of(self, output: Output) -> list[Picture]:
        """The masks of an output, as grey pictures."""
        found = []
        for kind, masks in (("mask", self.masks or ()), ("style mask", self.style_masks or ())):
            for index in output.styles if masks else ():
                mask = masks[index]
                if mask is not None:
                    grey = np.broadcast_to(
                        np.asarray(mask, np.float32)[..., None], (*mask.shape, 3)
                    )
                    found.append(Picture(f"{kind} of {self.styles[index].name}", grey))
        return found

    def stacked_masks(self) -> np.ndarray | None:
        """The masks as `[styles, h, w]`, or None.

        Raises:
          ValueError: masks of different sizes.
        """
        if self.masks is None:
            return None
        shapes = {np.shape(mask) for mask in self.masks}
        if len(shapes) > 1:
            raise ValueError(f"--masks must be of one size, got {sorted(shapes)}")
        return np.stack(self.masks)

    def outputs(self, contents: Sequence[Picture], *, taken: Sequence[str] = ()) -> list[Output]:
        """The outputs of `contents`, in the order of `stylize`.

        Args:
          contents: some of the job's contents.
          taken: names that no file of these outputs may have.
        """
        combinations = [
            dict(zip(self.sweep, values, strict=True))
            for values in itertools.product(*self.sweep.values())
        ]
        outputs = [
            Output(
                content.name,
                "__".join([label, *(f"{name}={value:g}" for name, value in settings.items())]),
                styles,
                row,
                settings,
            )
            for content in contents
            for row, (label, styles) in enumerate(self.rows())
            for settings in combinations
        ]
        # The names of sheets and curves are taken too, for all contents of the job.
        sheets = itertools.chain(*sheet_names(self.contents).values())
        taken = unique([*taken, *(pathlib.PurePath(name).stem for name in sheets)])
        stems = [short(f"{output.content}__{output.label}") for output in outputs]
        stems = unique([*taken, *stems])[len(taken) :]
        return [output._replace(stem=stem) for output, stem in zip(outputs, stems, strict=True)]

    def painting(
        self, contents: Sequence[Picture], outputs: Sequence[Output], *, name: str
    ) -> Painting:
        """The painting that makes `outputs`, whose contents all have one shape.

        Raises:
          ValueError: masks of different sizes.
        """
        of_one = outputs[: len(outputs) // len(contents)]  # the outputs of one content
        mixing, masks = self.mixing, self.stacked_masks()
        if masks is not None:
            masks = np.stack([masks] * len(of_one))
        elif self.sweep:
            rows = np.eye(len(self.styles)) if mixing is None else mixing
            mixing = rows[[output.row for output in of_one]]
        return Painting(
            group=Group(
                contents,
                [[self.styles[index] for index in output.styles] for output in outputs],
                [output.label for output in outputs],
                [output.stem for output in outputs],
                [self.masks_of(output) for output in outputs],
            ),
            styles=[style.image for style in self.styles],
            combine=Combine(mixing=mixing, masks=masks, style_masks=self.style_masks),
            sweep={n: np.array([output.settings[n] for output in outputs]) for n in self.sweep},
            name=name,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delivery:
    """Where and how a job leaves its files.

    Attributes:
      folder: for the pictures, sheets, curves and records.
      picture_format: a name in `nst_jax.files.images.FORMATS`.
      quality: of the pictures, in a format that has one; None is its default.
      overwrite: whether to replace files that are already in the folder. Otherwise they are
        refused.
      log_every: steps between lines of metrics.jsonl.
      profile_dir: folder for a trace of a few steps, or None.
      look: what else to write for looking at the run.
      checkpoint_dir: folder for checkpoints, or None. A job that has checkpoints there continues.
      checkpoint_every: steps between checkpoints.
      retries: how often diverged outputs are painted again, each time at a tenth of the learning
        rate.
    """

    folder: pathlib.Path
    picture_format: str = "png"
    quality: int | None = None
    overwrite: bool = False
    log_every: int = 10
    profile_dir: str | None = None
    look: Look = Look()
    checkpoint_dir: pathlib.Path | None = None
    checkpoint_every: int = 50
    retries: int = 0

    @property
    def kind(self) -> Format:
        """The format of the pictures."""
        return FORMATS[self.picture_format]


def run_pictures(
    job: PictureJob, params: Mapping[str, Any], delivery: Delivery, *, described: Mapping[str, Any]
) -> int:
    """Runs a job over given pictures, writes its files, and returns the exit code.

    Contents of one shape are painted together. In a run of one process, a first SIGINT, SIGTERM or
    SIGHUP stops it after the current step, and leaves a checkpoint and the pictures as they are.

    Args:
      job: what to paint.
      params: the network's parameters.
      delivery: where the files go.
      described: further settings for config.json. The settings that reproduce the pictures are
        also written into the pictures' metadata.

    Raises:
      ValueError: bad input, files that would be overwritten, or checkpoints of another job.
    """
    again = "; the same command continues from there" if delivery.checkpoint_dir else ""
    return run_until_stopped(
        lambda stopping: _paint_all(job, params, delivery, described, stopping),
        left=f"{delivery.folder} holds the pictures as they were then{again}",
    )


def _paint_all(
    job: PictureJob,
    params: Mapping[str, Any],
    delivery: Delivery,
    described: Mapping[str, Any],
    stopping: Stopping,
) -> int:
    """Does what `run_pictures` says."""
    leads = jax.process_index() == 0  # the first process writes the files that all share

    # --- Outputs: contents of one shape form a group, and a painting. ---
    groups: dict[tuple[int, int], list[Picture]] = {}
    for content in job.contents:
        groups.setdefault(content.image.shape[:2], []).append(content)
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
    outputs: list[list[Output]] = []
    stems: list[str] = []
    for contents in groups.values():
        outputs.append(job.outputs(contents, taken=stems))
        stems += [output.stem for output in outputs[-1]]
    saving = _saving(job, described, delivery)
    again = delivery.overwrite or saving("0").begun
    pictures = [f"{stem}{delivery.kind.suffix}" for stem in stems]
    own = [*pictures, *delivery.look.folders(stems)]
    if not again:
        check_free(delivery.folder, own)
    paintings = [
        job.painting(contents, share, name=str(number))
        for number, (contents, share) in enumerate(zip(groups.values(), outputs, strict=True))
    ]

    # --- Memory and folders. ---
    runner = Runner(
        job=job, params=params, stopping=stopping, saving=saving, retries=delivery.retries
    )
    runner.check_memory(paintings)
    for other in (delivery.checkpoint_dir, delivery.look.tensorboard_dir):
        if other is not None:
            check_place(path_of(other))
    check_folder(delivery.folder)
    if leads:
        fitting = [(content, fit_shape) for content in job.contents]
        fitting += [(style, fit_style_shape) for style in job.styles]
        tell_enlarged(
            [
                (picture.path, picture.image.shape, fitted(picture.image.shape, job.config))
                for picture, fitted in fitting
                if picture.path
            ]
        )

    # --- The number of this run in the folder. ---
    def records_of(number: int) -> list[str]:
        sheets = sheet_names(job.contents, number=number).values()
        records = [numbered(name, number) for name in (CONFIG, METRICS, REPORT)]
        return [*records, *itertools.chain(*sheets)]

    def choose(taken: Collection[int]) -> int:
        if again:
            for record in reversed(shared_folder.records(place)):
                if record.settings.get("pictures") == pictures:
                    return record.number
        else:
            check_free(place, own)  # another run may have ended meanwhile
        return shared_folder.free_number(place, records_of, taken=taken, own=own)

    place = delivery.folder
    # The first process writes the records of all, so it holds the lock of all.
    lock = shared_folder.writing(place, own, choose=choose) if leads else contextlib.nullcontext(1)
    with lock as number:
        described |= {"pictures": pictures, "files": [*records_of(number), *own[len(pictures) :]]}
        return _paint_into(
            delivery, number, job, runner, described, paintings, outputs, first=next(iter(groups))
        )


def _paint_into(
    delivery: Delivery,
    number: int,
    job: PictureJob,
    runner: Runner,
    described: Mapping[str, Any],
    paintings: Sequence[Painting],
    outputs: Sequence[Sequence[Output]],
    *,
    first: tuple[int, int],
) -> int:
    """Paints, writes all files, and returns the exit code.

    Args:
      delivery: where the files go.
      number: of the run in its folder.
      job: what to paint.
      runner: makes the paintings.
      described: what config.json holds.
      paintings: the paintings of the job.
      outputs: of each painting.
      first: `(H, W)` of the first content.
    """
    leads = jax.process_index() == 0
    sheets = sheet_names(job.contents, number=number)
    if number > 1:
        say(f"nst-jax: the records of this run are {numbered(CONFIG, number)} and so on")

    # --- Metadata and observers. ---
    text = recipe(described)
    fits = len(text) <= delivery.kind.longest_text
    if not fits:
        say(
            f"nst-jax: the settings are too long for the metadata of a {delivery.picture_format}: "
            "left out"
        )
    write = functools.partial(
        write_pictures,
        delivery.folder,
        kind=delivery.kind,
        quality=delivery.quality,
        text=text if fits else None,
    )
    watching: list[Observer] = []
    kind = speeds.kind_of(job.config, job.placement)
    profile: Profile | None = None
    records: Records | None = None
    if leads:
        records = Records(delivery.folder, described, log_every=delivery.log_every, number=number)
        pace = Pace(kind)
        watching += [records, pace, StepProgress(records.seconds, pace)]
        if delivery.profile_dir is not None:
            profile = Profile(delivery.profile_dir, fit_shape(first, job.config))
            watching.append(profile)
    watching += delivery.look.observers(
        delivery.folder,
        settings=described,
        log_every=delivery.log_every,
        outputs=sum(map(len, outputs)),
        number=number,
    )

    # --- Painting. ---
    if leads:
        shapes = [(own.group.contents[0].image.shape, len(own.group.stems)) for own in paintings]
        for shape, _ in shapes:
            for line in _seams(shape, job.config):
                say(f"nst-jax: {line}")
        say(f"painting {planned(shapes, job.config, pace=speeds.recall(kind))}")
    diverged: list[str] = []
    rows: list[tuple[str, ...]] = []
    risen: list[str] = []  # and other remarks
    with Observers(watching) as watch:
        for painting, own in zip(paintings, outputs, strict=True):
            runner.stopping.check()
            start = time.perf_counter()
            contents = painting.group.contents
            keep = functools.partial(write, contents, own)
            result = runner.paint(painting, watch, keep=keep)
            paths = keep(np.asarray(result.images))
            # With checkpoints, the time of earlier runs counts, too.
            seconds = records.seconds() if records else time.perf_counter() - start
            rows += summary(paths, own, result, seconds)
            if leads:
                config = for_content(job.config, contents[0].image.shape)
                steps, group = steps_at_scales(config), painting.group
                if steps[-1]:  # 0 for a transfer of colours
                    risen += _risen(own, result, steps)
                    risen += remarks_on_still_losses(group.stems, result.history, steps)
                    risen += remarks_on_clipping(group.stems, np.asarray(result.images), contents)
                shown = [[*s, *m] for s, m in zip(group.styles, group.masks, strict=True)]
                write_sheets(delivery.folder, contents, shown, own, result, names=sheets, text=text)
            watch.end(result)
            diverged += itertools.compress(painting.group.stems, result.diverged)

    # --- Summary. ---
    if rows:
        for line in console.table(HEADINGS, rows):
            say(line)
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


def _seams(shape: Sequence[int], config: Config) -> list[str]:
    """A line if circular padding cannot make a seamless tile of a content of this shape."""
    height, width = fit_shape(shape, config)
    if not is_circular(config.network) or not (height % 16 or width % 16):
        return []
    return [
        f"--padding=circular: {width}x{height} makes no exact tile; give sides that are multiples "
        "of 16"
    ]


def planned(
    shapes: Iterable[tuple[Sequence[int], int]], config: Config, *, pace: float | None = None
) -> str:
    """What a run is about to do: "2 pictures in 3 scales, 130 steps in all; about 90 s ..."

    Args:
      shapes: `(shape, pictures)`, a shape of contents and how many pictures it gets.
      config: the settings of the run.
      pace: seconds for each pixel of a step, see `speeds.recall`.
    """
    pictures, pixels = 0, 0
    for shape, many in shapes:
        pictures += many
        pixels += many * sum(pixels_at_steps(for_content(config, shape), shape))
    line = f"{pictures} picture{'s' * (pictures != 1)}"
    if config.size == "original":
        line += " at the size of their contents"
    else:
        count, steps = len(scales(config)), sum(steps_at_scales(config))
        line += f" in {count} scale{'s' * (count != 1)}, {steps} step{'s' * (steps != 1)} in all"
    if pace and pixels:
        line += f"; about {spoken(pace * pixels)} after compiling, judged by the last run"
    return line


def _check_shape(
    job: PictureJob, params: Mapping[str, Any], delivery: Delivery, shape: tuple[int, int]
) -> None:
    """Refuses a content's shape that the format, the animation or the network cannot take.

    Raises:
      ValueError: the picture would be too large, or `check_content` refuses it.
    """
    longest_sides = {delivery.picture_format: delivery.kind.longest_side}
    if delivery.look.animate is not None:
        suffix = delivery.look.animate
        longest_sides[f"{suffix} animation"] = ANIMATIONS[suffix]
    height, width = fit_shape(shape, job.config)
    longest = max(height, width)
    for name, most in longest_sides.items():
        if longest > most:
            raise ValueError(f"a {name} has at most {most} pixels a side, got {longest}")
    if height * width > delivery.kind.most_pixels:
        raise ValueError(
            f"a {delivery.picture_format} has at most {delivery.kind.most_pixels} pixels, got "
            f"{height * width}, {height}x{width}: choose a smaller --size or another --format"
        )
    try:
        check_content(
            params,
            shape,
            job.config,
            styles=[style.image.shape for style in job.styles],
            combine=Combine(masks=job.stacked_masks(), style_masks=job.style_masks),
            tile=job.placement.tile,
        )
    except vgg.TooSmall as error:
        argument, _, what = str(error).partition(": ")
        content = next(each for each in job.contents if each.image.shape[:2] == shape)
        named = {f"styles[{index}]": style for index, style in enumerate(job.styles)}
        picture = (named | {"content": content})[argument]
        raise ValueError(
            f"{picture.path or picture.name}: {what}: choose a larger --size or --first_size"
        ) from error


def _saving(
    job: PictureJob, described: Mapping[str, Any], delivery: Delivery
) -> Callable[[str], Checkpoints]:
    """Returns a function that gives the checkpoints of a part of the job by the part's name."""
    folder = delivery.checkpoint_dir
    if folder is None:
        return lambda part: Checkpoints(None, {})
    settings = {
        name: described[name]
        for name in ("weights_sha256", "network", "processes", "devices", "platform", "device")
    }
    # Another version or device rounds differently. A run continued there would match neither.
    settings |= {name: described["versions"][name] for name in ("jax", "jaxlib")}
    settings = (
        described["config"]
        | settings
        | {
            "seed": job.seed,
            **{name: described[name] for name in (*PLACED, "mesh")},
            **described["sweep"],
            "mixing": None if job.mixing is None else np.asarray(job.mixing).tolist(),
            # Otherwise files of another run in the folder would pass for this run's own.
            "output_dir": str(absolute(delivery.folder)),
            "format": delivery.picture_format,
            **delivery.look._asdict(),
        }
    )
    for kind, pictures in (("content", job.contents), ("style", job.styles)):
        settings[f"{kind}s"] = [picture.name for picture in pictures]
        for picture in pictures:
            settings[f"{kind} {picture.name}"] = [digest(picture.image), digest(picture.alpha)]
    for kind, masks in (("masks", job.masks), ("style_masks", job.style_masks)):
        for number, mask in enumerate(masks or ()):
            settings[f"{kind}[{number}]"] = digest(mask)
    settings["initial"] = digest(job.initial)
    return lambda part: Checkpoints(folder / part, settings, every=delivery.checkpoint_every)


def digest(array: np.ndarray | None) -> str | None:
    """The first 16 digits of an array's SHA-256: enough to notice another picture."""
    if array is None:
        return None
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:16]


def _risen(outputs: Sequence[Output], result: Result, steps: Sequence[int]) -> list[str]:
    """A line for each output whose loss rose at one of the scales, with its terms.

    Args:
      outputs: what was made.
      result: of these outputs.
      steps: number of steps at each scale.
    """
    totals = result.history["total"]  # fewer than the steps if all outputs have diverged
    firsts = totals[-min(steps[-1], len(totals))]
    scales = f"{len(steps)} scale{'s' if len(steps) > 1 else ''}"
    lines = []
    for number, (output, kept, first, last) in enumerate(
        zip(outputs, result.kept_start, firsts, result.loss, strict=True)
    ):
        if kept:
            told = f"the loss rose at {kept} of {scales}, which returned the picture unchanged"
        elif last > first:  # possible with an average or jitter; false where it is not finite
            told = f"the loss rose from {first:.4g} to {last:.4g}"
        else:
            continue
        terms = terms_at(result.history, -1, number)
        lines.append(
            f"{output.stem}: {told}; a smaller --learning_rate may help, or other weights of the "
            f"terms ({terms})"
        )
    return lines
