"""Sections of the report that say why it went as it did, and what goes better."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from assignment import experiments, figures, findings
from assignment.album import Album, name_of, names_of, rate_text, terms_of
from assignment.document import Block, Heading, Table, Text
from assignment.experiments import RATE, SIDE, Setting
from assignment.findings import Finding, short

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
      totals: the loss before each step.
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
                painted.history["total"][:, n].tolist(),
                numbers["styles"][n],
            )
            for n, style in enumerate(setting.styles)
            if not numbers["diverged"][n]
        ]
        for model, (painted, numbers) in reported.items()
    }
    runs = {model: group for model, group in runs.items() if group}
    if not runs:
        return [
            Heading("The plateau"),
            Text("Every run was lost: there is nothing to measure."),
        ], []
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
    finals = [run.measured["final"]["total"] for run in everyone]
    stuck = [gain < findings.LATE_GAIN for gain in gains]
    near = [findings.NEAR[0] <= final <= findings.NEAR[1] for final in finals]
    stalls = [findings.stalls_after(run.totals) for run in everyone]
    ends = [short(final) for final in finals]
    gatys = [short(run.measured["final_gatys"]["style"]) for run in everyone]
    table = Table(
        (
            "run",
            "loss at the end",
            "taken off by the second half",
            "step after which the loss falls by less than a tenth",
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
        "corrected" if all(stuck) and not all(near) else findings.agreement(stuck),
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
        caption="The learning rate times the largest eigenvalue of the loss's Hessian (Lanczos' "
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
        f"The median is of {edges[0]['count']} measurements. A run at the edge bounces along the "
        "directions of the largest curvature and gains on the others at a rate that the edge "
        "bounds; one below it is slow because its rate is small for its curvature."
    )
    edgy = [regime != "below" for regime in regimes]
    told = (
        f"{run.name}: {short(edge['median'])}, at the end {short(edge['last'])}"
        for run, edge in zip(everyone, edges, strict=True)
    )
    finding = Finding(
        "The loss stays where it does with the rate at the edge of what the curvature allows.",
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
            y="share of the gradients' norms",
            points=True,
            caption=f"{model.upper()}: the norm of each layer's gradient as a share of their sum.",
        )
        for model, group in runs.items()
    ]
    shares = [findings.content_share(run.close[-1]) for group in runs.values() for run in group]
    low, high = min(shares), max(shares)
    finding = Finding(
        "What holds the loss is the content term at block5.",
        "refuted"
        if high < findings.HARDLY
        else "confirmed"
        if low > findings.HOLDS
        else "not shown",
        f"At the end the norm of the content's gradient is {low:.1e} to {high:.1e} of the sum over "
        f"all layers (and at {SIDE}x{SIDE}, where it weighs {setting.content_weighs:.3g} times as "
        "much, about as many times that); "
        f"{names_of(made[0], made[-1])}.",
    )
    return made, finding


def variations(album: Album, setting: Setting, effects) -> tuple[list[Block], list[Finding]]:
    model, styles = setting.models[-1].upper(), list(setting.styles)
    steps = np.arange(1, setting.short + 1)
    last = {
        name: [
            [
                None if group["diverged"][v][n] else group["style"][v][n][-1]
                for n in range(len(styles))
            ]
            for v in range(len(group["names"]))
        ]
        for name, group in effects.items()
    }

    def panels(group):
        return {
            style: {name: (steps, group["style"][v][n]) for v, name in enumerate(group["names"])}
            for n, style in enumerate(styles)
        }

    captions = {
        "rates": f"{model}: rates, as of {SIDE}x{SIDE} pixels. A curve that rises or ends is lost.",
        "decays": f"{model}: factors by which the rate falls, thirty times over the run; the "
        f"report has {effects['decays']['names'][1]} and 1 is a constant rate.",
        "seeds": f"{model}: starts from noise of {len(effects['seeds']['names'])} seeds instead of "
        "the content.",
    }
    made = {
        name: album.add(
            figures.curves, panels(effects[name]), y="weighted style loss", caption=caption
        )
        for name, caption in captions.items()
    }
    table = Table(
        ("varied", "value", *styles),
        [
            (name, value, *("lost" if loss is None else short(loss) for loss in row))
            for name, group in effects.items()
            for value, row in zip(group["names"], last[name], strict=True)
        ],
    )
    within = f"in runs of {setting.short} steps on {model}"
    blocks = [
        Heading("Rate, decay and seed"),
        Text(
            f"Runs of {setting.short} steps on {model}, in which the rate decays as much as in "
            f"{setting.steps}; style losses before their last step."
        ),
        *made.values(),
        table,
    ]

    best, good = [], []
    for n in range(len(styles)):
        held = {
            name: row[n]
            for name, row in zip(effects["rates"]["names"], last["rates"], strict=True)
            if row[n] is not None
        }
        best.append(min(held, key=held.get, default="none"))
        own = held.get(f"{RATE:g}")
        good.append(own is not None and own <= findings.SAME * min(held.values()))
    found = [
        Finding(
            f"{RATE:g} is a good rate.",
            findings.agreement(good),
            f"Of {', '.join(effects['rates']['names'])} the lowest style loss {within} has "
            f"{' and '.join(best)}, of {' and '.join(styles)}; {name_of(made['rates'])}.",
        )
    ]
    constant, decayed = last["decays"][:2]
    if None not in (*constant, *decayed):
        apart = [with_it / without for with_it, without in zip(decayed, constant, strict=True)]
        found.append(
            Finding(
                "The decay of the rate is what stops it.",
                "refuted" if max(apart) <= findings.SAME else "not shown",
                f"With the report's decay the style loss is {_each(apart, styles)} of that at a "
                f"constant rate, {within}; {name_of(made['decays'])}.",
            )
        )
    seeds = np.array(last["seeds"], np.float64)  # None is NaN
    if np.isfinite(seeds).all():
        spreads = [findings.spread(seeds[:, n].tolist()) for n in range(len(styles))]
        contents = [short(loss) for loss in decayed if loss is not None]
        ratios = seeds.max(axis=0) / seeds.min(axis=0)
        found.append(
            Finding(
                "The seed of the start makes no difference.",
                findings.agreement((ratios <= findings.SAME).tolist()),
                f"From noise of {len(seeds)} seeds the style loss is {' and '.join(spreads)} "
                f"({' and '.join(styles)}), from the content {' and '.join(contents)}, {within}; "
                f"{name_of(made['seeds'])}.",
            )
        )
    return blocks, found


def _each(ratios: Sequence[float], names: Sequence[str]) -> str:
    return " and ".join(f"{ratio:.2f} ({name})" for ratio, name in zip(ratios, names, strict=True))


def unreached(album: Album, setting: Setting, methods) -> tuple[list[Block], list[Finding]]:
    styles, model = list(setting.styles), setting.models[-1].upper()
    reported = methods["report"][1]
    starts = [own["rows"][0]["losses"] for own in reported["styles"]]
    ends = {
        name: [
            own["rows"][-1]["losses"] if name == "report" else own["losses"]
            for own in numbers["styles"]
        ]
        for name, (_, numbers) in methods.items()
    }
    gaps = {
        style: {
            METHODS[name]: findings.gaps(starts[n], ends[name][n])
            for name in methods
            if not methods[name][1]["diverged"][n]
        }
        for n, style in enumerate(styles)
    }
    figure = album.add(
        figures.bars,
        {
            style: {
                method: {layer.partition("_")[0]: gap for layer, gap in own.items()}
                for method, own in by_method.items()
            }
            for style, by_method in gaps.items()
        },
        y="distance left to the style's Gram matrix",
        line=1.0,
        caption="How far each layer's Gram matrix still is from the style's, of the distance at "
        f"the start (1), on {model}.",
    )
    blocks = [Heading("Which statistics of a style are reached"), figure]
    if any(reported["diverged"]):
        return blocks, []
    rows = []
    for n, style in enumerate(styles):
        left = gaps[style][METHODS["report"]]
        rows.append((style, "distance left", *(f"{gap:.3f}" for gap in left.values())))
        for name, losses in (("start", starts[n]), ("end", ends["report"][n])):
            shares = findings.style_shares(losses).values()
            label = f"share of the style loss at the {name}"
            rows.append((style, label, *(f"{share:.1%}" for share in shares)))
    blocks += [
        Text("By SGD as reported: what is left by layer, and what each layer adds to the loss."),
        Table(("style", "", *left), rows),
    ]
    if len(styles) < 2:
        return blocks, []
    first, second = (
        float(np.mean(list(gaps[style][METHODS["report"]].values()))) for style in styles[:2]
    )
    left = gaps[styles[1]][METHODS["report"]]
    worst = max(left, key=left.get)
    if second <= findings.UNREACHED:
        verdict = "refuted"
    else:
        verdict = "confirmed" if second > findings.WORSE * first else "corrected"
    finding = Finding(
        f"The second style, {styles[1]}, hardly shows.",
        verdict,
        f"On {model}, after the report's descent, {second:.0%} of the distance to its Gram "
        f"matrices is left in the mean over layers, most at {worst} ({left[worst]:.0%}); of "
        f"{styles[0]} {first:.0%}; {name_of(figure)}.",
    )
    return blocks, [finding]


def optimisers(album: Album, setting: Setting, methods) -> tuple[list[Block], list[Finding]]:
    styles, model = list(setting.styles), setting.models[-1].upper()
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
                    painted.history["content"][1:, n],
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
    rows, told, reached = [], [], []
    report = methods["report"][1]
    for n, style in enumerate(styles):
        goal = report["styles"][n]["final"]
        best, as_saved = None, False
        for name, (painted, numbers) in methods.items():
            final = numbers["styles"][n]["final"]
            lower, saved, content = (
                goal["style"] / final["style"],
                goal["style_saved"] / final["style_saved"],
                final["content"] / goal["content"],
            )
            first = np.flatnonzero(painted.history["style"][:, n] <= goal["style"] / 10)
            rows.append(
                (
                    style,
                    METHODS[name],
                    rate_text(setting, report["rates"][n]) if name == "report" else "",
                    short(final["style"]),
                    short(lower),
                    short(saved),
                    short(final["content"]),
                    short(content),
                    str(first[0]) if len(first) else "never",
                    "lost" if numbers["diverged"][n] else "",
                )
            )
            if name != "report" and not numbers["diverged"][n]:
                candidate = (content <= 1, lower, saved, content, METHODS[name])
                best = candidate if best is None else max(best, candidate)
                as_saved |= saved >= 10 and final["content_saved"] <= goal["content_saved"]
        if report["diverged"][n] or best is None:
            continue
        kept, lower, saved, content, method = best
        reached.append((lower >= 10 and kept, as_saved))
        told.append(
            f"{style}: {short(lower)} times lower by {method} ({short(saved)} times as saved in 8 "
            f"bits) at {short(content)} of the content loss"
        )
    met = [floating for floating, _ in reached]
    saved_alone = bool(reached) and all(as_saved for _, as_saved in reached) and not any(met)
    finding = Finding(
        "The same objective can be brought ten times lower in style, at no higher content loss, by "
        "as many gradients.",
        "corrected" if saved_alone else findings.agreement(met),
        f"On {model}: {'; '.join(told)}"
        + "; so it is in the pictures as saved, and not before they are clipped" * saved_alone
        + f"; {names_of(curves, shown)}.",
    )
    sgd, adam, lbfgs = experiments.method_configs(setting).values()
    blocks = [
        Heading("The same objective by other optimisers"),
        Text(
            f"On {model}: the report's objective from the same start, {setting.steps} gradients "
            "each. The default preset's SGD divides each gradient by its root mean square, has "
            f"momentum {sgd.momentum:g}, a rate of {sgd.learning_rate:g} grey level with cosine "
            f"decay, and keeps the picture in its range; Adam has a rate of {adam.learning_rate:g} "
            f"with cosine decay and keeps it, too; L-BFGS has rate {lbfgs.learning_rate:g}, memory "
            f"{lbfgs.memory} and no line search, and leaves the range, so its picture loses when "
            "it is saved."
        ),
        curves,
        paths,
        shown,
        Table(
            (
                "style",
                "optimiser",
                "rate",
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
