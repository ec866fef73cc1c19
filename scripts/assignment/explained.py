"""Sections of the report that say why it went as it did, and what goes better."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from assignment import figures, findings
from assignment.album import Album, name_of, names_of, terms_of
from assignment.document import Block, Heading, Table, Text
from assignment.experiments import RATE, SIDE, Setting
from assignment.findings import Finding, short
from assignment.runs import Painted

METHODS = {
    "report": "SGD as reported",
    "sgd": "SGD of the default preset",
    "adam": "Adam",
    "lbfgs": "L-BFGS",
}


class Run(NamedTuple):
    """One style by one network, as reported.

    Attributes:
      name: of both, for the reader.
      totals: the loss before each step, as far as it is finite.
      measured: what `experiments.as_reported` measured of it, `{"rows", "final", "final_gatys"}`.
    """

    name: str
    totals: list[float]
    measured: Mapping[str, Any]

    @property
    def close(self) -> list[Mapping[str, Any]]:
        """The rows with gradients and curvature."""
        return [row for row in self.measured["rows"] if "gradients" in row]


def plateau(album: Album, setting: Setting, reported) -> tuple[list[Block], list[Finding]]:
    runs = {
        model: [
            Run(
                f"{model.upper()}, {style}",
                [float(t) for t in painted.history["total"][:, n] if np.isfinite(t)],
                numbers["styles"][n],
            )
            for n, style in enumerate(setting.styles)
        ]
        for model, (painted, numbers) in reported.items()
    }
    parts = [
        part(album, setting, runs) for part in (_losses_by_layer, _curvature, _gradients_by_layer)
    ]
    blocks = [block for own, _ in parts for block in own]
    return [Heading("The plateau, measured"), *blocks], [finding for _, finding in parts]


def _by_layer(rows, values) -> dict[str, tuple]:
    """A curve a layer of `values(row)`; a logarithmic axis has step 0 at 0.7."""
    steps = [max(row["step"], 0.7) for row in rows]
    found = [values(row) for row in rows]
    return {layer: (steps, [value[layer] for value in found]) for layer in found[0]}


def _losses_by_layer(album, setting, runs) -> tuple[list[Block], Finding]:
    made = [
        album.add(
            figures.curves,
            {run.name: _by_layer(run.measured["rows"], itemgetter("losses")) for run in group},
            y="weighted loss",
            points=True,
            caption=f"{model.upper()}: what each layer adds to the loss (step 0 stands at 0.7).",
        )
        for model, group in runs.items()
    ]
    everyone = [run for group in runs.values() for run in group]
    gains = [findings.late_gain(run.totals) for run in everyone]
    stuck = [gain < findings.LATE_GAIN for gain in gains]
    stalls = [findings.stalls_after(run.totals) for run in everyone]
    ends = [short(run.measured["final"]["total"]) for run in everyone]
    gatys = [short(run.measured["final_gatys"]["style"]) for run in everyone]
    table = Table(
        (
            "run",
            "loss at the end",
            "taken off by the second half",
            "no later loss a tenth lower after step",
            "style loss by Gatys' normaliser",
        ),
        [
            (run.name, end, f"{gain:.1%}", str(stall), unit)
            for run, end, gain, stall, unit in zip(
                everyone, ends, gains, stalls, gatys, strict=True
            )
        ],
    )
    finding = Finding(
        "The loss is stuck near 100; from some point on nothing is gained.",
        findings.agreement(stuck),
        f"The second half of the steps takes off {min(gains):.0%} to {max(gains):.0%} of the loss. "
        f"Where that ends is a matter of units: {', '.join(ends)} by Keras' normaliser, style "
        f"losses of {', '.join(gatys)} by Gatys'; {names_of(made[0], made[-1])}.",
    )
    return [*made, table], finding


def _curvature(album, setting, runs) -> tuple[list[Block], Finding]:
    everyone = [run for group in runs.values() for run in group]
    figure = album.add(
        figures.curves,
        {
            "rate times largest eigenvalue": {
                run.name: (
                    [max(row["step"], 0.7) for row in run.close],
                    [row["rate"] * row["eigenvalue"] for row in run.close],
                )
                for run in everyone
            }
        },
        y="rate x eigenvalue",
        lines={"2: the edge of stability": findings.EDGE},
        points=True,
        caption="The learning rate times the largest eigenvalue of the loss's Hessian (power "
        "iteration on Hessian-vector products). Descent on a quadratic diverges above 2.",
    )
    after = setting.steps // 30
    edges = [findings.edge(run.close, after=after) for run in everyone]
    regimes = [findings.regime(edge["median"]) for edge in edges]
    table = Table(
        (
            "run",
            f"rate x eigenvalue, median after step {after}",
            "largest",
            "at the end",
            "that is",
        ),
        [
            (run.name, *(short(edge[name]) for name in ("median", "largest", "last")), regime)
            for run, edge, regime in zip(everyone, edges, regimes, strict=True)
        ],
    )
    text = Text(
        "A run at the edge bounces along the directions of the largest curvature and gains on the "
        "others at a rate that the edge bounds; one below it is slow because its rate is small for "
        "its curvature."
    )
    edgy = ["below" not in regime for regime in regimes]
    told = (
        f"{run.name}: {short(edge['median'])}, at the end {short(edge['last'])}"
        for run, edge in zip(everyone, edges, strict=True)
    )
    finding = Finding(
        "What holds the loss is a rate at the edge of what the curvature allows.",
        findings.agreement(edgy),
        f"Rate times largest eigenvalue, where 2 is the edge, in the median after step {after}: "
        f"{'; '.join(told)}; {name_of(figure)}.",
    )
    return [figure, table, text], finding


def _gradients_by_layer(album, setting, runs) -> tuple[list[Block], Finding]:
    made = [
        album.add(
            figures.curves,
            {run.name: _by_layer(run.close, findings.gradient_shares) for run in group},
            y="share of the gradient's norm",
            points=True,
            caption=f"{model.upper()}: the norm of each layer's gradient as a share of their sum.",
        )
        for model, group in runs.items()
    ]
    shares = [findings.content_share(run.close[-1]) for group in runs.values() for run in group]
    low, high = min(shares), max(shares)
    finding = Finding(
        "What holds the loss is the content term at block5.",
        "refuted" if high < 0.1 else "confirmed" if low > 0.3 else "not shown",
        f"At the end {low:.2%} to {high:.2%} of the gradient's norm is the content's; "
        f"{names_of(made[0], made[-1])}.",
    )
    return made, finding


def variations(album: Album, setting: Setting, effects) -> tuple[list[Block], list[Finding]]:
    model = setting.models[-1].upper()
    steps = np.arange(1, setting.short + 1)

    def panels(group):
        return {
            style: {name: (steps, group["style"][v][n]) for v, name in enumerate(group["names"])}
            for n, style in enumerate(setting.styles)
        }

    captions = {
        "rates": f"{model}: rates, as of {SIDE}x{SIDE} pixels. A curve that ends diverged.",
        "decays": f"{model}: factors by which the rate falls, thirty times over the run; the "
        "report has 0.96 and 1 is a constant rate.",
        "seeds": f"{model}: starts from noise of three seeds instead of the content.",
    }
    made = {
        name: album.add(
            figures.curves, panels(effects[name]), y="weighted style loss", caption=caption
        )
        for name, caption in captions.items()
    }
    table = Table(
        ("varied", "value", *setting.styles),
        [
            (
                name,
                value,
                *(
                    "diverged" if group["diverged"][v][n] else short(group["style"][v][n][-1])
                    for n in range(len(setting.styles))
                ),
            )
            for name, group in effects.items()
            for v, value in enumerate(group["names"])
        ],
    )
    found, best = [], []
    for n in range(len(setting.styles)):
        group = effects["rates"]
        held = [
            (group["style"][v][n][-1], value)
            for v, value in enumerate(group["names"])
            if not group["diverged"][v][n]
        ]
        best.append(min(held)[1] if held else "none")
    found.append(
        Finding(
            f"{RATE:g} is a good rate.",
            findings.agreement([rate == f"{RATE:g}" for rate in best]),
            f"Of {', '.join(effects['rates']['names'])} the lowest style loss after "
            f"{setting.short} steps on {model} has {' and '.join(best)}, of "
            f"{' and '.join(setting.styles)}; {name_of(made['rates'])}.",
        )
    )
    decays = effects["decays"]
    apart = [
        decays["style"][1][n][-1] / decays["style"][0][n][-1] for n in range(len(setting.styles))
    ]
    found.append(
        Finding(
            "The decay of the rate is what stops it.",
            "refuted" if max(apart) < 1.1 else "confirmed" if min(apart) > 1.5 else "not shown",
            "With the report's decay the style loss ends at "
            + ", ".join(
                f"{ratio:.2f} ({name})" for ratio, name in zip(apart, setting.styles, strict=True)
            )
            + f" of that with a constant rate; {name_of(made['decays'])}.",
        )
    )
    blocks = [
        Heading("Rate, decay and seed"),
        Text(
            f"Runs of {setting.short} steps on {model}, in which the rate decays as much as in "
            f"{setting.steps}; style losses at their end."
        ),
        *made.values(),
        table,
    ]
    return blocks, found


def unreached(album: Album, setting: Setting, methods) -> tuple[list[Block], list[Finding]]:
    panels, left = {}, {}
    for n, style in enumerate(setting.styles):
        start = methods["report"][1]["styles"][n]["rows"][0]["losses"]
        reached = {
            METHODS[name]: findings.gaps(
                start,
                numbers["styles"][n]["rows"][-1]["losses"]
                if name == "report"
                else numbers["styles"][n]["losses"],
            )
            for name, (_, numbers) in methods.items()
        }
        panels[style] = {
            method: {layer.partition("_")[0]: gap for layer, gap in own.items()}
            for method, own in reached.items()
        }
        left[style] = reached[METHODS["report"]]
    figure = album.add(
        figures.bars,
        panels,
        y="distance left to the style's Gram matrix",
        line=1.0,
        caption="How far each layer's Gram matrix still is from the style's, of the distance at "
        f"the start (1), on {setting.models[-1].upper()}.",
    )
    second = list(setting.styles)[-1]
    mean = {style: float(np.mean(list(own.values()))) for style, own in left.items()}
    worst = max(left[second], key=left[second].get)
    blocks = [
        Heading("Why a style does not show"),
        figure,
        Table(
            ("style", *left[second]),
            [(style, *(f"{gap:.3f}" for gap in own.values())) for style, own in left.items()],
        ),
        Text("The table is of SGD as reported."),
    ]
    finding = Finding(
        f"The second style, {second}, hardly shows.",
        "confirmed" if mean[second] > 0.5 else "corrected" if mean[second] > 0.2 else "refuted",
        f"After the report's descent {mean[second]:.0%} of the distance to its Gram matrices is "
        f"left on average, most at {worst} ({left[second][worst]:.0%})"
        + "".join(f"; {mean[style]:.0%} for {style}" for style in left if style != second)
        + f"; {name_of(figure)}.",
    )
    return blocks, [finding]


def optimisers(album: Album, setting: Setting, methods) -> tuple[list[Block], list[Finding]]:
    styles = list(setting.styles)
    curves = album.add(
        figures.curves,
        {
            style: {
                METHODS[name]: terms_of(painted.history, n)["style"]
                for name, (painted, _) in methods.items()
            }
            for n, style in enumerate(styles)
        },
        y="weighted style loss",
        caption="The style loss over the same number of gradients, by optimiser.",
    )
    paths = album.add(
        figures.curves,
        {
            style: {
                METHODS[name]: (
                    _sorted_content(painted, n),
                    painted.history["style"][1:, n],
                )
                for name, (painted, _) in methods.items()
            }
            for n, style in enumerate(styles)
        },
        x="weighted content loss",
        y="weighted style loss",
        caption="The same runs as paths: style loss against content loss. Lower and further left "
        "is better.",
    )
    shown = album.add(
        figures.pictures,
        [
            [style, *(painted.images[n] for painted, _ in methods.values())]
            for n, style in enumerate(setting.styles.values())
        ],
        columns=("style", *(METHODS[name] for name in methods)),
        names=styles,
        caption="The same objective, start and number of gradients, by optimiser.",
    )
    rows, met, best = [], [], {}
    for n, style in enumerate(styles):
        report = methods["report"][1]["styles"][n]["final"]
        for name, (painted, numbers) in methods.items():
            final = numbers["styles"][n]["final"]
            times = report["style"] / final["style"]
            content = final["content"] / report["content"]
            first = np.flatnonzero(painted.history["style"][:, n] <= report["style"] / 10)
            rows.append(
                (
                    style,
                    METHODS[name],
                    short(final["style"]),
                    short(times),
                    short(report["style_saved"] / final["style_saved"]),
                    short(final["content"]),
                    short(content),
                    str(first[0]) if len(first) else "never",
                    "diverged" if numbers["diverged"][n] else "",
                )
            )
            if name != "report":
                met.append((times >= 10, content <= 1))
                if times > best.get(style, (0,))[0]:
                    best[style] = (times, METHODS[name], content)
    text = "; ".join(
        f"{style}: {short(times)} times lower by {method}, at {short(content)} of the content loss"
        for style, (times, method, content) in best.items()
    )
    lower = all(times >= 10 for times, _, _ in best.values())
    whole = all(
        any(met[len(met) // len(styles) * n + k] == (True, True) for k in range(len(methods) - 1))
        for n in range(len(styles))
    )
    finding = Finding(
        "The same objective can be brought ten times lower in style, at no higher content loss, by "
        "as many gradients.",
        "confirmed" if whole else "corrected" if lower else "refuted",
        f"{text}; {names_of(curves, shown)}.",
    )
    blocks = [
        Heading("The same objective by other optimisers"),
        Text(
            f"On {setting.models[-1].upper()}: the report's objective from the same start, "
            f"{setting.steps} gradients each. The default preset's SGD divides each gradient by "
            "its root mean square, has momentum 0.9, a rate of 1 grey level with cosine decay, and "
            "keeps the picture in its range; Adam has a rate of 5 with cosine decay and keeps it, "
            "too; L-BFGS has rate 1, memory 100 and no line search, and leaves the range, so its "
            "picture loses when it is saved."
        ),
        curves,
        paths,
        shown,
        Table(
            (
                "style",
                "optimiser",
                "style loss",
                "times lower than reported",
                "the same, as saved in 8 bits",
                "content loss",
                "of the reported",
                "first step at a tenth of the reported style loss",
                "",
            ),
            rows,
        ),
    ]
    return blocks, [finding]


def _sorted_content(painted: Painted, n: int) -> np.ndarray:
    """The content losses after the first step, before which there is none."""
    return painted.history["content"][1:, n]
