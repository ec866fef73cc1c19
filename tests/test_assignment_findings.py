"""The rules by which the reproduction of the report's experiment comes to its verdicts."""

import numpy as np
import pytest
from assignment import experiments, findings, improved


def test_a_plateau_is_where_nothing_is_gained():
    falling = [1000 * 0.99**step for step in range(301)]
    flat = [1000.0, 500.0, 100.0] + [99.0] * 100
    bouncing = [1000.0] + [100.0] * 49 + [1e6] + [100.0] * 50
    assert findings.late_gain(falling) == pytest.approx(1 - 0.99**148, rel=0.01)
    assert findings.late_gain(flat) == findings.late_gain(bouncing[:50] + bouncing[51:]) == 0
    assert findings.stalls_after(flat) == 2
    assert findings.stalls_after(bouncing) == 1
    assert findings.stalls_after(falling) == 290  # 0.99^10 is the first above 0.9


FALLING = [1000 * 0.99**step for step in range(3000)]
FLAT = [1000.0] * 50 + [100.0] * 2950
SLOWER = [1000 / (1 + step) ** 0.35 for step in range(3000)]  # the second half takes off a fifth
LATE = [1000.0] * 2800 + [1000 - 2 * step for step in range(200)]  # takes off less than half
EARLIER = [1000.0] * 2000 + [100.0] * 1000  # flat after nine tenths, and takes off more


@pytest.mark.parametrize(
    ("totals", "verdict"),
    [
        ([FLAT, FLAT], "confirmed"),
        ([FLAT, SLOWER], "corrected"),
        ([SLOWER], "corrected"),
        ([SLOWER, FALLING], "corrected"),
        ([FALLING], "refuted"),
        ([LATE], "refuted"),
        ([EARLIER], "refuted"),
    ],
)
def test_the_verdict_on_a_plateau(totals, verdict):
    assert findings.plateau(totals) == verdict


def test_the_curves_of_plateaus_are_what_they_are_said_to_be():
    assert findings.late_gain(SLOWER) == pytest.approx(1 - 0.5**0.35, abs=0.02)
    assert findings.stalls_after(SLOWER) == pytest.approx(3000 * 0.9 ** (1 / 0.35), abs=2)
    assert findings.late_gain(FALLING) == pytest.approx(1, abs=1e-3)
    assert findings.stalls_after(FALLING) == 2989  # 0.99^10 is the first above 0.9
    assert findings.late_gain(LATE) == pytest.approx(0.37, abs=0.01)
    assert findings.stalls_after(LATE) > 0.9 * 3000
    assert findings.late_gain(EARLIER) == pytest.approx(0.9)
    assert findings.stalls_after(EARLIER) == 2000


def test_a_claim_about_no_run_is_not_shown():
    verdicts = [findings.agreement(holds) for holds in ([], [True], [True, False], [False])]
    assert verdicts == ["not shown", "confirmed", "corrected", "refuted"]


@pytest.mark.parametrize(
    "products, words",
    [
        ((0.1, 1.5, 3.0), "below"),
        ((1.5, 1.7, 3.5), "at"),
        ((1.5, 2.4, 3.5), "at"),
        ((9.0, 2.6, 1.5), "beyond"),
    ],
)
def test_the_edge_is_at_two(products, words):
    rows = [{"step": step, "eigenvalue": 99.0, "rate": 1.0} for step in (0, 1, 8)]
    rows += [{"step": n + 5, "eigenvalue": p / 2, "rate": 2.0} for n, p in enumerate(products)]
    edge = findings.edge(rows, first=2, last=7)
    assert edge == {
        "median": sorted(products)[1],
        "largest": max(products),
        "last": products[-1],
        "count": 3,
    }
    assert findings.regime(edge["median"]) == words
    assert findings.edge(rows, first=2, last=4) is None


def test_a_loss_that_bounces_rises():
    assert findings.rises([3.0, 2.0, 1.0]) == 0
    assert findings.rises([3.0, 4.0, 1.0, 2.0, 2.0]) == 0.5


def run(*, falls, bounces_until=0, steps=1500):
    """A loss that falls to a share of what it was every hundred steps, and bounces at first."""
    return [
        1000 * falls ** (step / 100) * (1.2 if step < bounces_until and step % 4 == 3 else 1)
        for step in range(steps)
    ]


