"""The text of the report: results.json in, Markdown out, by template.md beside this file.

Every number and verdict in the text comes from the results; `figures` draws the figures.
"""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assignment import architecture, experiments, findings
from assignment.experiments import CLOSE, MODELS, RATE, SIDE, Setting
from assignment.findings import METHODS, Attempt, short
from nst_jax.losses import keras_normalizer

TEMPLATE = Path(__file__).with_name("template.md")
KINDS = {"in floating point": "", "as saved in 8 bits": "_saved"}  # and the suffix of the losses
Values = dict[str, Any]


def write(results: Mapping[str, Any]) -> str:
    """The report of what scripts/reproduce_assignment.py wrote as results.json."""
    setting = Setting(size=results["size"], steps=results["steps"])
    seconds = results["seconds"]
    values: Values = {
        "setting": setting,
        "config": setting.config,
        "methods": experiments.method_configs(setting),
        "judge": experiments.judge_config(setting),
        "experiments": experiments,
        "findings": findings,
        "same": findings.SAME - 1,
        "keras": keras_normalizer(1, 1),
        "environment": results["environment"],
        "took": "" if seconds is None else f"; the whole took {short(seconds / 60)} minutes",
    }
    for section in (
        _experiment,
        _plateau,
        _curvature,
        _gradients,
        _decay,
        _variations,
        _unreached,
        _optimisers,
        _networks,
        _architecture,
    ):
        values |= section(setting, results)
    text = TEMPLATE.read_text("utf-8").format_map(values)
    return re.sub(r"^(Figure (\d+))\. .*", _figure, text, flags=re.MULTILINE)


def _figure(caption: re.Match) -> str:
    """A figure with its caption, in place of the caption alone."""
    return f"![{caption[1]}](figure_{int(caption[2]):02d}.jpg)\n\n*{caption[0]}*"


def rows(cells: Iterable[Sequence[str]]) -> str:
    """The rows of a table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def several(values: Iterable[Any], *, tell=short) -> str:
    return ", ".join(map(tell, values))


def _rate(setting: Setting, rate: float) -> str:
    """A rate as it acts here, and the one that acts so at the report's size."""
    return f"{short(rate)} ({short(rate / setting.rate * RATE)} at {SIDE}x{SIDE})"


def _runs(results) -> list[tuple[str, str, int, Mapping[str, Any]]]:
    """Name, model, number of the style and measurements of each run as reported."""
    return [
        (f"{model.upper()}, {style}", model, n, results["reported"][model]["styles"][n])
        for model in MODELS
        for n, style in enumerate(results["styles"])
    ]


