import functools
import itertools

import basic
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nst_jax import image as image_lib
from nst_jax import optimize, optimizers
from nst_jax.optimizers import LBFGS, SGD, Adam

PLAIN = basic.CONFIG.replace(
    normalize_gradient="none", momentum=0.0, schedule="constant", clip=False, steps=5
)


def quadratic(image, target):
    """Half the squared distance in grey levels; its gradient by level is the distance itself."""
    value = 0.5 * jnp.sum(jnp.square(255.0 * (image - target)))
    return value, {"total": value}


@pytest.fixture
def problem(rng):
    images = rng.random((2, 4, 3, 3), np.float32)
    targets = rng.random((2, 4, 3, 3), np.float32)
    return images, targets


def test_sgd_moves_by_grey_levels(problem):
    images, targets = problem
    config = PLAIN.replace(learning_rate=0.1, steps=7)
    states, history = optimize.run(quadratic, images, config, each=(targets,))
    # x <- x - rate * (x - target): the error shrinks by 0.9 a step.
    np.testing.assert_allclose(states.tree - targets, 0.9**7 * (images - targets), atol=1e-6)
    first = 0.5 * np.square(255 * (images - targets)).sum(axis=(1, 2, 3))
    expected = first * (0.9 ** (2 * np.arange(7)))[:, None]
    np.testing.assert_allclose(history["total"], expected, rtol=1e-4)


def test_a_picture_settles_once_its_loss_hardly_falls(problem):
    images, targets = problem
    config = PLAIN.replace(learning_rate=0.1, steps=25)
    # Each step multiplies the loss by 0.81, so ten steps take 1 - 0.81^10 = 0.8784 of it.
    sweep = {"tolerance": [0.0, 0.87, 0.89]}
    images, targets = (np.concatenate([array, array[:1]]) for array in (images, targets))
    states, history = optimize.run(quadratic, images, config, each=(targets,), sweep=sweep)
    np.testing.assert_array_equal(states.taken, [25, 25, 10])
    np.testing.assert_array_equal(states.settled, [False, False, True])
    left = 0.9 ** np.array([25, 25, 10])[:, None, None, None]
    np.testing.assert_allclose(states.tree - targets, left * (images - targets), atol=1e-6)
    np.testing.assert_array_equal(history["total"][10:, 2], history["total"][10, 2])


@pytest.mark.parametrize("chunk", [1, 4])
def test_a_run_ends_where_all_pictures_have_settled(problem, chunk):
    images, targets = problem
    seen = []
    config = PLAIN.replace(learning_rate=0.1, steps=40, tolerance=0.89)
    states, history = optimize.run(
        quadratic, images, config, each=(targets,), callback=seen.append, chunk=chunk
    )
    # Step 11 compares the loss after ten steps with the first one.
    assert [progress.step for progress in seen] == [*range(chunk, 11, chunk), 40]
    assert sum(len(progress.terms["total"]) for progress in seen) == 40
    np.testing.assert_array_equal(states.taken, 10)
    assert history["total"].shape == (40, 2) and np.isfinite(states.value).all()
    np.testing.assert_array_equal(history["total"][10:], history["total"][[10] * 30])
    # A perfect picture has nothing to lower.
    states, _ = optimize.run(quadratic, targets, config, each=(targets,))
    np.testing.assert_array_equal(states.taken, 10)
    # The next scale moves again, and the count goes on.
    states, _ = optimize.run(quadratic, images, config, each=(targets,), previous=states)
    np.testing.assert_array_equal(states.taken, 20)


def test_momentum_is_the_heavy_ball(problem):
    images, targets = problem
    config = PLAIN.replace(learning_rate=0.1, momentum=0.5, steps=6)
    states, _ = optimize.run(quadratic, images, config, each=(targets,))
    x, velocity = images.astype(np.float64), 0.0
    for _ in range(6):
        velocity = 0.5 * velocity + (x - targets)
        x = x - 0.1 * velocity
    np.testing.assert_allclose(states.tree, x, atol=1e-6)


