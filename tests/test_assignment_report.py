"""The committed report of docs/assignment, and what its text says of other results."""

import copy
import json
from pathlib import Path

import pytest
from assignment import report

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "assignment"


@pytest.fixture(scope="module")
def committed():
    return json.loads((FOLDER / "results.json").read_text("utf-8"))


@pytest.fixture
def results(committed):
    return copy.deepcopy(committed)


def finding(results, words):
    """The verdict and the evidence of the claim with these words."""
    (line,) = [
        row for row in report.write(results).splitlines() if words in row.partition(" | ")[0]
    ]
    _, verdict, evidence, _ = line.strip("| ").split(" | ")
    return verdict, evidence


def test_the_committed_report_is_the_text_of_its_results(committed):
    text = report.write(committed)
    assert text == (FOLDER / "report.md").read_text("utf-8")
    shown = {line.partition("](")[2].rstrip(")") for line in text.splitlines() if "](" in line}
    assert shown == {path.name for path in FOLDER.glob("*.jpg")}


def test_bouncing_and_calm_runs_are_told_apart(results):
    """Here all runs bounce, and one diverges without the decay."""
    for numbers in results["reported"].values():
        for run in numbers["styles"]:
            run["course"]["rises_early"] = 0.2
    constant = results["constant"]["vgg16"]
    constant["rises_in_last_third"][0] = constant["loss_at_end"][0] = None
    verdict, evidence = finding(results, "ends the bouncing")
    assert verdict == "corrected"  # without the decay one of VGG19's comes to rest by itself
    assert "VGG16, rainbow: 0.0% as reported, diverged at a constant rate" in evidence
    verdict, evidence = finding(results, "slows the descent")
    assert verdict == "not shown" and "there is no such run" in evidence


def test_a_half_without_measurements_is_told(results):
    for numbers in results["reported"].values():
        for run in numbers["styles"]:
            run["rows"] = [row for row in run["rows"] if not 0 < row["step"] <= 1500]
    verdict, evidence = finding(results, "edge of what the curvature")
    assert "VGG19, rainbow: not measured, then" in evidence and verdict == "refuted"


def test_the_goal_counts_only_pictures_with_no_higher_content_loss(results):
    report_style = results["reported"]["vgg19"]["styles"][0]["final"]
    adam = results["methods"]["adam"][0]["final"]
    adam["style"] = report_style["style"] / 20
    adam["content"] = report_style["content"] * 1.001
    assert finding(results, "no higher content loss")[0] == "refuted"
    adam["content"] = report_style["content"]
    verdict, evidence = finding(results, "no higher content loss")
    assert verdict == "corrected"
    assert "reached in floating point for rainbow, as saved in 8 bits for no style" in evidence
    assert "rainbow: in floating point 20 times lower by Adam at 1.000 of the content loss;" in (
        evidence
    )


def test_rates_that_all_hold_are_told(results):
    for numbers in results["reported"].values():
        numbers["lost"] = [[False, False]]
    verdict, evidence = finding(results, "SGD at a rate of 100")
    assert verdict == "confirmed" and "all 4 runs hold that rate (32.7 at 128x128" in evidence
