"""One colour-coded map in place of masks."""

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from nst_jax.cli.flags import masks_from_flag
from nst_jax.cli.inputs import read_regions
from nst_jax.cli.main import BAD_INPUT, recipe_arguments
from nst_jax.presets import presets


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A map whose left quarter is red, whose middle is #00ff00 and whose right quarter is blue."""
    monkeypatch.chdir(tmp_path)
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :20] = (255, 0, 0)
    pixels[:, 20:60] = (0, 255, 0)
    pixels[:, 60:] = (0, 0, 255)
    Image.fromarray(pixels).save("map.png")
    return pixels


def columns(masks):
    """The columns of each mask that are 1 all the way down; the others must be 0."""
    for mask in masks:
        assert mask.dtype == np.float32 and set(np.unique(mask)) <= {0, 1}
        np.testing.assert_array_equal(mask, np.broadcast_to(mask[:1], mask.shape))
    return [np.flatnonzero(mask[0]).tolist() for mask in masks]


def test_each_style_has_its_colour(drawn):
    masks = read_regions("map.png", ["blue", "#0f0", "#FF0000"], styles=3)
    assert columns(masks) == [[*range(60, 80)], [*range(20, 60)], [*range(20)]]


def test_pixels_belong_to_the_nearest_colour(drawn):
    """A JPEG blurs the colours, and drawing programs smooth the edges."""
    Image.fromarray(drawn).save("map.jpg", quality=90)
    masks = read_regions("map.jpg", ["red", "lime", "blue"], styles=3)
    np.testing.assert_array_equal(sum(masks), 1)
    exact = read_regions("map.png", ["red", "lime", "blue"], styles=3)
    assert np.abs(np.stack(masks) - exact).mean() < 0.02


def test_transparent_parts_belong_to_no_style(drawn):
    alpha = np.full((40, 80, 1), 255, np.uint8)
    alpha[:, 70:] = 0
    alpha[:, 60:70] = 51
    Image.fromarray(np.concatenate([drawn, alpha], -1)).save("map.png")
    masks = read_regions("map.png", ["red", "lime"], styles=2)
    np.testing.assert_array_equal(masks[0][:, :20], 1)
    np.testing.assert_array_equal(masks[1][:, 20:60], 1)
    total = np.sum(masks, axis=0)
    np.testing.assert_allclose(total[:, 60:70], 51 / 255, atol=1e-6)
    assert not total[:, 70:].any()


@pytest.mark.parametrize(
    ("legend", "message"),
    [
        ("red,lime", "--legend must have the colours of the map, but 25 % of it have others: "),
        ("red,lime,yellow", "--legend must have the colours of the map, but 25 % of it have"),
        ("red,lime,blue,white", "--legend must have colours of the map, got 'white': "),
        ("red,lime,#0000ff,blue", "--legend must give each colour once, got 'red,lime,#0000ff,blu"),
        ("red,lime,blau", "--legend must hold colours such as #ff8000 or orange, got 'blau'"),
    ],
)
def test_a_legend_that_does_not_fit_is_one_line(drawn, legend, message):
    legend = legend.split(",")
    with pytest.raises(ValueError) as caught:
        read_regions("map.png", legend, styles=len(legend))
    line = str(caught.value)
    assert line.startswith(message) and "\n" not in line
    if line.endswith(")"):
        colours = "#00ff00 (50 %), #0000ff (25 %), #ff0000 (25 %)"
        assert line.endswith(f"the colours of map.png are {colours}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--regions=map.png",),
            "--legend needs a colour for each of the 1 styles, got 0: the colours of map.png are "
            "#00ff00 (50 %), #0000ff (25 %), #ff0000 (25 %)",
        ),
        (("--legend=red",), "--legend needs --regions, the picture with its colours"),
        (
            ("--regions=map.png", "--legend=red", "--masks=map.png"),
            "--regions takes the place of --masks: give one of them",
        ),
        (("--regions=none.png", "--legend=red"), "none.png: "),
    ],
)
def test_flags_that_do_not_go_together(run, drawn, arguments, message):
    code, err = run("--content=map.png", "--styles=map.png", *arguments)
    assert code == BAD_INPUT
    assert err.startswith(f"nst-jax: {message}") and err.count("\n") == 1


def test_the_flags_are_masks_and_part_of_the_recipe(drawn):
    given = ["--regions=map.png", "--legend=red,lime,blue", "--format=jpg", "--quality=80"]
    with flagsaver.flagsaver():
        flags.FLAGS(["nst-jax", *given])
        masks = masks_from_flag(3)
        assert set(given) <= set(recipe_arguments(presets["default"], {}))
    assert columns(masks) == [[*range(20)], [*range(20, 60)], [*range(60, 80)]]
