import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import image


def soft(height, width, seed=0):
    return np.random.default_rng(seed).uniform(size=(height, width)).astype(np.float32)


def triangle_weights(old, new):
    """Rows of weights of the linear filter, widened to the pitch of the result, in float64."""
    scale = new / old
    centres = (np.arange(new)[:, None] + 0.5) / scale - 0.5
    weights = np.maximum(0, 1 - np.abs(centres - np.arange(old)) * min(scale, 1))
    return weights / weights.sum(1, keepdims=True)


def linear(array, height, width):
    """The linear filter along H and W of [..., H, W, C], in float64."""
    rows = triangle_weights(array.shape[-3], height)
    columns = triangle_weights(array.shape[-2], width)
    return np.einsum("yh,xw,...hwc->...yxc", rows, columns, np.asarray(array, np.float64))


def pool(mask):
    """One pooling: means of 2x2, an odd last row or column left out, in float64."""
    height, width = (side // 2 for side in mask.shape)
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            out[y, x] = np.mean(mask[2 * y : 2 * y + 2, 2 * x : 2 * x + 2], dtype=np.float64)
    return out


# shrink, enlarge, each side its own way, from and to one pixel
RESIZES = [
    ((24, 32), (12, 16)),
    ((24, 32), (7, 13)),
    ((12, 9), (31, 40)),
    ((12, 30), (30, 12)),
    ((13, 10), (1, 1)),
    ((1, 1), (3, 4)),
]


@pytest.mark.parametrize(("old", "new"), RESIZES)
def test_resample_is_the_linear_filter(old, new):
    array = np.random.default_rng(0).normal(scale=50, size=(2, *old, 5)).astype(np.float32)
    got = image.resample(array, *new)
    assert got.shape == (2, *new, 5) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, linear(array, *new), atol=5e-4)


@pytest.mark.parametrize(("old", "new"), RESIZES)
def test_resample_keeps_what_is_positive_positive_and_does_not_overshoot(old, new):
    rng = np.random.default_rng(1)
    array = 10.0 ** rng.uniform(-20, 3, size=(*old, 2)).astype(np.float32)
    got = np.asarray(image.resample(array, *new))
    assert got.min() >= array.min() * 0.9999 > 0 and got.max() <= array.max() * 1.0001
    np.testing.assert_allclose(image.resample(np.full_like(array, -7), *new), -7, rtol=1e-6)


def test_resample_to_the_same_size_changes_nothing():
    array = np.random.default_rng(2).normal(size=(6, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(image.resample(array, 6, 5), array)


def test_resample_has_a_gradient():
    grad = jax.grad(lambda x: (image.resample(x, 5, 9) * weight).sum())
    weight = jnp.asarray(np.random.default_rng(3).normal(size=(5, 9, 2)).astype(np.float32))
    rows, columns = triangle_weights(8, 5), triangle_weights(4, 9)
    want = np.einsum("yh,xw,yxc->hwc", rows, columns, np.asarray(weight, np.float64))
    np.testing.assert_allclose(grad(jnp.ones((8, 4, 2))), want, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), RESIZES)
def test_resize_mask_is_the_linear_filter(old, new):
    mask = np.rint(soft(*old))
    got = image.resize_mask(mask, *new)
    assert got.shape == new and got.dtype == jnp.float32
    np.testing.assert_allclose(got, linear(mask[..., None], *new)[..., 0], atol=1e-6)
    assert got.min() >= 0 and got.max() <= 1


def test_resize_mask_clips_and_masks_that_add_up_to_one_still_do():
    mask = soft(20, 30)
    got = image.resize_mask(np.stack([mask, 1 - mask]), 7, 41).sum(0)
    np.testing.assert_allclose(got, 1, atol=1e-6)
    np.testing.assert_array_equal(image.resize_mask(np.full((4, 4), 1.5, np.float32), 9, 9), 1)
    np.testing.assert_array_equal(image.resize_mask(np.full((4, 4), -1.0, np.float32), 3, 3), 0)


def test_resize_mask_antialiases():
    board = (np.indices((64, 64)).sum(0) % 2).astype(np.float32)
    np.testing.assert_allclose(image.resize_mask(board, 16, 16)[1:-1, 1:-1], 0.5, atol=1e-6)


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (63, 31), (16, 100), (17, 16)])
@pytest.mark.parametrize("times", [0, 1, 2, 3, 4])
def test_shrink_mask_is_repeated_pooling(shape, times):
    mask = soft(*shape)
    want = mask
    for _ in range(times):
        want = pool(want)
    got = image.shrink_mask(mask, times=times)
    assert got.shape == want.shape and got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_shrink_mask_marks_the_positions_whose_pixels_it_marks():
    mask = np.zeros((21, 22), np.float32)
    mask[8:16, :] = 1
    mask[20, :] = 1  # past the last whole window
    got = image.shrink_mask(mask, times=2)
    np.testing.assert_array_equal(got, np.repeat([[0.0], [0], [1], [1], [0]], 5, 1))
    np.testing.assert_array_equal(image.shrink_mask(jnp.ones((1, 1)), times=0), [[1]])


def test_shrink_mask_has_a_gradient():
    grad = jax.grad(lambda x: image.shrink_mask(x, times=2).sum())(jnp.ones((9, 8)))
    want = np.full((9, 8), 1 / 16)
    want[8] = 0
    np.testing.assert_allclose(grad, want)


@pytest.mark.parametrize(
    "call",
    [
        lambda mask: image.shrink_mask(mask, times=2),
        lambda mask: image.resize_mask(mask, 5, 40),
        lambda mask: image.resample(mask[..., None], 5, 40),
    ],
)
def test_a_batch_under_jit_and_under_vmap_is_one_at_a_time(call):
    masks = np.stack([soft(11, 13, seed) for seed in range(3)])
    want = np.stack([call(mask) for mask in masks])
    for batched in (jax.jit(call), jax.jit(jax.vmap(call))):
        np.testing.assert_allclose(batched(masks), want, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "line"),
    [
        (
            lambda: image.shrink_mask(soft(15, 40), times=4),
            ValueError,
            r"mask must be at least 16 by 16 to be shrunk 4 times, got shape \[15, 40\]",
        ),
        (lambda: image.shrink_mask(soft(4, 4), times=-1), ValueError, "times must be at least 0"),
        (lambda: image.shrink_mask(soft(4, 4), times=1.0), TypeError, "times must be a whole"),
        (
            lambda: image.shrink_mask(np.zeros(4, np.float32), times=1),
            ValueError,
            r"mask must have shape \[\.\.\., H, W\], got \[4\]",
        ),
        (
            lambda: image.resize_mask(np.ones((4, 4), bool), 2, 2),
            TypeError,
            r"mask must be floating point in \[0, 1\], got bool",
        ),
        (lambda: image.resize_mask(soft(4, 4), 0, 2), ValueError, "height must be at least 1"),
        (
            lambda: image.resize_mask(np.zeros((0, 4), np.float32), 2, 2),
            ValueError,
            "mask must not be empty",
        ),
        (
            lambda: image.resample(soft(4, 4), 2, 2),
            ValueError,
            r"array must have shape \[\.\.\., H, W, C\], got \[4, 4\]",
        ),
        (
            lambda: image.resample(np.zeros((4, 4, 1), np.int32), 2, 2),
            TypeError,
            "array must be floating point, got int32",
        ),
        (
            lambda: image.resample(soft(4, 4)[..., None], 2, 2.5),
            TypeError,
            "width must be a whole number, got 2.5",
        ),
    ],
)
def test_bad_arguments(call, error, line):
    with pytest.raises(error, match=line):
        call()
