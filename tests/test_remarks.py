"""What is said of pictures and losses when a run is done, or has just begun."""

import basic
import numpy as np

from nst_jax import optimize
from nst_jax.cli.look.observers import Picture
from nst_jax.cli.outputs import (
    remarks_on_clipping,
    remarks_on_overflow,
    remarks_on_still_losses,
)
from nst_jax.optimizers import Adam

PLAIN = Adam(learning_rate=1.0, normalize_gradient="none")


def picture(clipped):
    """100 pixels, of which so many have a channel that is black or full."""
    image = np.full((10, 10, 3), 0.5, np.float32)
    image.reshape(100, 3)[:clipped, 1] = [0, 1][clipped % 2]
    return image


def test_clipped_pixels_are_told_unless_the_content_has_them():
    contents = [Picture("dull", picture(3)), Picture("bright", picture(11))]
    images = np.stack([picture(10), picture(25), picture(90), picture(91)])
    (line,) = remarks_on_clipping(["a", "b", "c", "d"], images, contents)
    assert line.startswith("b: 25% of the pixels are clipped; a smaller ")
    assert "--learning_rate" in line and "--tv_weight" in line


def test_a_loss_that_stands_still_over_a_whole_scale_is_told_with_its_terms():
    falling = np.linspace(9, 5, 10)
    rounding = 7 + 1e-5 * np.arange(10)
    second = np.r_[falling[:5], [4.0] * 5]  # still at the second scale alone
    short = np.r_[falling[:9], 5.5]
    total = np.stack([falling, rounding, second, short], axis=1)
    history = {"total": total, "content": 0 * total, "style": total}
    stems = ["falling", "still", "second", "short"]
    lines = remarks_on_still_losses(stems, history, [5, 5])
    assert [line.partition(":")[0] for line in lines] == ["still", "second"]
    told = "still: the loss has not moved in steps 1 to 5 (content 0, style 7); a larger "
    assert lines[0].startswith(told)
    assert "in steps 6 to 10 (content 0, style 4)" in lines[1]
    # A scale that ended early, or of a single step, tells nothing.
    ended = {name: values[:8] for name, values in history.items()}
    assert (
        len(remarks_on_still_losses(["second"], {n: v[:, 2:3] for n, v in ended.items()}, [5, 5]))
        == 0
    )
    assert remarks_on_still_losses(["one"], {"total": np.ones((2, 1))}, [1, 1]) == []
    diverged = {"total": np.full((5, 1), np.nan)}
    assert remarks_on_still_losses(["diverged"], diverged, [5]) == []


def weighted(image, weight):
    value = weight * ((image - 0.25) ** 2).mean()
    return value, {"total": value, "style": value}


def test_a_gradient_that_overflows_is_told_at_the_first_step():
    """Adam keeps the square of the gradient, which is infinite in float32 beyond 3.4e38."""
    seen = []
    weights = np.float32([1.0, 1e30])
    images = np.full((2, 4, 4, 3), 0.5, np.float32)
    config = basic.CONFIG.replace(size=None, optimizer=PLAIN, steps=2)

    def look(progress):
        seen.append(remarks_on_overflow(["calm", "large"], progress))
        calm, large = np.asarray(progress.states.picture)
        assert (calm != 0.5).all() and (large == 0.5).all()  # or there is nothing to tell

    optimize.run(weighted, images, config, each=(weights,), callback=look)
    (line,), _ = seen
    told = (
        "large: the first step has not moved the picture: with a loss of 6.25e+28 (style 6.25e+28)"
    )
    assert line.startswith(told) and "its gradient overflows" in line
