"""A job of the command line: pictures in, a folder of pictures, curves and records out."""

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

import jax
import numpy as np

from nst_jax import console, files, io, observers, preflight, results, sharding, vgg
from nst_jax.checkpoints import Checkpoints
from nst_jax.combining import Combine
from nst_jax.console import complain, say
from nst_jax.job import Job
from nst_jax.monitor import Latest, Monitor, Records
from nst_jax.profiling import Profile
from nst_jax.results import Output, Picture
from nst_jax.stopping import Stopped, Stopping
from nst_jax.stylize import Result, check_content, fit_shape, steps_at_scales, stylize
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
    look: observers.Look = observers.Look()
    checkpoint_dir: pathlib.Path | None = None
    checkpoint_every: int = 50
    retries: int = 0


def run(job: Job, params: Mapping, delivery: Delivery, *, described: Mapping) -> int:
    """Runs `job`, leaves its files as `delivery` says, and returns the exit code.

    Contents of one shape are painted together; `described` goes into config.json, and what of it
    makes the pictures again into their metadata. A first SIGINT or SIGTERM ends a run of one
    process after the step that it is in, with a checkpoint and the pictures as they are.

    Raises:
      ValueError: bad input, files that would be overwritten, or checkpoints of another job.
    """
    stopping = Stopping()
    try:
        with stopping:
            return _run(job, params, delivery, described, stopping)
    except Stopped:
        again = "; the same command goes on from there" if delivery.checkpoint_dir else ""
        complain(f"stopped by {stopping.name}, the pictures are as they were then{again}")
        return stopping.exit_code


def _run(job, params, delivery, described, stopping) -> int:
    groups: dict[tuple[int, int], list[Picture]] = {}
    for content in job.contents:
        groups.setdefault(content.image.shape[:2], []).append(content)
    kind = io.FORMATS[delivery.picture_format]
    longest_sides = {delivery.picture_format: kind.longest_side}
    if delivery.look.animate is not None:
        suffix = delivery.look.animate
        longest_sides[f"{suffix} animation"] = observers.ANIMATIONS[suffix]
    for shape in groups:
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
            tile=job.tile,
        )
    described = {
        **described,
        "network": vgg.network_name(params),
        "seed": job.seed,
        "tile": job.tile,
        "mesh": job.mesh and dict(job.mesh),
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "sweep": dict(job.sweep),
        "config": job.config.to_dict(),
        **environment(),
    }
    outputs, taken = {}, []
    for shape, contents in groups.items():
        outputs[shape] = job.outputs(contents, taken=taken)
        taken += [output.stem for output in outputs[shape]]
    sheets = results.sheet_names(job.contents)
    saving = _saving(job, described, delivery)
    if not (delivery.overwrite or saving("0").begun):
        pictures = [f"{stem}{kind.suffix}" for stem in taken]
        others = itertools.chain(("config.json", "metrics.jsonl"), *sheets.values())
        results.check_free(delivery.folder, [*pictures, *others, *delivery.look.names(taken)])
    _check_memory(job, params, outputs)
    for folder in (delivery.checkpoint_dir, delivery.look.tensorboard_dir):
        if folder is not None:
            files.check_place(pathlib.Path(folder))
    files.check_folder(delivery.folder)
    recipe = results.recipe(described)
    fits = len(recipe) <= kind.longest_text
    if not fits:
        say(
            f"nst-jax: the settings are too long for the metadata of a {delivery.picture_format}: "
            "left out"
        )
    text = recipe if fits else None
    write = functools.partial(results.write_pictures, delivery.folder, kind=kind, text=text)
    diverged, rows, risen = [], [], []
    leads = jax.process_index() == 0  # of several processes one writes what they share
    with contextlib.ExitStack() as stack:
        records = stack.enter_context(Records(delivery.folder, described))
        profile = None
        if delivery.profile_dir is not None and leads:
            size = fit_shape(next(iter(groups)), job.config)
            profile = stack.enter_context(Profile(delivery.profile_dir, size))
        watching = delivery.look.observers(
            delivery.folder,
            settings=described,
            log_every=delivery.log_every,
            outputs=sum(map(len, outputs.values())),
        )
        watch = observers.Observers(watching, wrote=lambda path: say(f"wrote {path}"))
        stack.enter_context(watch)
        for number, (shape, contents) in enumerate(groups.items()):
            stopping.check()
            start = time.perf_counter()
            own = outputs[shape]
            result = _paint(
                job,
                params,
                contents,
                own,
                attempts=delivery.retries + 1,
                saving=lambda attempt, number=number: saving(f"{number}{attempt}"),
                records=records if leads else None,
                log_every=delivery.log_every,
                profile=profile,
                watch=watch,
                stopping=stopping,
                write=functools.partial(write, contents, own),
            )
            images = np.asarray(result.images)
            paths = write(contents, own, images)
            rows += results.summary(paths, own, result, time.perf_counter() - start)
            if leads:
                risen += _risen(own, result, steps_at_scales(job.config))
                results.write_sheets(
                    delivery.folder, contents, job.styles, own, result, names=sheets, text=recipe
                )
            watch.end(
                images,
                diverged=result.diverged,
                kept_start=result.kept_start,
                losses=result.loss,
            )
            found = zip(own, result.diverged, strict=True)
            diverged += [output.stem for output, bad in found if bad]
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
    return DIVERGED if diverged else 0


