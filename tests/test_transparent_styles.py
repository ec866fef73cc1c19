"""Styles with a transparent background: only what is opaque is learnt from."""

import numpy as np
import pytest
from commandline import FAST
from PIL import Image

from nst_jax import image
from nst_jax.cli import run as cli_run
from nst_jax.cli.dataset.run import BAD_FILES
from nst_jax.cli.main import BAD_INPUT
from nst_jax.files.images import resize_mask


class Seen(ValueError):
    """Ends a run where it would begin to paint."""


@pytest.fixture
def combined(monkeypatch):
    """The `combine` of each call of `stylize`; none of them paints."""
    found = []

    def stylize(*arguments, combine, **options):
        found.append(combine)
        raise Seen("seen")

    monkeypatch.setattr(cli_run, "stylize", stylize)
    return found


@pytest.fixture
def files(tmp_path, rng, monkeypatch):
    """A content, an opaque style, one of whose columns a quarter is opaque, and one with none."""
    monkeypatch.chdir(tmp_path)
    pixels = rng.integers(0, 256, (48, 64, 4), np.uint8)
    pixels[..., 3] = 0
    Image.fromarray(pixels).save("none.png")
    pixels[:, :16, 3] = 255
    Image.fromarray(pixels).save("part.png")
    for name in ("content", "whole"):
        Image.fromarray(pixels[..., :3]).save(f"{name}.png")
    white = np.zeros((36, 48), np.uint8)
    white[:18] = 255
    Image.fromarray(white).save("top.png")
    return tmp_path


ALPHA = np.repeat(np.arange(64) < 16, 48).reshape(64, 48).T
LINE = "part.png: 75 % of the style is transparent and is not learnt from"


def start(run, *arguments):
    code, err = run("--content=content.png", *FAST, "--size=64", *arguments)
    assert code == BAD_INPUT
    return "".join(line for line in err.splitlines(True) if line.startswith("nst-jax:"))


def test_only_opaque_places_of_a_style_count(run, files, combined):
    err = start(run, "--styles=whole.png,part.png")
    (combine,) = combined
    assert combine.style_masks[0] is None
    np.testing.assert_array_equal(combine.style_masks[1], ALPHA)
    assert err == f"nst-jax: {LINE}\nnst-jax: seen\n"


def test_opaque_styles_need_no_mask(run, files, combined):
    assert start(run, "--styles=whole.png") == "nst-jax: seen\n"
    assert combined[0].style_masks is None


def test_a_mask_of_a_transparent_style_counts_where_it_is_opaque(run, files, combined):
    start(run, "--styles=part.png,whole.png", "--style_masks=top.png,")
    mask, other = combined[0].style_masks
    assert other is None
    np.testing.assert_allclose(mask[:22], ALPHA[:22], atol=1e-6)
    assert not mask[26:].any() and not mask[:, 16:].any()


def test_a_term_that_needs_the_whole_style_takes_the_background_as_white(run, files, combined):
    err = start(run, "--styles=part.png", "--style_loss=sliced")
    assert combined[0].style_masks is None
    assert (
        "nst-jax: part.png: 75 % of the style is transparent and counts as white: the term style "
        "cannot leave out a part of a style\n"
    ) in err


def test_a_style_of_which_nothing_is_left_is_refused(run, files, combined):
    err = start(run, "--styles=none.png")
    assert (
        err == "nst-jax: none.png: the style must be opaque somewhere that its mask is not black\n"
    )
    assert not combined


def test_styles_of_a_data_set_too_and_each_is_told_once(run, files, combined):
    err = start(run, "--styles=whole.png,part.png", "--pairing=all", "--mesh=style:1")
    (combine,) = combined
    assert combine.paired and combine.style_masks[0] is None
    np.testing.assert_array_equal(combine.style_masks[1], ALPHA)
    assert err.count(LINE) == 1


def test_a_transparent_style_of_a_data_set_is_a_bad_file(run, files, monkeypatch):
    # Nothing is left to paint.
    code, err = run("--content=content.png", "--styles=none.png", "--pairing=all", *FAST)
    assert code == BAD_FILES
    assert "nst-jax: skipped none.png: the style must be opaque somewhere" in err


@pytest.mark.parametrize("shape", [(20, 30), (61, 47), (5, 90)])
def test_resizing_a_mask_on_the_host_is_what_the_device_does(rng, shape):
    mask = rng.random((40, 50), np.float32)
    np.testing.assert_allclose(
        resize_mask(mask, *shape), image.resize_mask(mask, *shape), atol=2e-6
    )
    assert resize_mask(mask, 40, 50) is mask
