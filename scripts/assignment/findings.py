"""What the measurements say of each claim of the report: numbers in, verdicts out.

A verdict is "confirmed", "corrected" (true in part, or otherwise than it was said), "refuted" or
"not shown", where the figures carry no conclusion. `RULES` says by what thresholds, for the reader.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

LATE_GAIN = 0.1  # what the second half of a run has to take off the loss not to be a plateau
# What is a plateau in part: less than this is taken off, and the end of it begins by this share.
PART_GAIN, PART_STALL = 0.5, 0.9
NEAR = (50.0, 200.0)  # what "near 100" is taken to mean
EDGE = 2.0  # of rate times curvature, beyond which descent on a quadratic diverges
AT_EDGE = (1.6, 2.5)  # what "at the edge" is taken to mean
HOLDS, HARDLY = 0.3, 0.1  # shares of the gradients: what holds a run has more, what can't less
UNREACHED = 0.5  # share of the distance to a style left, above which it hardly shows
PLAINLY = 0.2  # the same, below which it plainly shows
WORSE = 1.2  # ratio above which one style is taken to be worse off than another
SAME = 1.1  # ratio up to which two losses are taken to be as good
BOUNCES = 0.05  # share of the steps that raise the loss, above which a run is said to bounce
TIMES = 10  # how much lower a style loss the other optimisers are to reach
SURE = 0.05  # probability of so many wins by chance, below which one is taken to be better

RULES = (
    'The verdicts follow fixed rules; "corrected" is what holds in part, "not shown" what the '
    "figures do not carry. A plateau: the second half of a run takes less than "
    f"{LATE_GAIN:.0%} off the loss; in part, where for any run it takes less than {PART_GAIN:.0%}, "
    f"and what comes after at most {PART_STALL:.0%} of the steps less than {LATE_GAIN:.0%}. Near "
    f"100: {NEAR[0]:g} to {NEAR[1]:g}, in the units that the report leaves open, and so not shown "
    "where it depends on them. At the edge of stability: rate times curvature from "
    f"{AT_EDGE[0]:g} to {AT_EDGE[1]:g}, in the median of a half of the run; less is below the "
    f"edge, more beyond it. A run bounces where more than {BOUNCES:.0%} of its steps raise the "
    "loss; the decay ends that where the last third does so no more, and does at a constant rate. "
    f"A term holds a run with more than {HOLDS:.0%} of the layers' gradients, and cannot with less "
    f"than {HARDLY:.0%}. A style hardly shows when more than {UNREACHED:.0%} of the distance to "
    "its Gram matrices is left in the picture as saved, in the mean over layers, and "
    f"{WORSE:g} times as much as of the other style; it plainly shows with less than "
    f"{PLAINLY:.0%}. Losses within {SAME - 1:.0%} are the same. {TIMES} times lower is one "
    "picture's style loss, at a content loss that is at most the reported one's, unrounded; in "
    "part, where it is so for some of the styles, or only as saved. One network is better where "
    f"the sign test has p < {SURE:g} by every judge."
)

REPORT, EXPLANATION, GOAL = "the report", "an explanation", "a goal of ours"


class Finding(NamedTuple):
    """A claim, whose it is, what is to be said of it, and the figures that show it."""

    claim: str
    verdict: str
    evidence: str
    source: str = REPORT


def agreement(holds: Sequence[bool]) -> str:
    """The verdict on a claim about several runs, given of which it holds."""
    if not holds:
        return "not shown"
    return "confirmed" if all(holds) else "corrected" if any(holds) else "refuted"


def together(verdicts: Sequence[str]) -> str:
    """The verdict on a claim about several runs, given the verdict on each."""
    if not verdicts:
        return "not shown"
    return verdicts[0] if len(set(verdicts)) == 1 else "corrected"


def short(value: float | None) -> str:
    """Three significant digits."""
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def late_gain(totals: Sequence[float]) -> float:
    """The share of the loss at half of a run that its second half takes off.

    Of medians over a hundredth of the steps, for single ones bounce.
    """
    width, half = max(len(totals) // 100, 1), len(totals) // 2
    return 1 - loss_at_end(totals) / statistics.median(totals[half : half + width])


def stalls_after(totals: Sequence[float], *, share: float = LATE_GAIN) -> int:
    """The first step whose loss is at most `share` above the lowest of the run."""
    lowest = min(totals)
    return next(step for step, total in enumerate(totals) if total * (1 - share) <= lowest)


def plateau(totals: Sequence[Sequence[float]]) -> str:
    """The verdict on a plateau, of the losses of several runs."""
    if all(late_gain(run) < LATE_GAIN for run in totals):
        return "confirmed"
    in_part = [
        late_gain(run) < PART_GAIN and stalls_after(run) <= PART_STALL * len(run) for run in totals
    ]
    return "corrected" if any(in_part) else "refuted"


def near(losses: Sequence[float], *, otherwise: Sequence[float]) -> str:
    """The verdict on a loss near 100, given the losses and the same in other units."""
    found = [NEAR[0] <= loss <= NEAR[1] for loss in (*losses, *otherwise)]
    if all(found[: len(losses)]):
        return "confirmed"
    return "not shown" if any(found) else "refuted"


def rises(totals: Sequence[float]) -> float:
    """The share of the steps that raise the loss."""
    return statistics.mean(b > a for a, b in zip(totals[:-1], totals[1:], strict=True))


def edge(rows: Sequence[Mapping[str, Any]], *, first: int, last: int) -> dict[str, float] | None:
    """Rate times the largest eigenvalue of the Hessian, at the measured steps from `first` to
    `last`.

    Returns:
      `{"median", "largest", "last", "count"}`, None if there is none; descent on a quadratic
      diverges above 2.
    """
    products = [row["rate"] * row["eigenvalue"] for row in rows if first <= row["step"] <= last]
    if not products:
        return None
    return {
        "median": statistics.median(products),
        "largest": max(products),
        "last": products[-1],
        "count": len(products),
    }


def regime(product: float) -> str:
    """Where a product of rate and curvature puts a run: "below", "at" or "beyond" the edge."""
    return "below" if product < AT_EDGE[0] else "at" if product <= AT_EDGE[1] else "beyond"


def gradient_shares(row: Mapping[str, Any]) -> dict[str, float]:
    """The norm of each layer's gradient as a share of the sum of the norms."""
    norms = {name: norm for name, norm in row["gradients"].items() if name != "total"}
    whole = sum(norms.values())
    return {name: norm / whole if whole else 0.0 for name, norm in norms.items()}


