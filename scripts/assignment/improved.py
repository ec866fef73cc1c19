"""Sections of the report on what its method does not reach, and what goes better."""

from collections.abc import Sequence

import numpy as np

from assignment import contests, figures, findings
from assignment.album import Album, name_of, names_of, rate_text, terms_of
from assignment.document import Block, Heading, Table, Text
from assignment.experiments import Setting
from assignment.findings import GOAL, Attempt, Finding, short

METHODS = {
    "report": "SGD as reported",
    "sgd": "normalised SGD",
    "adam": "Adam",
    "lbfgs": "L-BFGS",
}
PATHS_FROM = 10  # the step; the first ones go far
KINDS = {"in floating point": "", "as saved in 8 bits": "_saved"}  # with what the losses' names end


def _lowest(attempts: Sequence[Attempt]) -> str:
    """The lowest style loss, and the lowest at no higher content loss."""

    def tell(attempt):
        method, times, content = attempt
        return f"{short(times)} times lower by {method} at {content:.3f} of the content loss"

    lowest, kept = findings.best(attempts), findings.best(attempts, kept=True)
    if kept is None:
        return f"{tell(lowest)}, and none at no higher"
    return tell(lowest) if kept == lowest else f"{tell(lowest)}, at no higher {tell(kept)}"


def gaps_left(setting: Setting, reported, methods) -> dict[str, dict[str, dict[str, dict]]]:
    """What is left of the way to each style in the pictures as saved that were not lost.

    Returns:
      `{style: {network: {method: {layer: gap}}}}`, the report's method the first if it is there;
      other methods were tried on the last network alone.
    """

    def of(model, n):
        start = reported[model][1]["styles"][n]["rows"][0]["losses"]
        tried = methods if model == setting.models[-1] else {"report": reported[model]}
        return {
            METHODS[name]: findings.gaps(start, numbers["styles"][n]["losses_saved"])
            for name, (_, numbers) in tried.items()
            if not numbers["diverged"][n]
        }

    return {
        style: {model: of(model, n) for model in setting.models}
        for n, style in enumerate(setting.styles)
    }


def unreached(
    album: Album, setting: Setting, reported, methods
) -> tuple[list[Block], list[Finding]]:
    gaps = gaps_left(setting, reported, methods)
    figure = album.add(
        figures.bars,
        {
            style: {
                f"{model.upper()}, {method}": {
                    layer.partition("_")[0]: gap for layer, gap in own.items()
                }
                for model, by_method in by_model.items()
                for method, own in by_method.items()
            }
            for style, by_model in gaps.items()
        },
        y="distance left to the style's Gram matrix",
        lines={"at the start": 1.0},
        caption="How far each layer's Gram matrix still is from the style's in the pictures as "
        "saved in 8 bits, of the distance at the start (1).",
    )
    blocks = [Heading("Which statistics of a style are reached"), figure]
    rows = []
    for model in setting.models:
        for n, style in enumerate(setting.styles):
            left = gaps[style][model].get(METHODS["report"])
            if left is None:
                continue
            losses = [row["losses"] for row in reported[model][1]["styles"][n]["rows"]]
            start, end = losses[0], losses[-1]
            values = {
                "distance left, as saved": (left, ".3f"),
                "before it is clipped": (findings.gaps(start, end), ".3f"),
                "share of the style loss at the start": (findings.style_shares(start), ".1%"),
                "share of the style loss at the end": (findings.style_shares(end), ".1%"),
            }
            rows += [
                (model.upper(), style, label, *(format(value, kind) for value in own.values()))
                for label, (own, kind) in values.items()
            ]
    if rows:
        blocks += [
            Text("By SGD as reported: what is left by layer, and what each adds to the loss."),
            Table(("network", "style", "", *left), rows),
        ]
    if len(gaps) < 2:
        return blocks, []
    return blocks, [
        _hardly(setting, reported, gaps, name_of(figure)),
        _plainly(setting, gaps, name_of(figure)),
    ]


def _hardly(setting: Setting, reported, gaps, figure: str) -> Finding:
    """Whether the second style hardly shows beside the first, as reported, by every network."""
    first, second = list(gaps)[:2]
    verdicts, told = [], []
    for model in setting.models:
        both = [gaps[style][model].get(METHODS["report"]) for style in (first, second)]
        if None in both:
            continue
        other, own = (findings.mean(left.values()) for left in both)
        worst = max(both[1], key=both[1].get)
        verdicts.append(findings.hardly_shows(own, other))
        told.append(
            f"{model.upper()} (rate {rate_text(setting, reported[model][1]['rates'][1])}): "
            f"{own:.0%}, most at {worst} ({both[1][worst]:.0%}), and of {first} {other:.0%}"
        )
    return Finding(
        f"The second style, {second}, hardly shows"
        + ", by this package's drawing of one" * setting.drawn
        + ".",
        findings.together(verdicts),
        f"Of the distance to the Gram matrices of {second} the picture as reported and saved "
        f"leaves, in the mean over layers, by {'; by '.join(told)}; {figure}.",
    )


