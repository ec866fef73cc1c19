"""The report page in a headless Chromium: what a reader sees and does, from disk and offline."""

import dataclasses

import numpy as np
import pytest
from browser import browser, wait_for
from paging import NASTY, run_of
from PIL import Image

from nst_jax.cli.look import report_page

pytestmark = pytest.mark.browser

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
SLIDER = "document.querySelector('.compare input')"
CUT = "parseFloat(document.querySelector('.compare').style.getPropertyValue('--cut'))"


def write(path, run):
    path.write_text(report_page.render(run), "utf-8")
    return path


def box_of(window, selector):
    """Left, top, width and height of an element, from the window's corner."""
    return window.evaluate(
        f"(r => [r.left, r.top, r.width, r.height])(document.querySelector('{selector}')"
        ".getBoundingClientRect())"
    )


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_fits_and_shows_its_pictures_without_a_network(tmp_path, size):
    labels = ["rainbow", NASTY, "W" * 90]
    path = write(tmp_path / "report.html", run_of(3, labels=labels))
    with browser(**size) as window:
        window.open(path)
        wide = "document.documentElement.scrollWidth"
        assert window.evaluate("innerWidth") == size["width"] == window.evaluate(wide)
        images = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
        assert window.evaluate("document.images.length") == 13 and window.evaluate(images)
        fetched = "performance.getEntriesByType('resource').map(e => e.name.slice(0, 5))"
        assert set(window.evaluate(fetched)) <= {"data:"}
        assert window.complaints() == []
        assert window.evaluate("window.hacked") is None
        # Cards beside each other where there is room for them.
        lefts = "[...document.querySelectorAll('.result')].map(e => e.getBoundingClientRect().left)"
        assert (len(set(window.evaluate(lefts))) > 1) == (size is DESKTOP)
        # No table hides its last column.
        tables = (
            "[...document.querySelectorAll('.scroll')].every(e => e.scrollWidth <= e.clientWidth)"
        )
        assert window.evaluate(tables)
        window.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        shot = np.asarray(picture.convert("RGB"), float)
    assert shot.shape[1] == size["width"] and shot.shape[0] > 1500
    assert shot.std() > 20


def test_the_slider_moves_by_mouse_and_by_keys(tmp_path):
    path = write(tmp_path / "report.html", run_of(1))
    with browser(**DESKTOP) as window:
        window.open(path)
        assert window.evaluate(CUT) == 50
        left, top, width, height = box_of(window, ".compare")
        middle = top + height / 2
        window.drag((left + 0.5 * width, middle), (left + 0.25 * width, middle))
        wait_for(lambda: abs(window.evaluate(CUT) - 25) < 1)
        rule, _, thickness, _ = box_of(window, ".compare .rule")
        assert rule + thickness / 2 == pytest.approx(left + 0.25 * width, abs=2)
        before = window.evaluate(CUT)
        assert window.evaluate(f"document.activeElement === {SLIDER}")
        window.press("ARROW_RIGHT")
        wait_for(lambda: before < window.evaluate(CUT) < before + 12)
        window.press("END")
        wait_for(lambda: window.evaluate(CUT) == 100)
        assert window.evaluate(f"{SLIDER}.getAttribute('aria-valuetext')") == "100 % before"
        # The picture before covers that share of the one after.
        window.screenshot(tmp_path / "before.png")
        window.press("HOME")
        wait_for(lambda: window.evaluate(CUT) == 0)
        window.screenshot(tmp_path / "after.png")
        place = [round(x) for x in (left + 8, top + 8, left + width - 8, top + height * 0.4)]
    shots = []
    for name in ("before", "after"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            shots.append(np.asarray(picture.convert("RGB").crop(place), float))
    assert np.abs(shots[0] - shots[1]).mean() > 20


def test_the_values_under_the_pointer_are_said(tmp_path):
    run = run_of(1, steps=60)
    with browser(**DESKTOP) as window:
        window.open(write(tmp_path / "report.html", run))
        window.evaluate("document.querySelector('.chart').scrollIntoView({block: 'center'})")
        left, top, width, height = box_of(window, ".chart svg")
        # Over step 30, in the middle of the axis from 50 to 390 of 400.
        x, y = left + width * 220 / 400, top + height / 2
        window.drag((x, y), (x, y))
        window.drag((x + 1, y), (x, y))
        text = wait_for(
            lambda: window.evaluate("document.querySelector('.chart output').textContent")
        )
    total = run.outputs[0].metrics["total"][29]
    assert text == f"step 30: total {total:.4g}, content 300, style 33330".replace(
        "3.363e+04", "33630"
    )


def test_a_page_follows_its_run_and_keeps_what_the_reader_did(tmp_path):
    path = tmp_path / "report.html"
    running = run_of(2, state="running", step=20, refresh=1)
    with browser(**PHONE) as window:
        window.open(write(path, running))
        state = "document.documentElement.dataset.state"
        assert window.evaluate(state) == "running"
        assert window.evaluate("document.getElementById('silence').textContent") != ""  # long ago
        left, top, width, height = box_of(window, ".compare")
        point = (left + 0.7 * width, top + height / 2)
        window.drag(point, point)
        wait_for(lambda: abs(window.evaluate(CUT) - 70) < 1)
        window.evaluate("scrollTo(0, 400)")
        write(path, dataclasses.replace(running, step=30))
        steps = "JSON.parse(document.getElementById('run').textContent).step"
        wait_for(lambda: window.evaluate(steps) == 30)
        wait_for(lambda: window.evaluate("document.readyState") == "complete")
        assert window.evaluate(CUT) == pytest.approx(70, abs=1)
        wait_for(lambda: abs(window.evaluate("scrollY") - 400) < 2)
        # Not while the reader says no.
        window.evaluate("document.getElementById('pause').click()")
        assert window.evaluate("document.getElementById('pause').textContent") == "Resume updates"
        write(path, dataclasses.replace(running, state="finished", step=60))
        window.evaluate("window.marked = 1")
        wait_for(lambda: window.evaluate("performance.now()") > 2500)
        assert window.evaluate("window.marked") == 1
        window.evaluate("document.getElementById('pause').click()")
        wait_for(lambda: window.evaluate(state) == "finished")
        window.evaluate("window.marked = 2")
        wait_for(lambda: window.evaluate("performance.now()") > 1500)
        assert window.evaluate("window.marked") == 2  # at rest
        assert window.complaints() == []