def test_normalized_gradient_moves_by_the_learning_rate_on_average(problem):
    images, targets = problem
    config = PLAIN.replace(learning_rate=2.0, normalize_gradient="whole", steps=1)
    states, _ = optimize.run(quadratic, images, config, each=(targets,))
    moved = 255 * (np.asarray(states.tree) - images)
    np.testing.assert_allclose(np.sqrt(np.square(moved).mean(axis=(1, 2, 3))), 2.0, rtol=1e-4)


@pytest.mark.parametrize("numbers", [{}, {"beta1": 0.7, "beta2": 0.8, "epsilon": 5.0}], ids=str)
def test_adam_is_optax_adam_in_grey_levels(problem, numbers):
    images, targets = problem
    config = PLAIN.replace(
        optimizer=Adam(
            learning_rate=3.0, schedule="constant", normalize_gradient="none", **numbers
        ),
        steps=4,
    )
    states, _ = optimize.run(quadratic, images, config, each=(targets,))
    x = 255 * images[1]
    names = {"beta1": "b1", "beta2": "b2", "epsilon": "eps"}
    adam = optax.adam(3.0, **{names[name]: number for name, number in numbers.items()})
    opt_state = adam.init(x)
    for _ in range(4):
        update, opt_state = adam.update(x - 255 * targets[1], opt_state, x)
        x = x + update
    np.testing.assert_allclose(255 * states.tree[1], x, atol=1e-3)


def test_lbfgs_solves_a_quadratic_fast(problem):
    images, targets = problem
    config = PLAIN.replace(optimizer=LBFGS(schedule="constant"), steps=10)
    states, _ = optimize.run(quadratic, images, config, each=(targets,))
    np.testing.assert_allclose(states.tree, targets, atol=1e-4)


def wells(image, centre):
    """Between two minima 20 levels away from the centre, where it is concave."""
    distance = 255.0 * (image - centre)
    value = jnp.sum(jnp.square(jnp.square(distance) - 400.0)) / 1e4
    return value, {"total": value}


def test_lbfgs_leaves_concave_regions(problem):
    _, centres = problem
    config = PLAIN.replace(optimizer=LBFGS(history_size=5, schedule="constant"), steps=40)
    states, history = optimize.run(wells, centres + 1 / 255, config, each=(centres,))
    assert history["total"][0].min() > 100
    np.testing.assert_allclose(255 * (states.tree - centres), 20, atol=1e-2)


def two_loops(pairs, g):
    """Nocedal and Wright, algorithm 7.4: the approximate inverse Hessian times g, in float64."""
    q, alphas = g, []
    for s, y in reversed(pairs):
        alphas.append((s.ravel() @ q.ravel()) / (s.ravel() @ y.ravel()))
        q = q - alphas[-1] * y
    s, y = pairs[-1]
    r = q * (s.ravel() @ y.ravel()) / (y.ravel() @ y.ravel())
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        r = r + s * (alpha - (y.ravel() @ r.ravel()) / (s.ravel() @ y.ravel()))
    return r


def lbfgs_in_numpy(gradient, x, *, rate, steps, memory):
    """L-BFGS by the `two_loops`; what has no positive curvature is left out."""
    pairs, skipped, g = [], 0, gradient(x)
    step = -rate * g / np.sqrt(np.mean(g**2))
    for _ in range(steps):
        previous, x = g, x + step
        g = gradient(x)
        if step.ravel() @ (g - previous).ravel() > 0:
            pairs.append((step, g - previous))
        else:
            skipped += 1
        step = -rate * (two_loops(pairs[-memory:], g) if pairs else g / np.sqrt(np.mean(g**2)))
    return x, skipped


@pytest.mark.parametrize("memory", [30, 2])
def test_lbfgs_passes_over_negative_curvature(problem, memory):
    images, centres = problem
    offset = 0.03 * (images - centres)  # concave below 11.5 levels

    def gradient(x):
        return 4e-4 * x * (np.square(x) - 400.0)

    # Alone, and not as a configuration has it, within `limit_rise`.
    lbfgs = optax.chain(optimizers.scale_by_convex_lbfgs(memory), optax.scale(-0.5))
    seen = []
    optimize.run(
        wells,
        centres + offset,
        PLAIN.replace(steps=20),
        each=(centres,),
        optimizer=lbfgs,
        callback=lambda progress: seen.append(np.array(progress.images)),
    )
    for n in range(2):
        start = 255 * offset[n].astype(np.float64)
        # The 15th leaps along what little curvature it knows, and with it what rounding left.
        for steps, near in ((1, 1e-5), (14, 3e-5), (16, 1e-2)):
            expected, skipped = lbfgs_in_numpy(
                gradient, start, rate=0.5, steps=steps, memory=memory
            )
            found = 255 * (seen[steps - 1][n] - centres[n])
            assert np.abs(found - expected).max() <= near * np.abs(expected).max()
        assert 10 < skipped < 16 and np.abs(expected - start).max() > 5


