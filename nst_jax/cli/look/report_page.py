"""The report page of a run: its data in, one HTML page out that needs no other file and no network.

Style sheet, script and pictures are inside the page, the pictures as `data:` addresses; its policy
forbids the browser to fetch anything. Names are escaped. The numbers that are drawn are there as
JSON, too, in the element with the id `run`.
"""

import base64
import dataclasses
import functools
import html
import importlib.resources
import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nst_jax.cli.look.charts import curves, number, positive, spark
from nst_jax.files.images import to_jpeg

_STATES = {"running": "Running", "finished": "Finished", "stopped": "Stopped"}


class Embedded(NamedTuple):
    """A picture on the page.

    Attributes:
      label: its name.
      uri: its `data:` address, from `data_uri`.
      size: height and width of the picture itself, in pixels.
    """

    label: str
    uri: str
    size: tuple[int, int]


class Card(NamedTuple):
    """One of the pictures that are made.

    Attributes:
      label: of the style or blend, and of the settings explored.
      stem: its file's name without the extension.
      content: what it started from looking like, or None: a texture has no content.
      style: the style to show for it.
      picture: as it is now.
      metrics: `{"step": [...], "total": [...], term: [...], ...}`, lists of one length; None for
        what is not finite.
      layers: `[(step, {term: {layer: loss}}), ...]`.
      diverged: whether it was stopped at a value that is not finite.
      kept_start: at how many scales the loss ended above where it began, so that the picture stayed
        what it was.
      loss: of the picture, once it is finished and finite.
    """

    label: str
    stem: str
    content: Embedded | None
    style: Embedded
    picture: Embedded
    metrics: Mapping[str, Sequence[float | None]]
    layers: Sequence[tuple[int, Mapping[str, Mapping[str, float | None]]]]
    diverged: bool = False
    kept_start: int = 0
    loss: float | None = None


class Scale(NamedTuple):
    """Steps on pictures of one size.

    Attributes:
      size: height and width, in pixels.
      last: number of the last of them in the run.
      steps: how many.
      start: seconds of the first dispatch, which may compile, and its steps.
      seconds: of all.
    """

    size: tuple[int, int]
    last: int
    steps: int
    start: tuple[float, int]
    seconds: float

    @property
    def steady(self) -> float | None:
        """Seconds of a step after the first dispatch; None where it is the only one."""
        steps = self.steps - self.start[1]
        return (self.seconds - self.start[0]) / steps if steps else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What the page shows.

    Attributes:
      state: "running", "finished" or "stopped".
      message: of a run that has stopped, why.
      step, steps: taken, and of the whole run; of the contents painted together.
      seconds: since the start.
      inputs: contents and styles, each with what it is, `[("content", picture), ...]`.
      outputs: in order.
      pictures: number of the outputs of the whole run, also of those that are not begun yet.
      scales: in order; none of a run that was found to be over.
      settings: of the run, `{name: value}`; mappings among them get a heading of their own.
      refresh: seconds after which a running page looks again.
      written: time of writing, in seconds since 1970.
    """

    state: str
    message: str = ""
    step: int
    steps: int
    seconds: float
    inputs: Sequence[tuple[str, Embedded]]
    outputs: Sequence[Card]
    pictures: int
    scales: Sequence[Scale]
    settings: Mapping[str, Any]
    refresh: int = 5
    written: float


def data_uri(image: np.ndarray, *, longest: int) -> str:
    """`image` `[H, W, 3]` in [0, 1] as a `data:` address of a JPEG, no side above `longest`."""
    return "data:image/jpeg;base64," + base64.b64encode(to_jpeg(image, longest=longest)).decode()


def render(run: Run) -> str:
    """The page, a whole HTML document."""
    names = _unique(picture.label for kind, picture in run.inputs if kind == "content") or _unique(
        output.stem for output in run.outputs
    )
    title = _listed(names)
    running = run.state == "running"
    # A script reloads the page with more care than this.
    refresh = (
        f'<noscript><meta http-equiv="refresh" content="{run.refresh}"></noscript>'
        if running
        else ""
    )
    sections = [
        _section("Results", _results(run)),
        _section("Inputs", _inputs(run)),
        _section("Loss curves", _curves(run)),
        _section("Losses by layer", _layers(run)),
        _section("Timings", _timings(run)),
        _section("Settings", _settings(run.settings)),
    ]
    return f"""<!DOCTYPE html>
<html lang="en" data-state="{_text(run.state)}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src 'unsafe-inline'">
{refresh}
<title>{_text(title)} – nst_jax</title>
<style>
{_asset("page.css")}</style>
</head>
<body>
<header>
<h1>{_text(title)}</h1>
<p class="lead">{_text(_lead(run))}</p>
{_status(run)}
</header>
<main>
{"".join(sections)}
</main>
<footer>{_text(_written(run))}</footer>
<script type="application/json" id="run">{_json(run)}</script>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


def state(text: str) -> str | None:
    """The state of the run that a page shows; None if it is no page of `render`."""
    found = re.search(r'^<html lang="en" data-state="(\w+)">$', text, re.MULTILINE)
    return found and found[1]


