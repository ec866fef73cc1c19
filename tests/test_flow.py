"""Optical flow against SciPy and loops in float64, and the built-in film, whose flow is known."""

import sys

import jax
import numpy as np
import pytest
from scipy import ndimage

from nst_jax import examples, flow


def smooth(rng, *shape):
    """A flow of some pixels that varies slowly."""
    return 3 * ndimage.gaussian_filter(rng.standard_normal((*shape, 2)), (4, 4, 0)).astype(
        np.float32
    )


def along(image, motion):
    """`warp` of one channel by SciPy, in float64."""
    rows, columns = np.indices(image.shape, float)
    places = [rows + motion[..., 1], columns + motion[..., 0]]
    return ndimage.map_coordinates(image.astype(float), places, order=1, mode="nearest")


@pytest.fixture(scope="module")
def film():
    # Half the shorter side has 20 pixels, so these are whole pixels.
    return examples.butterfly_film((40, 56), frames=3, background=(-0.1, 0.05), insect=(0.1, -0.05))


def test_warp_is_scipys(rng):
    image = rng.random((21, 34, 3), np.float32)
    motion = 20 * smooth(rng, 21, 34)  # far beyond the border
    wanted = np.stack([along(image[..., c], motion) for c in range(3)], axis=-1)
    np.testing.assert_allclose(flow.warp(image, motion), wanted, atol=2e-5)
    several = np.stack([image, image[::-1]])
    np.testing.assert_array_equal(flow.warp(several, motion)[0], flow.warp(image, motion))
    np.testing.assert_array_equal(flow.warp(several, motion)[1], flow.warp(image[::-1], motion))


def test_the_gradient_of_warp_is_that_of_its_weights(rng):
    """It is linear in the image: a difference of any size gives its slope."""
    image, motion = rng.random((9, 8, 1), np.float32), smooth(rng, 9, 8)
    seen = rng.random((9, 8, 1), np.float32)
    slope = jax.grad(lambda image: (flow.warp(image, motion) * seen).sum())(image)
    moved = image.copy()
    moved[4, 5] += 1
    change = ((flow.warp(moved, motion) - flow.warp(image, motion)) * seen).sum()
    np.testing.assert_allclose(slope[4, 5, 0], change, rtol=1e-4, atol=1e-6)


def test_reliable_is_the_papers_three_conditions(rng):
    there = np.float32([1.5, -1]) + 0.6 * smooth(rng, 24, 30)
    back = -there + 0.2 * smooth(rng, 24, 30)
    back[:, 20:] += 2  # where it does not agree
    there[5:, 4] += 1  # a jump
    found = np.asarray(flow.reliable(there, back))
    returned = np.stack([along(back[..., c], there) for c in range(2)], axis=-1)
    wide = there.astype(float)
    for row in range(24):
        for column in range(30):
            u, v = wide[row, column]
            squares = u * u + v * v
            sum_of = ((wide[row, column] + returned[row, column]) ** 2).sum()
            other = (returned[row, column] ** 2).sum()
            hidden = sum_of > 0.01 * (squares + other) + 0.5
            slopes = 0.0
            for axis, place, length in ((0, row, 24), (1, column, 30)):
                low, high = max(place - 1, 0), min(place + 1, length - 1)
                ends = (low, column, high, column) if axis == 0 else (row, low, row, high)
                slope = (wide[ends[2], ends[3]] - wide[ends[0], ends[1]]) / (high - low)
                slopes += (slope**2).sum()
            border = slopes > 0.01 * squares + 0.002
            leaves = not (0 <= column + u <= 29 and 0 <= row + v <= 23)
            assert found[row, column] == float(not (hidden or border or leaves)), (row, column)
    assert 0.2 < found.mean() < 0.8  # both happen


def test_a_pixel_stands_still_if_all_around_it_do(rng):
    frame = rng.random((20, 20, 3), np.float32)
    other = frame + 1.5 / 255
    other[10, 8, 1] += 2 / 255
    wanted = np.ones((20, 20))
    wanted[8:13, 6:11] = 0
    np.testing.assert_array_equal(flow.still(frame, other), wanted)


def test_flows_follow_each_other(rng):
    first, second = smooth(rng, 18, 22), smooth(rng, 18, 22)
    wanted = first + np.stack([along(second[..., c], first) for c in range(2)], axis=-1)
    np.testing.assert_allclose(flow.follow(first, second), wanted, atol=1e-5)


def test_a_resized_flow_has_longer_vectors():
    motion = np.broadcast_to(np.float32([2.0, -1.0]), (10, 20, 2))
    found = flow.resize_flow(motion, 30, 40)
    assert found.shape == (30, 40, 2)
    np.testing.assert_allclose(found, np.broadcast_to([4.0, -3.0], (30, 40, 2)), rtol=1e-6)
    assert flow.resize_flow(motion, 10, 20) is not None


def test_the_flow_of_the_film_is_true(film):
    assert film.frames.shape == (3, 40, 56, 3) and film.forward.shape == (2, 40, 56, 2)
    trust = np.asarray(flow.reliable(film.backward[0], film.forward[0])) > 0
    # Clear of the insect's outline and shadow.
    trust = ndimage.binary_erosion(trust, iterations=2)
    assert trust.mean() > 0.3
    moved = np.asarray(flow.warp(film.frames[0], film.backward[0]))
    with_flow = np.abs(moved - film.frames[1])[trust].mean()
    assert with_flow < 0.1 * np.abs(film.frames[0] - film.frames[1])[trust].mean()
    for motion, sign in ((film.forward, 1), (film.backward, -1)):
        np.testing.assert_allclose(sign * motion[0, 0, 0], [-2, 1], rtol=1e-5)
        np.testing.assert_allclose(sign * motion[0, 20, 32], [2, -1], rtol=1e-5)


def test_dis_finds_how_a_texture_moved(rng):
    texture = ndimage.gaussian_filter(rng.random((80, 90, 3)), (2, 2, 0)).astype(np.float32)
    texture = (texture - texture.min()) / np.ptp(texture)
    frame, other = texture[10:70, 10:74], texture[7:67, 14:78]
    # What is at p in the frame is at p + (-4, 3) in the other.
    found = flow.dis(frame, other)
    assert found.shape == (60, 64, 2)
    np.testing.assert_allclose(found[12:-12, 12:-12].mean((0, 1)), [-4, 3], atol=0.2)


def test_dis_says_what_it_lacks(monkeypatch):
    small = np.zeros((8, 40, 3), np.float32)
    with pytest.raises(ValueError, match=r"at least 12 pixels a side for a flow, got \[8, 40\]"):
        flow.dis(small, small)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="pip install opencv-python-headless"):
        flow.dis(small, small)


def test_the_intersection_of_histograms():
    black, white = np.zeros((4, 4, 3)), np.ones((6, 8, 3))
    half = black.copy()
    half[:2] = 1
    assert flow.histogram_intersection(black, black) == 1
    assert flow.histogram_intersection(black, white) == 0
    assert flow.histogram_intersection(half, white) == 0.5
