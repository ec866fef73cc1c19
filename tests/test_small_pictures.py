"""Small pictures: what a run enlarges, and what it refuses by its name."""

import re

import numpy as np
import pytest
from commandline import FAST
from PIL import Image

import nst_jax
from nst_jax.cli import run as cli_run
from nst_jax.cli.inputs import tell_enlarged
from nst_jax.cli.main import BAD_INPUT


@pytest.fixture
def save(tmp_path, rng, monkeypatch):
    """`save("a.png", width, height)`."""
    monkeypatch.chdir(tmp_path)

    def save(name, width, height):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(name)

    return save


@pytest.fixture
def shapes(monkeypatch):
    """The shapes of the contents that would be painted; nothing is."""
    found = []

    def stylize(params, contents, *arguments, **options):
        found.extend(content.shape for content in contents)
        raise ValueError("seen")

    monkeypatch.setattr(cli_run, "stylize", stylize)
    return found


@pytest.mark.parametrize("pairing", [(), ("--pairing=all", "--mesh=style:1")])
def test_pictures_of_any_size_are_painted_and_enlarging_is_told(run, save, shapes, pairing):
    save("a.png", 31, 20)
    save("b.png", 24, 12)
    save("c.png", 100, 90)
    code, err = run("--content=a.png", "--styles=b.png,c.png", *FAST, "--size=62", *pairing)
    assert code == BAD_INPUT and len(shapes) >= 1
    remarks = [line for line in err.splitlines(True) if line.startswith("nst-jax:")]
    assert "".join(remarks) == (
        "nst-jax: enlarged to the size of the run: b.png from 24 x 12 to 62 x 31, a.png from 31 x "
        "20 to 62 x 40\nnst-jax: seen\n"
    )


def test_the_three_most_enlarged_of_many_are_named(capsys):
    tell_enlarged([(f"{n}.png", (10, 20, 3), (10 * n, 20 * n)) for n in range(1, 7)])
    assert capsys.readouterr().err == (
        "nst-jax: enlarged to the size of the run: 6.png from 20 x 10 to 120 x 60, 5.png from "
        "20 x 10 to 100 x 50, 4.png from 20 x 10 to 80 x 40, and 2 more\n"
    )
    tell_enlarged([("a.png", (10, 20, 3), (10, 20)), ("b.png", (30, 20, 3), (15, 10))])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("role", ["content", "styles"])
def test_a_picture_too_small_for_the_layers_is_named(run, save, shapes, role):
    save("good.png", 50, 50)
    save("flat.png", 2000, 40)
    files = {"content": "good.png", "styles": "good.png"} | {role: "good.png,flat.png"}
    code, err = run(*(f"--{flag}={value}" for flag, value in files.items()), *FAST)
    assert code == BAD_INPUT and not shapes
    # A picture of 48 pixels has 1 row; the second block halves it once.
    assert err == (
        "nst-jax: flat.png: layer block2_conv1 needs images of at least 2 pixels a side, got 1x48: "
        "choose a larger --size or --first_size\n"
    ).replace("block2_conv1", "block2_conv2" if role == "content" else "block2_conv1")


@pytest.mark.parametrize(("role", "name"), [("content", "content"), ("styles", "styles[1]")])
def test_in_python_the_argument_is_named(vgg16, rng, role, name):
    good, flat = (rng.random(shape, np.float32) for shape in ((50, 50, 3), (4, 200, 3)))
    config = nst_jax.Config(size=48, first_size=None, first_steps=None)
    content, styles = (flat, [good]) if role == "content" else (good, [good, flat])
    with pytest.raises(nst_jax.vgg.TooSmall, match=f"^{re.escape(name)}: layer block"):
        nst_jax.stylize(vgg16, content, styles, config)
