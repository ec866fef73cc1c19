"""Every option of a style transfer by its effect."""

import basic
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nst_jax
from nst_jax import color, objective
from nst_jax.optimizers import LBFGS, SGD, Adam
from nst_jax.terms import WassersteinStyle

FAST = basic.CONFIG.replace(content_weight=0.5, style_weight=50.0).replace(
    size=48,
    steps=6,
    **basic.FIRST_LAYERS,
)
# With a pooling.
DEEPER = FAST.replace(
    content_layers=("block2_conv1",), style_layers=("block1_conv1", "block2_conv1")
)


def picture(rng, height, width, *, cell=4):
    """Patches of colour with some noise: without it, ties in the max pooling are left to chance."""
    coarse = np.kron(rng.random((height // cell, width // cell, 3)), np.ones((cell, cell, 1)))
    return (0.8 * coarse + 0.2 * rng.random(coarse.shape)).astype(np.float32)


@pytest.fixture
def content(rng):
    return picture(rng, 36, 48)


@pytest.fixture
def styles(rng):
    return [picture(rng, 40, 48, cell=8), picture(rng, 48, 36, cell=2)]


def yiq(image):
    """I and Q of an image, from the definition of YIQ (FCC 1953)."""
    matrix = np.array([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    return np.asarray(image, np.float64) @ matrix.T


def style_loss_of(params, image, style, config):
    targets = nst_jax.compute_targets(params, image, [style], config)
    return nst_jax.objective_value(jnp.asarray(image), params, targets, config)[1]["style"]


@pytest.mark.parametrize(
    "optimizer",
    [SGD(learning_rate=2.0), Adam(learning_rate=5.0, normalize_gradient="none"), LBFGS()],
    ids=["sgd", "adam", "lbfgs"],
)
def test_every_optimizer_lowers_every_output(vgg16, content, styles, optimizer):
    config = FAST.replace(optimizer=optimizer, steps=10)
    total = nst_jax.stylize(vgg16, content, styles, config).history["total"]
    assert (total[-1] < 0.5 * total[0]).all()


@pytest.mark.slow
def test_line_search_never_lets_the_loss_rise(vgg16, content, styles):
    config = FAST.replace(
        optimizer=LBFGS(linesearch=True), clip=False, steps=5, **basic.FIRST_LAYERS
    )
    total = nst_jax.stylize(vgg16, content, styles, config).history["total"]
    assert (np.diff(total, axis=0) <= 0).all()
    assert (total[-1] < 0.5 * total[0]).all()


@pytest.mark.slow
def test_a_transformation_of_the_users_own_is_used(vgg16, content, styles):
    signs = optax.chain(optax.scale_by_sign(), optax.scale(-3.0))
    result = nst_jax.stylize(
        vgg16, content, styles, FAST.replace(steps=1, clip=False), optimizer=signs
    )
    moved = 255 * np.abs(np.asarray(result.images) - content)
    np.testing.assert_allclose(moved, 3.0, atol=1e-3)


STRUCTURE = DEEPER.replace(tv_weight=1e-3, tv_form="keras", learning_rate=0.5)
WASSERSTEIN = WassersteinStyle(weight=50.0, layers=("block1_conv1", "block2_conv1"))


@pytest.mark.slow
def test_structure_changes_the_objective(vgg16, content, styles):
    """One change at a time; the values themselves are held in the tests of each part."""

    def value(**change):
        config = STRUCTURE.replace(**change)
        targets = nst_jax.compute_targets(vgg16, content, styles[:1], config)
        noisy = jnp.asarray(content[::-1])
        return float(nst_jax.objective_value(noisy, vgg16, targets, config)[0])

    plain = value()
    for change in (
        {"pooling": "average"},
        {"pooling": "l2"},
        {"pooling": "l2", "pooling_correction": False},
        {"normalize_features": True, "style_weight": 1e6},
        {"padding": "replicate"},
        {"style": WASSERSTEIN},
        {"style_normalization": "mean"},
        {"style_normalization": "gatys"},
        {"style_normalization": "keras"},
        {"content_reduction": "sum", "content_weight": 1e-6},
        {"tv_form": "nine_point"},
        {"tv_form": "l1"},
    ):
        assert value(**change) != plain, change


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "average", "style": WASSERSTEIN, "tv_form": "nine_point"},
        {"pooling": "l2", "padding": "replicate", "style_normalization": "mean", "tv_form": "l1"},
        {
            "pooling": "l2",
            "pooling_correction": False,
            "style_normalization": "gatys",
            "content_reduction": "sum",
            "content_weight": 1e-6,
        },
        {"normalize_features": True, "style_normalization": "keras", "style_weight": 1e6},
    ],
    ids=lambda changes: ",".join(
        f"{k}={type(v).__name__ if k == 'style' else v}" for k, v in changes.items()
    ),
)
def test_the_descent_works_with_any_structure(vgg16, content, styles, changes):
    config = STRUCTURE.replace(**changes)
    total = nst_jax.stylize(vgg16, content, styles, config).history["total"]
    assert np.isfinite(total).all() and (total[-1] < total[0]).all()


def test_init_style_starts_from_the_style_cut_to_shape(vgg16, content, styles):
    config = FAST.replace(init="style", steps=1)
    result = nst_jax.stylize(vgg16, content, styles, config, optimizer=optax.set_to_zero())
    assert result.images.shape == (2, 36, 48, 3)
    expected = nst_jax.image.cover(jnp.asarray(styles[0]), 36, 48)
    np.testing.assert_allclose(result.images[0], expected, atol=1e-6)


def test_one_picture_or_one_an_output_can_be_the_start(vgg16, content, styles, rng):
    initial = [picture(rng, 36, 48), picture(rng, 36, 48)]
    frozen = optax.set_to_zero()
    for given, wanted in ((initial[0], initial[:1] * 2), (initial, initial)):
        result = nst_jax.stylize(vgg16, content, styles, FAST, initial=given, optimizer=frozen)
        for image, own in zip(result.images, wanted, strict=True):
            np.testing.assert_allclose(image, own, atol=1e-6)


def starts(params, content, styles, **changes):
    """The pictures that runs start from."""
    config = FAST.replace(steps=1, **changes)
    return np.asarray(
        nst_jax.stylize(params, content, styles, config, optimizer=optax.set_to_zero()).images
    )


@pytest.mark.slow
def test_every_other_way_to_start(vgg16, content, styles):
    np.testing.assert_allclose(starts(vgg16, content, styles, init="grey"), 0.5, atol=1e-6)
    # The pixels drawn from a style are its own, in other places, about as often.
    for image, style in zip(starts(vgg16, content, styles, init="pixels"), styles, strict=True):
        colours = {tuple(pixel) for pixel in (255 * style.reshape(-1, 3)).round().astype(int)}
        drawn = (255 * image.reshape(-1, 3)).round().astype(int)
        assert all(tuple(pixel) in colours for pixel in drawn)
        np.testing.assert_allclose(image.mean((0, 1)), style.mean((0, 1)), atol=0.04)
        neighbours = np.abs(np.diff(image, axis=1)).mean()
        assert neighbours > 0.8 * np.abs(image[:, :24] - image[:, 24:]).mean()
    for image, style in zip(starts(vgg16, content, styles, init="recolored"), styles, strict=True):
        np.testing.assert_allclose(image, color.match_colors(content, style), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size_of", ["longer", "height"])
def test_the_original_size_is_that_of_the_content(vgg16, content, styles, size_of):
    config = FAST.replace(size_of=size_of, first_size=20, scale_factor=2.0, steps=1)
    number = {"longer": 48, "height": 36}[size_of]
    found, wanted = (
        nst_jax.stylize(vgg16, content, styles, config.replace(size=size))
        for size in ("original", number)
    )
    assert found.images.shape == (2, 36, 48, 3)
    np.testing.assert_array_equal(found.images, wanted.images)
    assert len(found.history["total"]) == 2  # scales


@pytest.mark.slow
def test_the_content_weighs_more_at_coarse_scales(vgg16, content, styles):
    """The optimiser changes nothing, so that the terms at each scale are those of one picture."""
    config = FAST.replace(init="grey", first_size=24, steps=1)
    found = [
        nst_jax.stylize(
            vgg16,
            *(content, styles, config.replace(coarse_content=factor)),
            optimizer=optax.set_to_zero(),
        ).history
        for factor in (1.0, 3.0)
    ]
    assert len(found[0]["content"]) == 3  # scales
    for name, times in (("content", [[9.0], [3.0], [1.0]]), ("style", [[1.0], [1.0], [1.0]])):
        np.testing.assert_allclose(found[1][name] / found[0][name], times * np.ones(2), rtol=1e-5)


def test_a_transfer_of_colours_optimises_nothing(vgg16, content, styles):
    seen = []
    config = FAST.replace(color="transfer", first_size=12)
    result = nst_jax.stylize(vgg16, content, styles, config, callback=seen.append)
    for image, style in zip(result.images, styles, strict=True):
        np.testing.assert_allclose(image, color.match_colors(content, style), atol=1e-6)
    assert result.history["total"].shape == (0, 2) and not seen
    assert np.isnan(result.loss).all() and not result.diverged.any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "matched"), [("match", color.match_colors), ("histogram", color.match_histograms)]
)
def test_a_style_can_have_the_colours_of_the_content(vgg16, content, styles, name, matched):
    """It is a run with styles that were matched before, in its first loss."""
    config = FAST.replace(steps=1)
    found = nst_jax.stylize(vgg16, content, styles, config.replace(color=name))
    own = [np.asarray(matched(style, content)) for style in styles]
    wanted = nst_jax.stylize(vgg16, content, own, config)
    np.testing.assert_allclose(found.history["total"], wanted.history["total"], rtol=1e-6)
    assert not np.allclose(
        found.history["style"],
        nst_jax.stylize(vgg16, content, styles, config).history["style"],
        rtol=1e-2,
    )


def test_several_contents_give_contents_times_styles(vgg16, content, styles):
    contents = [content, content[::-1]]
    result = nst_jax.stylize(vgg16, contents, styles, FAST)
    assert result.images.shape == (4, 36, 48, 3)
    for m, each in enumerate(contents):
        alone = nst_jax.stylize(vgg16, each, styles, FAST)
        np.testing.assert_allclose(result.images[2 * m : 2 * m + 2], alone.images, atol=1e-4)


@pytest.mark.slow
def test_luminance_transfer_keeps_the_contents_chroma(vgg16, content, styles):
    config = DEEPER.replace(color="luminance", steps=12, learning_rate=3.0)
    result = nst_jax.stylize(vgg16, content, styles, config)
    plain = nst_jax.stylize(vgg16, content, styles, config.replace(color="style"))
    for image, coloured in zip(result.images, plain.images, strict=True):
        assert np.abs(yiq(image) - yiq(content)).max() < 2 / 255
        assert np.abs(yiq(coloured) - yiq(content)).max() > 20 / 255
        assert np.abs(np.asarray(image) - content).mean() > 5 / 255  # it did change


@pytest.mark.slow
def test_matching_gives_the_style_the_contents_colours(vgg16, content, styles):
    # A style of one hue; without content, the picture takes the colours of its target.
    red = styles[0] * np.array([1.0, 0.2, 0.2], np.float32)
    config = FAST.replace(content_layers=(), steps=30, learning_rate=3.0, init="noise")
    means = {
        mode: np.asarray(
            nst_jax.stylize(vgg16, content, [red], config.replace(color=mode)).images[0]
        ).mean(axis=(0, 1))
        for mode in ("style", "match")
    }
    wanted = content.mean(axis=(0, 1))
    assert np.abs(means["match"] - wanted).max() < 0.5 * np.abs(means["style"] - wanted).max()


@pytest.mark.slow
def test_a_mask_keeps_a_styles_statistics_inside_its_region(vgg16, content, styles):
    masks = np.zeros((2, 36, 48), np.float32)
    masks[0, :, :24] = 1
    masks[1, :, 24:] = 1
    config = FAST.replace(content_layers=(), steps=40, learning_rate=3.0)
    result = nst_jax.stylize(vgg16, content, styles, config, combine=nst_jax.Combine(masks=masks))
    assert result.images.shape == (1, 36, 48, 3)
    halves = np.asarray(result.images[0])[:, :24], np.asarray(result.images[0])[:, 24:]
    for index, half in enumerate(halves):
        own = style_loss_of(vgg16, half, styles[index], config)
        other = style_loss_of(vgg16, half, styles[1 - index], config)
        assert own < 0.3 * other, (index, own, other)


def test_outside_every_mask_nothing_moves(vgg16, content, styles):
    masks = np.zeros((1, 36, 48), np.float32)
    masks[0, :, :16] = 1
    config = DEEPER.replace(content_layers=(), steps=3)
    result = nst_jax.stylize(
        vgg16, content, styles[:1], config, combine=nst_jax.Combine(masks=masks)
    )
    moved = np.abs(np.asarray(result.images[0]) - content).max(axis=(0, 2))
    # block2_conv1 sees 10 pixels: 5 beyond the edge of the mask, and 2 for the pooling's grid.
    assert moved[:16].min() > 0
    np.testing.assert_allclose(moved[24:], 0.0, atol=1e-6)


@pytest.mark.slow
def test_a_full_mask_is_no_mask(vgg16, content, styles):
    # The gradient of one picture: steps would magnify the rounding of another order of summing.
    def found(**masks):
        combine = nst_jax.Combine(**masks)
        targets = nst_jax.compute_targets(vgg16, content, styles[:1], FAST, combine=combine)
        objective = jax.jit(jax.value_and_grad(nst_jax.objective_value, has_aux=True))
        (value, _), gradient = objective(jnp.asarray(content[::-1].copy()), vgg16, targets, FAST)
        return np.asarray(value), np.asarray(gradient)

    masked, plain = found(masks=np.ones((1, 36, 48), np.float32)), found()
    np.testing.assert_allclose(masked[0], plain[0], rtol=1e-5)
    np.testing.assert_allclose(masked[1], plain[1], atol=1e-4 * np.abs(plain[1]).max())


def test_a_style_mask_learns_from_a_part_of_the_style(vgg16, content, styles):
    both = np.concatenate([styles[0][:, :24], 1 - styles[0][:, :24]], axis=1)
    left = np.zeros(both.shape[:2], np.float32)
    left[:, :24] = 1
    targets = nst_jax.compute_targets(
        vgg16, content, [both], FAST, combine=nst_jax.Combine(style_masks=[left])
    )
    half = nst_jax.compute_targets(vgg16, content, [both[:, :24]], FAST)
    whole = nst_jax.compute_targets(vgg16, content, [both], FAST)
    layer = "block1_conv1"
    far = np.abs(whole.terms["style"][layer].gram - half.terms["style"][layer].gram).max()
    near = np.abs(targets.terms["style"][layer].gram - half.terms["style"][layer].gram).max()
    assert near < 0.2 * far  # but for the column where the halves meet


@pytest.mark.slow
def test_averaging_returns_the_bias_corrected_average_of_the_iterates(vgg16, content, styles):
    seen = []
    config = FAST.replace(steps=5, average_decay=0.6, clip=False)
    last = FAST.replace(steps=5, clip=False)

    def keep(progress):
        seen.append(np.asarray(progress.images))

    nst_jax.stylize(vgg16, content, styles, last, callback=keep)
    averaged = nst_jax.stylize(vgg16, content, styles, config).images
    weights = 0.6 ** np.arange(4, -1, -1.0)
    expected = np.tensordot(weights / weights.sum(), np.stack(seen), axes=1)
    np.testing.assert_allclose(averaged, expected, atol=1e-5)


@pytest.mark.slow
def test_jitter_moves_no_picture(vgg16, content, styles):
    # Content alone, with any shift, is already at its minimum: nothing may pull the picture.
    config = FAST.replace(jitter=4, style_layers=(), steps=6)
    result = nst_jax.stylize(vgg16, content, styles, config)
    np.testing.assert_allclose(result.images[0], content, atol=1e-5)
    # With style, pictures differ by the key and yet stay in place: each correlates best with
    # the picture made without jitter when not shifted.
    config = config.replace(style=FAST.term("style"), steps=12)
    still = np.asarray(nst_jax.stylize(vgg16, content, styles, config.replace(jitter=0)).images[0])
    found = [
        np.asarray(nst_jax.stylize(vgg16, content, styles, config, key=jax.random.key(k)).images[0])
        for k in (1, 2)
    ]
    assert np.abs(found[0] - found[1]).max() > 1e-3
    for image in found:
        shifts = {
            (dy, dx): np.mean(np.square(np.roll(image, (dy, dx), axis=(0, 1)) - still))
            for dy in range(-4, 5)
            for dx in range(-4, 5)
        }
        assert min(shifts, key=shifts.get) == (0, 0)


def test_jittered_objective_is_that_of_the_rolled_pictures(vgg16, content, styles):
    config = FAST.replace(jitter=5)
    image = content[:, ::-1]
    key = jax.random.key(1)
    shift = tuple(np.asarray(objective.Objective.of(config).shift(key)).tolist())
    assert all(shift)
    targets = nst_jax.compute_targets(vgg16, content, styles[:1], config)
    found, _ = nst_jax.objective_value(jnp.asarray(image), vgg16, targets, config, key=key)
    rolled = [np.roll(x, shift, axis=(0, 1)) for x in (image, content)]
    plain = FAST.replace(jitter=0)
    targets = nst_jax.compute_targets(vgg16, rolled[1], styles[:1], plain)
    expected, _ = nst_jax.objective_value(jnp.asarray(rolled[0]), vgg16, targets, plain)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_coarse_to_fine_runs_every_scale_and_ends_at_the_size(vgg16, content, styles):
    sizes = []
    config = FAST.replace(
        first_size=24,
        scale_factor=2**0.5,
        steps=3,
        first_steps=5,
        optimizer=Adam(),
        **basic.FIRST_LAYERS,
    )
    result = nst_jax.stylize(
        vgg16,
        content,
        styles,
        config,
        callback=lambda p: sizes.append((p.step, p.steps, p.images.shape[2])),
    )
    assert [width for _, _, width in sizes] == 5 * [24] + 3 * [34] + 3 * [48]
    assert [step for step, _, _ in sizes] == list(range(1, 12))
    assert {steps for _, steps, _ in sizes} == {11}
    assert result.history["total"].shape == (11, 2)
    assert result.images.shape == (2, 36, 48, 3)


@pytest.mark.slow
def test_moments_go_over_to_the_next_scale(vgg16, content, styles):
    from nst_jax import optimize

    config = FAST.replace(optimizer=Adam(), steps=2)
    images = jnp.asarray(content)[None]
    targets = nst_jax.compute_targets(vgg16, content, styles[:1], config)
    each = (targets, optimize.batch_numbers(config, 1))
    states, _ = optimize.run(objective.objective_value, images, config, shared=(vgg16,), each=each)
    larger = nst_jax.image.resize(states.picture, 54, 72)
    carried = optimize.start(larger, config, previous=states)
    moments, before = (jax.tree.leaves(s.opt_state) for s in (carried, states))
    images_shaped = [leaf for leaf in moments if leaf.shape == larger.shape]
    assert len(images_shaped) == 2  # Adam's two moments
    for new, old in zip(moments, before, strict=True):
        if old.ndim == 4:
            np.testing.assert_allclose(np.mean(new), np.mean(old), rtol=0.05, atol=1e-6)
        else:
            np.testing.assert_array_equal(new, old)
    assert (np.asarray(images_shaped[1]) >= 0).all()


def test_numbers_explore_one_style_in_one_program(vgg16, content, styles, compilations):
    sweep = {"content_weight": np.array([0.01, 1.0, 100.0])}
    result = nst_jax.stylize(vgg16, content, styles[:1], FAST, sweep=sweep)
    assert result.images.shape[0] == 3
    far = np.abs(np.asarray(result.images) - content).mean(axis=(1, 2, 3))
    assert far[0] > far[1] > far[2]
    with compilations() as count:
        other = {"content_weight": np.arange(3.0)}
        nst_jax.stylize(vgg16, content, styles[:1], FAST, sweep=other)
        assert count() == 0


@pytest.mark.slow
def test_texture_synthesis_needs_no_content(vgg16, styles):
    config = FAST.replace(content_layers=(), init="noise", steps=40, learning_rate=4.0)
    blank = np.full((36, 48, 3), 0.5, np.float32)
    result = nst_jax.stylize(vgg16, blank, styles, config)
    assert (result.history["total"][-1] < 0.02 * result.history["total"][0]).all()
    for image, style in zip(result.images, styles, strict=True):
        np.testing.assert_allclose(
            np.asarray(image).mean(axis=(0, 1)), style.mean(axis=(0, 1)), atol=0.1
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"combine": nst_jax.Combine(masks=np.ones((2, 36, 48)), mixing=np.eye(2))},
            "masks or mixing",
        ),
        ({"combine": nst_jax.Combine(masks=np.ones((1, 36, 48)))}, "masks must be"),
        ({"combine": nst_jax.Combine(style_masks=[None])}, "style_masks"),
        ({"combine": nst_jax.Combine(mixing=[[0.5, -0.5]])}, "a sum above 0"),
        ({"initial": np.full((36, 48, 3), 7.0)}, r"initial must be in \[0, 1\]"),
        (
            {"initial": [np.ones((36, 48, 3), np.float32)] * 3},
            "initial must be one picture, or one for each of the 2 outputs before a sweep, got 3",
        ),
    ],
)
def test_bad_options_are_refused_in_one_line(vgg16, content, styles, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        nst_jax.stylize(vgg16, content, styles, FAST, **options)
    assert "\n" not in str(caught.value)


def test_luminance_is_of_yiq(content):
    # The test above trusts `yiq`; hold it and the package's luminance against each other.
    grey = np.asarray(color.grey(content))
    np.testing.assert_allclose(yiq(grey), 0, atol=1e-3)
