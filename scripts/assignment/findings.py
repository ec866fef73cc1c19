"""The rules that turn measurements into verdicts on the claims: numbers in, verdicts out.

A verdict is "confirmed", "corrected" (true in part), "refuted" or "not shown" (the measurements
allow no conclusion). The report states the thresholds, see template.md.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

LATE_GAIN = 0.1  # a plateau: the second half of a run lowers the loss by a smaller share
PART_GAIN, PART_STALL = 0.5, 0.9  # a plateau in part: a smaller gain, and a stall by this share
NEAR = (50.0, 200.0)  # "near 100"
EDGE = 2.0  # rate times curvature above which descent on a quadratic diverges
AT_EDGE = (1.6, 2.5)  # "at the edge"
HOLDS, HARDLY = 0.3, 0.1  # shares of the gradients: enough to hold a run, too little for it
UNREACHED = 0.5  # share of the distance to a style that is left if the style hardly shows
PLAINLY = 0.2  # the share that is left if it plainly shows
WORSE = 1.2  # ratio from which one style counts as worse off than another
SAME = 1.1  # ratio up to which two losses count as equal
BOUNCES = 0.05  # share of the steps that raise the loss from which a run bounces
TIMES = 10  # how many times lower the other optimisers should bring the style loss
SURE = 0.05  # probability of a result by chance below which it counts as sure

METHODS = {
    "report": "SGD as reported",
    "sgd": "normalised SGD",
    "adam": "Adam",
    "lbfgs": "L-BFGS",
}


def agreement(holds: Iterable[bool]) -> str:
    """The verdict on a claim about several runs, given whether it holds for each."""
    holds = list(holds)
    if not holds:
        return "not shown"
    return "confirmed" if all(holds) else "corrected" if any(holds) else "refuted"


# The course of a run: the losses before each step.


def late_gain(totals: Sequence[float]) -> float:
    """The share of the loss at half of a run that its second half takes off.

    Both are medians over a hundredth of the steps, because single steps may bounce.
    """
    width, half = max(len(totals) // 100, 1), len(totals) // 2
    return 1 - loss_at_end(totals) / statistics.median(totals[half : half + width])


def loss_at_end(totals: Sequence[float]) -> float:
    """The median of the last hundredth of the steps, because single steps may bounce."""
    return statistics.median(totals[-max(len(totals) // 100, 1) :])


def stalls_after(totals: Sequence[float]) -> int:
    """The first step from which the loss falls by at most `LATE_GAIN`."""
    lowest = min(totals)
    return next(step for step, total in enumerate(totals) if total * (1 - LATE_GAIN) <= lowest)


def rises(totals: Sequence[float]) -> float:
    """The share of the steps that raise the loss."""
    return statistics.mean(b > a for a, b in zip(totals[:-1], totals[1:], strict=True))


def last_third(totals: Sequence[float]) -> Sequence[float]:
    return totals[2 * len(totals) // 3 :]


# Verdicts.


def plateau(gains: Sequence[float], stalls: Sequence[int], steps: int) -> str:
    """The verdict on a plateau, from `late_gain` and `stalls_after` of several runs."""
    if max(gains) < LATE_GAIN:
        return "confirmed"
    pairs = zip(gains, stalls, strict=True)
    in_part = any(gain < PART_GAIN and stall <= PART_STALL * steps for gain, stall in pairs)
    return "corrected" if in_part else "refuted"


def near(losses: Sequence[float], otherwise: Sequence[float]) -> str:
    """The verdict on losses near 100, from the losses and the same losses in other units."""
    found = [NEAR[0] <= loss <= NEAR[1] for loss in (*losses, *otherwise)]
    if all(found[: len(losses)]):
        return "confirmed"
    return "not shown" if any(found) else "refuted"


def regime(product: float) -> str:
    """Where rate times curvature puts a run: "below", "at" or "beyond" the edge."""
    return "below" if product < AT_EDGE[0] else "at" if product <= AT_EDGE[1] else "beyond"


def holds_the_loss(shares: Sequence[float]) -> str:
    """The verdict on a term that holds the loss, from its shares of the gradients."""
    if max(shares) < HARDLY:
        return "refuted"
    return "confirmed" if min(shares) > HOLDS else "not shown"


def ends_bouncing(decayed: float, constant: float | None) -> bool:
    """Whether the decay ends the bouncing.

    Args:
      decayed: share of the last third's steps that raise the loss.
      constant: the share at a constant rate; None for a run that diverged.
    """
    return decayed <= BOUNCES and (constant is None or constant > BOUNCES)


def slows(decayed: float, constant: float | None) -> bool:
    """Whether the loss is above the one at a constant rate; None for a run that diverged."""
    return constant is not None and decayed > SAME * constant


def hardly_shows(left: float, other: float) -> str:
    """The verdict on a style that hardly shows, from what is left of it and of the other style."""
    if left <= UNREACHED:
        return "refuted"
    return "confirmed" if left > WORSE * other else "corrected"


def together(verdicts: Sequence[str]) -> str:
    """The verdict on a claim about several runs, given the verdict on each."""
    return verdicts[0] if len(set(verdicts)) == 1 else "corrected"


class Attempt(NamedTuple):
    """A picture by another method.

    Attributes:
      method: the name of the method.
      times: how many times lower its style loss is than the reported picture's.
      content: its content loss divided by the reported picture's.
    """

    method: str
    times: float
    content: float


def best(attempts: Sequence[Attempt], *, kept: bool = False) -> Attempt | None:
    """The attempt with the lowest style loss, if `kept` among those with no higher content loss."""
    among = [attempt for attempt in attempts if not kept or attempt.content <= 1]
    return max(among, key=lambda attempt: attempt.times, default=None)


def reaches(attempts: Sequence[Attempt]) -> bool:
    """Whether an attempt is `TIMES` lower in style at no higher content loss."""
    found = best(attempts, kept=True)
    return found is not None and found.times >= TIMES


def ten_times(floating: Sequence[bool], saved: Sequence[bool]) -> str:
    """The verdict on the goal, from whether each style reaches it before and after saving."""
    verdict = agreement(floating)
    return "corrected" if verdict == "refuted" and any(saved) else verdict


def clearer(compared: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The verdict on the claim that one network's pictures are clearer than another's.

    They are clearer if every judge surely finds less content lost and no judge surely finds a
    weaker style, or the same with content and style exchanged.

    Args:
      compared: `{judge: {"style", "content": wins(...)}}`.
    """

    def sure(judge, kind, better):
        result = compared[judge][kind]
        return result["chance"] < SURE and (2 * result["won"] > result["of"]) == better

    for better, verdict in ((True, "confirmed"), (False, "refuted")):
        for kind, other in (("content", "style"), ("style", "content")):
            if all(sure(judge, kind, better) for judge in compared) and not any(
                sure(judge, other, not better) for judge in compared
            ):
                return verdict
    return "not shown"