def test_a_run_that_bounces_does_so_in_more_than_a_twentieth_of_its_steps():
    calm, both, wild = (run(falls=0.9, bounces_until=until) for until in (0, 830, 1500))
    assert [findings.bounces(losses) for losses in (calm, both, wild)] == [False, True, True]
    assert [findings.bounces(findings.last_third(losses)) for losses in (both, wild)] == [
        False,
        True,
    ]
    assert findings.rises(wild) == pytest.approx(0.25, rel=0.01)
    now_and_then = [1.02 if step % 25 == 0 else 1.0 for step in range(1500)]
    assert not findings.bounces(now_and_then)  # one of 25 is 4%


@pytest.mark.parametrize(
    ("until", "constant", "ends"),
    [
        (830, run(falls=0.9, bounces_until=1500), True),
        (830, run(falls=0.9, bounces_until=830), False),  # comes to rest by itself
        (1500, run(falls=0.9, bounces_until=1500), False),  # it goes on with decay, too
        (830, None, True),  # without decay it is lost
    ],
)
def test_what_ends_the_bouncing(until, constant, ends):
    assert findings.ends_bouncing(run(falls=0.9, bounces_until=until), constant) == ends


def test_the_decay_slows_where_the_loss_is_higher_at_the_same_step():
    decayed = run(falls=0.9)
    assert findings.slows(decayed, run(falls=0.88))
    assert not findings.slows(decayed, run(falls=0.895))  # (0.9 / 0.895)^15 is 1.09
    assert not findings.slows(decayed, run(falls=0.95))
    assert not findings.slows(decayed, None)
    spike = [*decayed[:-1], 1e6]
    assert findings.slows(spike, decayed) == findings.slows(decayed, spike) is False


def test_verdicts_on_several_runs():
    verdicts = (["refuted"] * 2, ["refuted", "confirmed"], ["corrected"], [])
    assert [findings.together(each) for each in verdicts] == [
        "refuted",
        "corrected",
        "corrected",
        "not shown",
    ]


def _numbers(starts, saved, *, diverged=(False, False)):
    """What is measured of two styles, of gaps at two layers."""
    return {
        "styles": [
            {
                "rows": [{"losses": {"style/s": start, "style/t": start}}],
                "losses_saved": {"style/s": start * gap**2, "style/t": start * (gap + 0.1) ** 2},
            }
            for start, gap in zip(starts, saved, strict=True)
        ],
        "diverged": list(diverged),
        "rates": [10.0, 10.0],
    }


@pytest.mark.parametrize(
    ("saved", "diverged", "hardly", "plainly"),
    [
        # gaps of VGG16 and VGG19 as reported, and of Adam on VGG19; each and 0.1 more
        (((0.2, 0.1), (0.3, 0.2), (0.1, 0.05)), False, "refuted", "confirmed"),
        (((0.2, 0.2), (0.3, 0.2), (0.1, 0.05)), False, "refuted", "corrected"),
        (((0.2, 0.2), (0.3, 0.2), (0.1, 0.16)), False, "refuted", "refuted"),
        (((0.2, 0.2), (0.3, 0.7), (0.1, 0.05)), False, "corrected", "corrected"),
        (((0.2, 0.7), (0.3, 0.7), (0.1, 0.05)), False, "confirmed", "corrected"),
        (((0.2, 0.1), (0.3, 0.7), (0.1, 0.05)), True, "confirmed", "confirmed"),
    ],
)
def test_whether_the_second_style_shows_by_both_networks(
    tmp_path, saved, diverged, hardly, plainly
):
    setting = experiments.Setting(
        content=np.zeros((8, 8, 3), np.float32),
        styles=dict.fromkeys(("rainbow", "triangles")),
        judged_contents={},
        judged_styles={},
        steps=30,
        models=("vgg16", "vgg19"),
        folder=tmp_path,
        drawn=True,
    )
    first, last, adam = (_numbers((4.0, 9.0), gaps) for gaps in saved)
    first["diverged"] = [False, diverged]
    reported = {"vgg16": (None, first), "vgg19": (None, last)}
    methods = {"report": reported["vgg19"], "adam": (None, adam)}
    found = improved.gaps_left(setting, reported, methods)
    assert list(found["triangles"]["vgg19"]) == ["SGD as reported", "Adam"]
    shows = improved._hardly(setting, reported, found, "Figure 1")
    assert shows.verdict == hardly
    assert shows.claim.endswith("hardly shows, by this package's drawing of one.")
    assert f"{saved[1][1] + 0.05:.0%}, most at t ({saved[1][1] + 0.1:.0%})" in shows.evidence
    assert ("VGG16" in shows.evidence) != diverged
    goal = improved._plainly(setting, found, "Figure 1")
    assert goal.verdict == plainly
    assert f"{saved[2][1] + 0.05:.1%} by VGG19 and Adam" in goal.evidence


