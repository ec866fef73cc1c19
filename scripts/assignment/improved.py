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


def unreached(album: Album, setting: Setting, methods) -> tuple[list[Block], list[Finding]]:
    styles, model = list(setting.styles), setting.models[-1].upper()
    reported = methods["report"][1]
    starts = [own["rows"][0]["losses"] for own in reported["styles"]]
    gaps = {
        style: {
            METHODS[name]: findings.gaps(starts[n], numbers["styles"][n]["losses_saved"])
            for name, (_, numbers) in methods.items()
            if not numbers["diverged"][n]
        }
        for n, style in enumerate(styles)
    }
    ends = [own["rows"][-1]["losses"] for own in reported["styles"]]
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
        caption="How far each layer's Gram matrix still is from the style's in the pictures as "
        f"saved in 8 bits, of the distance at the start (1), on {model}.",
    )
    blocks = [Heading("Which statistics of a style are reached"), figure]
    if any(reported["diverged"]):
        return blocks, []
    rows = []
    for n, style in enumerate(styles):
        left = gaps[style][METHODS["report"]]
        rows.append((style, "distance left, as saved", *(f"{gap:.3f}" for gap in left.values())))
        before = findings.gaps(starts[n], ends[n]).values()
        rows.append((style, "before it is clipped", *(f"{gap:.3f}" for gap in before)))
        for name, losses in (("start", starts[n]), ("end", ends[n])):
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
    finding = Finding(
        f"The second style, {styles[1]}, hardly shows.",
        findings.hardly_shows(second, first),
        f"On {model}, in the picture of the report's descent (rate "
        f"{rate_text(setting, reported['rates'][1])}) as saved, {second:.0%} of the distance to "
        f"its Gram matrices is left in the mean over layers, most at {worst} ({left[worst]:.0%}); "
        f"of {styles[0]} {first:.0%}; {name_of(figure)}.",
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
    sgd, adam, lbfgs = contests.method_configs(setting).values()
    blocks = [
        Heading("The same objective by other optimisers"),
        Text(
            f"On {model}: the report's objective from the same start, {setting.steps} gradients "
            "each. Normalised SGD divides each gradient by its root mean square, and has momentum "
            f"{sgd.momentum:g} and a rate of {sgd.learning_rate:g} of 255 grey levels with "
            f"{sgd.schedule} decay; Adam has a rate of {adam.learning_rate:g} with "
            f"{adam.schedule} decay; L-BFGS has a {lbfgs.schedule} rate of "
            f"{lbfgs.learning_rate:g}, memory {lbfgs.memory} and no line search. These three keep "
            "the picture in its range at each step, where SGD as reported leaves it: what of its "
            "picture is out of range is cut off when it is saved."
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
                "first step at a tenth of the reported style loss",
                "",
            ),
            rows,
        ),
    ]
    return blocks, [finding]