def test_a_step_that_raises_the_loss_is_taken_again_a_quarter_as_long(problem):
    """Gradient descent on a quadratic, by a rate that overshoots."""
    images, targets = problem
    limited = optimizers.limit_rise(optax.scale(-3.0))
    states = optimize.run(
        quadratic, images, PLAIN.replace(steps=4), each=(targets,), optimizer=limited
    )
    # By a rate of 3, x <- -2 x, which is taken back; by 0.75, x <- x / 4; by 3, x <- -2 x, which is
    # taken back; by 0.75, x <- x / 4.
    losses = states[1]["total"] / states[1]["total"][0]
    np.testing.assert_allclose(losses, [[1] * 2, [4] * 2, [1 / 16] * 2, [1 / 4] * 2], rtol=1e-3)
    left = (images - targets) / 16
    np.testing.assert_allclose(states[0].tree - targets, left, atol=1e-6)
    states, history = optimize.run(
        quadratic, images, PLAIN.replace(steps=40), each=(targets,), optimizer=limited
    )
    assert np.all(history["total"][-1] < 1e-6 * history["total"][0])


def test_no_step_is_more_than_twice_as_long_as_the_one_before(problem):
    images, _ = problem
    tenfold = optax.scale_by_schedule(lambda count: -(10.0**count))
    seen = []

    def slope(image):
        value = jnp.mean(255.0 * image)
        return value, {"total": value}

    optimize.run(
        *(slope, images, PLAIN.replace(steps=4)),
        optimizer=optimizers.limit_rise(tenfold),
        callback=lambda progress: seen.append(np.array(progress.images)),
    )
    lengths = [
        np.abs(after - before).max() for before, after in itertools.pairwise([images, *seen])
    ]
    np.testing.assert_allclose(np.array(lengths) / lengths[0], [1, 2, 4, 8], rtol=2e-2)


def test_a_step_is_taken_back_as_often_as_it_takes(problem):
    images, targets = problem
    limited = optimizers.limit_rise(optax.scale(-100.0), rise=1.0)
    states, history = optimize.run(
        quadratic, images, PLAIN.replace(steps=5), each=(targets,), optimizer=limited
    )
    # By rates of 100, 25, 6.25 and 1.5625: |1 - rate|^2 is below 1 for the last alone.
    expected = [1, 99**2, 24**2, 5.25**2, 0.5625**2]
    np.testing.assert_allclose(history["total"][:, 0] / history["total"][0, 0], expected, rtol=1e-3)
    assert not states.diverged.any()


def test_nothing_is_learnt_from_a_step_that_is_taken_back(problem):
    """The pairs of L-BFGS are of steps that stood."""
    images, targets = problem
    lbfgs = LBFGS(history_size=4, learning_rate=40.0, schedule="constant")
    config = PLAIN.replace(optimizer=lbfgs, steps=12)
    states, history = optimize.run(quadratic, images, config, each=(targets,))
    best = np.minimum.accumulate(history["total"])
    assert np.any(history["total"][1:] > 1.2 * best[:-1])
    inner = states.opt_state.inner[0]
    steps, changes = inner.diff_params_memory, inner.diff_updates_memory
    np.testing.assert_allclose(changes, steps, atol=1e-3)  # the Hessian is the identity
    assert np.all(history["total"][-1] < 1e-3 * history["total"][0])


