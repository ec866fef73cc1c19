"""Makes the report page of a run: values in, one HTML page out.

The page needs no other file and no network. Its style sheet, script and pictures are inside it, the
pictures as `data:` addresses, and its policy forbids the browser to fetch anything. Names are
escaped. The values that are drawn also stand in the element with the id `run`, as JSON.

The markup stands in page.html, a Jinja2 template.
"""

import base64
import dataclasses
import functools
import importlib.resources
import math
import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jax.typing import ArrayLike

from nst_jax.cli.look.charts import curves, number, positive, spark
from nst_jax.config import known_addresses
from nst_jax.files.images import to_jpeg

if TYPE_CHECKING:
    import jinja2

State = Literal["running", "finished", "stopped"]
"""Where a run is."""

Kind = Literal["content", "style", "mask"]
"""What an input of a run is."""


class Embedded(NamedTuple):
    """A picture on the page.

    Attributes:
      label: its name.
      uri: its `data:` address, made by `data_uri`.
      size: height and width of the picture itself, in pixels.
    """

    label: str
    uri: str
    size: tuple[int, int]


class Card(NamedTuple):
    """One of the pictures that the run makes.

    Attributes:
      label: names the style or blend, and the settings explored.
      stem: the name of its file without the extension.
      content: the content that it started from; None for a texture, which has none.
      shown: its styles and masks.
      picture: the picture as it is now.
      metrics: `{"step": [...], "total": [...], term: [...], ...}`, lists of the same length. A
        loss that is not finite is None.
      layers: `[(step, {term: {layer: loss}}), ...]`.
      diverged: whether it was stopped at a value that is not finite.
      kept_start: at how many scales it stayed as it was, because its loss ended above where it
        began.
      loss: the loss of the finished picture; None if it is not finished or not finite.
    """

    label: str
    stem: str
    content: Embedded | None
    shown: Sequence[Embedded]
    picture: Embedded
    metrics: Mapping[str, Sequence[float | None]]
    layers: Sequence[tuple[int, Mapping[str, Mapping[str, float | None]]]]
    diverged: bool = False
    kept_start: int = 0
    loss: float | None = None


