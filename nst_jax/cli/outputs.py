"""What a job of the command line leaves in its folder: pictures, contact sheets and loss curves."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nst_jax import image, sharding
from nst_jax.cli.console import say
from nst_jax.cli.look import report_page
from nst_jax.cli.look.charts import loss_curves
from nst_jax.cli.look.contact_sheet import contact_sheet
from nst_jax.cli.look.observers import Picture
from nst_jax.coarse_to_fine import Result
from nst_jax.files.atomic import short, unique
from nst_jax.files.images import Format, write_image


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


# What of a run's description makes its pictures again; nothing in it changes from run to run.
RECIPE = ("flags", "weights_sha256", "processes", "devices", "platform", "device", "versions")


def recipe(described: Mapping) -> str:
    """Of what describes a run that which makes its pictures again, as JSON in ASCII."""
    return json.dumps({name: described[name] for name in RECIPE if name in described})


def check_free(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Refuses a folder that holds one of the files of these names.

    Raises:
      ValueError: it does.
    """
    there = [name for name in names if (folder / name).exists()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise ValueError(
            f"{folder / there[0]}{more} would be overwritten: choose another --output_dir, "
            "or --overwrite"
        )


def sheet_names(contents: Sequence[Picture]) -> dict[str, tuple[str, str]]:
    """Names of the contact sheet and the loss curves of each of a job's contents, by its name."""
    stems = [f"{short(c.name)}__" if len(contents) > 1 else "" for c in contents]
    kinds = ("contact_sheet", "loss_curves")
    names = iter(unique([f"{stem}{kind}" for stem in stems for kind in kinds]))
    return {content.name: (f"{next(names)}.png", f"{next(names)}.png") for content in contents}


def write_pictures(
    folder: pathlib.Path,
    contents: Sequence[Picture],
    outputs: Sequence[Output],
    images: np.ndarray,
    *,
    kind: Format,
    text: str | None,
) -> list[pathlib.Path]:
    """Writes this process's share of the pictures `[N, H, W, 3]`, each as transparent as its
    content; returns their paths."""
    paths = []
    for number in sharding.share_of_process(len(outputs)):
        alpha = contents[number * len(contents) // len(outputs)].alpha
        if alpha is not None:
            alpha = np.asarray(image.resize_mask(alpha, *images.shape[1:3]))
        paths.append(folder / f"{outputs[number].stem}{kind.suffix}")
        write_image(paths[-1], images[number], alpha=alpha, bits=kind.bits, text=text)
    return paths


HEADINGS = ("output", "loss", "steps", "seconds", "state")


def summary(
    paths: Sequence[pathlib.Path], outputs: Sequence[Output], result: Result, seconds: float
) -> list[tuple[str, ...]]:
    """A row of the final table, below `HEADINGS`, for each picture that this process wrote."""
    rows = []
    for number, path in zip(sharding.share_of_process(len(outputs)), paths, strict=True):
        losses = result.history["total"][:, number]
        losses = losses[np.isfinite(losses)]
        last = result.loss[number]
        if not np.isfinite(last):  # of a picture that diverged
            last = losses[-1] if len(losses) else np.nan
        span = f"{losses[0]:.4g} -> {last:.4g}" if len(losses) else "not finite"
        state = "done"
        if result.diverged[number]:
            state = "diverged"
        elif result.kept_start[number]:
            state = report_page.kept_start(result.kept_start[number])
        rows.append((str(path), span, str(len(losses)), f"{seconds:.1f}", state))
    return rows


def _heading(output: Output) -> str:
    """The label of an output, with its settings in lines of their own."""
    settings = [f"{name}={value:g}" for name, value in output.settings.items()]
    return "\n".join([output.label.removesuffix("__".join(["", *settings])), *settings])


def write_sheets(
    folder: pathlib.Path,
    contents: Sequence[Picture],
    styles: Sequence[Picture],
    outputs: Sequence[Output],
    result: Result,
    *,
    names: Mapping[str, tuple[str, str]],
    text: str | None,
) -> None:
    """For each content a contact sheet and the loss curves, of these `names`."""
    images = np.asarray(result.images)
    share = len(outputs) // len(contents)
    for number, content in enumerate(contents):
        own = slice(number * share, (number + 1) * share)
        labels = [_heading(output) for output in outputs[own]]
        sheet = contact_sheet(
            content.image,
            [styles[output.thumbnail].image for output in outputs[own]],
            images[own],
            content_label=content.name,
            style_labels=labels,
        )
        sheet_name, curves_name = names[content.name]
        write_image(folder / sheet_name, sheet, text=text)
        history = {name: values[:, own] for name, values in result.history.items()}
        try:
            loss_curves(folder / curves_name, history, labels)
        except ImportError as error:
            say(f"nst-jax: {error}")