def test_lbfgs_keeps_what_it_knows_where_it_passes_over_a_step(rng):
    points, gradients = rng.random((2, 3, 5))
    s, y = points[1] - points[0], gradients[1] - gradients[0]
    gradients[1] += s * (1 - s @ y) / (s @ s)  # curvature 1 along the first step
    gradients[2] = gradients[1] - (points[2] - points[1])  # and -1 along the second
    s, y = points[1] - points[0], gradients[1] - gradients[0]
    lbfgs = optimizers.scale_by_convex_lbfgs(3)
    state = lbfgs.init(jnp.float32(points[0]))
    for point, gradient in zip(points, gradients, strict=True):
        found, state = lbfgs.update(jnp.float32(gradient), state, jnp.float32(point))
    # Nocedal and Wright, equation 7.16, of the first pair alone.
    v = np.eye(5) - np.outer(y, s) / (s @ y)
    inverse = v.T @ v * (s @ y) / (y @ y) + np.outer(s, s) / (s @ y)
    np.testing.assert_allclose(found, inverse @ gradients[2], rtol=1e-4)


def test_lbfgs_gives_up_no_pair_for_a_step_that_it_passes_over(rng):
    points = rng.random((5, 6))
    root = rng.random((6, 6))
    gradients = points @ (root @ root.T + np.eye(6))
    for n in (3, 4):  # curvature -1 along the last two steps
        gradients[n] = gradients[n - 1] - (points[n] - points[n - 1])
    lbfgs = optimizers.scale_by_convex_lbfgs(2)
    state = lbfgs.init(jnp.float32(points[0]))
    for point, gradient in zip(points, gradients, strict=True):
        found, state = lbfgs.update(jnp.float32(gradient), state, jnp.float32(point))
    pairs = [(points[n + 1] - points[n], gradients[n + 1] - gradients[n]) for n in (0, 1)]
    np.testing.assert_allclose(found, two_loops(pairs, gradients[4]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.lbfgs(), optax.rmsprop(1.0)])