def _close(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows with gradients and curvature."""
    return [row for row in run["rows"] if "gradients" in row]


def _experiment(setting: Setting, results) -> Values:
    used, table, lost = {}, [], []
    for name, model, n, run in _runs(results):
        numbers, style = results["reported"][model], results["styles"][n]
        used[f"{model}_{style}"] = rate = _rate(setting, numbers["rates"][n])
        start = sum(findings.by_kind("style", run["rows"][0]["losses"]).values())
        losses = [start, *(run["final"][kind] for kind in ("style", "style_saved"))]
        losses += [run["final_gatys"]["style"], run["final"]["content"]]
        table.append((model.upper(), style, rate, *map(short, losses)))
        times = sum(attempt[n] for attempt in numbers["lost"])
        if times:
            lost.append(f"{name.replace(',', ' with')} at 1/{10**times}")
    scaled = (
        f" ({short(setting.rate)} at {setting.size}x{setting.size}: scaled by the number of "
        "pixels, though the largest rate that holds need not scale so)"
    ) * (setting.size != SIDE)
    return {
        "rate": short(setting.rate),
        "rates_used": used,
        "table_experiment": rows(table),
        "rate_holds": findings.agreement(n >= len(lost) for n in range(len(table))),
        "rate_evidence": f"{len(lost)} of {len(table)} runs diverge at that rate{scaled}. They "
        f"were painted at a lower rate: {', '.join(lost)}"
        if lost
        else f"all {len(table)} runs hold that rate{scaled}",
    }


def _plateau(setting: Setting, results) -> Values:
    runs = _runs(results)
    gains = [run["course"]["late_gain"] for *_, run in runs]
    stalls = [run["course"]["stalls_after"] for *_, run in runs]
    ends = [run["final"]["total"] for *_, run in runs]
    gatys = [run["final_gatys"]["style"] for *_, run in runs]
    columns = zip(runs, ends, gains, stalls, gatys, strict=True)
    return {
        "plateau": findings.plateau(gains, stalls, setting.steps),
        "late_gain": f"{min(gains):.0%} to {max(gains):.0%}",
        "stalls": f"{min(stalls)} to {max(stalls)}",
        "near_100": findings.near(ends, gatys),
        "ends": several(ends),
        "ends_gatys": several(gatys),
        "table_plateau": rows(
            (run[0], short(end), f"{gain:.1%}", str(stall), short(unit))
            for run, end, gain, stall, unit in columns
        ),
    }


def _curvature(setting: Setting, results) -> Values:
    first, half, last = setting.settled, setting.half, setting.steps
    regimes, table, told = [], [], []
    for name, _, _, run in _runs(results):
        products = {row["step"]: row["rate"] * row["eigenvalue"] for row in _close(run)}
        settled = [product for step, product in products.items() if step >= first]
        halves = []
        for begin, end in ((first, half), (half, last)):
            own = [product for step, product in products.items() if begin <= step <= end]
            if own:
                median = statistics.median(own)
                regimes.append(findings.regime(median))
                halves.append(f"{short(median)} ({regimes[-1]})")
            else:  # a dispatch that takes many steps may leave a half of a short run without
                halves.append("not measured")
        rising = [f"{run['course'][part]:.1%}" for part in ("rises_early", "rises_late")]
        table.append((name, *halves, short(max(settled)), short(settled[-1]), *rising))
        bounces = run["course"]["rises_early"] > findings.BOUNCES
        told.append(
            f"{name}: {halves[0]}, then {halves[1]}, {short(settled[-1])} at the end; it "
            f"{'bounces' if bounces else 'does not bounce'}: {rising[0]} of the steps raise the "
            f"loss, then {rising[1]}"
        )
    return {
        "edge": findings.agreement(regime == "at" for regime in regimes),
        "edge_evidence": "; ".join(told),
        "table_edge": rows(table),
        "measured_at": ", ".join(str(step) for step in products),
    }


def _gradients(setting: Setting, results) -> Values:
    shares = [
        sum(findings.by_kind("content", findings.gradient_shares(_close(run)[-1])).values())
        for *_, run in _runs(results)
    ]
    return {
        "content_holds": findings.holds_the_loss(shares),
        "content_gradient": f"{min(shares):.1e} to {max(shares):.1e}",
    }


def _decay(setting: Setting, results) -> Values:
    """The experiment beside the same at a constant rate, over as many steps."""
    bouncing, calm, table = [], [], []
    for name, model, n, run in _runs(results):
        constant, course = results["constant"][model], run["course"]
        rises = course["rises_in_last_third"], constant["rises_in_last_third"][n]
        ends = course["loss_at_half"], constant["loss_at_end"][n]
        rises_told = ["diverged" if share is None else f"{share:.1%}" for share in rises]
        ends_told = ["diverged" if loss is None else short(loss) for loss in ends]
        table.append((name, f"{course['rises_early']:.1%}", *rises_told, *ends_told))
        if course["rises_early"] > findings.BOUNCES:
            kind, holds, both = bouncing, findings.ends_bouncing(*rises), rises_told
        else:
            kind, holds, both = calm, findings.slows(*ends), ends_told
        kind.append((holds, f"{name}: {both[0]} as reported, {both[1]} at a constant rate"))

    def told(found):
        return "; ".join(words for _, words in found) or "there is no such run"

    return {
        "ends_bouncing": findings.agreement(holds for holds, _ in bouncing),
        "bouncing_evidence": told(bouncing),
        "slows": findings.agreement(holds for holds, _ in calm),
        "calm_evidence": told(calm),
        "table_decay": rows(table),
    }


def _variations(setting: Setting, results) -> Values:
    rates, decays, seeds = (results["effects"][name] for name in ("rates", "decays", "seeds"))
    best, good = [], []
    for losses in zip(*rates["last"], strict=True):
        held = dict(zip(rates["names"], losses, strict=True))
        held = {name: loss for name, loss in held.items() if loss is not None}
        best.append(min(held, key=held.__getitem__, default="none"))
        own = held.get(f"{RATE:g}")
        good.append(own is not None and own <= findings.SAME * min(held.values()))
    reported = decays["names"].index(f"{setting.config['decay_rate']:g}")
    from_noise = np.array(seeds["last"], np.float64).T.tolist()  # None is NaN
    return {
        "good_rate": findings.agreement(good),
        "rates": ", ".join(rates["names"]),
        "best_rates": best,
        "seeds": findings.agreement(max(own) <= findings.SAME * min(own) for own in from_noise),
        "seeds_tried": len(seeds["names"]),
        "from_noise": [findings.spread(own) for own in from_noise],
        "from_content": [short(loss) for loss in decays["last"][reported]],
        "table_effects": rows(
            (name, value, *("diverged" if loss is None else short(loss) for loss in losses))
            for name, group in results["effects"].items()
            for value, losses in zip(group["names"], group["last"], strict=True)
        ),
    }


def _unreached(setting: Setting, results) -> Values:
    gaps = findings.gaps_left(results)
    first, second = results["styles"]
    table = []
    for _, model, n, run in _runs(results):
        style = results["styles"][n]
        start, end = (run["rows"][at]["losses"] for at in (0, -1))
        shares = [findings.shares(findings.by_kind("style", own)) for own in (start, end)]
        values = {
            "distance left, as saved": (gaps[style][model]["report"], ".3f"),
            "before it is clipped": (findings.gaps(start, end), ".3f"),
            "share of the style loss at the start": (shares[0], ".1%"),
            "share of the style loss at the end": (shares[1], ".1%"),
        }
        table += [
            (model.upper(), style, label, *(format(value, kind) for value in own.values()))
            for label, (own, kind) in values.items()
        ]
    verdicts, told, plainly, best = [], [], [], []
    for model in MODELS:
        left = gaps[second][model]["report"]
        other, own = (
            statistics.mean(gaps[style][model]["report"].values()) for style in (first, second)
        )
        verdicts.append(findings.hardly_shows(own, other))
        worst = max(left, key=left.__getitem__)
        rate = _rate(setting, results["reported"][model]["rates"][1])
        told.append(
            f"{model.upper()} (rate {rate}): {own:.0%}, most at {worst} ({left[worst]:.0%}), "
            f"against {other:.0%} for {first}"
        )
        means = {name: statistics.mean(own.values()) for name, own in gaps[second][model].items()}
        method = min(means, key=means.__getitem__)
        plainly.append(means[method] < findings.PLAINLY)
        best.append(f"{means[method]:.1%} ({model.upper()}, {METHODS[method]})")
    return {
        "hardly": findings.together(verdicts),
        "hardly_evidence": "; ".join(told),
        "plainly": findings.agreement(plainly),
        "plainly_evidence": ", ".join(best),
        "table_gaps": rows(table),
    }


def _lowest(attempts: Sequence[Attempt]) -> str:
    """The lowest style loss, and the lowest at no higher content loss."""

    def tell(attempt):
        method, times, content = attempt
        return f"{short(times)} times lower by {method} at {content:.3f} of the content loss"

    lowest, kept = findings.best(attempts), findings.best(attempts, kept=True)
    if kept is None:
        return f"{tell(lowest)}, none at no higher content loss"
    return (
        tell(lowest)
        if kept == lowest
        else f"{tell(lowest)}, at no higher content loss {tell(kept)}"
    )


def _optimisers(setting: Setting, results) -> Values:
    report = results["reported"][CLOSE]
    methods = {"report": report["styles"]} | results["methods"]
    table, told, reached = [], [], {kind: {} for kind in KINDS}
    for n, style in enumerate(results["styles"]):
        goal = report["styles"][n]["final"]
        attempts = {kind: [] for kind in KINDS}
        for name, numbers in methods.items():
            final, first = numbers[n]["final"], numbers[n].get("first_at_goal")
            for kind, suffix in KINDS.items():
                times = goal[f"style{suffix}"] / final[f"style{suffix}"]
                content = final[f"content{suffix}"] / goal[f"content{suffix}"]
                attempts[kind].append(Attempt(METHODS[name], times, content))
            (_, times, content), (_, saved, content_saved) = (own[-1] for own in attempts.values())
            rate = _rate(setting, report["rates"][n]) if name == "report" else ""
            table.append(
                (
                    *(style, METHODS[name], rate, short(final["style"]), short(times)),
                    *(short(final["content"]), f"{content:.3f}"),
                    *(short(saved), f"{content_saved:.3f}"),
                    "never" if first is None else str(first),
                )
            )
        attempts = {kind: own[1:] for kind, own in attempts.items()}
        for kind, own in attempts.items():
            reached[kind][style] = findings.reaches(own)
        told.append(f"{style}: " + "; ".join(f"{k} {_lowest(own)}" for k, own in attempts.items()))
    met = (
        f"{kind} for {' and '.join(style for style in own if own[style]) or 'no style'}"
        for kind, own in reached.items()
    )
    return {
        "ten_times": findings.ten_times(*(list(own.values()) for own in reached.values())),
        "ten_times_met": ", ".join(met),
        "ten_times_evidence": ". ".join(told),
        "table_methods": rows(table),
    }


def _networks(setting: Setting, results) -> Values:
    second, first = MODELS
    ours, theirs = results["judged"][first], results["judged"][second]
    compared, told = {}, []
    for judge, own in ours.items():
        compared[judge] = {}
        for kind, losses in own.items():
            compared[judge][kind] = result = findings.wins(losses, theirs[judge][kind])
            ratio = findings.paired_ratio(losses, theirs[judge][kind])
            told.append(
                f"{judge.upper()} finds {first.upper()}'s {kind} loss lower in "
                f"{result['won']} of {result['of']} pairs (p = {result['chance']:.2g}) and {ratio} "
                f"times {second.upper()}'s"
            )
    ours, theirs = (results["judged_as_reported"][model] for model in (first, second))
    holds, ratios = [], []
    for judge, own in ours.items():
        pairs = zip(own["content"], theirs[judge]["content"], strict=True)
        holds += [findings.SAME * a < b for a, b in pairs]
        content, style = (
            findings.paired_ratio(own[kind], theirs[judge][kind]) for kind in ("content", "style")
        )
        ratios.append(
            f"{judge.upper()} finds {content} times the content lost and {style} times the "
            "style loss left"
        )
    return {
        "judged_contents": ", ".join(results["judged_contents"]),
        "judged_styles": ", ".join(results["judged_styles"]),
        "pairs": len(results["judged_contents"]) * len(results["judged_styles"]),
        "clearer": findings.clearer(compared),
        "clearer_evidence": "; ".join(told),
        "holds_more": findings.agreement(holds),
        "holds_more_evidence": "; ".join(ratios),
    } | {
        f"table_{name}": rows(
            (
                painter.upper(),
                judge.upper(),
                *(findings.spread(own[k]) for k in ("style", "content")),
            )
            for painter, by_judge in results[name].items()
            for judge, own in by_judge.items()
        )
        for name in ("judged", "judged_as_reported")
    }


def _architecture(setting: Setting, results) -> Values:
    values, told, right = {}, [], []
    for model in MODELS:
        layers = results["architecture"][model]
        values[f"table_{model}"] = rows(
            (
                row["layer"],
                f"{row['kernel']}x{row['kernel']}" if row["kernel"] else "",
                "x".join(map(str, row["shape"])),
                f"{row['parameters']:,}",
                str(row["receptive_field"] or "all"),
            )
            for row in layers
        )
        facts, agrees = architecture.facts(model, layers)
        told.append(f"{model.upper()}: {facts}")
        right.append(agrees)
    return values | {
        "layers": "confirmed" if all(right) else "refuted",
        "layers_evidence": "; ".join(told),
    }
