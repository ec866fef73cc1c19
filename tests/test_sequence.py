"""Sequences through the API, against runs of `stylize` that are put together by hand."""

import jax.numpy as jnp
import numpy as np
import own
import pytest

import nst_jax
from nst_jax import color, examples, flow, sequence
from nst_jax.sequence import Earlier, Follower, frame_task
from nst_jax.terms import Content, GramStyle, Temporal

CONFIG = own.ALONE.replace(
    terms=(
        Content(layers=("block1_conv2",)),
        GramStyle(weight=50.0, layers=("block1_conv1",)),
        Temporal(weight=200.0),
    ),
    size=32,
    first_steps=6,
    steps=3,
    learning_rate=1.0,
    clip=True,
)


@pytest.fixture(scope="module")
def film():
    """Whole pixels at 32 pixels: the meadow moves by 1, the butterfly by 2."""
    return examples.butterfly_film(32, frames=4, background=(-0.0625, 0.0), insect=(0.125, 0.0))


@pytest.fixture(scope="module")
def styles():
    return [examples.rainbow(32), examples.triangles(32)]


def pairs(film):
    return list(zip(film.forward, film.backward, strict=True))


def painted(params, frames, styles, config, *arguments, **options):
    return list(nst_jax.stylize_sequence(params, frames, styles, config, *arguments, **options))


def test_a_frame_starts_from_the_one_before_and_is_held_there(vgg16, film, styles):
    """Three frames in two styles, put together by hand."""
    found = painted(vgg16, film.frames[:3], styles, CONFIG, pairs(film))
    assert [frame.shape for frame in found] == [(2, 32, 32, 3)] * 3
    params = nst_jax.prepare(vgg16, CONFIG)
    task = frame_task(film.frames[0], CONFIG)
    assert task.initial is None and not np.any(task.inputs["temporal"]["reliable"].values)
    first = nst_jax.stylize(params, film.frames[0], styles, CONFIG, inputs=task.inputs)
    np.testing.assert_array_equal(found[0], first.images)
    images = first.images
    for number in (1, 2):
        forward, backward = film.forward[number - 1], film.backward[number - 1]
        trust = flow.reliable(backward, forward)
        moved = jnp.clip(flow.warp(images, backward), 0, 1)
        recoloured = [color.match_colors(film.frames[number], image) for image in moved]
        recoloured = jnp.clip(jnp.stack(recoloured), 0, 1)
        start = jnp.where(trust[None, ..., None] > 0, moved, recoloured)
        data = {
            "warped": nst_jax.terms.Field(moved[:, :, :, None], "image", "picture", True),
            "reliable": nst_jax.terms.Field(trust[..., None], "image", "mask"),
        }
        free = 1 - float(trust.mean())
        images = nst_jax.stylize(
            *(params, film.frames[number], styles),
            CONFIG.replace(first_steps=None, learning_rate=max(free, 1 / 16) ** 0.5),
            inputs={"temporal": data},
            initial=list(start),
        ).images
        np.testing.assert_array_equal(found[number], images)


def test_every_frame_after_the_second_compiles_nothing(vgg16, film, styles, compilations):
    frames = nst_jax.stylize_sequence(vgg16, film.frames, styles[:1], CONFIG, pairs(film))
    next(frames)
    next(frames)
    with compilations() as count:
        next(frames)
        next(frames)
    assert count() == 0


def warping_error(film, pictures):
    """The mean square of the difference from the frame before, where its flow is reliable."""
    found = []
    for number, (forward, backward) in enumerate(pairs(film)[: len(pictures) - 1]):
        trust = np.asarray(flow.reliable(backward, forward)) > 0
        moved = np.asarray(flow.warp(pictures[number], backward))
        found.append(np.square(pictures[number + 1] - moved)[:, trust].mean())
    return np.mean(found)


def test_it_flickers_less_than_frames_that_are_painted_one_by_one(vgg16, film, styles):
    alone = CONFIG.replace(temporal=None)
    one_by_one = [nst_jax.stylize(vgg16, frame, styles, alone).images for frame in film.frames]
    steady = painted(vgg16, film.frames, styles, CONFIG, pairs(film))
    assert warping_error(film, steady) < 0.4 * warping_error(film, one_by_one)


