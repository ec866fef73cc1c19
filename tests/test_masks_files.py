"""Masks in files: what their pixels mean, and masks that mask nothing or everything."""

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from nst_jax.cli.flags import masks_from_flag, style_masks_from_flag
from nst_jax.cli.main import BAD_INPUT
from nst_jax.files.images import read_mask

READERS = {"masks": masks_from_flag, "style_masks": style_masks_from_flag}


def save(path, *channels):
    """Saves channels of levels, each `[H, W]` or one number."""
    planes = np.broadcast_arrays(*channels, np.zeros((40, 48)))[:-1]
    pixels = np.stack(planes, axis=-1).astype(np.uint8)
    Image.fromarray(pixels[..., 0] if len(channels) == 1 else pixels).save(path)
    return path


@pytest.fixture
def drawn():
    """Levels of a soft edge, `[40, 48]`."""
    return np.rint(np.linspace(0, 255, 40 * 48)).reshape(40, 48)


@pytest.mark.parametrize("kind", ["grey", "white on transparent", "black beside it", "LA"])
def test_white_on_black_and_white_on_transparent_are_one_mask(tmp_path, drawn, kind):
    channels = {
        "grey": (drawn,),
        "white on transparent": (255, 255, 255, drawn),
        "black beside it": (drawn, drawn, drawn, 255),
        "LA": (255, drawn),
    }[kind]
    mask = read_mask(save(tmp_path / "mask.png", *channels))
    assert mask.dtype == np.float32 and mask.min() >= 0 and mask.max() <= 1
    np.testing.assert_allclose(mask, drawn / 255, atol=1e-6)


def test_a_mask_is_luminance_times_opacity(tmp_path, rng):
    red, green, blue, alpha = pixels = rng.integers(0, 256, (4, 40, 48)) / 255
    mask = read_mask(save(tmp_path / "mask.png", *np.rint(255 * pixels)))
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    np.testing.assert_allclose(mask, luminance * alpha, atol=1e-6)


@pytest.mark.parametrize("flag", READERS)
@pytest.mark.parametrize("channels", [(0,), (255, 255, 255, 0), "black of any opacity"])
def test_a_mask_that_hides_everything_is_refused_by_its_name(run, tmp_path, drawn, flag, channels):
    if isinstance(channels, str):
        channels = (0, 0, 0, drawn)
    style = save(tmp_path / "style.png", 90)
    mask = save(tmp_path / "mask.png", *channels)
    code, err = run(f"--content={style}", f"--styles={style}", f"--{flag}={mask}")
    assert code == BAD_INPUT
    assert err == (
        f"nst-jax: --{flag}: {mask} must be white somewhere, but is black or transparent "
        "everywhere\n"
    )


@pytest.mark.parametrize(("flag", "read"), READERS.items())
@pytest.mark.parametrize("white", [True, False])
def test_a_mask_that_hides_nothing_is_told(tmp_path, capsys, drawn, flag, read, white):
    mask = save(tmp_path / "mask.png", *((255, 255) if white else (255, drawn)))
    with flagsaver.flagsaver():
        flags.FLAGS(["nst-jax", f"--{flag}={mask}"])
        (found,) = read(1)
    assert (found == 1).all() == white
    line = f"nst-jax: --{flag}: {mask} is white everywhere, so it masks nothing\n"
    assert capsys.readouterr().err == (line if white else "")