# Numbers that the verdicts and the text are made of.


def by_kind(kind: str, losses: Mapping[str, float]) -> dict[str, float]:
    """`{"style/block1_conv1": 1.0, ...}` without the layers of other kinds, by layer."""
    own = {name.partition("/")[::2]: value for name, value in losses.items()}
    return {layer: value for (of, layer), value in own.items() if of == kind}


def shares(values: Mapping[str, float]) -> dict[str, float]:
    """Each value as a share of the sum."""
    whole = sum(values.values())
    return {name: value / whole if whole else 0.0 for name, value in values.items()}


def gradient_shares(row: Mapping[str, Any]) -> dict[str, float]:
    """The norm of each layer's gradient as a share of the sum of the norms."""
    return shares({name: norm for name, norm in row["gradients"].items() if name != "total"})


def gaps(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """The distance to the style's Gram matrix as a share of the distance at the start, by layer.

    It is the root of the ratio of the layer's losses: a ratio of Frobenius norms.
    """
    start, end = by_kind("style", before), by_kind("style", after)
    return {layer: math.sqrt(end[layer] / loss) for layer, loss in start.items() if loss > 0}


def gaps_left(results: Mapping[str, Any]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """The `gaps` of the pictures as saved, `{style: {network: {method: {layer: gap}}}}`.

    The other methods were tried on the last network alone.
    """
    found = {}
    for n, style in enumerate(results["styles"]):
        found[style] = {}
        for model, own in results["reported"].items():
            start = own["styles"][n]["rows"][0]["losses"]
            tried = {"report": own["styles"]}
            if model == results["models"][-1]:
                tried |= results["methods"]
            found[style][model] = {
                name: gaps(start, styles[n]["losses_saved"]) for name, styles in tried.items()
            }
    return found


def wins(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """In how many pairs `first` is lower, and how probable so clear a result is by chance.

    It is the two-sided sign test, which takes the pairs as independent and leaves out ties.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
    count, won = len(pairs), sum(a < b for a, b in pairs)
    extreme = max(won, count - won)
    tail = sum(math.comb(count, k) for k in range(extreme, count + 1)) / 2**count
    return {"won": won, "of": count, "chance": min(1.0, 2 * tail)}


def short(value: float | None) -> str:
    """Three significant digits."""
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{short(statistics.mean(values))} ± {short(statistics.stdev(values))}"


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> str:
    """Geometric mean of the ratios of pairs, and the factor of one standard deviation."""
    logs = [math.log(a / b) for a, b in zip(first, second, strict=True)]
    return f"{math.exp(statistics.mean(logs)):.2f} ×/÷ {math.exp(statistics.stdev(logs)):.2f}"
