"""A run returns its start where that is better than what its steps made of it."""

import json

import basic
import jax.numpy as jnp
import numpy as np
import pytest
from commandline import FAST

import nst_jax
from benchmarks.defaults import checkerboard
from nst_jax import optimize
from nst_jax.files.checkpoints import Checkpoints

PLAIN = basic.CONFIG.replace(
    normalize_gradient="none", momentum=0.0, schedule="constant", clip=False, steps=3
)
SMALL = nst_jax.presets["default"].replace(
    size=64, first_size=32, first_steps=None, steps=12, **basic.THREE_BLOCKS
)


def quadratic(image, target):
    """Half the squared distance in grey levels: a rate above 2 leads away."""
    value = 0.5 * jnp.sum(jnp.square(255.0 * (image - target)))
    return value, {"total": value}


@pytest.fixture
def problem(rng):
    return rng.random((2, 4, 3, 3), np.float32), rng.random((2, 4, 3, 3), np.float32)


def test_what_ends_above_its_start_returns_the_start(problem):
    images, targets = problem
    sweep = {"learning_rate": np.float32([3.0, 0.5])}
    seen = []
    states, history = optimize.run(
        quadratic, images, PLAIN, each=(targets,), sweep=sweep, callback=seen.append
    )
    assert history["total"][-1, 0] > history["total"][0, 0]  # the record is of what was tried
    np.testing.assert_array_equal(states.picture[0], images[0])
    np.testing.assert_array_equal(states.tree[0], images[0])
    np.testing.assert_allclose(
        states.picture[1] - targets[1], 0.5**3 * (images - targets)[1], atol=1e-6
    )
    assert states.kept_start.tolist() == [1, 0] and not states.diverged.any()
    # The loss of what is returned: the start's, and that after the last step.
    expected = history["total"][0] * [1, 0.5**6]
    np.testing.assert_allclose(states.value, expected, rtol=1e-4)
    assert [progress.kept_start.tolist() for progress in seen] == [[0, 0], [0, 0], [1, 0]]


def test_the_last_step_counts(problem):
    """The loss is below the first one's before the last step, and above it thereafter."""
    images, targets = problem

    def loss(image, target):  # the third step falls off an edge
        value, terms = quadratic(image, target)
        return value + jnp.where(value < 0.3, 1e6, 0.0), terms

    start = targets + 1 / 255
    config = PLAIN.replace(learning_rate=0.6, steps=4)
    states, history = optimize.run(loss, start, config, each=(targets,))
    assert np.all(history["total"][1] < history["total"][0])
    np.testing.assert_array_equal(states.picture, start)
    assert states.kept_start.tolist() == [1, 1]


@pytest.mark.parametrize("changes", [{"average_decay": 0.5}, {"jitter": 2}], ids=str)
def test_averages_and_jitter_return_their_last_picture(problem, changes):
    images, targets = problem

    def loss(image, target, key=None):
        return quadratic(image, target)

    config = PLAIN.replace(learning_rate=3.0, **changes)
    seen = []
    states, history = optimize.run(
        loss, images, config, each=(targets,), callback=lambda p: seen.append(np.array(p.images))
    )
    assert np.all(history["total"][-1] > history["total"][0])
    np.testing.assert_array_equal(states.picture, seen[-1])
    assert np.all(states.value > history["total"][0]) and not states.kept_start.any()


def test_given_gradients_do_the_same(problem):
    images, targets = problem

    def value_and_grad(image, target):
        value, terms = quadratic(image, target)
        return (np.asarray(value), {"total": np.asarray(value)}), 255.0**2 * (image - target)

    sweep = {"learning_rate": np.float32([3.0, 0.5])}
    one, _ = optimize.run(quadratic, images, PLAIN, each=(targets,), sweep=sweep)
    other, _ = optimize.run_given_gradients(
        value_and_grad, images, PLAIN, each=[(target,) for target in targets], sweep=sweep
    )
    np.testing.assert_allclose(other.picture, one.picture, atol=1e-6)
    np.testing.assert_allclose(other.value, one.value, rtol=1e-4)
    assert other.kept_start.tolist() == one.kept_start.tolist() == [1, 0]


def disc(size=64):
    rows, columns = np.mgrid[:size, :size] / (size - 1) - 0.5
    inside = np.hypot(rows, columns) < 0.3
    return np.repeat(np.where(inside, 0.7, 0.3)[..., None], 3, axis=-1).astype(np.float32)


