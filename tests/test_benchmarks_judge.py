import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import benchmarking
import jax
import numpy as np
import pytest

import nst_jax
from benchmarks import judge, measures
from nst_jax import losses, vgg
from nst_jax.files.images import read_image, write_image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


def texture(seed, height=64, width=64):
    """Coloured waves of several lengths, the same at every place: float64 in about [0.2, 0.8]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    picture = np.full((height, width, 3), 0.5)
    for length in (5.3, 7.7, 11.1, 16.3):
        angle = rng.uniform(0, math.pi)
        wave = np.sin(2 * math.pi * (math.cos(angle) * y + math.sin(angle) * x) / length)
        picture += 0.12 * wave[..., None] * rng.uniform(-1, 1, 3)
    return np.clip(picture, 0, 1)


def scene(height=64, width=64):
    """A disc and a bar on a gradient, softened: a content with no detail at the border."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([0.4 + 0.2 * y / height, 0.5 - 0.2 * x / width, 0.5 + 0 * x], -1)
    picture[(y - 26) ** 2 + (x - 28) ** 2 < 14**2] = (0.75, 0.6, 0.3)
    picture[44:52, 14:50] = (0.25, 0.3, 0.6)
    return blurred(picture, 1)


def blurred(picture, times):
    for _, axis in itertools.product(range(times), (0, 1)):
        padded = np.pad(picture, [(1, 1) if own == axis else (0, 0) for own in range(3)], "edge")
        before, own, after = (np.take(padded, np.arange(64) + i, axis) for i in range(3))
        picture = (before + 2 * own + after) / 4
    return picture


def grey(plane):
    return np.repeat(plane[..., None], 3, axis=-1)


# ------------------------------------------------------------------------------------------ style


def test_the_divergence_of_gaussians(rng):
    # In one dimension: ln(s/r) + (r^2 + (m - n)^2) / (2 s^2) - 1/2.
    found = measures.gaussian_divergence(
        np.array([1.0]), np.array([[4.0]]), np.array([3.0]), np.array([[9.0]])
    )
    assert found == pytest.approx(math.log(3 / 2) + (4 + 4) / 18 - 0.5)
    # The mean of ln p - ln q over samples of p.
    a, b = (rng.normal(size=(3, 3)) for _ in "ab")
    a, b = a @ a.T + np.eye(3), b @ b.T + np.eye(3)
    m, n = rng.normal(size=(2, 3))
    samples = rng.multivariate_normal(m, a, size=200_000)

    def log_density(mean, covariance):
        apart = samples - mean
        square = np.sum(apart @ np.linalg.inv(covariance) * apart, axis=1)
        return -0.5 * (square + math.log(np.linalg.det(covariance)))

    wanted = np.mean(log_density(m, a) - log_density(n, b))
    assert measures.gaussian_divergence(m, a, n, b) == pytest.approx(wanted, rel=0.02)


def test_the_effectiveness_of_a_shift_in_closed_form(rng):
    features = rng.normal(size=(4000, 6)) * [9.0, 5.0, 3.0, 1e-4, 1e-4, 1e-4]
    # Three components hold 95 % of the variance. A shift by v leaves the covariance as it is, so
    # the divergence is v^T B^-1 v / 2.
    shift = np.array([1.0, -2.0, 0.5, 0, 0, 0])
    covariance = np.cov(features.T, bias=True)
    # The third component has 8 % of the variance.
    ridge = 0.01 * np.sort(np.linalg.eigvalsh(covariance))[-3:].mean()
    _, basis = np.linalg.eigh(covariance)
    basis = basis[:, -3:]
    inverse = np.linalg.inv(basis.T @ covariance @ basis + ridge * np.eye(3))
    square = (shift @ basis) @ inverse @ (shift @ basis)
    found = measures.effectiveness(features + shift, features)
    assert found == pytest.approx(-math.log(square / 2), abs=1e-6)


def test_the_effectiveness_takes_the_divergence_from_the_style(rng):
    style = rng.normal(size=(500, 3))
    style -= style.mean(0)
    variances = np.linalg.eigvalsh(np.cov(style.T, bias=True))
    # Of twice the features: a variance of 4 v + r from one of v + r, in each component.
    ridge = 0.01 * variances.mean()
    ratio = (4 * variances + ridge) / (variances + ridge)
    wanted = -math.log(np.sum(ratio - 1 - np.log(ratio)) / 2)
    assert measures.effectiveness(2 * style, style) == pytest.approx(wanted)