def test_without_a_flow_what_stands_still_is_held(vgg16, film, styles):
    frames = np.stack([film.frames[0]] * 3)
    frames[1:, 8:20, 10:22] = frames[1:, 8:20, 10:22][:, ::-1]  # a part that changes once
    first, second, third = painted(vgg16, frames, styles[:1], CONFIG)
    around = np.ones((32, 32), bool)
    around[4:24, 6:26] = False
    assert np.abs(second - first)[0, around].mean() < 2 / 255
    assert np.abs(second - first)[0, ~around].mean() > 10 / 255  # it is seen at once
    assert np.abs(third - second).mean() < 2 / 255


def test_a_cut_begins_anew(vgg16, film, styles):
    other = 1 - film.frames[2]
    frames = [film.frames[0], other, film.frames[1]]
    found = painted(vgg16, frames, styles[:1], CONFIG)
    for number, frame in ((0, frames[0]), (1, other), (2, frames[2])):
        (alone,) = painted(vgg16, [frame], styles[:1], CONFIG)
        np.testing.assert_array_equal(found[number], alone)
    # Unless it is said that there is none, or where they are.
    follower = Follower(CONFIG, None, cuts=[2])
    begins = []
    for frame in frames:
        follower.add(frame)
        begins.append(follower.is_first)
    assert begins == [True, False, True]


@pytest.mark.slow
def test_frames_that_start_from_noise_have_the_same_noise(vgg16, film, styles):
    config = CONFIG.replace(init="noise", steps=1, first_steps=None)
    (first,) = painted(vgg16, [film.frames[0]], styles[:1], config)
    _, second = painted(vgg16, film.frames[:2], styles[:1], config, cuts=[1])
    (alone,) = painted(vgg16, [film.frames[1]], styles[:1], config)
    np.testing.assert_array_equal(second, alone)
    # One step from the same noise: they are as alike as two steps can leave them.
    assert np.abs(first - second).mean() < 0.05


def test_far_frames_count_where_near_ones_do_not(film):
    config = CONFIG.replace(temporal=Temporal(long_term=1))
    follower = Follower(config, pairs(film))
    for frame in film.frames[:3]:
        follower.add(frame)
    names = {1: np.full((1, 32, 32, 3), 0.25), 2: np.full((1, 32, 32, 3), 0.75)}
    near, far = follower.earlier(names.__getitem__)
    trust_near = np.asarray(flow.reliable(film.backward[1], film.forward[1]))
    there = flow.follow(film.forward[0], film.forward[1])
    back = flow.follow(film.backward[1], film.backward[0])
    np.testing.assert_array_equal(near.reliable, trust_near)
    np.testing.assert_array_equal(far.flow, back)
    wanted = np.maximum(np.asarray(flow.reliable(back, there)) - trust_near, 0)
    np.testing.assert_array_equal(far.reliable, wanted)
    task = frame_task(film.frames[2], config, earlier=[near, far])
    data = task.inputs["temporal"]
    assert data["warped"].values.shape == (1, 32, 32, 2, 3)
    np.testing.assert_array_equal(data["warped"].values[..., 1, :], 0.75)
    np.testing.assert_array_equal(data["reliable"].values[..., 1], wanted)
    # In the second frame of a film there is no frame two before it.
    task = frame_task(film.frames[1], config, earlier=[near, None])
    assert not task.inputs["temporal"]["reliable"].values[..., 1].any()


def test_a_far_frame_is_looked_for_by_itself(film):
    """A flow that is found: the two that lie next to each other do not match, the far ones do."""

    def find(frame, other):
        far = np.array_equal(frame, film.frames[0]) or np.array_equal(other, film.frames[0])
        return np.zeros((32, 32, 2), np.float32) if far else np.full((32, 32, 2), 5, np.float32)

    follower = Follower(CONFIG.replace(temporal=Temporal(long_term=1)), find)
    for frame in film.frames[:3]:
        follower.add(frame)
    near, far = follower.earlier(lambda distance: np.zeros((1, 32, 32, 3)))
    assert not near.reliable.any() and far.reliable.all()


