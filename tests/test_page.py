"""The report page by what a parser finds in it; test_page_browser.py looks at it in Chromium."""

import base64
import dataclasses
import io
import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from paging import NASTY, painted, run_of
from PIL import Image

from nst_jax.cli.look import charts, report_page
from nst_jax.presets import presets

VOID = {"meta", "img", "input", "link", "br", "hr"}


class Parsed(HTMLParser):
    """Elements, which must be closed in order, and the text in each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names), (tag, names)
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert "svg" in self.open
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        return [attributes for found, attributes in self.elements if found == tag]


@pytest.mark.parametrize("state", ["running", "finished", "stopped"])
def test_the_page_is_whole_and_asks_for_nothing(state):
    text = report_page.render(run_of(3, state=state))
    parsed = Parsed(text)
    assert [tag for tag, _ in parsed.elements[:2]] == ["html", "head"]
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
    styles = "".join(parsed.texts["style"])
    assert "url(" not in styles and "@import" not in styles
    assert "prefers-color-scheme: dark" in styles
    (policy,) = [m for m in parsed.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    refreshes = [m for m in parsed.all("meta") if m.get("http-equiv") == "refresh"]
    assert len(refreshes) == (state == "running")
    assert all(image["alt"] for image in parsed.all("img"))
    for slider in parsed.all("input"):
        assert slider["type"] == "range" and slider["aria-label"]
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_pictures_are_inside(rng):
    images = [painted(rng, 90, 160), painted(rng, 160, 90)]
    for image in images:
        uri = report_page.data_uri(image, longest=80)
        kind, _, data = uri.partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert max(picture.size) == 80
            small = Image.fromarray((255 * image).round().astype(np.uint8)).resize(picture.size)
            difference = np.asarray(picture, float) - np.asarray(small, float)
            assert np.abs(difference).mean() < 12
    found = Parsed(report_page.render(run_of(2))).all("img")
    assert len(found) == 2 * 3 + 3  # before, after and style of each; and the inputs
    for image in found:
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as picture:
            assert picture.size[0] / picture.size[1] == pytest.approx(
                int(image["width"]) / int(image["height"]), rel=0.1
            )


def test_names_are_text():
    labels = [NASTY, "b & c", "</style>'\" {{ run }} {% raw %}"]
    run = run_of(3, labels=labels)
    run = dataclasses.replace(run, message=labels[2], settings={labels[2]: {labels[0]: labels[2]}})
    text = report_page.render(run)
    parsed = Parsed(text)
    assert len(parsed.all("script")) == 2 and len(parsed.all("style")) == 1  # ours
    assert [name for name in parsed.texts["strong"] if name.strip()] == labels
    assert [f"The picture content__{label}" for label in labels] == [
        image["alt"] for image in parsed.all("img") if "The picture" in image["alt"]
    ]
    assert labels[2] in parsed.texts["span"] and labels[2] in parsed.texts["dd"]
    data = json.loads(parsed.texts["script"][0])
    assert [output["label"] for output in data["outputs"]] == labels
    assert data["settings"] == run.settings


def test_what_only_some_runs_need_is_imported_when_they_need_it():
    code = "import sys, nst_jax.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jinja2", "tifffile", "tensorboardX", "orbax.checkpoint"} & {*done.stdout.split()}


def test_the_numbers_are_there_as_json_and_as_curves():
    run = run_of(2, steps=40)
    run.outputs[1].metrics["style"][3] = None
    parsed = Parsed(report_page.render(run))
    data = json.loads(parsed.texts["script"][0])
    for found, output in zip(data["outputs"], run.outputs, strict=True):
        assert found["metrics"] == output.metrics
        assert found["layers"] == [{"step": step, **layers} for step, layers in output.layers]
    assert data["settings"]["config"]["steps"] == run.settings["config"]["steps"]
    curves = [path["d"] for path in parsed.all("path") if path["class"] == "curve term2"]
    charts_of_style = [curve for curve in curves if curve.count("L") > 20]
    assert [curve.count("M") for curve in charts_of_style] == [1, 2]  # the gap
    points = [float(x) for x in re.findall(r"[ML]([\d.]+)", charts_of_style[0])]
    assert points == sorted(points) and len(points) == len(run.outputs[0].metrics["step"])
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", charts_of_style[0])]
    assert heights == sorted(heights)  # a loss that falls goes down


def test_a_logarithmic_curve_has_equal_steps_for_equal_factors():
    svg = charts.curves(
        [0, 1, 2], {"total": [1.0, 10.0, 100.0]}, label="x", output=0, last=2, low=1.0, high=100.0
    )
    (curve,) = re.findall(r'class="curve total" d="(.*?)"', svg)
    points = np.array(re.findall(r"[ML]([\d.]+) ([\d.]+)", curve), float)
    steps = np.diff(points, axis=0)
    np.testing.assert_allclose(steps[0], steps[1], atol=0.2)
    assert steps[0][0] > 0 > steps[0][1]


def test_a_texture_has_no_before():
    run = run_of(1)
    texture = run.outputs[0]._replace(content=None)
    parsed = Parsed(report_page.render(report_page.dataclasses.replace(run, outputs=[texture])))
    assert not parsed.all("input")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (None, "not finite"),
        (3.14159, "3.14"),
        (0.00123, "0.00123"),
        (12345.6, "12,346"),
        (999999.9, "1,000,000"),
        (1.5e-7, "1.50×10⁻⁷"),
        (83420000.0, "8.34×10⁷"),
    ],
)
def test_numbers_are_short(value, text):
    assert charts.number(value) == text


def facts_of(parsed):
    """The facts and settings of a page: `{name: value}`."""
    return dict(zip(parsed.texts["dt"], parsed.texts["dd"], strict=True))


def test_the_settings_are_one_command_to_copy():
    flags = ["--content=my photo.jpg", "--styles=a.jpg,b.jpg", f"--init={NASTY}", "--size=64"]
    run = dataclasses.replace(run_of(1), settings={"seed": 0, "flags": flags})
    parsed = Parsed(report_page.render(run))
    (command,) = parsed.texts["code"]
    assert shlex.split(command) == ["nst-jax", *flags]
    assert "\n" not in command and "flags" not in facts_of(parsed)
    assert [button["id"] for button in parsed.all("button")] == ["copy"]
    assert not Parsed(report_page.render(run_of(1))).all("code")


def test_the_pace_is_one_number_of_the_last_size():
    """50 steps: the first took 3 s, the others 4 s; so 80 ms, as the timings say."""
    scales = [
        report_page.Scale((45, 60), 10, 10, (2.0, 1), 2.09),
        report_page.Scale((90, 120), 60, 51, (3.0, 1), 7.0),
    ]
    parsed = Parsed(report_page.render(dataclasses.replace(run_of(1), scales=scales)))
    assert facts_of(parsed)["A step, at this size"] == "80 ms"
    assert [cell for cell in parsed.texts["td"] if cell.endswith(" ms")] == ["10 ms", "80 ms"]
    assert not any("second" in name for name in parsed.texts["dt"])
    alone = [scales[0]._replace(steps=1, seconds=2.0)]
    parsed = Parsed(report_page.render(dataclasses.replace(run_of(1), scales=alone)))
    assert "A step, at this size" not in facts_of(parsed)


def test_settings_have_their_units():
    settings = {"tile": 256, "seed": 3, "config": presets["default"].to_dict()}
    facts = facts_of(Parsed(report_page.render(dataclasses.replace(run_of(1), settings=settings))))
    assert facts["size"] == "512 pixels" and facts["first size"] == "128 pixels"
    assert facts["steps"] == "60 steps" and facts["tile"] == "256 pixels"
    assert facts["learning rate"] == "0.8 grey levels"
    assert facts["seed"] == "3" and facts["clip"] == "yes"
    assert facts["content layers"] == "block4_conv2 1"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0004, "0.4 ms"), (0.0123, "12.3 ms"), (0.35, "350 ms"), (2.5, "2.5 s")]
)
def test_short_times_keep_their_digits(seconds, text):
    assert report_page._duration(seconds) == text
