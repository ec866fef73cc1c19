"""The committed report of docs/assignment: its text, its numbers and today's rules agree."""

import json
import types
from pathlib import Path

import pytest
from assignment import findings, improved

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "assignment"


@pytest.fixture(scope="module")
def results():
    return json.loads((FOLDER / "results.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def report():
    return (FOLDER / "report.md").read_text("utf-8")


def verdict_on(results, words):
    (found,) = [each["verdict"] for each in results["findings"] if words in each["claim"]]
    return found


def test_every_finding_stands_in_the_report(results, report):
    rows = [line for line in report.splitlines() if line.endswith(" |")]
    for found in results["findings"]:
        cells = (found[name] for name in ("claim", "verdict", "evidence", "source"))
        assert f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" in rows


def test_the_report_has_todays_rules(report):
    assert findings.RULES in report.splitlines()


def test_every_figure_is_there(report):
    shown = {line.partition("](")[2].rstrip(")") for line in report.splitlines() if "](" in line}
    assert shown == {path.name for path in FOLDER.glob("*.jpg")}


def test_the_loss_near_a_hundred(results):
    runs = [own for numbers in results["reported"].values() for own in numbers["styles"]]
    assert verdict_on(results, "stuck near 100") == findings.near(
        [own["final"]["total"] for own in runs],
        otherwise=[own["final_gatys"]["style"] for own in runs],
    )


def test_the_rate_at_the_edge(results):
    first, half, last = (results["steps"] * part // 30 for part in (1, 15, 30))
    regimes = [
        findings.regime(findings.edge(rows, first=begin, last=end)["median"])
        for numbers in results["reported"].values()
        for own in numbers["styles"]
        for rows in [[row for row in own["rows"] if "eigenvalue" in row]]
        for begin, end in ((first, half), (half, last))
    ]
    assert verdict_on(results, "at the edge") == findings.agreement([r == "at" for r in regimes])


def test_whether_the_second_style_shows(results):
    setting = types.SimpleNamespace(
        models=results["models"], styles=dict(results["styles"]), drawn=True, rate=1.0
    )
    reported = {model: (None, numbers) for model, numbers in results["reported"].items()}
    methods = {name: (None, numbers) for name, numbers in results["methods"].items()}
    methods = {"report": reported[setting.models[-1]]} | methods
    gaps = improved.gaps_left(setting, reported, methods)
    hardly = improved._hardly(setting, reported, gaps, "")
    assert verdict_on(results, "hardly shows") == hardly.verdict
    assert verdict_on(results, "plainly shows") == improved._plainly(setting, gaps, "").verdict


def test_the_goal_of_ten_times(results):
    reported = results["reported"][results["models"][-1]]["styles"]

    def reached(n, suffix):
        goal = reported[n]["final"]
        finals = {name: own["styles"][n]["final"] for name, own in results["methods"].items()}
        attempts = [
            findings.Attempt(
                name,
                goal[f"style{suffix}"] / final[f"style{suffix}"],
                final[f"content{suffix}"] / goal[f"content{suffix}"],
            )
            for name, final in finals.items()
        ]
        return findings.reaches(attempts)

    both = ([reached(n, suffix) for n in range(len(reported))] for suffix in ("", "_saved"))
    assert verdict_on(results, "times lower in style") == findings.ten_times(*both)


def test_the_networks_compared(results):
    first, *_, last = results["models"]
    compared = findings.compare_networks(results["judged"], last, first)
    assert verdict_on(results, "comes out clearer") == findings.clearer(compared)
