"""What contact sheets and the report show beside a picture: what was used for it."""

from types import SimpleNamespace

import basic
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image
from test_observers import ENDS

from nst_jax.cli import outputs as cli_outputs
from nst_jax.cli.look import report_page
from nst_jax.cli.look.contact_sheet import contact_sheet, side_by_side
from nst_jax.cli.look.observers import Picture, Report
from nst_jax.cli.main import read_inputs
from nst_jax.cli.run import PictureJob
from nst_jax.presets import presets

RED, GREEN, BLUE = np.eye(3, dtype=np.float32)


def plain(name, colour, height=40, width=40):
    return Picture(name, np.broadcast_to(np.float32(colour), (height, width, 3)))


CONTENT = plain("content", (0.2, 0.4, 0.6))
STYLES = [plain("r", RED), plain("g", GREEN), plain("b", BLUE)]
TOP = np.zeros((40, 40), np.float32)
TOP[:20] = 1


def job(**options):
    return PictureJob(contents=[CONTENT], styles=STYLES, config=basic.CONFIG, **options)


def group_of(job):
    outputs = job.outputs(job.contents)
    return outputs, job.painting(job.contents, outputs, name="0").group


def names(pictures):
    return [[picture.name for picture in each] for each in pictures]


def test_blends_show_the_styles_that_count():
    mixing = np.array([[0.5, 0.5, 0], [0, 0, 1], [0.2, 0.3, 0.5]])
    _, group = group_of(job(mixing=mixing))
    assert names(group.styles) == [["r", "g"], ["b"], ["r", "g", "b"]]
    assert names(group.masks) == [[], [], []]
    _, group = group_of(job())
    assert names(group.styles) == [["r"], ["g"], ["b"]]


def test_masks_show_every_style_and_the_masks():
    masks = [TOP, 1 - TOP, 0.5 * TOP]
    _, group = group_of(job(masks=masks, style_masks=[None, TOP, None]))
    assert names(group.styles) == [["r", "g", "b"]]
    assert names(group.masks) == [["mask of r", "mask of g", "mask of b", "style mask of g"]]
    for picture, mask in zip(group.masks[0], [*masks, TOP], strict=True):
        np.testing.assert_array_equal(picture.image, np.repeat(mask[..., None], 3, -1))
    _, group = group_of(job(style_masks=[None, TOP, None]))
    assert names(group.masks) == [[], ["style mask of g"], []]


def test_side_by_side_keeps_proportions():
    wide, high = plain("", RED, 20, 60).image, plain("", GREEN, 80, 40).image
    strip = side_by_side([wide, high])
    assert strip.shape == (20, 60 + 1 + 10, 3)
    np.testing.assert_allclose(strip[:, :60], wide, atol=1e-6)
    np.testing.assert_allclose(strip[:, 61:], high[:20, :10], atol=1e-6)
    assert side_by_side([wide]) is wide


def pixels_of(sheet, colour):
    return int((np.abs(sheet - colour).max(-1) < 0.02).sum())


@pytest.mark.parametrize("blank", [False, True])
def test_the_sheet_shows_them(tmp_path, blank):
    here = job(masks=[TOP, 1 - TOP, 0.5 * TOP])
    here = PictureJob(**{**vars(here), "contents": [CONTENT._replace(blank=blank)]})
    outputs, group = group_of(here)
    result = ENDS._replace(
        images=np.full((1, 40, 40, 3), 0.3, np.float32), history={"total": np.ones((2, 1))}
    )
    cli_outputs.write_sheets(
        tmp_path, here.contents, [[*group.styles[0], *group.masks[0]]], outputs, result,
        names={"content": ("sheet.png", "curves.png")}, text=None,
    )  # fmt: skip
    with Image.open(tmp_path / "sheet.png") as picture:
        sheet = np.asarray(picture, np.float32) / 255
    areas = [pixels_of(sheet, style.image[0, 0]) for style in STYLES]
    assert min(areas) > 150 and max(areas) < 1.3 * min(areas)
    assert (pixels_of(sheet, CONTENT.image[0, 0]) == 0) == blank
    assert pixels_of(sheet, np.zeros(3)) > 100  # the masks' black


def test_a_sheet_without_a_content_has_a_card_less():
    styles = [style.image for style in STYLES[:1]]
    one = contact_sheet(None, styles, [CONTENT.image], cell=64)
    two = contact_sheet(CONTENT.image, styles, [CONTENT.image], cell=64)
    assert one.shape[0] * one.shape[1] < 0.7 * two.shape[0] * two.shape[1]


@pytest.mark.parametrize("content", [(), ("--content=c.png",)])
def test_only_a_texture_is_blank_and_a_grey_content_is_not(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40), "grey").save("c.png")
    with flagsaver.flagsaver():
        flags.FLAGS(["nst-jax", "--styles=c.png", *content])
        config = presets["default"].replace(content_weight=0.0)
        (found,), _ = read_inputs(config)
    assert found.blank == (not content)


def test_the_report_lists_styles_and_masks(tmp_path):
    report = Report(tmp_path / "report.html", settings={}, log_every=10, outputs=1)
    here = job(masks=[TOP, 1 - TOP, 0.5 * TOP])
    _, group = group_of(here)
    report.begin(group)
    report(
        SimpleNamespace(
            step=1, steps=1, terms=dict.fromkeys(("total", "style"), np.ones((1, 1))),
            images=ENDS.images, diverged=ENDS.diverged, kept_start=ENDS.kept_start,
            layer_losses=lambda: [{"style": {"block1_conv1": 1.0}}],
        ),
        lambda: ENDS.images,
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    assert report_page.state(text) == "running"
    for name in "rgb":
        assert f'alt="Used: {name}"' in text and f'alt="Used: mask of {name}"' in text
        assert f'alt="The input mask of {name}"' in text
