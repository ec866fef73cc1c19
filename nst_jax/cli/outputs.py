"""Files that a run leaves in its folder: pictures, contact sheets and loss curves."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nst_jax import image, sharding
from nst_jax.cli.console import say
from nst_jax.cli.look import report_page
from nst_jax.cli.look.charts import loss_curves
from nst_jax.cli.look.contact_sheet import contact_sheet, side_by_side
from nst_jax.cli.look.observers import Picture
from nst_jax.cli.shared_folder import numbered
from nst_jax.coarse_to_fine import Result
from nst_jax.files.atomic import short, unique
from nst_jax.files.images import Format, write_image
from nst_jax.files.paths import existing
from nst_jax.optimize import Progress


class Output(NamedTuple):
    """One picture to be made.

    Attributes:
      content: name of the content.
      label: name of the style or blend, followed by the swept settings.
      styles: indices of its styles.
      row: index into the rows of the mixing, or into the styles.
      settings: the swept numbers by their addresses.
      stem: name of its file, without the suffix.
    """

    content: str
    label: str
    styles: tuple[int, ...]
    row: int
    settings: Mapping[str, float]
    stem: str = ""


# The parts of a run's description that reproduce its pictures. They are the same in every run.
RECIPE = ("flags", "weights_sha256", "processes", "devices", "platform", "device", "versions")


def recipe(described: Mapping[str, Any]) -> str:
    """The settings that reproduce the pictures, as JSON in ASCII."""
    return json.dumps({name: described[name] for name in RECIPE if name in described})


def check_free(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Refuses a folder that already holds a file with one of these names.

    Raises:
      ValueError: it does.
      OSError: a remote folder cannot be listed.
    """
    exists = existing(folder)
    there = [name for name in names if exists(name)]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise ValueError(
            f"{folder / there[0]}{more} would be overwritten: choose another --output_dir, "
            "or --overwrite"
        )


def sheet_names(contents: Sequence[Picture], *, number: int = 1) -> dict[str, tuple[str, str]]:
    """File names of the contact sheet and the loss curves, by the name of their content.

    Args:
      contents: all contents of the run.
      number: of the run in its folder.
    """
    stems = [f"{short(c.name)}__" if len(contents) > 1 else "" for c in contents]
    kinds = [numbered(kind, number) for kind in ("contact_sheet", "loss_curves")]
    names = iter(unique([f"{stem}{kind}" for stem in stems for kind in kinds]))
    return {content.name: (f"{next(names)}.png", f"{next(names)}.png") for content in contents}