@pytest.mark.slow
def test_a_perfect_picture_stays_perfect_beside_another_too(vgg16, rng):
    """At the second scale, too, it starts as the picture that none of the steps has moved."""
    picture = disc()
    style = np.kron(rng.random((8, 8, 3)), np.ones((8, 8, 1))).astype(np.float32)
    result = nst_jax.stylize(vgg16, picture, [picture, style], SMALL)
    np.testing.assert_array_equal(result.images[0], picture)
    assert result.kept_start.tolist() == [2, 0]
    total = result.history["total"][-SMALL.steps :]
    assert result.loss[0] == total[0, 0] and total[:, 0].max() > 2 * total[0, 0]  # steps there were
    assert result.loss[1] < total[0, 1]


def test_a_run_that_goes_on_from_its_end_counts_once(tmp_path, problem):
    images, targets = problem
    config = PLAIN.replace(learning_rate=3.0)
    runs = []
    for _ in range(2):
        with Checkpoints(tmp_path, {}, every=2) as checkpoints:
            states, _ = optimize.run(
                quadratic,
                images,
                config,
                each=(targets,),
                resume=checkpoints.latest(),
                callback=checkpoints,
            )
        runs.append(states)
    for states in runs:
        assert states.kept_start.tolist() == [1, 1]
        np.testing.assert_array_equal(states.picture, images)


@pytest.mark.slow
@pytest.mark.usefixtures("many_steps")
def test_flat_contents_reach_what_a_grey_start_reaches(vgg16, rng):
    """Pixels at the limits of the range, too, can leave them."""
    levels = np.float32([[0.0, 0.0, 0.0], [1.0, 0.0, 0.2]])
    contents = [np.broadcast_to(level, (24, 24, 3)) for level in levels]
    style = np.kron(rng.random((8, 8, 3)), np.ones((8, 8, 1))).astype(np.float32)
    config = SMALL.replace(size=None, first_size=None, steps=60)
    own = nst_jax.stylize(vgg16, contents, [style], config)
    grey = nst_jax.stylize(vgg16, contents, [style], config, initial=np.full_like(contents[0], 0.5))
    assert np.all(own.loss <= 1.2 * grey.loss)
    for image, content in zip(own.images, contents, strict=True):
        at_limit = (content == 0) | (content == 1)
        assert np.mean((np.asarray(image) != content)[at_limit]) > 0.8


@pytest.mark.slow
@pytest.mark.usefixtures("many_steps")
def test_the_preset_lbfgs_keeps_its_loss_within_a_fifth_of_the_lowest(vgg19, rng):
    """Without a limit on its steps the loss rose to 1.5, 2 and 12 times the lowest here."""

    def soft(size):
        return np.asarray(nst_jax.image.resize(rng.random((size, size, 3), np.float32), 48, 64))

    styles = [np.kron(rng.random((8, 8, 3)), np.ones((6, 8, 1))).astype(np.float32), soft(12)]
    config = nst_jax.presets["lbfgs"].replace(size=64, first_size=None, first_steps=None)
    assert config.steps == 60
    result = nst_jax.stylize(vgg19, 0.3 * soft(6), styles, config)
    losses = result.history["total"]
    lowest = np.minimum.accumulate(losses)
    assert np.all(losses[1:] <= 1.2 * lowest[:-1])
    assert np.all(result.loss < 0.2 * losses[0])
    for image, style in zip(result.images, styles, strict=True):  # and leaves no dither
        assert checkerboard(image) < max(checkerboard(style), 12.0)


@pytest.mark.slow
def test_the_records_say_so(run, tmp_path):
    from nst_jax.files.images import read_image, write_image

    picture = tmp_path / "disc.png"
    write_image(picture, disc())
    code, err = run(
        f"--content={picture}",
        f"--styles={picture}",
        f"--output_dir={tmp_path / 'out'}",
        *FAST,
        "--mesh=style:1",
        "--size=64",
        "--first_size=32",
        "--steps=3",
        "--report",
    )
    assert code == 0, err
    assert "no better at 2 scales: start kept" in err
    assert "disc__disc: the loss rose at 2 of 2 scales, which returned the picture unchanged" in err
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["kept_start"] == 2
    assert "no better at 2 scales: start kept" in (tmp_path / "out" / "report.html").read_text()
    np.testing.assert_array_equal(
        read_image(tmp_path / "out" / "disc__disc.png"), read_image(picture)
    )