@pytest.mark.slow
def test_later_passes_meet_the_neighbours_halfway(vgg16, film, styles):
    """Two passes over three frames, the second one back, put together by hand."""
    frames, style = film.frames[:3], styles[:1]
    found = painted(vgg16, frames, style, CONFIG, pairs(film), passes=2)
    images = painted(vgg16, frames, style, CONFIG, pairs(film))
    params = nst_jax.prepare(vgg16, CONFIG)
    for at in (1, 0):
        forward, backward = pairs(film)[at]
        trust = flow.reliable(forward, backward)
        near = Earlier(images[at + 1], forward, trust)
        task = frame_task(frames[at], CONFIG, earlier=[near], own=images[at])
        half = 0.5 * np.asarray(trust)[..., None]
        moved = np.asarray(flow.warp(images[at + 1], forward))
        np.testing.assert_allclose(task.initial, (1 - half) * images[at] + half * moved, atol=1e-6)
        images[at] = np.asarray(
            nst_jax.stylize(
                *(params, task.frame, style, task.config),
                inputs=task.inputs,
                initial=task.initial,
            ).images
        )
    for ours, theirs in zip(found, images, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_how_many_steps_a_later_frame_takes():
    default = nst_jax.presets["default"].replace(size=256)
    assert sequence.next_steps(default) == 60  # 150 and 60
    assert sequence.next_steps(nst_jax.presets["gatys"]) == 500  # half of 1000
    assert sequence.next_steps(default.replace(size=64, steps=1, first_steps=None)) == 1


def test_flows_of_the_frames_size_are_resized(film):
    config = CONFIG.replace(size=16)
    follower = Follower(config, pairs(film))
    for frame in film.frames[:2]:
        follower.add(frame)
    (near,) = follower.earlier(lambda distance: np.zeros((1, 16, 16, 3)))
    assert near.flow.shape == (16, 16, 2)
    np.testing.assert_allclose(near.flow[0, 0], [0.5, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("frames", "options", "error", "message"),
    [
        ("other size", {}, ValueError, r"frames\[1\] must have the shape of the first frame"),
        ("as they are", {"flows": 3}, TypeError, "flows must be a function of two frames, a pair"),
        (
            "as they are",
            {"flows": []},
            ValueError,
            r"flows must have a pair for frames\[1\], got 0",
        ),
        ("as they are", {"flows": [3]}, TypeError, r"flows must hold pairs .* for frames\[1\]"),
        (
            "as they are",
            {"flows": [(np.zeros((8, 8, 2)), np.zeros((8, 8, 2)))]},
            ValueError,
            r"flows for frames\[1\] must have the shape \(32, 32, 2\), got \(8, 8, 2\)",
        ),
        (
            "as they are",
            {"flows": [(np.full((32, 32, 2), np.nan), np.zeros((32, 32, 2)))]},
            ValueError,
            r"flows for frames\[1\] must be finite",
        ),
        (
            "as they are",
            {"passes": 0},
            ValueError,
            "passes must be a whole number, at least 1, got 0",
        ),
        (
            "as they are",
            {"steps": 0.5},
            ValueError,
            "steps must be a whole number, at least 1, got",
        ),
        ("as they are", {"config": {}}, TypeError, "config must be an nst_jax.Config, got {}"),
        ("integers", {}, TypeError, r"frames\[0\] must be floating point"),
    ],
)
def test_bad_arguments(monkeypatch, vgg16, film, styles, frames, options, error, message):
    monkeypatch.setattr(
        sequence, "stylize", lambda *_, **__: nst_jax.Result(*[np.zeros((1, 32, 32, 3))] * 7)
    )
    given = list(film.frames[:2])
    if frames == "other size":
        given[1] = np.zeros((32, 30, 3), np.float32)
    if frames == "integers":
        given = [np.zeros((32, 32, 3), np.uint8)]
    config = options.pop("config", CONFIG)
    with pytest.raises(error, match=message):
        painted(vgg16, given, styles, config, **options)


def test_earlier_frames_of_another_size_are_refused(film):
    small = Earlier(np.zeros((1, 8, 8, 3)), np.zeros((8, 8, 2)), np.zeros((8, 8)))
    with pytest.raises(ValueError, match=r"earlier\[0\] must have the frame's 32 x 32 pixels"):
        frame_task(film.frames[0], CONFIG, earlier=[small])