@functools.cache
def _asset(name: str) -> str:
    return importlib.resources.files("nst_jax.cli.look").joinpath(name).read_text("utf-8")


def _text(text: Any) -> str:
    return html.escape(str(text))


def _json(run: Run) -> str:
    """The numbers of the run, as JSON that may stand in an HTML element."""
    found = {
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
    return json.dumps(found, allow_nan=False, default=str).replace("<", "\\u003c")


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{body}\n</section>\n" if body else ""


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _listed(names: Sequence[str], most: int = 3) -> str:
    """ "a, b and c", or "a, b and 7 more"."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _lead(run: Run) -> str:
    styles = _unique(picture.label for kind, picture in run.inputs if kind == "style")
    facts = [run.settings.get(name) for name in ("network", "preset", "device")]
    line = f"in the style of {_listed(styles)}" if styles else ""
    return " · ".join(str(fact) for fact in (line, *facts) if fact)


def _status(run: Run) -> str:
    said = run.message
    if run.state == "running" and run.scales and run.scales[-1].steady:
        left = (run.steps - run.step) * run.scales[-1].steady
        said = f"about {_duration(left)} left at this pace"
    pause = '<button type="button" id="pause" hidden></button>' if run.state == "running" else ""
    facts = {"Steps": f"{run.step:,} of {run.steps:,}"}
    if run.scales:  # and not found to be over
        taken = sum(scale.steps for scale in run.scales)
        pace = number(taken / sum(scale.seconds for scale in run.scales))
        facts |= {"Time": _duration(run.seconds), "Steps a second": pace}
    facts["Pictures"] = f"{len(run.outputs)} of {run.pictures}"
    cells = "".join(f"<div><dt>{k}</dt><dd>{_text(v)}</dd></div>" for k, v in facts.items())
    return f"""<div class="status">
<span class="state">{_STATES[run.state]}</span><span>{_text(said)}</span>
<span id="silence" role="status"></span>{pause}
</div>
<progress max="{run.steps}" value="{run.step}" aria-label="Steps taken"></progress>
<dl class="facts">{cells}</dl>"""


def _image(picture: Embedded, alt: str) -> str:
    height, width = picture.size
    return f'<img src="{picture.uri}" width="{width}" height="{height}" alt="{_text(alt)}">'


def _results(run: Run) -> str:
    cards = []
    for index, output in enumerate(run.outputs):
        height, width = output.picture.size
        shape = f'style="aspect-ratio: {width} / {height}"'
        painted = _image(output.picture, f"The picture {output.stem}")
        if output.content is None:
            compare = f'<div class="compare plain" {shape}>{painted}</div>'
        else:
            label = f"How much of {output.content.label} to show over the picture {output.stem}"
            compare = f"""<div class="compare" {shape}>{painted}
<span class="tag right" aria-hidden="true">after</span>
<div class="before">{_image(output.content, f"The content {output.content.label}")}
<span class="tag left" aria-hidden="true">before</span></div>
<input type="range" id="cut{index}" min="0" max="100" step="any" value="50"
 aria-label="{_text(label)}"><div class="rule"></div></div>"""
        losses = [value for value in output.metrics["total"] if value is not None]
        last = losses[-1] if losses and output.loss is None else output.loss
        note = "no finite loss" if last is None else f"loss {number(last)}"
        if losses and len(losses) > 1:
            note += f", from {number(losses[0])}"
        note = f"<small>{note}</small>"
        if output.diverged:
            note = '<small class="bad">stopped at a value that is not finite</small>'
        elif output.kept_start:
            note += f"<small>{kept_start(output.kept_start)}</small>"
        cards.append(
            f'<figure class="card result">{compare}<figcaption>'
            f"{_image(output.style, f'The style {output.style.label}')}"
            f"<span><strong>{_text(output.label)}</strong>{note}</span></figcaption></figure>"
        )
    return _grid(cards, run)


def kept_start(scales: int) -> str:
    """What to say of a picture that so many scales returned as it was."""
    return f"no better at {scales} scale{'s' if scales > 1 else ''}: start kept"


def _grid(cards: Sequence[str], run: Run) -> str:
    """A card for each output, the fewer the wider."""
    size = "one" if run.pictures == 1 else "few" if run.pictures <= 4 else "many"
    return f'<div class="grid {size}">{"".join(cards)}</div>'


def _inputs(run: Run) -> str:
    figures = "".join(
        f"<figure>{_image(picture, f'The {kind} {picture.label}')}<figcaption>"
        f"{_text(picture.label)}<small>{kind}, {_by(picture.size)} pixels</small>"
        "</figcaption></figure>"
        for kind, picture in run.inputs
    )
    return f'<div class="inputs">{figures}</div>'


def _curves(run: Run) -> str:
    """A panel an output, all of one scale."""
    classes = _classes(run)
    shown = [
        name for name in classes if any(positive(output.metrics[name]) for output in run.outputs)
    ]
    values = [v for o in run.outputs for name in shown for v in positive(o.metrics[name])]
    if not values:
        return ""
    # A content term that starts at nothing would press every curve against the top.
    high = 10 ** (math.log10(max(values)) + 0.1)
    low = 10 ** (math.log10(max(min(values), max(values) * 1e-5)) - 0.1)
    legend = "".join(
        f'<li style="--colour: var(--{classes[name]})">{_text(name.replace("_", " "))}</li>'
        for name in shown
    )
    marks = {scale.last for scale in run.scales} - {run.step, run.steps}
    panels = []
    for index, output in enumerate(run.outputs):
        losses = positive(output.metrics["total"])
        label = f"Loss of {output.label} over the steps"
        if losses:
            label += f", from {number(losses[0])} to {number(losses[-1])}"
        chart = curves(
            output.metrics["step"],
            {classes[name]: output.metrics[name] for name in shown},
            label=label,
            output=index,
            last=run.steps,
            low=low,
            high=high,
            marks=sorted(marks),
        )
        panels.append(
            f'<figure class="card chart"><h3>{_text(output.label)}</h3>{chart}<output></output>'
            "</figure>"
        )
    return f'<ul class="legend">{legend}</ul>{_grid(panels, run)}'


def _classes(run: Run) -> dict[str, str]:
    """The style sheet's class of the total and of each term."""
    names = dict.fromkeys(name for output in run.outputs for name in output.metrics)
    terms = [name for name in names if name not in ("step", "total")]
    return {"total": "total"} | {name: f"term{n % 5 + 1}" for n, name in enumerate(terms)}


def _layers(run: Run) -> str:
    classes = _classes(run)
    cards = []
    for output in run.outputs:
        if not output.layers:
            continue
        (first, before), (last, now) = output.layers[0], output.layers[-1]
        rows = []
        for kind, own in now.items():
            whole = sum(positive(own.values()))
            for layer, value in own.items():
                share = 100 * value / whole if whole and value else 0
                history = [layers[kind].get(layer) for _, layers in output.layers]
                rows.append(
                    f'<tr><th scope="row">{_text(layer)}</th><td>{_text(kind)}</td>'
                    f"<td>{number(before[kind].get(layer))}</td><td>{number(value)}</td>"
                    f"<td>{spark(history, kind=classes[kind])}</td>"
                    f'<td class="share"><span class="bar" role="img" title="{share:.0f} %" '
                    f'aria-label="{share:.0f} % of the {_text(kind)} loss">'
                    f'<i style="width: {share:.1f}%; --colour: var(--{classes[kind]})"></i></span>'
                    "</td></tr>"
                )
        cards.append(
            f'<div class="card scroll"><h3>{_text(output.label)}</h3><table><thead><tr>'
            '<th scope="col">layer</th><th scope="col">loss</th>'
            f'<th scope="col">step {first:,}</th><th scope="col">step {last:,}</th>'
            '<th scope="col">course</th><th scope="col">share</th></tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
    if not cards:
        return ""
    note = (
        "What each layer adds to the loss, with its weight, and its share of its term's loss. "
        "Measured on the pictures after the step."
    )
    return f'<p class="note">{note}</p>{_grid(cards, run)}'


def _timings(run: Run) -> str:
    if not run.scales:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_by(scale.size)}</th><td>{scale.steps:,}</td>'
        f"<td>{_duration(scale.start[0])}</td>"
        f"<td>{'–' if scale.steady is None else _duration(scale.steady)}</td>"
        f"<td>{_duration(scale.seconds)}</td></tr>"
        for scale in run.scales
    )
    note = "The start is the first step, or the first few, and compiles the program if need be."
    return (
        f'<p class="note">{note}</p>'
        '<div class="card scroll"><table><thead><tr><th scope="col">pixels</th>'
        '<th scope="col">steps</th><th scope="col">start</th><th scope="col">a step</th>'
        f'<th scope="col">in all</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _settings(settings: Mapping[str, Any]) -> str:
    """What is set, and folded away whatever is a group of settings."""
    groups = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    plain = {name: value for name, value in settings.items() if name not in groups}
    blocks = [f'<div class="card">{_definitions(plain)}</div>']
    for name, group in groups.items():
        if group:
            opened = " open" if name == "config" else ""
            blocks.append(
                f'<details class="card" id="settings-{_text(name)}"{opened}>'
                f"<summary>{_text(_words(name))}</summary>{_definitions(group)}</details>"
            )
    return "".join(blocks)


def _definitions(settings: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<div><dt>{_text(_words(name))}</dt><dd>{_text(_value(value))}</dd></div>"
        for name, value in settings.items()
        if value not in (None, "", (), [])
    )
    return f'<dl class="settings">{rows}</dl>'


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(item) for item in value) or "none"
    return str(value)


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]} × {size[0]}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _written(run: Run) -> str:
    versions = run.settings.get("versions", {})
    made = ", ".join(f"{name} {versions[name]}" for name in ("nst_jax", "jax") if name in versions)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.written))
    return f"Written {when} by {made}" if made else f"Written {when}"
