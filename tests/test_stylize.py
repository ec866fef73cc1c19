import basic
import jax
import numpy as np
import pytest

import nst_jax
from nst_jax import coarse_to_fine, optimize, sharding

CONFIG = basic.CONFIG.replace(content_weight=0.5, style_weight=50.0).replace(
    size=48,
    steps=4,
    content_layers=("block2_conv1",),
    style_layers=("block1_conv1", "block2_conv1"),
)


def picture(rng, height, width):
    """Patches of colour with some noise: without it, ties in the max pooling are left to chance."""
    coarse = np.kron(rng.random((4, 4, 3)), np.ones((height // 4, width // 4, 1)))
    return (0.8 * coarse + 0.2 * rng.random(coarse.shape)).astype(np.float32)


@pytest.fixture
def pictures(rng):
    return picture(rng, 60, 80), [picture(rng, 64, 48), picture(rng, 52, 52)]


def test_result_has_a_picture_a_style_at_the_size_asked_for(vgg16, pictures):
    content, styles = pictures
    seen = []

    def callback(progress):
        seen.append((progress.step, progress.images.shape, sorted(progress.terms)))

    result = nst_jax.stylize(vgg16, content, styles, CONFIG, callback=callback)
    assert result.images.shape == (2, 36, 48, 3)
    terms = ["content", "style", "total"]
    assert sorted(result.history) == terms
    assert all(value.shape == (4, 2) for value in result.history.values())
    np.testing.assert_allclose(
        result.history["total"],
        sum(result.history[name] for name in terms if name != "total"),
        rtol=1e-5,
    )
    assert (result.history["total"][-1] < result.history["total"][0]).all()
    assert not result.diverged.any()
    assert seen == [(n, (2, 36, 48, 3), terms) for n in range(1, 5)]


@pytest.mark.slow
def test_a_style_alone_gives_the_picture_it_gives_among_others(vgg16, pictures):
    content, styles = pictures
    together = nst_jax.stylize(vgg16, content, styles, CONFIG)
    for n, style in enumerate(styles):
        alone = nst_jax.stylize(vgg16, content, [style], CONFIG)
        np.testing.assert_allclose(together.images[n], alone.images[0], atol=1e-4)


@pytest.mark.parametrize("init", ["content", "noise"])
def test_the_same_key_gives_the_identical_picture(vgg16, pictures, init):
    content, styles = pictures
    config = CONFIG.replace(init=init)
    first, again = (
        nst_jax.stylize(vgg16, content, styles, config, key=jax.random.key(7)) for _ in range(2)
    )
    np.testing.assert_array_equal(first.images, again.images)
    other = nst_jax.stylize(vgg16, content, styles, config, key=jax.random.key(8))
    assert np.array_equal(first.images, other.images) == (init == "content")


def test_a_second_job_of_the_same_shapes_compiles_nothing(vgg16, pictures, compilations):
    content, styles = pictures
    nst_jax.stylize(vgg16, content, styles, CONFIG)
    with compilations() as count:
        nst_jax.stylize(
            vgg16,
            1 - content,
            [1 - style for style in styles],
            # Whole, of NumPy or of Python.
            CONFIG.replace(
                steps=6,
                learning_rate=np.float32(0.5),
                content_weight=2,
                style_weight=np.int64(40),
                momentum=np.float64(0.5),
                style_layers={"block1_conv1": 1, "block2_conv1": np.float64(0.25)},
                content_layers={"block2_conv1": 2},
            ),
        )
        assert count() == 0


@pytest.mark.slow
def test_the_learning_rate_of_the_report_is_in_grey_levels(vgg16, pictures):
    """One step of the report's SGD, against its gradient taken on the 0-255 scale by hand."""
    content, styles = pictures
    config = nst_jax.presets["assignment"].replace(
        size=48,
        steps=2,
        content_layers=("block2_conv2",),
        style_layers=("block1_conv1", "block2_conv1"),
    )
    content = np.asarray(nst_jax.image.resize(content, 36, 48))
    seen = []  # at this size the rate is too large, so that the start is what is returned
    nst_jax.stylize(
        vgg16, content, styles[1:], config, callback=lambda p: seen.append(np.array(p.images))
    )
    style = nst_jax.image.resize(styles[1], 48, 48)
    targets = nst_jax.compute_targets(vgg16, content, [style], config)

    def of_levels(levels):
        return nst_jax.objective_value(levels / 255.0, vgg16, targets, config)[0]

    expected = 255 * content - 100.0 * jax.jit(jax.grad(of_levels))(255 * content)
    np.testing.assert_allclose(255 * seen[0][0], expected, atol=1e-2)


def test_a_sweep_over_weights_is_one_program(vgg16, pictures, compilations):
    content, styles = pictures
    twice = [styles[0], styles[0]]
    sweep = {"content_weight": np.array([0.1, 10.0])}
    swept = nst_jax.stylize(vgg16, content, twice, CONFIG, sweep=sweep)
    for n, weight in enumerate((0.1, 10.0)):
        single = nst_jax.stylize(vgg16, content, twice, CONFIG.replace(content_weight=weight))
        np.testing.assert_allclose(swept.images[n], single.images[n], atol=1e-4)
    nst_jax.stylize(vgg16, content, styles[:1], CONFIG, sweep=sweep)
    with compilations() as count:
        other = {"content_weight": np.ones(2)}
        nst_jax.stylize(vgg16, content, styles[:1], CONFIG, sweep=other)
        assert count() == 0


@pytest.mark.slow
def test_blends_make_one_output_a_row(vgg16, pictures):
    content, styles = pictures
    mixing = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    blended = nst_jax.stylize(
        vgg16, content, styles, CONFIG, combine=nst_jax.Combine(mixing=mixing)
    )
    plain = nst_jax.stylize(vgg16, content, styles, CONFIG)
    assert blended.images.shape[0] == 3
    np.testing.assert_allclose(blended.images[0], plain.images[0], atol=1e-4)
    np.testing.assert_allclose(blended.images[2], plain.images[1], atol=1e-4)


@pytest.mark.slow
def test_pairs_are_of_the_product(vgg16, pictures):
    content, styles = pictures
    contents = [content, content[::-1]]
    config = CONFIG.replace(color="luminance", init="style")
    paired = nst_jax.stylize(vgg16, contents, styles, config, combine=nst_jax.Combine(paired=True))
    assert paired.images.shape == (2, 36, 48, 3)
    for n, content in enumerate(contents):
        every = nst_jax.stylize(vgg16, content, styles, config)
        np.testing.assert_allclose(paired.images[n], every.images[n], atol=1e-4)


@pytest.mark.parametrize("colours", ["style", "match"])
def test_each_style_of_pairs_has_its_own_mask(vgg16, rng, colours):
    """What a mask hides changes nothing, in the loss and in the colours."""
    content, left = (rng.random((32, 32, 3), np.float32) for _ in range(2))
    styles = [np.concatenate([left, np.full((32, 32, 3), c, np.float32)], 1) for c in (0.1, 0.9)]
    mask = np.zeros((32, 64), np.float32)
    mask[:, :28] = 1  # what lies at the edge sees across it
    config = CONFIG.replace(**basic.FIRST_LAYERS, size=None, steps=1, color=colours)
    apart = {}
    for masks in ([mask, mask], [None, mask]):
        combine = nst_jax.Combine(paired=True, style_masks=masks)
        found = nst_jax.stylize(vgg16, [content] * 2, styles, config, combine=combine)
        apart[masks[0] is None] = np.ptp(found.history["style"][0])
    assert apart[False] < 1e-4 * apart[True]


@pytest.mark.parametrize(
    ("count", "others", "message"),
    [
        (1, {}, "paired needs as many contents as styles, got 1 and 2"),
        (2, {"mixing": np.eye(2)}, "paired goes without mixing and masks"),
        (2, {"masks": np.ones((2, 9, 9))}, "paired goes without mixing and masks"),
    ],
)
def test_pairs_that_are_none_are_refused(vgg16, pictures, count, others, message):
    content, styles = pictures
    with pytest.raises(ValueError, match=message):
        combine = nst_jax.Combine(paired=True, **others)
        nst_jax.stylize(vgg16, [content] * count, styles, CONFIG, combine=combine)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (np.full((64, 64, 3), 200.0, np.float32), ValueError, r"content must be in \[0, 1\]"),
        (np.full((64, 64, 3), np.nan, np.float32), ValueError, r"content must be in \[0, 1\]"),
        (np.zeros((64, 64, 3), np.uint8), TypeError, "content must be floating point"),
        (np.zeros((64, 64), np.float32), ValueError, r"content must have shape"),
        (
            [np.zeros((64, 64, 3), np.float32), np.zeros((64, 48, 3), np.float32)],
            ValueError,
            "of one shape",
        ),
        ([], ValueError, "content must hold at least one"),
    ],
)
def test_bad_content_is_refused(vgg16, content, error, message):
    with pytest.raises(error, match=message):
        nst_jax.stylize(vgg16, content, [np.zeros((64, 64, 3), np.float32)], CONFIG)


def combined(**parts):
    return {"combine": nst_jax.Combine(**parts)}


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"style_layers": ("block9_conv1",)}, {}, "block9_conv1"),
        ({"size": 8, "style_layers": ("block5_conv1",)}, {}, "block5_conv1 needs images of at"),
        (
            {},
            {"sweep": {"learning_rate": np.ones(3)}},
            r"sweep\['learning_rate'\] must have .* each of the 2 outputs",
        ),
        ({}, combined(mixing=[[-0.5, 0.4]]), "each row of mixing must have a sum above 0"),
        ({}, combined(mixing=[[1.0]]), "mixing must be"),
        ({}, combined(masks=np.ones((3, 36, 48))), r"masks must be \[2 styles"),
        ({}, combined(masks=np.ones(4)), r"masks must be \[2 styles"),
        ({}, combined(masks=np.ones((2, 48, 36))), r"masks\[0\] must have the shape of its"),
        (
            {},
            combined(masks=np.full((2, 36, 48), 2.0)),
            r"masks\[0\] must be in \[0, 1\], got .*2 to 2",
        ),
        ({}, combined(masks=[np.eye(4), np.zeros((4, 4))]), r"masks\[1\] must be above 0"),
        (
            {},
            combined(masks=[np.ones((36, 48)), np.ones((18, 24))]),
            r"the same size, got \[\(18, 24\)",
        ),
        (
            {},
            combined(style_masks=[[[-5.0, 7.0]], None]),
            r"style_masks\[0\] .*, got .* from -5 to 7",
        ),
        ({}, combined(style_masks=np.full((2, 64, 48), np.nan)), r"style_masks\[0\] .* nan to nan"),
        (
            {},
            combined(style_masks=[None, np.zeros((4, 4))]),
            r"style_masks\[1\] must be above 0 somewhere",
        ),
        (
            {},
            combined(style_masks=[None, object()]),
            r"style_masks\[1\] must be an array of numbers",
        ),
        ({"content_layers": (), "style_layers": ()}, {}, "config must have a term that looks"),
        ({"content_layers": ("fc1",)}, {}, "^layer fc1 has no positions .* block5_pool$"),
        ({"style_layers": ("predictions",)}, {}, "layer predictions has no positions in the pic"),
        ({"style_layers": ("conv4_2",)}, {}, "block5_pool; did you mean 'block4_conv2'"),
        ({"style_layers": ("relu_1_1",)}, {}, "did you mean 'block1_conv1'"),
        ({"style_layers": ("Pool3",)}, {}, "did you mean 'block3_pool'"),
        ({"style_layers": ("BLOCK3_CONV2",)}, {}, "did you mean 'block3_conv2'"),
        (
            {},
            {"placement": nst_jax.Placement(tile=9)},
            "tile must be at least .* for these layers, got 9",
        ),
        ({"jitter": 2}, combined(masks=np.ones((2, 36, 48))), "masks and jitter exclude"),
        ({}, combined(style_masks=[None]), "one mask for each of 2 styles, got 1"),
        (
            {},
            combined(style_masks=[None, np.ones((9, 4))]),
            r"style_masks\[1\] must have the shape",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_compiled(
    vgg16, pictures, compilations, changes, options, message
):
    content, styles = pictures
    jax.clear_caches()  # what an earlier test compiled would not be counted
    with compilations() as count, pytest.raises(ValueError, match=message) as caught:
        nst_jax.stylize(vgg16, content, styles, CONFIG.replace(**changes), **options)
    assert count() == 0
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_masks_may_be_lists_or_one_array(vgg16, pictures):
    content, styles = pictures
    styles = [style[:48, :48] for style in styles]
    masks = np.random.default_rng(1).random((2, 48, 48), np.float32)
    images = [
        nst_jax.stylize(
            vgg16,
            content,
            styles,
            CONFIG.replace(steps=1),
            combine=nst_jax.Combine(style_masks=each),
        ).images
        for each in (masks, masks.tolist(), list(masks))
    ]
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


def test_targets_too_need_layers_with_positions(vgg16, pictures):
    content, styles = pictures
    config = CONFIG.replace(content_layers=("fc2",))
    with pytest.raises(ValueError, match="^layer fc2 has no positions in the picture"):
        nst_jax.compute_targets(vgg16, content, styles, config)


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="one of default, .* did you mean 'gatys'"):
        nst_jax.presets["gaty"]
    assert nst_jax.presets.get("gaty") is None and "gaty" not in nst_jax.presets