def write_pictures(
    folder: pathlib.Path,
    contents: Sequence[Picture],
    outputs: Sequence[Output],
    images: np.ndarray,
    *,
    kind: Format,
    quality: int | None = None,
    text: str | None,
) -> list[pathlib.Path]:
    """Writes this process's share of the pictures, with the transparency of their contents.

    Args:
      folder: the folder for the files.
      contents: the contents of the outputs.
      outputs: what is made, in the order of `images`.
      images: `[N, H, W, 3]`, values in [0, 1].
      kind: the file format.
      quality: of a format that has one; None is its default.
      text: metadata of every file, or None.

    Returns:
      The paths of the files.
    """
    paths = []
    for number in sharding.share_of_process(len(outputs)):
        alpha = contents[number * len(contents) // len(outputs)].alpha
        if alpha is not None:
            alpha = np.asarray(image.resize_mask(alpha, *images.shape[1:3]))
        paths.append(folder / f"{outputs[number].stem}{kind.suffix}")
        write_image(
            paths[-1], images[number], alpha=alpha, bits=kind.bits, text=text, quality=quality
        )
    return paths


HEADINGS = ("output", "loss", "steps", "seconds", "state")


def summary(
    paths: Sequence[pathlib.Path], outputs: Sequence[Output], result: Result, seconds: float
) -> list[tuple[str, ...]]:
    """Rows of the final table, below `HEADINGS`: one per picture that this process wrote."""
    rows = []
    for number, path in zip(sharding.share_of_process(len(outputs)), paths, strict=True):
        taken = result.history["total"][:, number]
        losses = taken[np.isfinite(taken)]
        last = result.loss[number]
        if not np.isfinite(last):  # the picture diverged
            last = losses[-1] if len(losses) else np.nan
        span = f"{losses[0]:.4g} -> {last:.4g}" if len(losses) else "not finite"
        span = span if len(taken) else "not optimised"
        state = "done"
        if result.diverged[number]:
            state = "diverged"
        elif result.kept_start[number]:
            state = report_page.kept_start(result.kept_start[number])
        elif result.steps[number] < len(taken):
            state = "settled"
        rows.append((str(path), span, str(result.steps[number]), f"{seconds:.1f}", state))
    return rows


CLIPPED = 0.1
"""The share of clipped pixels from which a picture is remarked on."""

STILL = 1e-4
"""A loss that changes by a smaller share of itself over a whole scale has not moved."""


def share_clipped(image: np.ndarray) -> float:
    """The share of pixels with a channel at the end of its range, black or full."""
    return float(np.mean(((image <= 0) | (image >= 1)).any(axis=-1)))


def remarks_on_clipping(
    stems: Sequence[str], images: np.ndarray, contents: Sequence[Picture]
) -> list[str]:
    """A line for each output with many clipped pixels, unless its content has many.

    Args:
      stems: names of the outputs.
      images: `[N, H, W, 3]`, the outputs.
      contents: their contents. Each has the same number of outputs.
    """
    own = [share_clipped(content.image) for content in contents]
    lines = []
    for number, (stem, picture) in enumerate(zip(stems, images, strict=True)):
        share, before = share_clipped(picture), own[number * len(contents) // len(stems)]
        if share > CLIPPED >= before:
            lines.append(
                f"{stem}: {share:.0%} of the pixels are clipped; a smaller --learning_rate or "
                "--style_weight, or a larger --tv_weight, may help"
            )
    return lines


def remarks_on_still_losses(
    stems: Sequence[str], history: Mapping[str, np.ndarray], steps: Sequence[int]
) -> list[str]:
    """A line for each output whose loss has not moved over a whole scale, with its terms.

    Args:
      stems: names of the outputs.
      history: as in `Result`. It may end early.
      steps: number of steps at each scale.
    """
    ends = np.cumsum(steps)
    lines = []
    for number, stem in enumerate(stems):
        for begin, end in zip(ends - steps, ends, strict=True):
            losses = history["total"][begin:end, number]
            if len(losses) < max(2, end - begin) or not np.isfinite(losses).all():
                continue
            if np.ptp(losses) <= STILL * np.abs(losses).max():
                lines.append(
                    f"{stem}: the loss has not moved in steps {begin + 1} to {end} "
                    f"({terms_at(history, begin, number)}); a larger --learning_rate, or other "
                    "weights or layers, may help"
                )
                break
    return lines


OVERFLOWS = 1e12
"""A loss above this may have a gradient whose square overflows float32."""


def remarks_on_overflow(stems: Sequence[str], progress: Progress) -> list[str]:
    """A line for each output that a first dispatch has not moved, as its gradient overflows.

    The square of such a gradient is infinite, and steps that are divided by it are 0. The pictures
    are only looked at if a loss is very large.
    """
    large = progress.terms["total"][0] > OVERFLOWS
    if not large.any():
        return []
    states = progress.states
    still = (np.asarray(states.picture) == np.asarray(states.start)).all(axis=(1, 2, 3))
    return [
        f"{stem}: the first step has not moved the picture: with a loss of "
        f"{progress.terms['total'][0, number]:.3g} ({terms_at(progress.terms, 0, number)}), its "
        "gradient overflows; give the terms smaller weights, such as --style_weight"
        for number, stem in enumerate(stems)
        if large[number] and still[number]
    ]


def terms_at(history: Mapping[str, np.ndarray], step: int, number: int) -> str:
    """The terms of an output's loss before a step, such as "content 2, style 3e+04"."""
    named = {name: values[step, number] for name, values in history.items() if name != "total"}
    return ", ".join(f"{name} {value:.3g}" for name, value in named.items())


def write_sheets(
    folder: pathlib.Path,
    contents: Sequence[Picture],
    shown: Sequence[Sequence[Picture]],
    outputs: Sequence[Output],
    result: Result,
    *,
    names: Mapping[str, tuple[str, str]],
    text: str | None,
) -> None:
    """Writes a contact sheet and the loss curves for each content.

    Args:
      folder: the folder for the files.
      contents: the contents of the outputs.
      shown: the styles and masks to show beside each output.
      outputs: what was made.
      result: of all `outputs`.
      names: the file names, as `sheet_names` returns them.
      text: metadata of the contact sheets, or None.
    """
    images = np.asarray(result.images)
    share = len(outputs) // len(contents)
    for number, content in enumerate(contents):
        own = slice(number * share, (number + 1) * share)
        labels = [_heading(output) for output in outputs[own]]
        sheet = contact_sheet(
            None if content.blank else content.image,
            [side_by_side([picture.image for picture in pictures]) for pictures in shown[own]],
            list(images[own]),
            content_label=content.name,
            style_labels=labels,
        )
        sheet_name, curves_name = names[content.name]
        write_image(folder / sheet_name, sheet, text=text)
        history = {name: values[:, own] for name, values in result.history.items()}
        if not len(history["total"]):
            continue
        try:
            loss_curves(folder / curves_name, history, labels)
        except ImportError as error:
            say(f"nst-jax: {error}")


def _heading(output: Output) -> str:
    """The label of an output, with each of its settings on a line of its own."""
    settings = [f"{name}={value:g}" for name, value in output.settings.items()]
    return "\n".join([output.label.removesuffix("__".join(["", *settings])), *settings])
