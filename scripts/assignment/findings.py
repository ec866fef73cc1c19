"""What the measurements say of each claim of the report: numbers in, verdicts out.

A verdict is "confirmed", "corrected" (true in part, or otherwise than it was said), "refuted" or
"not shown", where the figures carry no conclusion.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LATE_GAIN = 0.1  # what the second half of a run has to take off the loss not to be a plateau
EDGE = 2.0  # of rate times curvature, beyond which descent on a quadratic diverges
SURE = 0.05  # probability of so many wins by chance, below which one is taken to be better


class Finding(NamedTuple):
    """A claim, what is to be said of it, and the figures that show it."""

    claim: str
    verdict: str
    evidence: str


def agreement(holds: Sequence[bool]) -> str:
    """The verdict on a claim about several runs, given of which it holds."""
    return "confirmed" if all(holds) else "corrected" if any(holds) else "refuted"


def short(value: float | None) -> str:
    """Three significant digits."""
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def late_gain(totals: Sequence[float]) -> float:
    """The share of the loss at half of a run that its second half takes off."""
    half = totals[len(totals) // 2]
    return 1 - totals[-1] / half


def stalls_after(totals: Sequence[float], *, share: float = LATE_GAIN) -> int:
    """The first step from which on no later loss is more than `share` below."""
    lowest, step = math.inf, len(totals) - 1
    for index in reversed(range(len(totals))):
        lowest = min(lowest, totals[index])
        if lowest < (1 - share) * totals[index]:
            break
        step = index
    return step


def edge(rows: Sequence[Mapping[str, Any]], *, after: int) -> dict[str, float]:
    """Rate times the largest eigenvalue of the Hessian, at the measured steps beyond `after`.

    Returns:
      `{"median", "largest", "last"}`; descent on a quadratic diverges above 2.
    """
    products = [
        row["rate"] * row["eigenvalue"]
        for row in rows
        if "eigenvalue" in row and row["step"] > after
    ]
    return {
        "median": statistics.median(products),
        "largest": max(products),
        "last": products[-1],
    }


def regime(product: float) -> str:
    """Where a product of rate and curvature puts a run, in words."""
    if product > 2 * EDGE:
        return "beyond the edge of stability"
    return "at the edge of stability" if product >= EDGE / 2 else "below the edge of stability"


def gradient_shares(row: Mapping[str, Any]) -> dict[str, float]:
    """The norm of each layer's gradient as a share of the sum of the norms."""
    norms = {name: norm for name, norm in row["gradients"].items() if name != "total"}
    whole = sum(norms.values())
    return {name: norm / whole if whole else 0.0 for name, norm in norms.items()}


def content_share(row: Mapping[str, Any]) -> float:
    return sum(v for name, v in gradient_shares(row).items() if name.startswith("content/"))


def gaps(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """How far each style layer's Gram matrix still is from the style's, of where it began.

    The root of the ratio of the layer's losses: a ratio of Frobenius norms.
    """
    return {
        name.removeprefix("style/"): math.sqrt(after[name] / before[name])
        for name in before
        if name.startswith("style/")
    }


def wins(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """In how many pairs `first` is the lower one, and how probable so clear a result is by chance.

    The two-sided sign test; ties, of which there are none among measured losses, count against.
    """
    count, won = len(first), sum(a < b for a, b in zip(first, second, strict=True))
    extreme = max(won, count - won)
    tail = sum(math.comb(count, k) for k in range(extreme, count + 1)) / 2**count
    return {"won": won, "of": count, "chance": min(1.0, 2 * tail)}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if len(values) < 2:
        return short(values[0])
    return f"{short(statistics.mean(values))} ± {short(statistics.stdev(values))}"


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