def test_styles_have_a_size_of_their_own(vgg16, rng):
    """As if the style were given at that size."""
    content, style = rng.random((32, 40, 3), np.float32), rng.random((60, 30, 3), np.float32)
    config = CONFIG.replace(steps=2)
    small = np.asarray(nst_jax.image.resize(style, 20, 10))
    wanted = nst_jax.stylize(vgg16, content, [small], config.replace(size=None))
    for changes in ({"style_scale": 0.5}, {"style_size": 20}):
        found = nst_jax.stylize(vgg16, content, [style], config.replace(size=40, **changes))
        np.testing.assert_allclose(found.images, wanted.images, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "shapes"),
    [
        ({"size": 48}, [(24, 48)]),
        ({"size": 48, "style_scale": 0.5}, [(12, 24)]),
        ({"size": 96, "style_scale": 0.5}, [(24, 48)]),  # twice the picture, the same strokes
        ({"size": None, "style_scale": 0.5}, [(15, 30)]),
        ({"size": None, "style_size": 20}, [(10, 20)]),
        ({"size": 24, "size_of": "height", "style_scale": 2.0}, [(48, 96)]),
        # The styles keep their proportion to the pictures at every scale.
        ({"size": 96, "first_size": 24, "style_size": 48}, [(6, 12), (12, 24), (24, 48)]),
        ({"size": 96, "first_size": 24, "style_scale": 0.5}, [(6, 12), (12, 24), (24, 48)]),
        ({"size": 40, "style_size": 1}, [(1, 1)]),
    ],
)
def test_the_size_of_a_style(changes, shapes):
    config = basic.CONFIG.replace(scale_factor=2.0, **changes)
    found = [
        coarse_to_fine.fit_style_shape((30, 60, 3), coarse_to_fine.at_scale(config, size))
        for size in coarse_to_fine.scales(config)
    ]
    assert found == shapes