def test_any_optax_transformation_works(problem, optimizer):
    images, targets = problem
    states, history = optimize.run(quadratic, images, PLAIN, each=(targets,), optimizer=optimizer)
    assert (history["total"][-1] < history["total"][0]).all()
    assert states.tree.shape == images.shape


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [100.0, 100.0, 100.0]),
        # Keras' ExponentialDecay(100, decay_steps=100, decay_rate=0.96), not staircase.
        ("exponential", [100.0, 100 * 0.96**0.5, 100 * 0.96**2]),
        ("cosine", [100.0, 50 * (1 + np.cos(np.pi * 50 / 400)), 50.0]),
    ],
)
def test_schedules(schedule, expected):
    optimizer = SGD(schedule=schedule, learning_rate=100.0)
    found = [float(optimizer.learning_rate_at(jnp.asarray(step), 400)) for step in (0, 50, 200)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_numbers_of_the_exponential_schedule():
    """Keras' ExponentialDecay(3, decay_steps=17, decay_rate=0.5), not staircase."""
    optimizer = SGD(schedule="exponential", learning_rate=3.0, decay_rate=0.5, decay_steps=17)
    found = [float(optimizer.learning_rate_at(jnp.asarray(step), 200)) for step in (0, 17, 60)]
    np.testing.assert_allclose(found, [3.0, 1.5, 3 * 0.5 ** (60 / 17)], rtol=1e-5)


def test_an_image_alone_and_among_others_ends_the_same(problem):
    images, targets = problem
    config = basic.CONFIG.replace(steps=8)
    together, _ = optimize.run(quadratic, images, config, each=(targets,))
    for n in range(2):
        alone, _ = optimize.run(quadratic, images[n : n + 1], config, each=(targets[n : n + 1],))
        np.testing.assert_allclose(together.tree[n], alone.tree[0], atol=1e-6)


def test_numbers_can_differ_by_image(problem):
    images, targets = problem
    config = PLAIN.replace(steps=3)
    sweep = {"learning_rate": np.array([0.1, 0.5])}
    states, _ = optimize.run(quadratic, images, config, each=(targets,), sweep=sweep)
    factors = np.array([0.9, 0.5])[:, None, None, None] ** 3
    np.testing.assert_allclose(states.tree - targets, factors * (images - targets), atol=1e-6)
    with pytest.raises(ValueError, match="a number for each of the 2"):
        optimize.run(quadratic, images, PLAIN, each=(targets,), sweep={"learning_rate": np.ones(3)})


def test_other_numbers_and_steps_compile_nothing(problem, compilations):
    images, targets = problem
    config = PLAIN.replace(schedule="cosine", steps=3)
    optimize.run(quadratic, images, config, each=(targets,))
    with compilations() as count:
        optimize.run(
            quadratic,
            images,
            config.replace(learning_rate=0.3, momentum=0.2, steps=4),
            each=(targets,),
        )
        assert count() == 0


@pytest.mark.parametrize("optimizer", [SGD(), Adam(), LBFGS()], ids=["sgd", "adam", "lbfgs"])
def test_a_step_takes_what_it_gives(problem, optimizer):
    """Or the second step would be compiled once more."""
    images, targets = problem
    config = basic.CONFIG.replace(optimizer=optimizer, steps=1)
    before = optimize.start(images, config)
    after, _ = optimize.run(quadratic, images, config, each=(targets,))

    def kinds(states):
        return [(x.shape, x.dtype, x.aval.weak_type) for x in jax.tree.leaves(states)]

    assert kinds(after) == kinds(before)


def treacherous(image, target, limit):
    """Turns into NaN, and its gradient, once the loss has come below `limit`."""
    value, terms = quadratic(image, target)
    value = value * jnp.where(value < limit, jnp.nan, 1.0)
    return value, {"total": value}


def test_a_run_ends_if_all_images_have_diverged(problem):
    images, targets = problem
    config = PLAIN.replace(learning_rate=0.1, steps=50)
    start = 0.5 * np.square(255 * (images - targets)).sum(axis=(1, 2, 3))
    limits = (np.array([0.5, 0.7]) * start).astype(np.float32)
    seen = []
    states, history = optimize.run(
        treacherous, images, config, each=(targets, limits), callback=seen.append
    )
    assert states.diverged.all()
    # The loss falls by 0.9 ** 2 a step: below a half of the start after four of them.
    assert len(history["total"]) == len(seen) == seen[-1].step == 5
    assert seen[-1].steps == 50 and np.isfinite(states.picture).all()


def test_a_diverging_image_stops_alone_with_its_last_finite_picture(problem):
    images, targets = problem
    config = PLAIN.replace(learning_rate=0.1, steps=10)
    start = 0.5 * np.square(255 * (images - targets)).sum(axis=(1, 2, 3))
    limits = np.array([0.0, 0.5 * start[1]], np.float32)
    states, history = optimize.run(treacherous, images, config, each=(targets, limits))
    calm, _ = optimize.run(treacherous, images, config, each=(targets, np.zeros(2, np.float32)))
    assert states.diverged.tolist() == [False, True]
    np.testing.assert_array_equal(states.tree[0], calm.tree[0])
    # 0.81^4 < 0.5: the step from there is not finite, so four steps were applied.
    np.testing.assert_allclose(
        states.tree[1] - targets[1], 0.9**4 * (images[1] - targets[1]), atol=1e-6
    )
    assert states.step.tolist() == [10, 4]
    assert np.isfinite(history["total"][:, 0]).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.1, "momentum": 0.5},
        {"optimizer": Adam(learning_rate=10.0, schedule="constant", normalize_gradient="none")},
        {"optimizer": LBFGS(learning_rate=0.5, schedule="constant", history_size=3)},
    ],
    ids=["sgd", "adam", "lbfgs"],
)
def test_a_diverging_image_leaves_the_others_alone_at_this_scale_and_the_next(problem, changes):
    images, targets = problem
    config = PLAIN.replace(steps=12, **changes)

    def run(limits, images, targets, **options):
        """The states, and the pictures before the run and after each of its steps."""
        seen = [np.array(images)]
        states, _ = optimize.run(
            treacherous,
            images,
            config,
            each=(targets, np.float32(limits)),
            callback=lambda progress: seen.append(np.array(progress.images)),
            **options,
        )
        return states, seen

    limit = 0.5 * 0.5 * np.square(255 * (images[1] - targets[1])).sum()
    states, seen = run([0.0, limit], images, targets)
    calm, calm_seen = run([0.0, 0.0], images, targets)
    assert states.diverged.tolist() == [False, True] and not calm.diverged.any()
    np.testing.assert_array_equal(states.picture[0], calm.picture[0])
    taken = int(states.step[1])
    assert 0 < taken < 12 and states.step[0] == 12
    assert np.isfinite(seen).all()
    np.testing.assert_array_equal(states.picture[1], seen[taken][1])
    np.testing.assert_array_equal(states.picture[1], calm_seen[taken][1])

    targets = np.asarray(image_lib.resample(targets, 8, 6))
    after = []
    for previous in (states, calm):
        larger = np.asarray(image_lib.resample(previous.picture, 8, 6))
        after.append(run([0.0, 0.0], larger, targets, previous=previous))
        np.testing.assert_array_equal(after[-1][0].diverged, previous.diverged)
    np.testing.assert_array_equal(after[0][0].picture[0], after[1][0].picture[0])
    for picture in after[0][1]:
        np.testing.assert_array_equal(picture[1], after[0][1][0][1])
    assert np.isfinite(after[0][1]).all()


