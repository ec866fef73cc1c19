"""Sections of the report that say why it went as it did."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from assignment import figures, findings
from assignment.album import Album, name_of, names_of
from assignment.document import Block, Heading, Table, Text
from assignment.experiments import RATE, SIDE, Setting, lost_outputs
from assignment.findings import EXPLANATION, Finding, short


class Run(NamedTuple):
    """One style by one network, as reported.

    Attributes:
      name: of both, for the reader.
      totals: the loss before each step.
      constant: the same of the run at a constant rate, half as long; None if it is lost.
      measured: what `experiments.as_reported` measured of it, `{"rows", "final", "final_gatys"}`.
    """

    name: str
    totals: list[float]
    constant: list[float] | None
    measured: Mapping[str, Any]

    @property
    def close(self) -> list[Mapping[str, Any]]:
        """The rows with gradients and curvature."""
        return [row for row in self.measured["rows"] if "gradients" in row]


def runs_of(setting: Setting, reported, constant) -> dict[str, list[Run]]:
    """Each network's runs that were not lost, by style; of networks that have any."""
    runs = {}
    for model, (painted, numbers) in reported.items():
        lost = lost_outputs(constant[model])
        runs[model] = [
            Run(
                f"{model.upper()}, {style}",
                painted.history["total"][:, n].tolist(),
                None if lost[n] else constant[model].history["total"][:, n].tolist(),
                numbers["styles"][n],
            )
            for n, style in enumerate(setting.styles)
            if not numbers["diverged"][n]
        ]
    return {model: group for model, group in runs.items() if group}


def plateau(
    album: Album, setting: Setting, reported, constant
) -> tuple[list[Block], list[Finding]]:
    runs = runs_of(setting, reported, constant)
    if not runs:
        return [
            Heading("The plateau"),
            Text("Every run was lost: there is nothing to measure."),
        ], []
    parts = [
        part(album, setting, runs)
        for part in (_losses_by_layer, _curvature, _gradients_by_layer, _decay)
    ]
    blocks, found = ([item for part in parts for item in part[n]] for n in (0, 1))
    return [Heading("The plateau, measured"), *blocks], found


def _by_layer(rows, values) -> dict[str, tuple]:
    """A curve a layer of `values(row)`; a logarithmic axis has step 0 at 0.7."""
    steps = [max(row["step"], 0.7) for row in rows]
    found = [values(row) for row in rows]
    return {layer: (steps, [value[layer] for value in found]) for layer in found[0]}


def _losses_by_layer(album, setting, runs) -> tuple[list[Block], list[Finding]]:
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
    stalls = [findings.stalls_after(run.totals) for run in everyone]
    ends = [short(final) for final in finals]
    by_gatys = [run.measured["final_gatys"]["style"] for run in everyone]
    gatys = [short(loss) for loss in by_gatys]
    table = Table(
        (
            "run",
            "loss at the end",
            "taken off by the second half",
            f"step after which the loss falls by less than {findings.LATE_GAIN:.0%}",
            "style loss by Gatys' normaliser",
        ),
        [
            (run.name, end, f"{gain:.1%}", str(stall), unit)
            for run, end, gain, stall, unit in zip(
                everyone, ends, gains, stalls, gatys, strict=True
            )
        ],
    )
    seen = names_of(made[0], made[-1])
    found = [
        Finding(
            "From some point on nothing is gained.",
            findings.plateau([run.totals for run in everyone]),
            f"The second half of the steps takes off {min(gains):.0%} to {max(gains):.0%} of the "
            f"loss; less than {findings.LATE_GAIN:.0%} falls from step {min(stalls)} to "
            f"{max(stalls)} on; {seen}.",
        ),
        Finding(
            "The loss is stuck near 100.",
            findings.near(finals, otherwise=by_gatys),
            f"It is a matter of units, of which the report leaves the normaliser M open: the runs "
            f"end at {', '.join(ends)} by Keras', at style losses of {', '.join(gatys)} by Gatys'; "
            f"{seen}.",
        ),
    ]
    return [*made, table], found


def _curvature(album, setting, runs) -> tuple[list[Block], list[Finding]]:
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
    first, half = setting.settled, setting.half
    regimes, rows, told = [], [], []
    for run in everyone:
        whole, *halves = (
            findings.edge(run.close, first=begin, last=end)
            for begin, end in ((first, setting.steps), (first, half), (half, setting.steps))
        )
        # Where a dispatch takes many steps, a short run may have no measurement in a half.
        regimes += [findings.regime(own["median"]) for own in halves if own]
        early, late = (
            f"{short(own['median'])}, {findings.regime(own['median'])}" if own else "not measured"
            for own in halves
        )
        rising = [findings.rises(part) for part in (run.totals[first:half], run.totals[half:])]
        rows.append(
            (
                run.name,
                early,
                late,
                short(whole["largest"]),
                short(whole["last"]),
                *(f"{share:.1%}" for share in rising),
            )
        )
        bounces = "bounces" if findings.bounces(run.totals[first:half]) else "does not bounce"
        told.append(
            f"{run.name}: {early}, then {late} (at the end {short(whole['last'])}); it {bounces}, "
            f"{rising[0]:.1%} of the steps raise the loss, then {rising[1]:.1%}"
        )
    table = Table(
        (
            "run",
            f"rate x eigenvalue, median of steps {first} to {half}",
            f"of steps {half} to {setting.steps}",
            "largest",
            "at the end",
            f"steps from {first} to {half} that raise the loss",
            "of the rest",
        ),
        rows,
    )
    text = Text(
        f"Measured after steps {', '.join(str(row['step']) for row in everyone[0].close)}. On a "
        "quadratic a step along the direction of the largest curvature goes too far above the edge "
        "and raises the loss: a run there bounces."
    )
    finding = Finding(
        "The rate is at the edge of what the curvature allows, throughout.",
        findings.agreement([regime == "at" for regime in regimes]),
        f"Rate times largest eigenvalue, where {findings.EDGE:g} is the edge, in the median of "
        f"steps {first} to {half}, then of the rest: {'; '.join(told)}; {name_of(figure)}.",
        EXPLANATION,
    )
    return [figure, table, text], [finding]


