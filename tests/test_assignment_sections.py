"""Sections of the reproduction of the report's experiment: what is seen in their figures, and what
is told of runs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from assignment import album, experiments, explained, figures, improved, runs

from nst_jax import examples


@pytest.fixture
def drawn(monkeypatch):
    """The figures of matplotlib that are drawn, in the place of files."""
    seen = []
    monkeypatch.setattr(figures, "_save", lambda path, figure: seen.append(figure))
    return seen


class Recorder:
    """An album that keeps what it is given."""

    def __init__(self):
        self.panels, self.captions = [], []

    def add(self, draw, panels, *, caption, **options):
        self.panels.append(panels)
        self.captions.append(caption)
        return album.Figure("figure.jpg", f"Figure {len(self.panels)}. {caption}")


def test_a_total_lets_the_term_below_it_be_seen(drawn):
    history = {name: np.geomspace(9, 1, 50)[:, None] for name in ("total", "style", "content")}
    terms = album.terms_of(history, 0)
    figures.curves(Path("a.jpg"), {"a": terms}, y="loss", dashed=("total",))
    lines = {line.get_label(): line for line in drawn[0].axes[0].lines}
    assert [name for name, line in lines.items() if line.is_dashed()] == ["total"]
    assert lines["total"].zorder > lines["style"].zorder == lines["content"].zorder
    assert [line.get_xdata()[0] for line in lines.values()] == [1, 2, 1]  # of the content no 0


def test_lines_have_their_names(drawn):
    figures.bars(Path("a.jpg"), {"a": {"b": {"c": 0.5}}}, y="y", lines={"at the start": 1.0})
    figures.curves(Path("a.jpg"), {"a": {"b": ([1, 2], [3, 4])}}, y="y", lines={"edge": 2.0})
    names = [[text.get_text() for text in figure.axes[0].texts] for figure in drawn]
    assert names == [["at the start"], ["edge"]]


@pytest.fixture
def setting():
    return experiments.Setting(
        content=examples.butterfly(32),
        styles={"a": examples.rainbow(32)},
        judged_contents={},
        judged_styles={},
        steps=60,
        models=("vgg16",),
        folder=Path("nowhere"),
    )


def test_variations_are_named_by_what_varies(setting):
    names = {"rates": ["1", "100"], "decays": ["1", "0.96"], "seeds": ["0", "1"]}
    effects = {
        name: {
            "names": own,
            "style": [[[9.0, 2.0 + v]] for v in range(2)],
            "diverged": [[False], [False]],
        }
        for name, own in names.items()
    }
    made = Recorder()
    _, found = explained.variations(made, setting, effects)
    assert [list(panels["a"]) for panels in made.panels] == [
        ["rate 1", "rate 100"],
        ["decay 1", "decay 0.96"],
        ["seed 0", "seed 1"],
    ]
    assert "30 times over the run; the experiment has 0.96" in made.captions[1]
    assert "from the content 3," in found[1].evidence  # of 0.96, the second


def test_the_paths_leave_out_the_first_steps_and_the_goal_is_told(setting):
    def method(style, content, *, saved):
        losses = {"style": style, "content": content, "style_saved": saved, "content_saved": 1.0}
        falling = np.geomspace(900, style, 60)[:, None]
        history = {"style": falling, "content": np.ones((60, 1)), "total": falling}
        painted = runs.Painted(np.zeros((1, 32, 32, 3)), history, np.zeros(1, bool), {}, None)
        return painted, {"styles": [{"final": losses}], "rates": [2.0], "diverged": [False]}

    methods = {
        "report": method(20.0, 1.0, saved=100.0),
        "sgd": method(1.0, 1.001, saved=50.0),
        "adam": method(4.0, 0.9, saved=5.0),
    }
    made = Recorder()
    blocks, (found,) = improved.optimisers(made, setting, methods)
    paths = made.panels[1]["a"]
    assert [len(curve) for curve in paths["Adam"]] == [50, 50]
    assert paths["Adam"][1][0] == methods["adam"][0].history["style"][10, 0]
    assert "from step 10 on" in made.captions[1]
    assert found.verdict == "corrected"
    assert found.evidence == (
        "On VGG16: met in floating point for no style, as saved in 8 bits for a. a: in floating "
        "point 20 times lower by normalised SGD at 1.001 of the content loss, at no higher 5 times "
        "lower by Adam at 0.900 of the content loss; as saved in 8 bits 20 times lower by Adam at "
        "1.000 of the content loss; Figures 1 to 3."
    )
    table = blocks[-1]
    assert table.rows[2][4:9] == ("5", "0.9", "0.900", "20", "1.000")


def falling(*, by, bounces_until=0, steps=3000):
    """A loss that falls to a share of what it was every hundred steps, and bounces at first."""
    bounce = np.where(np.arange(steps) % 4 == 3, 1.2, 1.0)
    bounce[bounces_until:] = 1
    return (1000 * by ** (np.arange(steps) / 100) * bounce).tolist()


def close(step, product):
    return {"step": step, "rate": 2.0, "eigenvalue": product / 2, "gradients": {}}


WILD = explained.Run(
    "VGG16, a",
    falling(by=0.9, bounces_until=830),
    falling(by=0.9, bounces_until=1500, steps=1500),
    {"rows": [close(500, 3.5), close(2000, 2.0), close(3000, 1.2)]},
)
CALM = explained.Run(
    "VGG19, a",
    falling(by=0.9),
    falling(by=0.85, steps=1500),
    {"rows": [close(500, 2.0), close(2000, 1.7), close(3000, 1.7)]},
)


def test_the_decay_is_looked_at_where_runs_bounce_and_where_they_do_not(setting):
    setting = dataclasses.replace(setting, steps=3000)
    made = Recorder()
    both = explained._decay(made, setting, {"vgg16": [WILD], "vgg19": [CALM]})[1]
    assert [found.verdict for found in both] == ["confirmed", "confirmed"]
    assert (
        "VGG16, a: 0.0% as reported, 25.1% at a constant rate; Figures 1 to 2" in both[0].evidence
    )
    assert "VGG19, a: 208 as reported, 88.5 at a constant rate; Figures 1 to 2" in both[1].evidence
    assert [len(steps) for steps, _ in made.panels[0]["VGG16, a"].values()] == [1500, 1500]
    lost = WILD._replace(constant=None)
    ends, slows = explained._decay(made, setting, {"vgg16": [lost]})[1]
    assert (ends.verdict, slows.verdict) == ("confirmed", "not shown")
    assert "0.0% as reported, lost at a constant rate" in ends.evidence
    assert "there is no such run" in slows.evidence
    assert list(made.panels[-1]["VGG16, a"]) == ["as reported"]
    ends, slows = explained._decay(
        made, setting, {"vgg19": [CALM._replace(constant=CALM.totals[:1500])]}
    )[1]
    assert (ends.verdict, slows.verdict) == ("not shown", "refuted")


def test_the_curvature_is_told_of_both_halves_and_whether_it_bounces(setting):
    setting = dataclasses.replace(setting, steps=3000)
    _, (found,) = explained._curvature(Recorder(), setting, {"vgg16": [WILD], "vgg19": [CALM]})
    assert found.verdict == "corrected"
    assert (
        "VGG16, a: 3.5, beyond, then 1.6, at (at the end 1.2); it bounces, 13.0% of the steps "
        "raise the loss, then 0.0%; VGG19, a: 2, at, then 1.7, at (at the end 1.7); it "
        "does not bounce"
    ) in found.evidence
    _, (calm,) = explained._curvature(Recorder(), setting, {"vgg19": [CALM]})
    assert calm.verdict == "confirmed"
    late = CALM._replace(measured={"rows": [close(2000, 1.0), close(3000, 1.0)]})
    _, (found,) = explained._curvature(Recorder(), setting, {"vgg19": [late]})
    assert found.verdict == "refuted" and "not measured, then 1, below" in found.evidence