def test_a_style_that_becomes_too_small_is_refused(vgg16, pictures):
    content, (style, _) = pictures
    config = CONFIG.replace(style_layers=("block3_conv1",), style_scale=0.05)
    with pytest.raises(ValueError, match="block3_conv1 needs images of at least 4 pixels a side"):
        nst_jax.stylize(vgg16, content, [style], config)


def test_two_sizes_of_a_style_exclude_each_other():
    with pytest.raises(ValueError, match="style_size and style_scale exclude each other, got 64"):
        basic.CONFIG.replace(style_size=64, style_scale=0.5)


@pytest.mark.parametrize(
    ("changes", "placed", "watched", "chunk"),
    [
        ({"steps": 40}, {}, False, 4),
        ({"steps": 42}, {}, False, 1),  # two steps would be left over
        ({"steps": 36}, {}, False, 1),
        ({"steps": 40}, {}, True, 1),
        ({"steps": 40}, {"steps_per_dispatch": 8}, False, 8),
        # These convolve directly, which is slow in a loop on a CPU.
        ({"steps": 40, "dtype": "bfloat16"}, {}, False, 1),
        ({"steps": 40}, {"mesh": {"style": 1, "space": 2}}, False, 1),
    ],
)
def test_a_long_run_that_nobody_watches_takes_steps_together(
    vgg16, pictures, monkeypatch, changes, placed, watched, chunk
):
    lengths = []

    def ended(*arguments, chunk, **options):
        lengths.append(optimize.steps_per_dispatch() if chunk is None else chunk)
        raise KeyboardInterrupt

    monkeypatch.setattr(optimize, "run", ended)
    if mesh := placed.get("mesh"):
        placed = {"mesh": sharding.make_mesh(1, sizes=mesh)}
    config = CONFIG.replace(style_layers=("block1_conv1", "block2_conv1"), **changes)
    content, (style, _) = pictures
    with pytest.raises(KeyboardInterrupt):
        nst_jax.stylize(
            *(vgg16, content, [style], config),
            placement=nst_jax.Placement(**placed),
            callback=(lambda progress: None) if watched else None,
        )
    assert lengths == [chunk]