def _gradients_by_layer(album, setting, runs) -> tuple[list[Block], list[Finding]]:
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
        f"all layers (at {SIDE}x{SIDE} it weighs {setting.content_weighs:.3g} times as much); "
        f"{names_of(made[0], made[-1])}.",
        EXPLANATION,
    )
    return made, [finding]


def _decay(album, setting, runs) -> tuple[list[Block], list[Finding]]:
    """The experiment beside the same at a constant rate, over as many steps."""
    first, half = setting.settled, setting.half
    steps = np.arange(1, half + 1)

    def panel(run):
        curves = {"as reported": (steps, run.totals[:half])}
        constant = run.constant and {"at a constant rate": (steps, run.constant)}
        return curves | (constant or {})

    made = [
        album.add(
            figures.curves,
            {run.name: panel(run) for run in group},
            y="weighted loss",
            caption=f"{model.upper()}: the first half of the experiment as reported, and at the "
            "rate it began with throughout.",
        )
        for model, group in runs.items()
    ]
    seen = names_of(made[0], made[-1])
    bouncing, calm, rows = [], [], []
    for run in (run for group in runs.values() for run in group):
        early, both = run.totals[first:half], (run.totals[:half], run.constant)
        rising = [
            "lost" if losses is None else f"{findings.rises(findings.last_third(losses)):.1%}"
            for losses in both
        ]
        ends = [
            "lost" if losses is None else short(findings.loss_at_end(losses)) for losses in both
        ]
        rows.append((run.name, f"{findings.rises(early):.1%}", *rising, *ends))
        if findings.bounces(early):
            told = f"{run.name}: {rising[0]} as reported, {rising[1]} at a constant rate"
            bouncing.append((findings.ends_bouncing(*both), told))
        else:
            told = f"{run.name}: {ends[0]} as reported, {ends[1]} at a constant rate"
            calm.append((findings.slows(*both), told))
    table = Table(
        (
            "run",
            f"steps from {first} to {half} that raise the loss, as reported",
            f"of the last third of {half}",
            "the same at a constant rate",
            f"loss after {half} steps, as reported",
            "at a constant rate",
        ),
        rows,
    )

    def finding(claim, found, measure):
        told = "; ".join(told for _, told in found) or "there is no such run"
        verdict = findings.agreement([holds for holds, _ in found])
        return Finding(claim, verdict, f"{measure}: {told}; {seen}.", EXPLANATION)

    return [Heading("Without the decay", 3), *made, table], [
        finding(
            "The decay of the rate ends the bouncing.",
            bouncing,
            f"Of the runs that bounce from step {first} to {half}, the share of the last third of "
            "these steps that raise the loss",
        ),
        finding(
            "The decay of the rate slows the descent of a run that does not bounce.",
            calm,
            f"Of these runs the loss after {half} steps",
        ),
    ]


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

    def panels(group, label):
        return {
            style: {
                f"{label} {name}": (steps, group["style"][v][n])
                for v, name in enumerate(group["names"])
            }
            for n, style in enumerate(styles)
        }

    falls = setting.steps / setting.config.optimizer.decay_steps
    captions = {
        "rates": f"{model}: rates, as of {SIDE}x{SIDE} pixels. A curve that rises or ends is lost.",
        "decays": f"{model}: factors by which the rate falls, {falls:g} times over the run; the "
        f"experiment has {setting.config.optimizer.decay_rate:g} and 1 is a constant rate.",
        "seeds": f"{model}: starts from noise of {len(effects['seeds']['names'])} seeds instead of "
        "the content.",
    }
    made = {
        name: album.add(
            figures.curves,
            panels(effects[name], name.removesuffix("s")),
            y="weighted style loss",
            caption=caption,
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
            f"{setting.steps}; style losses before their last step. Decays and seeds are tried at "
            "the rates of the experiment as painted above."
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
            f"{RATE:g} is a good rate for {model}.",
            findings.agreement(good),
            f"Of {', '.join(effects['rates']['names'])} the lowest style loss {within} has "
            f"{' and '.join(best)}, of {' and '.join(styles)}; {name_of(made['rates'])}.",
            EXPLANATION,
        )
    ]
    rate = setting.config.optimizer.decay_rate
    decayed = last["decays"][effects["decays"]["names"].index(f"{rate:g}")]
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
                EXPLANATION,
            )
        )
    return blocks, found