def _plainly(setting: Setting, gaps, figure: str) -> Finding:
    """Whether the second style plainly shows in the best picture of every network."""
    style = list(gaps)[1]
    holds, told = [], []
    for model in setting.models:
        left = {method: findings.mean(own.values()) for method, own in gaps[style][model].items()}
        if not left:
            continue
        method = min(left, key=left.get)
        holds.append(findings.plainly_shows(left[method]))
        told.append(f"{left[method]:.1%} by {model.upper()} and {method}")
    return Finding(
        f"The second style, {style}, plainly shows in the best picture of each network.",
        findings.agreement(holds),
        f"Of the distance to its Gram matrices the best picture as saved leaves, in the mean over "
        f"layers, {', '.join(told)} (other methods than the report's were tried on "
        f"{setting.models[-1].upper()} alone); {figure}.",
        GOAL,
    )


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
                    painted.history["content"][PATHS_FROM:, n],
                    painted.history["style"][PATHS_FROM:, n],
                )
                for name, (painted, _) in methods.items()
            }
            for n, style in enumerate(styles)
        },
        x="weighted content loss",
        y="weighted style loss",
        caption=f"The same runs as paths from step {PATHS_FROM} on: style loss against content "
        "loss. Lower and further left is better.",
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
    report = methods["report"][1]
    rows, told, reached = [], [], {kind: {} for kind in KINDS}
    for n, style in enumerate(styles):
        goal = report["styles"][n]["final"]
        attempts = {kind: [] for kind in KINDS}
        for name, (painted, numbers) in methods.items():
            final = numbers["styles"][n]["final"]
            own = {
                kind: Attempt(
                    METHODS[name],
                    goal[f"style{suffix}"] / final[f"style{suffix}"],
                    final[f"content{suffix}"] / goal[f"content{suffix}"],
                )
                for kind, suffix in KINDS.items()
            }
            if name != "report" and not numbers["diverged"][n]:
                for kind, attempt in own.items():
                    attempts[kind].append(attempt)
            first = np.flatnonzero(painted.history["style"][:, n] <= goal["style"] / findings.TIMES)
            (_, times, content), (_, saved, content_saved) = own.values()
            rows.append(
                (
                    style,
                    METHODS[name],
                    rate_text(setting, report["rates"][n]) if name == "report" else "",
                    short(final["style"]),
                    short(times),
                    short(final["content"]),
                    f"{content:.3f}",
                    short(saved),
                    f"{content_saved:.3f}",
                    str(first[0]) if len(first) else "never",
                    "lost" if numbers["diverged"][n] else "",
                )
            )
        if report["diverged"][n] or not all(attempts.values()):
            continue
        for kind, own in attempts.items():
            reached[kind][style] = findings.reaches(own)
        told.append(
            f"{style}: {'; '.join(f'{kind} {_lowest(own)}' for kind, own in attempts.items())}"
        )
    floating, saved = reached.values()
    met = (
        f"{kind} for {' and '.join(style for style in own if own[style]) or 'no style'}"
        for kind, own in reached.items()
    )
    finding = Finding(
        f"These optimisers bring the same objective {findings.TIMES} times lower in style, at no "
        "higher content loss, by as many gradients.",
        findings.ten_times(list(floating.values()), list(saved.values())),
        f"On {model}: met {', '.join(met)}. {'. '.join(told)}; {names_of(curves, shown)}.",
        GOAL,
    )
    configs = contests.method_configs(setting).values()
    sgd, adam, lbfgs = (config.optimizer for config in configs)
    blocks = [
        Heading("The same objective by other optimisers"),
        Text(
            f"On {model}: the report's objective from the same start, {setting.steps} gradients "
            "each. Normalised SGD divides each gradient by its root mean square, and has momentum "
            f"{sgd.momentum:g} and a rate of {sgd.learning_rate:g} of 255 grey levels with "
            f"{sgd.schedule} decay; Adam has a rate of {adam.learning_rate:g} with "
            f"{adam.schedule} decay; L-BFGS has a {lbfgs.schedule} rate of "
            f"{lbfgs.learning_rate:g}, memory {lbfgs.history_size} and no line search. These three "
            "keep the picture in its range at each step, where SGD as reported leaves it: what of "
            "its picture is out of range is cut off when it is saved."
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
                "content loss",
                "of the reported",
                "style, times lower as saved in 8 bits",
                "content as saved, of the reported",
                f"first step at 1/{findings.TIMES} of the reported style loss",
                "",
            ),
            rows,
        ),
    ]
    return blocks, [finding]