def _saving(job: Job, described: Mapping, delivery: Delivery) -> Callable[[str], Checkpoints]:
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
            "tile": job.tile,
            "mesh": described["mesh"],
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


def _paint(
    job: Job,
    params: Mapping,
    contents: Sequence[Picture],
    outputs: Sequence[Output],
    *,
    attempts: int,
    saving: Callable[[str], Checkpoints],
    records: Records | None,
    log_every: int,
    profile: Profile | None,
    watch: observers.Observers,
    stopping: Stopping,
    write: Callable[[np.ndarray], Iterable[pathlib.Path]],
) -> Result:
    """Contents of one shape, again where outputs diverge; what `run` does for each of its groups.

    Raises:
      Stopped: by a signal; the pictures are written.
      ValueError: out of memory, or a file that cannot be written; the last pictures are written.
    """
    styles = [job.styles[output.thumbnail] for output in outputs]
    labels, stems = ([getattr(o, name) for o in outputs] for name in ("label", "stem"))
    group = observers.Group(contents, styles, labels, stems)
    rates = job.config.optimizer.learning_rate
    rates = np.array([output.settings.get("learning_rate", rates) for output in outputs])
    steps = steps_at_scales(job.config)
    for attempt in range(attempts):
        latest = Latest()
        try:
            with contextlib.ExitStack() as stack:
                checkpoints = stack.enter_context(saving(f"-again{attempt}" if attempt else ""))
                resume = checkpoints.latest()
                history = resume and resume.history
                monitor = None
                if records is not None:
                    if resume is not None:
                        passed = [
                            f"checkpoint of step {n} is damaged: " for n in checkpoints.damaged
                        ]
                        say(f"{''.join(passed)}going on from step {resume.step} of {sum(steps)}")
                    monitor = Monitor(
                        records,
                        outputs,
                        log_every,
                        steps=sum(steps),
                        attempt=attempt,
                        history=history,
                    )
                    stack.enter_context(monitor)
                watch.begin(group._replace(history=history))

                def stop(progress, checkpoints=checkpoints, latest=latest):
                    if stopping.received and progress.step < progress.steps:
                        write(latest.images)
                        checkpoints.save(progress)
                        checkpoints.wait()
                        stopping.check()

                # Checkpoints soon: a run is theirs before it leaves anything in its folder.
                followers = [latest, checkpoints, monitor, profile, watch, stop]
                result = _stylize(
                    job,
                    params,
                    contents,
                    outputs,
                    rates=rates if attempt else None,
                    resume=resume,
                    followers=[each for each in followers if each is not None],
                    on_window=monitor and monitor.window,
                )
        except (jax.errors.JaxRuntimeError, MemoryError, files.FileError) as error:
            full = isinstance(error, files.FileError)
            if not full and not preflight.ran_out(error) or records is None:
                raise
            if latest.images is not None:
                # Their folder may be what cannot be written to: that is told already.
                with contextlib.suppress(files.FileError):
                    for path in write(latest.images):
                        say(f"wrote {path}")
            if full:
                raise
            line = _plan(job, params, contents[0].image.shape[:2], outputs).advice()
            raise ValueError(f"out of memory: {line}") from error
        if not result.diverged.any() or attempt == attempts - 1:
            break
        write(np.asarray(result.images))
        stopping.check()
        again = [output.stem for output, bad in zip(outputs, result.diverged, strict=True) if bad]
        complain(f"{', '.join(again)}: diverged, once more at a tenth of the learning rate")
        # All of them in the same program: the others come out as they did.
        rates = np.where(result.diverged, rates / 10, rates)
    return result


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