def test_the_effectiveness_is_highest_for_the_style_and_falls_with_the_difference(rng):
    style = rng.normal(size=(300, 8))
    highest = -math.log(1e-6)
    assert measures.effectiveness(style, style) == pytest.approx(highest)
    found = [measures.effectiveness(style * scale, style) for scale in (1.1, 1.5, 3.0)]
    assert highest > found[0] > found[1] > found[2]
    # Fewer positions than channels, and flat features, have finite values.
    for output, wanted in itertools.product((style[:10], np.zeros((16, 8))), repeat=2):
        assert math.isfinite(measures.effectiveness(output, wanted))


def test_the_components_of_few_positions_are_those_of_the_covariance(rng):
    features = rng.normal(size=(12, 20)) @ rng.normal(size=(20, 20))
    for own in (features, features[:, :8]):  # fewer positions than channels, and more
        variances, axes = measures.principal_components(own)
        covariance = np.cov(own.T, bias=True)
        np.testing.assert_allclose((axes * variances) @ axes.T, covariance, atol=1e-10)
        np.testing.assert_allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=1e-10)
        assert list(variances) == sorted(variances, reverse=True)


def test_the_sliced_wasserstein_distance_in_closed_form(rng):
    features = rng.normal(size=(500, 8))
    along = measures.directions(8)
    np.testing.assert_allclose(np.linalg.norm(along, axis=0), 1)
    spread = math.sqrt(np.mean([np.var(features @ axis) for axis in along.T]))
    # A shift by v moves each projection by v . axis.
    shift = rng.normal(size=8)
    wanted = math.sqrt(np.mean((shift @ along) ** 2)) / spread
    assert measures.sliced_wasserstein(features + shift, features) == pytest.approx(wanted)
    # The order of positions does not matter.
    assert measures.sliced_wasserstein(rng.permutation(features), features) < 1e-12
    # Twice the deviation is one deviation away, as far as the mean is 0.
    centered = features - features.mean(0)
    assert measures.sliced_wasserstein(2 * centered, centered) == pytest.approx(1, rel=1e-6)


def test_quantiles_of_other_numbers_of_positions(rng):
    values = rng.normal(size=(7, 3))
    np.testing.assert_array_equal(measures.quantiles(values, 7), np.sort(values, axis=0))
    places = (np.arange(4) + 0.5) / 4
    wanted = np.quantile(values, places, axis=0, method="hazen")
    np.testing.assert_allclose(measures.quantiles(values, 4), wanted)
    twice = np.repeat(values, 2, axis=0)
    np.testing.assert_allclose(measures.quantiles(twice, 7), np.sort(values, axis=0))
    # As many samples again of one distribution are near, compared with the spread.
    some, more = rng.normal(size=(400, 8)), rng.normal(size=(900, 8))
    assert measures.sliced_wasserstein(some, more) < 0.15


def test_the_gram_distance_is_the_root_of_the_relative_style_loss(rng):
    output, style = rng.random((5, 6, 4)), rng.random((7, 3, 4))
    grams = [losses.gram_matrix(map_) / map_[..., 0].size for map_ in (output, style)]
    wanted = math.sqrt(losses.relative_style_loss(*grams))
    found = measures.gram_distance(output.reshape(-1, 4), style.reshape(-1, 4))
    assert found == pytest.approx(wanted, rel=1e-5)


# ---------------------------------------------------------------------------------------- content


def test_the_correlation_is_pearsons(rng):
    a, b = rng.normal(size=(2, 50))
    assert measures.correlation(a, a + b) == pytest.approx(np.corrcoef(a, a + b)[0, 1])
    assert measures.correlation(a, -2 * a + 1) == pytest.approx(-1)
    flat = np.full(50, 0.3)
    assert (measures.correlation(flat, a), measures.correlation(flat, flat + 1)) == (0, 1)


