import re

import jax
import numpy as np
import pytest

import nst_jax
from nst_jax import preflight

CONFIG = nst_jax.Config(
    size=None, content_layers=("block1_conv2",), style_layers=("block1_conv1", "block2_conv1")
)
SHAPE = (120, 90)


def test_need_grows_with_pixels_outputs_and_memory_of_steps(vgg16):
    need = preflight.program_bytes(vgg16, SHAPE, 1, CONFIG)
    pixels = SHAPE[0] * SHAPE[1]
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(vgg16))
    # No less than block1_conv1 and block1_conv2 of the picture, and the content's activations.
    assert need > weights * (74 / 14_715) + 3 * 4 * 64 * pixels
    assert need < weights + preflight.CERTAINLY * pixels
    assert preflight.program_bytes(vgg16, SHAPE, 2, CONFIG) - need > 3 * 4 * 64 * pixels
    lbfgs = CONFIG.replace(optimizer="lbfgs", memory=50)
    assert preflight.program_bytes(vgg16, SHAPE, 1, lbfgs) - need > 50 * 2 * 12 * pixels * 0.9


def test_a_run_that_does_not_fit_is_refused_with_what_fits(vgg16):
    need = preflight.program_bytes(vgg16, SHAPE, 2, CONFIG)
    preflight.check(vgg16, SHAPE, 2, CONFIG, available=need)
    available = need // 2
    with pytest.raises(ValueError) as caught:
        preflight.check(vgg16, SHAPE, 2, CONFIG, available=available)
    message = str(caught.value)
    assert message.startswith(
        f"2 pictures of 90x120 would take {need / 2**30:.2f} GiB of memory, and there are "
        f"{available / 2**30:.2f} GiB: a --size of "
    )
    size = int(re.search(r"a --size of (\d+) fits", message)[1])
    assert 60 < size < 110
    preflight.check(vgg16, SHAPE, 2, CONFIG.replace(size=size), available=available)
    with pytest.raises(ValueError):
        preflight.check(vgg16, SHAPE, 2, CONFIG.replace(size=int(1.1 * size)), available=available)


def test_where_nothing_fits_it_says_so(vgg16):
    with pytest.raises(ValueError, match="a picture of 90x120 .* GiB: no --size fits$"):
        preflight.check(vgg16, SHAPE, 1, CONFIG, available=1000)


@pytest.mark.parametrize(
    ("available", "config", "named"),
    [
        (900, CONFIG, "--remat, --precision=bfloat16 or --tile=64 makes"),
        (700, CONFIG, "--remat or --tile=64 makes"),
        (500, CONFIG, "--remat with --precision=bfloat16 or --tile=64 makes"),
        (500, CONFIG.replace(remat=True), "--precision=bfloat16 or --tile=64 makes"),
    ],
)
def test_flags_are_named_with_which_it_would_fit(vgg16, monkeypatch, available, config, named):
    def program_bytes(params, shape, outputs, config, *, regions):
        a_pixel = 1000 - 400 * config.remat - 200 * (config.precision == "bfloat16")
        return outputs * shape[0] * shape[1] * a_pixel

    monkeypatch.setattr(preflight, "program_bytes", program_bytes)
    monkeypatch.setattr(preflight, "TILES", (64, 32))
    monkeypatch.setattr(preflight, "TILED_HOST", 0)
    pixels = 3 * SHAPE[0] * SHAPE[1]
    line = preflight.advice(vgg16, SHAPE, 3, config, available=available * pixels)
    assert line.endswith(f" fits; {named} this one fit")


def test_a_tile_is_named_where_there_are_windows(vgg16, monkeypatch):
    monkeypatch.setattr(preflight, "TILES", (64, 32))
    searching = CONFIG.replace(optimizer="lbfgs", linesearch=True)
    assert preflight._tile_that_fits(vgg16, SHAPE, searching, 10800, 1000, 0, 10**12) is None
    assert preflight._tile_that_fits(vgg16, SHAPE, CONFIG, 10800, 1000, 0, 10**12) == 64


def test_what_is_far_from_the_limit_is_not_compiled(vgg16, compilations):
    assert 2**20 < preflight.available_bytes() < 2**60
    with compilations() as count:
        preflight.check(vgg16, SHAPE, 1, CONFIG, available=2**40)
        assert count() == 0


def test_masks_are_counted(vgg16):
    need = preflight.program_bytes(vgg16, SHAPE, 1, CONFIG)
    pixels = np.prod(SHAPE)
    masked = preflight.program_bytes(vgg16, SHAPE, 1, CONFIG, regions=3)
    assert masked - need > 3 * 4 * pixels
