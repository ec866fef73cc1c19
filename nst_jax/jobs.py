"""Jobs over given pictures: a few of them in, a folder of pictures, curves and records out."""

import dataclasses
import functools
import hashlib
import itertools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from nst_jax import console, files, io, looks, results, runner, vgg
from nst_jax.checkpoints import Checkpoints
from nst_jax.console import complain, say
from nst_jax.objective import Combine
from nst_jax.observers import Group, Observers, Picture, Records, StepProgress
from nst_jax.results import Output
from nst_jax.stylize import Result, check_content, fit_shape, steps_at_scales


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureJob(runner.Job):
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
            for label, row in zip(files.unique(labels), self.mixing, strict=True)
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
        sheets = itertools.chain(*results.sheet_names(self.contents).values())
        taken = files.unique([*taken, *(pathlib.PurePath(name).stem for name in sheets)])
        stems = [files.short(f"{output.content}__{output.label}") for output in outputs]
        stems = files.unique([*taken, *stems])[len(taken) :]
        return [output._replace(stem=stem) for output, stem in zip(outputs, stems, strict=True)]

    def painting(
        self, contents: Sequence[Picture], outputs: Sequence[Output], *, name: str
    ) -> runner.Painting:
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
        return runner.Painting(
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
    look: looks.Look = looks.Look()
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
    return runner.run(
        lambda stopping: _paint_groups(job, params, delivery, described, stopping),
        left=f"the pictures are as they were then{again}",
    )


def _paint_groups(job, params, delivery, described, stopping) -> int:
    groups: dict[tuple[int, int], list[Picture]] = {}
    for content in job.contents:
        groups.setdefault(content.image.shape[:2], []).append(content)
    kind = io.FORMATS[delivery.picture_format]
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
    sheets = results.sheet_names(job.contents)
    saving = _saving(job, described, delivery)
    if not (delivery.overwrite or saving("0").begun):
        pictures = [f"{stem}{kind.suffix}" for stem in taken]
        others = itertools.chain(("config.json", "metrics.jsonl"), *sheets.values())
        results.check_free(delivery.folder, [*pictures, *others, *delivery.look.names(taken)])
    paintings = [
        job.painting(contents, own, name=str(number))
        for number, (contents, own) in enumerate(zip(groups.values(), outputs, strict=True))
    ]
    painter = runner.Runner(
        job=job, params=params, stopping=stopping, saving=saving, retries=delivery.retries
    )
    painter.check_memory(paintings)
    for folder in (delivery.checkpoint_dir, delivery.look.tensorboard_dir):
        if folder is not None:
            files.check_place(pathlib.Path(folder))
    files.check_folder(delivery.folder)
    recipe = results.recipe(described)
    text = recipe if len(recipe) <= kind.longest_text else None
    if text is None:
        say(
            f"nst-jax: the settings are too long for the metadata of a {delivery.picture_format}: "
            "left out"
        )
    write = functools.partial(results.write_pictures, delivery.folder, kind=kind, text=text)
    diverged, rows, risen = [], [], []
    leads = jax.process_index() == 0  # of several processes one writes what they share
    watching, profile = [], None
    if leads:
        records = Records(delivery.folder, described, log_every=delivery.log_every)
        watching = [records, StepProgress(records.seconds)]
        if delivery.profile_dir is not None:
            size = fit_shape(next(iter(groups)), job.config)
            profile = looks.Profile(delivery.profile_dir, size)
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
            rows += results.summary(paths, own, result, time.perf_counter() - start)
            if leads:
                risen += _risen(own, result, steps_at_scales(job.config))
                results.write_sheets(
                    delivery.folder, contents, job.styles, own, result, names=sheets, text=recipe
                )
            watch.end(result)
            diverged += itertools.compress(painting.group.stems, result.diverged)
    if rows:
        say(console.table(results.HEADINGS, rows))
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
    return runner.DIVERGED if diverged else 0


def _check_shape(job, params, delivery, shape) -> None:
    """Refuses contents of a shape that the format, the animation or the network cannot take."""
    kind = io.FORMATS[delivery.picture_format]
    longest_sides = {delivery.picture_format: kind.longest_side}
    if delivery.look.animate is not None:
        suffix = delivery.look.animate
        longest_sides[f"{suffix} animation"] = looks.ANIMATIONS[suffix]
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