def test_self_similarity_ignores_a_rotation_of_the_features(rng):
    features, other = rng.normal(size=(2, 30, 5))
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    lengths = rng.uniform(1, 2, (30, 1))
    assert measures.self_similarity(lengths * features @ rotation, features) == pytest.approx(1)
    # By hand, pair after pair of positions.
    distances = []
    for own in (other, features):
        pairs = itertools.combinations(own, 2)
        distances.append([1 - a @ b / math.sqrt(a @ a * (b @ b)) for a, b in pairs])
    wanted = np.corrcoef(*distances)[0, 1]
    assert measures.self_similarity(other, features) == pytest.approx(wanted)


def test_luma_and_chroma_have_the_limits_of_rec_709():
    colours = np.array([[1, 1, 1], [0, 0, 1], [1, 0, 0], [1, 1, 0], [0, 1, 1]], float)[None]
    np.testing.assert_allclose(measures.luma(colours)[0, 0], 1)
    blue, red = measures.chroma(colours)[0].T
    np.testing.assert_allclose(blue[[0, 1, 3]], [0, 0.5, -0.5], atol=1e-12)
    np.testing.assert_allclose(red[[0, 2, 4]], [0, 0.5, -0.5], atol=1e-12)


def test_luminance_and_colour_are_apart():
    picture = scene()
    darker = 0.5 * picture + 0.1  # a linear change keeps both
    assert measures.luminance(darker, picture) == pytest.approx(1)
    assert measures.colour(darker, picture) == pytest.approx(1)
    without = grey(measures.luma(picture))
    assert measures.luminance(without, picture) == pytest.approx(1)
    assert measures.colour(without, picture) == 0
    light = measures.luma(picture)[..., None]
    opposite = light - (picture - light)
    assert measures.luminance(opposite, picture) == pytest.approx(1)
    assert measures.colour(opposite, picture) == pytest.approx(-1)


def test_the_gradient_of_a_plane_and_of_a_step():
    y, x = np.mgrid[:20, :24]
    slope = measures.gradient_magnitude(grey(0.01 * x + 0.02 * y))
    np.testing.assert_allclose(slope[4:-4, 4:-4], 8 * math.hypot(0.01, 0.02))
    # A step of 1 between columns 11 and 12, blurred by 1 4 6 4 1 over 16 and then differenced.
    step = measures.gradient_magnitude(grey((x >= 12) * 1.0))
    np.testing.assert_allclose(step[10, 8:16], 4 * np.array([0, 1, 5, 10, 10, 5, 1, 0]) / 16)


def test_a_blur_lowers_the_correlation_of_edges():
    picture = scene()
    found = [measures.edges(blurred(picture, times), picture) for times in (0, 2, 8)]
    assert found[0] == pytest.approx(1)
    assert found[0] > found[1] > found[2]
    assert measures.luminance(blurred(picture, 8), picture) > found[2]


# -------------------------------------------------------------------------------------- artefacts


def test_doublings_count_only_more_than_the_style():
    assert measures.doublings(12.0, 3.0) == 2
    assert measures.doublings(3.0, 12.0) == 0
    assert measures.doublings(4.0, 0.0) == 3  # over half a grey level
    assert measures.doublings(0.3, 0.0) == 0


def test_speckle_is_of_isolated_pixels_alone():
    y, x = np.mgrid[:30, :40]
    picture = np.full((30, 40, 3), 0.5)
    picture[10, 10] += 0.2  # all three colours
    picture[20, 30, 1] -= 0.4
    squares = 3 * 0.2**2 + 0.4**2
    wanted = 255 * math.sqrt(squares / (28 * 38 * 3))
    assert measures.speckle(picture) == pytest.approx(wanted)
    # No pixel of an edge, of a line, of a slope or of a checkerboard is isolated.
    for plane in (x >= 20, x == 20, abs(x - y) == 0, (x + y) % 2):
        assert measures.speckle(grey(0.5 * plane)) == 0
    assert measures.speckle(grey(0.01 * x + 0.005 * y)) == 0