class Scale(NamedTuple):
    """The steps at one size of the pictures.

    Attributes:
      size: height and width, in pixels.
      last: the number of the last of these steps in the run.
      steps: how many steps were taken.
      start: (seconds, steps) of the first dispatch, which may compile.
      seconds: the time of all these steps.
    """

    size: tuple[int, int]
    last: int
    steps: int
    start: tuple[float, int]
    seconds: float

    @property
    def steady(self) -> float | None:
        """Seconds of a step after the first dispatch; None if there was only one dispatch."""
        steps = self.steps - self.start[1]
        return (self.seconds - self.start[0]) / steps if steps else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What the page shows.

    Attributes:
      state: "running", "finished" or "stopped".
      message: why the run stopped; "" otherwise.
      step: steps taken, for the contents that are painted together now.
      steps: steps of the whole run, for these contents.
      seconds: time since the start.
      inputs: contents, styles and masks, `[("content", picture), ("style", picture), ...]`.
      outputs: the pictures made so far, in order.
      pictures: how many pictures the whole run makes.
      scales: in order; none if an earlier run had taken all steps.
      settings: settings of the run, `{name: value}`. A value that is a mapping becomes a group with
        its own heading.
      refresh: seconds after which the page of a run in progress reloads.
      written: the time of writing, in seconds since 1970.
    """

    state: State
    message: str = ""
    step: int
    steps: int
    seconds: float
    inputs: Sequence[tuple[Kind, Embedded]]
    outputs: Sequence[Card]
    pictures: int
    scales: Sequence[Scale]
    settings: Mapping[str, Any]
    refresh: int = 5
    written: float


def data_uri(image: ArrayLike, *, longest: int) -> str:
    """Returns an image as the `data:` address of a JPEG.

    Args:
      image: `[H, W, 3]` in [0, 1].
      longest: a larger image is reduced until no side is longer than this, in pixels.
    """
    return "data:image/jpeg;base64," + base64.b64encode(to_jpeg(image, longest=longest)).decode()


def render(run: Run) -> str:
    """Returns the page, a whole HTML document."""
    groups = {name: value for name, value in run.settings.items() if isinstance(value, Mapping)}
    return _template().render(
        run=run,
        title=_title(run),
        lead=_lead(run),
        message=_message(run),
        facts=_facts(run),
        grid="one" if run.pictures == 1 else "few" if run.pictures <= 4 else "many",
        curves=_curves(run),
        layers=_layers(run),
        # Word by word they are one line below.
        plain={n: v for n, v in run.settings.items() if n not in groups and n != "flags"},
        command=_command(run),
        groups={name: group for name, group in groups.items() if group},
        written=_written(run),
        data=_data(run),
        style=_asset("page.css"),
        script=_asset("page.js"),
    )


def state(text: str) -> str | None:
    """Returns the state of the run that a page shows; None if `render` did not write the page."""
    found = re.search(r'^<html lang="en" data-state="(\w+)">$', text, re.MULTILINE)
    return found and found[1]


def kept_start(scales: int) -> str:
    """Says that a picture stayed as it was at this many scales."""
    return f"no better at {scales} scale{'s' if scales > 1 else ''}: start kept"


@functools.cache
def _template() -> "jinja2.Template":
    import jinja2  # only runs that write a page need it

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nst_jax.cli.look", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "default": str}
    environment.filters |= {
        "across": _across,
        "duration": _duration,
        "kept_start": kept_start,
        "loss_in_words": _loss_in_words,
        "number": number,
        "setting": _setting,
        "words": _words,
    }
    return environment.get_template("page.html")


@functools.cache
def _asset(name: str) -> str:
    return importlib.resources.files("nst_jax.cli.look").joinpath(name).read_text("utf-8")


def _data(run: Run) -> dict[str, Any]:
    """Returns the run's values for the page's script, in JSON's types."""
    return {
        "state": run.state,
        "step": run.step,
        "steps": run.steps,
        "seconds": run.seconds,
        "refresh": run.refresh,
        "written": run.written,
        "outputs": [
            {
                "label": output.label,
                "stem": output.stem,
                "diverged": output.diverged,
                "kept_start": output.kept_start,
                "loss": output.loss,
                "metrics": output.metrics,
                "layers": [{"step": step, **layers} for step, layers in output.layers],
            }
            for output in run.outputs
        ],
        "scales": [scale._asdict() for scale in run.scales],
        "settings": run.settings,
    }


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _listed(names: Sequence[str], most: int = 3) -> str:
    """Returns "a, b and c", or with more names than `most` "a, b and 7 more"."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _title(run: Run) -> str:
    contents = _unique(picture.label for kind, picture in run.inputs if kind == "content")
    return _listed(contents or _unique(output.stem for output in run.outputs))


def _lead(run: Run) -> str:
    """Returns the line below the title: styles, network, preset and device."""
    styles = _unique(picture.label for kind, picture in run.inputs if kind == "style")
    facts = [run.settings.get(name) for name in ("network", "preset", "device")]
    line = f"in the style of {_listed(styles)}" if styles else ""
    return " · ".join(str(fact) for fact in (line, *facts) if fact)


def _message(run: Run) -> str:
    """Returns what stands beside the state: the time left, or the run's own message."""
    if run.state == "running" and run.scales and run.scales[-1].steady:
        left = (run.steps - run.step) * run.scales[-1].steady
        return f"about {_duration(left)} left at this pace"
    return run.message


def _facts(run: Run) -> dict[str, str]:
    facts = {"Steps": f"{run.step:,} of {run.steps:,}"}
    if run.scales:  # this run has taken steps itself
        facts["Time"] = _duration(run.seconds)
        if run.scales[-1].steady is not None:  # the number that the timings show too
            facts["A step, at this size"] = _duration(run.scales[-1].steady)
    facts["Pictures"] = f"{len(run.outputs)} of {run.pictures}"
    return facts


def _loss_in_words(card: Card) -> str:
    """Returns the loss of a picture and where it began, such as "loss 3.10, from 45.0"."""
    losses = [value for value in card.metrics["total"] if value is not None]
    last = losses[-1] if losses and card.loss is None else card.loss
    words = "no finite loss" if last is None else f"loss {number(last)}"
    return f"{words}, from {number(losses[0])}" if len(losses) > 1 else words


class _Curves(NamedTuple):
    """The charts of the losses over the steps.

    Attributes:
      terms: `{name: class of its curve}` of the terms that are drawn.
      charts: (label, SVG) of each output.
    """

    terms: Mapping[str, str]
    charts: Sequence[tuple[str, str]]


