"""The rules by which the reproduction of the report's experiment comes to its verdicts."""

import pytest
from assignment import findings

pytestmark = pytest.mark.slow

FALLING = [1000 * 0.99**step for step in range(3000)]
FLAT = [1000.0] * 50 + [100.0] * 2950
SLOWER = [1000 / (1 + step) ** 0.35 for step in range(3000)]
LATE = [1000.0] * 2800 + [1000 - 2 * step for step in range(200)]


def test_the_course_of_a_loss():
    assert findings.late_gain(SLOWER) == pytest.approx(1 - 0.5**0.35, abs=0.02)
    assert findings.stalls_after(SLOWER) == pytest.approx(3000 * 0.9 ** (1 / 0.35), abs=2)
    assert findings.stalls_after(FALLING) == 2989  # 0.99^10 is the first above 0.9
    assert findings.late_gain(FLAT) == 0 and findings.stalls_after(FLAT) == 50
    spike = [*FLAT[:-1], 1e6]  # one step that bounces
    assert findings.loss_at_end(spike) == 100 and findings.late_gain(spike) == 0
    assert findings.rises([3.0, 4.0, 1.0, 2.0, 2.0]) == 0.5


@pytest.mark.parametrize(
    ("totals", "verdict"),
    [
        ([FLAT, FLAT], "confirmed"),
        ([FLAT, SLOWER], "corrected"),
        ([SLOWER, FALLING], "corrected"),
        ([FALLING], "refuted"),
        ([LATE], "refuted"),  # it falls by less than half, but up to the end
    ],
)
def test_the_verdict_on_a_plateau(totals, verdict):
    gains = [findings.late_gain(run) for run in totals]
    stalls = [findings.stalls_after(run) for run in totals]
    assert findings.plateau(gains, stalls, 3000) == verdict


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (findings.agreement([]), "not shown"),
        (findings.agreement([True, False]), "corrected"),
        (findings.near([60.0, 190.0], [1e4, 1e4]), "confirmed"),
        (findings.near([1e4, 1e4], [100.0, 1e4]), "not shown"),
        (findings.near([1e4, 20.0], [1e4, 1e4]), "refuted"),
        (findings.regime(1.5), "below"),
        (findings.regime(2.4), "at"),
        (findings.regime(2.6), "beyond"),
        (findings.holds_the_loss([0.4, 0.5]), "confirmed"),
        (findings.holds_the_loss([0.2, 0.5]), "not shown"),
        (findings.holds_the_loss([0.01, 0.05]), "refuted"),
        (findings.hardly_shows(0.4, 0.1), "refuted"),
        (findings.hardly_shows(0.8, 0.6), "confirmed"),
        (findings.hardly_shows(0.8, 0.7), "corrected"),
        (findings.together(["refuted", "confirmed"]), "corrected"),
        (findings.ten_times([True, True], [False, False]), "confirmed"),
        (findings.ten_times([False, False], [False, True]), "corrected"),
        (findings.ten_times([False, False], [False, False]), "refuted"),
    ],
)
def test_verdicts(found, verdict):
    assert found == verdict


def test_what_the_decay_does():
    assert findings.ends_bouncing(0.0, 0.4)
    assert findings.ends_bouncing(0.0, None)  # without the decay it diverges
    assert not findings.ends_bouncing(0.0, 0.0)  # it comes to rest by itself
    assert not findings.ends_bouncing(0.4, 0.4)
    assert findings.slows(100.0, 90.0)
    assert not findings.slows(100.0, 95.0) and not findings.slows(100.0, None)


def test_shares_and_gaps():
    row = {"gradients": {"content/c": 1.0, "style/s": 3.0, "total": 3.5}}
    assert findings.gradient_shares(row) == {"content/c": 0.25, "style/s": 0.75}
    before = {"content/c": 0.0, "style/s": 16.0, "style/t": 4.0}
    after = {"content/c": 9.0, "style/s": 1.0, "style/t": 4.0}
    assert findings.gaps(before, after) == {"s": 0.25, "t": 1.0}


def test_the_sign_test():
    first, second = [0.0] * 10 + [2.0] * 2, [1.0] * 12
    found = findings.wins(first, second)
    assert (found["won"], found["of"]) == (10, 12)
    assert found["chance"] == pytest.approx(2 * (66 + 12 + 1) / 4096)  # by hand
    assert findings.wins(second, first)["chance"] == found["chance"]
    assert findings.wins([1.0, 0.0], [1.0, 1.0]) == {"won": 1, "of": 1, "chance": 1.0}  # a tie


def test_ratios_of_pairs():
    assert findings.paired_ratio([2.0, 8.0], [1.0, 1.0]) == "4.00 ×/÷ 2.67"  # e^(ln 2 * sqrt 2)


@pytest.mark.parametrize(
    "style, content, verdict",
    # pairs of twelve that are won, by each of two judges
    [
        ((6, 6), (12, 12), "confirmed"),
        ((12, 12), (6, 6), "confirmed"),
        ((6, 6), (0, 0), "refuted"),
        ((0, 6), (12, 12), "not shown"),  # more of the content, and less of the style
        ((6, 6), (12, 6), "not shown"),  # by one judge alone
        ((0, 12), (6, 6), "not shown"),  # each judge for its own
    ],
)
def test_clearer_by_both_judges(style, content, verdict):
    def result(won):
        return findings.wins([0.0] * won + [2.0] * (12 - won), [1.0] * 12)

    compared = {
        judge: {"style": result(style[judge]), "content": result(content[judge])}
        for judge in (0, 1)
    }
    assert findings.clearer(compared) == verdict