def _sweep(job: Job, outputs: Sequence[Output]) -> dict[str, np.ndarray]:
    """What is explored, with a number for each of `outputs`."""
    return {name: np.array([o.settings[name] for o in outputs]) for name in job.sweep}


def _mesh(job: Job, outputs: Sequence[Output]) -> jax.sharding.Mesh | None:
    """The devices that paint so many outputs, if there are several."""
    if job.tile is not None and job.mesh is None:
        return None
    return sharding.make_mesh(len(outputs), sizes=job.mesh)


def _plan(job: Job, params: Mapping, shape: Sequence[int], outputs: Sequence[Output]):
    """The run that paints contents of one shape."""
    return preflight.Plan(
        params=params,
        shape=shape,
        outputs=len(outputs),
        config=job.config,
        sweep=_sweep(job, outputs),
        styles=[style.image.shape for style in job.styles],
        contents=len({output.content for output in outputs}),
        regions=len(job.masks or ()),
        mesh=_mesh(job, outputs),
        tile=job.tile,
    )


def _check_memory(job: Job, params: Mapping, groups: Mapping[tuple, Sequence[Output]]) -> None:
    """Refuses a job of which a group, by the shape of its contents, would not fit into memory."""
    # One number for all processes: they compile together, and refuse together.
    available = sharding.least(preflight.available_bytes())
    for shape, outputs in groups.items():
        _plan(job, params, shape, outputs).check(available=available)


def _stylize(job: Job, params, contents, outputs, *, rates, resume, followers, on_window):
    """`stylize` on contents of one shape, with a row of styles and a number for each output."""
    of_one = outputs[: len(outputs) // len(contents)]  # the outputs of one content
    sweep, mixing, masks = _sweep(job, outputs), job.mixing, job.masks
    if job.sweep and masks is None:
        rows = np.eye(len(job.styles)) if mixing is None else mixing
        mixing = rows[[output.row for output in of_one]]
    if rates is not None:
        sweep["learning_rate"] = rates
    if masks is not None:
        shapes = {np.shape(mask) for mask in masks}
        if len(shapes) > 1:
            raise ValueError(f"--masks must be of one size, got {sorted(shapes)}")
        masks = np.stack([np.stack(masks)] * len(of_one))

    def follow(progress):
        for follower in followers:
            follower(progress)

    return stylize(
        params,
        [content.image for content in contents],
        [style.image for style in job.styles],
        job.config,
        key=jax.random.key(job.seed),
        sweep=sweep,
        combine=Combine(mixing=mixing, masks=masks, style_masks=job.style_masks),
        initial=job.initial,
        resume=resume,
        callback=follow,
        tile=job.tile,
        on_window=on_window,
        mesh=_mesh(job, outputs),
    )