def _curves(run: Run) -> _Curves | None:
    """Draws the losses of each output, all on one scale; None if there is nothing to draw."""
    classes = _classes(run)
    shown = {
        name: colour
        for name, colour in classes.items()
        if any(positive(output.metrics[name]) for output in run.outputs)
    }
    values = [v for o in run.outputs for name in shown for v in positive(o.metrics[name])]
    if not values:
        return None
    # A content term that starts near zero would press every other curve against the top.
    high = 10 ** (math.log10(max(values)) + 0.1)
    low = 10 ** (math.log10(max(min(values), max(values) * 1e-5)) - 0.1)
    marks = {scale.last for scale in run.scales} - {run.step, run.steps}
    charts = []
    for index, output in enumerate(run.outputs):
        losses = positive(output.metrics["total"])
        label = f"Loss of {output.label} over the steps"
        if losses:
            label += f", from {number(losses[0])} to {number(losses[-1])}"
        chart = curves(
            [step for step in output.metrics["step"] if step is not None],
            {colour: output.metrics[name] for name, colour in shown.items()},
            label=label,
            output=index,
            last=run.steps,
            low=low,
            high=high,
            marks=sorted(marks),
        )
        charts.append((output.label, chart))
    return _Curves(shown, charts)


def _classes(run: Run) -> dict[str, str]:
    """Returns the style sheet's class of the total and of each term."""
    names = dict.fromkeys(name for output in run.outputs for name in output.metrics)
    terms = [name for name in names if name not in ("step", "total")]
    return {"total": "total"} | {name: f"term{n % 5 + 1}" for n, name in enumerate(terms)}


class _Row(NamedTuple):
    """What one layer adds to one term of the loss.

    Attributes:
      layer: the layer's name.
      term: the term's name.
      colour: the style sheet's class of the term.
      before: its loss at the first measurement.
      now: its loss at the last measurement.
      course: an SVG of its loss over the measurements.
      share: its part of the term's loss, in percent.
    """

    layer: str
    term: str
    colour: str
    before: float | None
    now: float | None
    course: str
    share: float


class _Layers(NamedTuple):
    """The table of the layers of one output.

    Attributes:
      label: the output's label.
      first: step of the first measurement.
      last: step of the last measurement.
      rows: one for each term and layer.
    """

    label: str
    first: int
    last: int
    rows: Sequence[_Row]


def _layers(run: Run) -> list[_Layers]:
    """Returns a table for each output whose layers were measured."""
    classes = _classes(run)
    tables = []
    for output in run.outputs:
        if not output.layers:
            continue
        (first, before), (last, now) = output.layers[0], output.layers[-1]
        rows = []
        for term, losses in now.items():
            whole = sum(positive(losses.values()))
            for layer, loss in losses.items():
                history = [layers[term].get(layer) for _, layers in output.layers]
                rows.append(
                    _Row(
                        layer=layer,
                        term=term,
                        colour=classes[term],
                        before=before[term].get(layer),
                        now=loss,
                        course=spark(history, kind=classes[term]),
                        share=100 * loss / whole if whole and loss else 0,
                    )
                )
        tables.append(_Layers(output.label, first, last, rows))
    return tables


def _words(name: str) -> str:
    return str(name).replace("_", " ")


_UNITS = {
    address: {"PIXELS": "pixels", "STEPS": "steps", "LEVELS": "grey levels"}[unit]
    for address, found in known_addresses().items()
    if (unit := found[0].field.metadata.get("unit")) is not None
} | {"tile": "pixels"}


def _setting(value: Any, name: str = "") -> str:
    """Returns a setting in words, with the unit of its number."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:g}" if name not in _UNITS else f"{value:g} {_UNITS[name]}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(item, name) for item in value) or "none"
    return str(value)


def _command(run: Run) -> str:
    """Returns the command that makes the pictures again; "" if the settings do not have it."""
    flags = run.settings.get("flags")
    return shlex.join(["nst-jax", *flags]) if flags else ""


def _across(size: tuple[int, int]) -> str:
    """Returns a (height, width) as "width × height"."""
    return f"{size[1]} × {size[0]}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _written(run: Run) -> str:
    """Returns the line at the foot of the page: when it was written, and by which versions."""
    versions = run.settings.get("versions", {})
    made = ", ".join(f"{name} {versions[name]}" for name in ("nst_jax", "jax") if name in versions)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.written))
    return f"Written {when} by {made}" if made else f"Written {when}"