def test_the_goal_is_reached_at_no_higher_content_loss_alone():
    lower, higher, kept = (
        findings.Attempt("A", 9.9, 0.5),
        findings.Attempt("B", 30.0, 1.0001),
        findings.Attempt("C", 10.0, 1.0),
    )
    assert findings.best([lower, higher, kept]) is higher
    assert findings.best([lower, higher, kept], kept=True) is kept
    assert findings.best([higher], kept=True) is None
    assert findings.reaches([lower, higher, kept])
    assert not findings.reaches([lower, higher])
    assert not findings.reaches([higher])


def test_what_is_told_of_the_goal():
    lower, higher = findings.Attempt("Adam", 3.0, 0.9074), findings.Attempt("L-BFGS", 26.04, 1.034)
    assert improved._lowest([lower, higher]) == (
        "26 times lower by L-BFGS at 1.034 of the content loss, at no higher 3 times lower by Adam "
        "at 0.907 of the content loss"
    )
    assert improved._lowest([lower]) == "3 times lower by Adam at 0.907 of the content loss"
    assert improved._lowest([higher]).endswith("1.034 of the content loss, and none at no higher")


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (findings.near([60.0, 190.0], otherwise=[1e4, 1e4]), "confirmed"),
        (findings.near([60.0, 1e4], otherwise=[1e4, 1e4]), "not shown"),
        (findings.near([1e4, 1e4], otherwise=[100.0, 1e4]), "not shown"),
        (findings.near([1e4, 20.0], otherwise=[1e4, 1e4]), "refuted"),
        (findings.hardly_shows(0.4, 0.1), "refuted"),
        (findings.hardly_shows(0.8, 0.6), "confirmed"),
        (findings.hardly_shows(0.8, 0.7), "corrected"),
        (findings.ten_times([True, True], [False, False]), "confirmed"),
        (findings.ten_times([True, False], [False, False]), "corrected"),
        (findings.ten_times([False, False], [False, True]), "corrected"),
        (findings.ten_times([False, False], [False, False]), "refuted"),
        (findings.ten_times([], []), "not shown"),
    ],
)
def test_verdicts(found, verdict):
    assert found == verdict


def test_shares_and_gaps():
    row = {"gradients": {"content/c": 1.0, "style/s": 3.0, "total": 3.5}}
    assert findings.gradient_shares(row) == {"content/c": 0.25, "style/s": 0.75}
    assert findings.content_share(row) == 0.25
    before = {"content/c": 0.0, "style/s": 16.0, "style/t": 4.0}
    after = {"content/c": 9.0, "style/s": 1.0, "style/t": 4.0}
    assert findings.gaps(before, after) == {"s": 0.25, "t": 1.0}


def test_the_sign_test():
    first, second = [0.0] * 10 + [2.0] * 2, [1.0] * 12
    found = findings.wins(first, second)
    assert (found["won"], found["of"]) == (10, 12)
    assert found["chance"] == pytest.approx(2 * (66 + 12 + 1) / 4096)  # by hand
    assert findings.wins(second, first)["chance"] == found["chance"]
    assert findings.wins([0.0, 2.0], [1.0, 1.0])["chance"] == 1
    assert findings.wins([1.0, 0.0], [1.0, 1.0]) == {"won": 1, "of": 1, "chance": 1.0}  # a tie
    assert findings.wins([1.0], [1.0])["chance"] == 1


def test_ratios_of_pairs():
    assert findings.paired_ratio([2.0, 8.0], [1.0, 1.0]) == "4.00 ×/÷ 2.67"  # e^(ln 2 * sqrt 2)


@pytest.mark.parametrize(
    "style, content, verdict",
    # pairs of twelve that are won, by each of two judges
    [
        ((6, 6), (12, 12), "confirmed"),
        ((12, 12), (12, 12), "confirmed"),
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