def test_a_line_search_stays_where_the_loss_is_finite(problem):
    images, targets = problem
    config = PLAIN.replace(optimizer=LBFGS(history_size=3, linesearch=True), steps=8)
    start = 0.5 * np.square(255 * (images - targets)).sum(axis=(1, 2, 3))
    limits = np.array([0.0, 0.5 * start[1]], np.float32)
    states, history = optimize.run(treacherous, images, config, each=(targets, limits))
    calm, _ = optimize.run(treacherous, images, config, each=(targets, np.zeros(2, np.float32)))
    np.testing.assert_array_equal(states.tree[0], calm.tree[0])
    assert not states.diverged.any()
    # The NaN below the limit is never stepped into, and the limit all but reached.
    assert limits[1] <= history["total"][-1, 1] < 1.01 * limits[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "optimizer"),
    [
        ({}, None),
        ({"optimizer": Adam(), "average_decay": 0.5}, None),
        ({"optimizer": LBFGS(history_size=2, learning_rate=0.5)}, None),
        ({"optimizer": LBFGS(history_size=2, linesearch=True)}, None),
        ({}, optax.rmsprop(1.0)),
    ],
    ids=["sgd", "adam", "lbfgs", "linesearch", "own"],
)
def test_a_chunk_of_steps_equals_single_steps(problem, monkeypatch, changes, optimizer):
    images, targets = problem
    config = basic.CONFIG.replace(steps=8).replace(**changes)
    arguments = {"each": (targets,), "optimizer": optimizer}
    single, one = optimize.run(quadratic, images, config, **arguments)
    monkeypatch.setattr(optimize, "steps_per_dispatch", lambda **_: 3)
    seen = []
    chunked, many = optimize.run(
        quadratic, images, config, **arguments, callback=lambda p: seen.append(p.step)
    )
    assert seen == [3, 6, 7, 8]
    np.testing.assert_allclose(chunked.tree, single.tree, atol=1e-6)
    np.testing.assert_allclose(many["total"], one["total"], rtol=1e-5)


def test_a_scan_is_a_run_from_arrays_to_arrays(problem):
    """Under jit and vmap, in two parts, and from an image or a state."""
    images, targets = problem
    config = basic.CONFIG.replace(steps=8)
    states, history = optimize.run(quadratic, images, config, each=(targets,))

    @jax.jit
    @jax.vmap
    def painted(image, target):
        loss = functools.partial(quadratic, target=target)
        state, first = optimize.scan(loss, image, config, length=5)
        state, rest = optimize.scan(loss, state, config, length=3)
        return state.picture, jnp.concatenate([first["total"], rest["total"]])

    pictures, totals = painted(images, targets)
    np.testing.assert_allclose(pictures, states.picture, atol=1e-6)
    np.testing.assert_allclose(totals.T, history["total"], rtol=1e-5)