@pytest.mark.parametrize("answer", [True, np.True_])
def test_a_callback_ends_a_run_at_any_scale_and_keeps_its_pictures(vgg16, pictures, answer):
    content, styles = pictures
    config = CONFIG.replace(size=64, first_size=32, scale_factor=2.0, **basic.FIRST_LAYERS)
    assert list(coarse_to_fine.scales(config)) == [32, 64]
    for last in (2, 4, 6):  # in the first scale, at its end, and in the second

        def callback(now, last=last):
            return answer if now.step == last else 1

        result = nst_jax.stylize(vgg16, content, styles, config, callback=callback)
        assert len(result.history["total"]) == last
        np.testing.assert_array_equal(result.steps, last)
        assert result.images.shape == (2, 48, 64, 3) and np.isfinite(result.loss).all()
        assert result.loss[0] < result.history["total"][4 if last > 4 else 0, 0]


def test_a_run_goes_on_from_its_states(vgg16, pictures):
    """Two steps and two more are four steps: with a constant rate, momentum goes on too."""
    content, styles = pictures
    config = CONFIG.replace(**basic.FIRST_LAYERS, schedule="constant", momentum=0.9, size=32)
    whole = nst_jax.stylize(vgg16, content, styles, config)
    half = nst_jax.stylize(vgg16, content, styles, config.replace(steps=2))
    rest = nst_jax.stylize(vgg16, content, styles, config.replace(steps=2), previous=half.states)
    np.testing.assert_allclose(rest.images, whole.images, atol=1e-4)
    np.testing.assert_array_equal(rest.steps, 4)
    assert len(rest.history["total"]) == 2
    # With other weights, and larger: from the same pictures, at one scale.
    larger = config.replace(size=64, first_size=32, style_weight=1.0, steps=1, first_steps=7)
    other = nst_jax.stylize(vgg16, content, styles, larger, previous=half.states)
    assert other.images.shape == (2, 48, 64, 3) and len(other.history["total"]) == 1
    start = nst_jax.image.resize(half.images, 48, 64)
    assert (
        np.abs(other.images - start).max() < np.abs(other.images - content_at(content)[None]).max()
    )
    with pytest.raises(ValueError, match="previous must hold each of the 1 outputs, got 2"):
        nst_jax.stylize(vgg16, content, styles[:1], config, previous=half.states)
    with pytest.raises(TypeError, match="previous must be the states of a Result, or None, got an"):
        nst_jax.stylize(vgg16, content, styles, config, previous=half.images)


def content_at(content):
    return np.asarray(nst_jax.image.resize(content, 48, 64))