def test_ringing_is_the_overshoot_of_a_step():
    _, x = np.mgrid[:30, :40]
    step = 0.3 + 0.4 * (x >= 20)
    assert measures.ringing(grey(step)) == pytest.approx(0)
    assert measures.ringing(np.full((30, 40, 3), 0.5)) == 0
    # 10 % beyond both plateaus, in columns 18 and 21; the steepest place stays the middle.
    sharp = step.copy()
    sharp[:, 21] += 0.04
    sharp[:, 18] -= 0.04
    assert measures.ringing(grey(sharp)) == pytest.approx(0.1)
    assert measures.ringing(grey(1 - sharp).swapaxes(0, 1)) == pytest.approx(0.1)
    one_side = step.copy()
    one_side[:, 21] += 0.04
    assert measures.ringing(grey(one_side)) == pytest.approx(0.05)
    # The third pixels from the edge count, and the fourth are already the plateau.
    wide = step.copy()
    wide[:, 22] += 0.04
    wide[:, 17] -= 0.04
    assert measures.ringing(grey(wide)) == pytest.approx(0.1)
    # No more than a tenth is no edge.
    assert measures.ringing(grey(0.24 * (sharp - 0.3))) == 0


def test_the_border_against_what_is_inside(rng):
    picture = np.full((64, 96, 3), 0.5)
    assert measures.border_width(picture.shape) == 3
    assert measures.border_energy(picture) == measures.border_colour(picture) == 0
    framed = picture.copy()
    framed[:3] = framed[-3:] = 0
    framed[:, :3] = framed[:, -3:] = 0
    assert measures.border_colour(framed) == pytest.approx(127.5)
    for turns in range(4):
        one_side = np.rot90(picture, turns).copy()
        one_side[:, :3] = 0
        assert measures.border_colour(np.rot90(one_side, -turns)) == pytest.approx(127.5 / 4)
    # Noise of one deviation everywhere, but four times as strong in the frame: two doublings, a
    # little less because the noise of the frame reaches the detail beside it.
    noise = rng.normal(size=(64, 96, 1)) * 0.02
    assert measures.border_energy(picture + noise) < 0.2
    noise[3:-3, 3:-3] /= 4
    assert 1 < measures.border_energy(picture + noise) < 2
    smooth = rng.normal(size=(64, 96, 1)) * 0.02
    smooth[3:-3, 3:-3] *= 4
    assert 1 < measures.border_energy(picture + smooth) < 2  # too smooth is a defect, too


def test_clipped_values_are_those_that_a_file_holds_as_0_or_255():
    values = np.array([-0.1, 0, 0.4 / 255, 0.6 / 255, 0.5, 254.4 / 255, 254.6 / 255, 1, 1.2])
    assert measures.clipped(np.repeat(values, 3).reshape(3, 3, 3)) == pytest.approx(6 / 9)