def test_a_scan_is_differentiable_by_what_its_loss_holds(problem):
    """Two plain steps of gradient descent, whose derivative is known by hand."""
    (image, *_), (target, *_) = problem
    config = basic.CONFIG.replace(
        optimizer=SGD(learning_rate=0.25, normalize_gradient="none", momentum=0.0),
        schedule="constant",
        clip=False,
        steps=2,
    )

    def end(target):
        loss = functools.partial(quadratic, target=target)
        return jnp.sum(optimize.scan(loss, image, config, length=2)[0].picture)

    # One step: x + rate * slope * (t - x). After two, t has the share 1 - (1 - rate * slope)^2.
    slope = jax.grad(lambda x: quadratic(x, target)[0])(target + 1.0)[0, 0, 0] / 255.0**2
    share = 1 - (1 - 0.25 * slope) ** 2
    np.testing.assert_allclose(jax.grad(end)(target), share, rtol=1e-5)


def test_steps_per_dispatch_can_be_asked_for(problem):
    images, targets = problem
    config, seen = basic.CONFIG.replace(steps=8), []
    optimize.run(
        *(quadratic, images, config),
        each=(targets,),
        chunk=3,
        callback=lambda progress: seen.append(progress.step),
    )
    assert seen == [3, 6, 7, 8]
    seen.clear()
    optimize.run(  # at most the whole run in one call
        *(quadratic, images, config),
        each=(targets,),
        chunk=30,
        callback=lambda progress: seen.append(progress.step),
    )
    assert seen == [8]


@pytest.mark.parametrize("count", [0, -1, 2.5, True, "3"])
def test_numbers_of_steps_that_are_none_are_one_line(problem, count):
    images, targets = problem
    with pytest.raises(ValueError, match="chunk must be a whole number, at least 1, got"):
        optimize.run(quadratic, images, basic.CONFIG, each=(targets,), chunk=count)
    loss = functools.partial(quadratic, target=targets[0])
    with pytest.raises(ValueError, match="length must be a whole number, at least 1, got"):
        optimize.scan(loss, images[0], basic.CONFIG, length=count)
    for state, kind in (
        (images, "shape .2, 4, 3, 3. of float32"),
        (np.uint8(images[0]), "of uint8"),
    ):
        with pytest.raises(ValueError, match=f"state must be a State or an image .*{kind}"):
            optimize.scan(loss, state, basic.CONFIG, length=1)


def test_a_lowered_program_is_a_dispatch_of_run(problem):
    images, targets = problem
    config = PLAIN.replace(learning_rate=0.1, steps=3)
    compiled = optimize.lower(quadratic, images, config, each=(targets,), length=3).compile()
    arguments = optimize.start(images, config), (), (targets,), optimize.batch_numbers(config, 2)
    found, terms = compiled(*arguments, jax.random.key(0))
    expected, history = optimize.run(quadratic, images, config, each=(targets,))
    np.testing.assert_allclose(found.tree, expected.tree, atol=1e-6)
    np.testing.assert_allclose(terms["total"], history["total"], rtol=1e-5)
    assert compiled.memory_analysis().argument_size_in_bytes >= images.nbytes + targets.nbytes


def test_clip_keeps_the_range(problem):
    images, _ = problem
    far = np.full_like(images, 3.0)
    config = PLAIN.replace(learning_rate=0.5, clip=True)
    states, _ = optimize.run(quadratic, images, config, each=(far,))
    assert states.tree.max() == 1.0
    states, _ = optimize.run(quadratic, images, config.replace(clip=False), each=(far,))
    assert states.tree.max() > 2.0


def test_step_is_pure_and_jits(problem):
    images, targets = problem
    optimizer = PLAIN.optimizer.transformation(0, PLAIN.steps)
    state = optimize.init(jnp.asarray(images[0]), optimizer)
    loss = functools.partial(quadratic, target=targets[0])
    plain, terms = optimize.step(state, loss, optimizer)
    jitted, _ = jax.jit(lambda state: optimize.step(state, loss, optimizer))(state)
    np.testing.assert_allclose(plain.tree, jitted.tree, atol=1e-6)
    assert plain.step == 1 and state.step == 0 and "total" in terms


def test_images_of_another_rank_are_refused(problem):
    images, targets = problem
    with pytest.raises(ValueError, match=r"\[N, H, W, 3\]"):
        optimize.run(quadratic, images[0], PLAIN, each=(targets,))