def content_share(row: Mapping[str, Any]) -> float:
    return sum(v for name, v in gradient_shares(row).items() if name.startswith("content/"))


def gaps(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """How far each style layer's Gram matrix still is from the style's, of where it began.

    The root of the ratio of the layer's losses: a ratio of Frobenius norms. A layer that had
    nothing to reach is left out.
    """
    return {
        name.removeprefix("style/"): math.sqrt(after[name] / before[name])
        for name in before
        if name.startswith("style/") and before[name] > 0
    }


def mean(values: Iterable[float]) -> float:
    return statistics.mean(list(values))


def plainly_shows(left: float) -> bool:
    """Whether a style plainly shows, of the mean gap left of it."""
    return left < PLAINLY


def hardly_shows(left: float, other: float) -> str:
    """The verdict on a style that hardly shows, of the mean gaps left of it and of another."""
    if left <= UNREACHED:
        return "refuted"
    return "confirmed" if left > WORSE * other else "corrected"


def bounces(totals: Sequence[float]) -> bool:
    """Whether more of the steps raise the loss than `BOUNCES`."""
    return rises(totals) > BOUNCES


def last_third(totals: Sequence[float]) -> Sequence[float]:
    return totals[2 * len(totals) // 3 :]


def loss_at_end(totals: Sequence[float]) -> float:
    """Of the median of a hundredth of the steps, at least one, for single ones bounce."""
    return statistics.median(totals[-max(len(totals) // 100, 1) :])


def ends_bouncing(decayed: Sequence[float], constant: Sequence[float] | None) -> bool:
    """Whether a run that bounces has come to rest in its last third, and does not without decay.

    Args:
      decayed, constant: losses of as many steps; None is a run that is lost.
    """
    rests = not bounces(last_third(decayed))
    return rests and (constant is None or bounces(last_third(constant)))


def slows(decayed: Sequence[float], constant: Sequence[float] | None) -> bool:
    """Whether the loss is above what it is without decay after as many steps; None is lost."""
    return constant is not None and loss_at_end(decayed) > SAME * loss_at_end(constant)


class Attempt(NamedTuple):
    """A method's picture: how many times lower its style loss is than the reported one's, and its
    content loss as a ratio to that one's."""

    method: str
    times: float
    content: float


def best(attempts: Sequence[Attempt], *, kept: bool = False) -> Attempt | None:
    """The one of the lowest style loss, of all or of those at no higher content loss, if any."""
    among = [attempt for attempt in attempts if not kept or attempt.content <= 1]
    return max(among, key=lambda attempt: attempt.times, default=None)


def reaches(attempts: Sequence[Attempt]) -> bool:
    """Whether one of them is `TIMES` lower in style at no higher content loss."""
    found = best(attempts, kept=True)
    return found is not None and found.times >= TIMES


def ten_times(floating: Sequence[bool], saved: Sequence[bool]) -> str:
    """The verdict on the goal, of the styles for which it is reached before and after saving."""
    verdict = agreement(floating)
    return "corrected" if verdict == "refuted" and any(saved) else verdict


def style_shares(losses: Mapping[str, float]) -> dict[str, float]:
    """Each style layer's share of the style loss."""
    own = {
        name.removeprefix("style/"): value
        for name, value in losses.items()
        if name.startswith("style/")
    }
    whole = sum(own.values())
    return {layer: value / whole if whole else 0.0 for layer, value in own.items()}


def wins(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """In how many pairs `first` is the lower one, and how probable so clear a result is by chance.

    The two-sided sign test, which takes the pairs as independent; ties are left out.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
    count, won = len(pairs), sum(a < b for a, b in pairs)
    extreme = max(won, count - won)
    tail = sum(math.comb(count, k) for k in range(extreme, count + 1)) / 2**count
    return {"won": won, "of": count, "chance": min(1.0, 2 * tail)}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if len(values) < 2:
        return short(values[0])
    return f"{short(statistics.mean(values))} ± {short(statistics.stdev(values))}"


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> str:
    """Geometric mean of the ratios of pairs, and the factor of one standard deviation."""
    logs = [math.log(a / b) for a, b in zip(first, second, strict=True)]
    apart = statistics.stdev(logs) if len(logs) > 1 else 0.0
    return f"{math.exp(statistics.mean(logs)):.2f} ×/÷ {math.exp(apart):.2f}"


def compare_networks(
    verdicts: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], first: str, second: str
) -> dict[str, dict[str, dict[str, float]]]:
    """`wins` of the pictures of `first` over those of `second`, `{judge: {"style", "content"}}`."""
    return {
        judge: {
            kind: wins(verdicts[first][judge][kind], verdicts[second][judge][kind])
            for kind in ("style", "content")
        }
        for judge in verdicts[first]
    }


def clearer(compared: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The verdict on the claim that the first of the compared networks' pictures are clearer.

    Clearer is what both judges surely find to hold more of the content at no surely weaker style,
    or the stronger in style at no surely less of the content.
    """

    def sure(judge, kind, better):
        result = compared[judge][kind]
        return result["chance"] < SURE and (2 * result["won"] > result["of"]) == better

    def everywhere(kind, better):
        return all(sure(judge, kind, better) for judge in compared)

    def somewhere(kind, better):
        return any(sure(judge, kind, better) for judge in compared)

    for better, verdict in ((True, "confirmed"), (False, "refuted")):
        for kind, other in (("content", "style"), ("style", "content")):
            if everywhere(kind, better) and not somewhere(other, not better):
                return verdict
    return "not shown"