def defects(picture):
    """A finished picture with one defect each; the names are the measures that must see it."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:64, :64]
    salt = picture.copy()
    salt[rng.random((64, 64)) < 0.02] = (0.1, 0.9, 0.9)
    frame = picture.copy()
    frame[:3] = frame[-3:] = 0.1
    frame[:, :3] = frame[:, -3:] = 0.1
    grain = 0.2 * rng.normal(size=picture.shape)
    grain[3:-3, 3:-3] = 0
    return {
        "checkerboard": picture + grey(np.where((x + y) % 2, 0.05, -0.05)),
        "speckle": salt,
        "ringing": picture + 1.5 * (picture - blurred(picture, 4)),
        "border_energy": picture + grain,
        "border_colour": frame,
        "clipped": np.where(picture > 0.5, 1.0, 0.0),
    }


def test_each_defect_raises_its_measure_most():
    picture, style = scene(), texture(0)
    own, named = judge._artefacts, judge.GROUPS["artefacts"]
    clean = own(picture, picture, style)
    steps = {name: measure.step for name, measure in named.items()}
    assert all(value < steps[name] for name, value in clean.items() if name != "ringing")
    found = {name: own(image, picture, style) for name, image in defects(picture).items()}
    for name, figures in found.items():
        assert figures[name] >= clean[name] + 4 * steps[name], name
        assert figures[name] == max(other[name] for other in found.values()), name
    # What a dither, a frame and a sharpening leave alone.
    assert found["checkerboard"]["speckle"] == found["checkerboard"]["border_colour"] == 0
    assert found["border_colour"]["speckle"] == found["border_colour"]["clipped"] == 0
    assert found["ringing"]["border_energy"] < steps["border_energy"]
    assert found["speckle"]["border_colour"] < steps["border_colour"]


def test_noise_raises_speckle_and_checkerboard_but_no_colour():
    picture, style = scene(), texture(0)
    rng = np.random.default_rng(0)
    levels = [
        judge._artefacts(picture + 0.04 * k * rng.normal(size=picture.shape), picture, style)
        for k in (0, 1, 3)
    ]
    for name in ("speckle", "checkerboard"):
        values = [found[name] for found in levels]
        assert values[0] < values[1] < values[2], name
    assert all(found["clipped"] == 0 for found in levels[:2])
    assert all(found["border_colour"] < 3 for found in levels)


def test_what_the_inputs_have_is_no_artefact():
    for name, image in defects(scene()).items():
        assert judge._artefacts(image, image, image)[name] == 0


# ------------------------------------------------------------------------------------ the network


@pytest.fixture(scope="module")
def described(vgg16):
    """What the network sees of pictures by name, all of 64x64 so that it compiles once."""
    pictures = {"scene": scene(), "style": texture(0), "other": texture(1)}
    pictures["noisy"] = texture(0) + 0.1 * np.random.default_rng(0).normal(size=(64, 64, 3))
    pictures["blurred"] = blurred(scene(), 4)
    return {name: judge.describe(name, picture, vgg16) for name, picture in pictures.items()}


def test_the_features_are_those_of_three_scales(vgg16, described):
    seen = described["style"].features
    assert {scale: list(layers) for scale, layers in seen.items()} == {
        "full": [f"block{block}_conv1" for block in (1, 2, 3, 4, 5)],
        "half": [f"block{block}_conv1" for block in (1, 2, 3, 4)],
        "quarter": [f"block{block}_conv1" for block in (1, 2, 3)],
    }
    half = nst_jax.image.resize(texture(0).astype(np.float32), 32, 32)
    wanted = jax.jit(lambda x: vgg.features(vgg16, x, layers=("block2_conv1",)))(half)
    wanted = np.asarray(wanted["block2_conv1"]).reshape(-1, 128)
    np.testing.assert_allclose(seen["half"]["block2_conv1"], wanted, atol=1e-4 * wanted.max())


def test_a_second_picture_of_a_size_compiles_nothing(vgg16, described, compilations):
    with compilations() as count:
        judge.describe("output", scene() / 2, vgg16)
    assert described and count() == 0


def test_the_style_itself_and_the_content_itself_are_the_ends(described):
    style, content = described["style"], described["scene"]
    figures = judge.judge_described(style, content, style)
    assert figures["effectiveness"] == pytest.approx(-math.log(1e-6))
    for name, value in figures.items():
        if name.startswith(("sliced", "gram")):
            assert value == 0, name
    itself = judge.judge_described(content, content, style)
    for name in judge.GROUPS["content"]:
        assert itself[name] == pytest.approx(1), name
        assert figures[name] < 0.7, name
    assert itself["effectiveness"] < figures["effectiveness"]
    assert itself["border_energy"] == itself["border_colour"] == 0


def test_a_nearer_style_and_a_nearer_content_are_better(described):
    style, content = described["style"], described["scene"]
    near, far = (
        judge.judge_described(described[name], content, style) for name in ("noisy", "other")
    )
    for name, measure in judge.GROUPS["style"].items():
        better = near[name] > far[name] if measure.better == "higher" else near[name] < far[name]
        assert better, name
    soft = judge.judge_described(described["blurred"], content, style)
    for name in ("self_similarity", "edges", "luminance"):
        assert 1 > soft[name] > far[name], name


def test_the_size_of_the_style_changes_little(vgg16, described):
    larger = judge.describe("style", texture(0, 64, 96), vgg16)
    output, content = described["other"], described["scene"]
    one, two = (
        judge.judge_described(output, content, style) for style in (described["style"], larger)
    )
    same = judge.judge_described(described["style"], content, larger)
    for name in ("sliced_wasserstein", "gram"):
        assert two[name] == pytest.approx(one[name], rel=0.15), name
        assert same[name] < 0.35 * one[name], name
    assert abs(two["effectiveness"] - one["effectiveness"]) < 1
    assert same["effectiveness"] > one["effectiveness"] + 1


def test_all_figures_have_names_and_are_finite(vgg16, described):
    output, content, style = (described[name].pixels for name in ("noisy", "scene", "style"))
    found = judge.judge(output, content, style, vgg16)
    assert {name for group in judge.GROUPS.values() for name in group} <= found.keys()
    assert {"gram_quarter", "sliced_wasserstein_half", "effectiveness_block5_conv1"} <= found.keys()
    assert all(type(value) is float and math.isfinite(value) for value in found.values())
    flat = judge.describe("flat", np.full((64, 64, 3), 0.5), vgg16)
    for output, style in ((flat, described["style"]), (described["style"], flat)):
        figures = judge.judge_described(output, flat, style)
        assert all(math.isfinite(value) for value in figures.values())


def test_wrong_pictures_are_refused(vgg16, described):
    with pytest.raises(ValueError, match="style must have at least 32 pixels a side, got 31x64"):
        judge.describe("style", np.zeros((31, 64, 3)), vgg16)
    with pytest.raises(ValueError, match=r"output must have shape \[H, W, 3\]"):
        judge.describe("output", np.zeros((64, 64)), vgg16)
    with pytest.raises(TypeError, match="floating point"):
        judge.describe("output", np.zeros((64, 64, 3), np.uint8), vgg16)
    wide = dataclasses.replace(described["style"], pixels=np.zeros((64, 96, 3)))
    with pytest.raises(ValueError, match="output must have the content's size, 64x64, got 64x96"):
        judge.judge_described(wide, described["scene"], described["style"])


# -------------------------------------------------------------------------------- ranks and files


def test_ranks_share_what_is_nearer_than_a_step():
    lower, higher = judge.Measure("lower", 0.1), judge.Measure("higher", 0.1)
    assert judge.ranks([3.0, 1.0, 2.0], lower) == [3, 1, 2]
    assert judge.ranks([3.0, 1.0, 2.0], higher) == [1, 3, 2]
    assert judge.ranks([1.0, 1.05, 2.0], lower) == [1.5, 1.5, 3]
    assert judge.ranks([0.0, 0.0, 0.0], lower) == [2, 2, 2]
    chained = judge.ranks([1.0, 1.08, 1.16, 1.24], lower)
    assert sum(chained) == 10 and chained == sorted(chained)
    assert judge.ranks([5.0], lower) == [1]


def test_the_rank_of_a_group_leaves_colour_out():
    worst = {"higher": -1.0, "lower": 9.0, "neither": 0.0}
    members = {name: m.better for group in judge.GROUPS.values() for name, m in group.items()}
    bad = {name: worst[better] for name, better in members.items()}
    good = dict.fromkeys(members, 0.5)
    assert judge.group_ranks({"a": good, "b": bad}) == {
        "a": {"style": 1, "content": 1, "artefacts": 1},
        "b": {"style": 2, "content": 2, "artefacts": 2},
    }
    # One of three measures of style, with 1.5 for the two that are equal.
    found = judge.group_ranks({"a": good, "b": good | {"gram": 9.0, "colour": -1.0}})
    assert found["a"]["style"] == pytest.approx((1.5 + 1.5 + 1) / 3)
    assert found["a"]["content"] == found["b"]["content"] == 1.5


def test_a_summary_has_means_and_deviations():
    pair = {"programs": {"a": {"gram": 1.0}}, "(content)": {"gram": 5.0}}
    pair["ranks"] = {"a": {"style": 1.0, "content": 2.0, "artefacts": 1.0}}
    other = pair | {"programs": {"a": {"gram": 3.0, "gram_half": 2.0}}}
    found = judge.summary([pair, other])
    assert found["a"]["gram"] == {"mean": 2, "deviation": pytest.approx(math.sqrt(2))}
    assert found["a"]["gram_half"] == {"mean": 2, "deviation": None}
    assert found["a"]["rank_content"]["mean"] == 2
    assert "rank_style" not in found["(content)"]


@pytest.fixture
def folders(tmp_path):
    """Two programs: one leaves the content as it is, one writes the style."""
    write_image(tmp_path / "contents" / "scene.png", scene())
    write_image(tmp_path / "styles" / "waves.png", texture(0, 128, 128))
    write_image(tmp_path / "styles" / "unused.png", texture(1))
    write_image(tmp_path / "same" / "scene__waves.png", scene())
    write_image(tmp_path / "same" / "contact_sheet.png", scene())
    waves = nst_jax.image.resize(texture(0, 128, 128).astype(np.float32), 64, 64)
    write_image(tmp_path / "painter" / "scene__waves.jpg", waves)
    return tmp_path


def arguments(folder, *more):
    return (
        f"--contents={folder}/contents",
        f"--styles={folder}/styles",
        f"--programs=same:{folder}/same,painter:{folder}/painter",
        *more,
    )


def test_the_table_the_file_and_the_sheet(folders, capsys):
    path, sheet = folders / "result.json", folders / "sheet.png"
    given = arguments(folders, f"--json={path}", f"--sheet={sheet}", "--cell=48")
    report = benchmarking.run(judge, *given)
    written = json.loads(path.read_text("utf-8"))
    assert written == json.loads(json.dumps(report))
    (pair,) = written["pairs"]
    assert (pair["content"], pair["style"]) == ("scene", "waves")
    assert pair["shape"] == pair["style_shape"] == [64, 64]
    assert written["model"] == "vgg16"  # nst_jax paints with VGG19
    same, painter = pair["programs"]["same"], pair["programs"]["painter"]
    assert same["luminance"] == pair["(content)"]["luminance"] == pytest.approx(1)
    assert painter["sliced_wasserstein"] < 0.2 < same["sliced_wasserstein"]
    assert pair["ranks"]["painter"]["style"] == pair["ranks"]["same"]["content"] == 1
    assert written["summary"]["painter"]["gram"] == {"mean": painter["gram"], "deviation": None}
    printed = capsys.readouterr().out
    assert "same: 1 more pictures are of no pair" in printed
    rows = [line.split() for line in printed.splitlines()]
    wanted = [f"{painter[name]:.3f}" for name in judge.GROUPS["style"]] + ["1.000"]
    assert ["painter", *wanted] in rows
    assert read_image(sheet).shape == (28 + 56, 8 + 4 * 56, 3)
    assert read_image(folders / "same" / "scene__waves.png").shape == (64, 64, 3)


def refused(*given):
    with pytest.raises(ValueError) as error:
        benchmarking.run(judge, *given)
    (line,) = str(error.value).splitlines()
    return line


def test_bad_flags_are_one_line(folders):
    contents, styles, programs = arguments(folders)
    assert refused(contents, programs) == "needs --styles=FOLDER"
    assert refused(contents, styles) == "--programs must be name:folder,name:folder, got none"
    assert "with each name once" in refused(contents, styles, "--programs=a:x,a:y")
    assert "with each name once" in refused(contents, styles, f"--programs={folders}/same")
    assert "--model must be one of vgg16, vgg19" in refused(*arguments(folders, "--model=vgg15"))
    line = refused(contents, styles, f"--programs=a:{folders}/nowhere")
    assert line == f"--programs: no such folder: {folders}/nowhere"
    (folders / "empty").mkdir()
    line = refused(contents, f"--styles={folders}/empty", programs)
    assert line == f"--styles: {folders}/empty holds no picture"


def test_bad_pictures_are_one_line_before_the_work(folders, monkeypatch):
    monkeypatch.setattr(judge, "describe", None)
    write_image(folders / "same" / "scene__unused.png", scene())
    line = refused(*arguments(folders))
    assert line.startswith("--programs: painter has no scene__unused, but same has")
    write_image(folders / "painter" / "scene__unused.png", texture(0, 96, 96))
    line = refused(*arguments(folders))
    assert "scene__unused.png: 96x96 pixels, but " in line and "must have one size" in line
    for name in ("same", "painter"):
        write_image(folders / name / "scene__unused.png", texture(0, 64, 96))
    line = refused(*arguments(folders))
    assert line.endswith("scene.png would have 96x96: it is cropped or stretched")
    line = refused(*arguments(folders)[:2], f"--programs=a:{folders}/styles")
    assert line.startswith("--programs: no picture is named <content>__<style>")
    for name in ("same", "painter"):
        write_image(folders / name / "scene__unused.png", scene())
    write_image(folders / "styles" / "unused.png", texture(0, 40, 160))
    line = refused(*arguments(folders))
    assert "unused.png: 16x64 pixels beside the picture, must be at least 32 a side" in line
    write_image(folders / "styles" / "unused.jpg", texture(0))
    assert "have the same name" in refused(*arguments(folders))


@pytest.mark.slow
def test_the_command_ends_with_one_line(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.judge", f"--contents={tmp_path}/no", "--styles=no"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert ended.stderr == "judge: --programs must be name:folder,name:folder, got none\n"
