import dataclasses
import functools

import basic
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import nst_jax
from nst_jax import objective, windows

GATYS = basic.CONFIG.replace(content_weight=0.5, style_weight=50.0).replace(
    content_layers=("block3_conv2",),
    style_layers=("block1_conv1", "block3_conv1"),
    style_normalization="gatys",
    style_weight=1.0,
)
KERAS = GATYS.replace(
    content_reduction="half_sum",
    style_normalization="keras",
    content_weight=2.5e-8,
    style_weight=1e-6,
    tv_weight=1e-6,
    tv_form="keras",
)


@pytest.fixture
def pictures(rng):
    """Content 24x32 and two styles of other shapes, smooth enough to be pictures."""

    def picture(height, width):
        coarse = rng.random((4, 4, 3), np.float32)
        return np.kron(coarse, np.ones((height // 4, width // 4, 1), np.float32))

    return picture(24, 32), [picture(28, 20), picture(36, 24)]


def expected_terms(params, image, content, style, config):
    """The objective again, in float64, from the papers' formulas."""
    own, wanted, painted = (oracle.features(params, x) for x in (image, content, style))
    content_term = 0.0
    for layer, weight in config["content_layers"].items():
        squares = (own[layer] - wanted[layer]) ** 2
        reduced = squares.mean() if config["content_reduction"] == "mean" else squares.sum() / 2
        content_term += weight * reduced
    style_term = 0.0
    for layer in config["style_layers"]:
        height, width, channels = own[layer].shape
        positions = height * width
        # A style of another size counts as if it had as many positions.
        target = oracle.gram(painted[layer]) * positions / painted[layer][..., 0].size
        difference = ((oracle.gram(own[layer]) - target) ** 2).sum()
        if config["style_normalization"] == "gatys":
            difference /= 4 * channels**2 * positions**2
        else:
            difference /= 4 * 3**2 * (image.shape[0] * image.shape[1]) ** 2
        style_term += difference / len(config["style_layers"])
    x = 255 * np.asarray(image, np.float64)
    squares = (x[1:, :-1] - x[:-1, :-1]) ** 2 + (x[:-1, 1:] - x[:-1, :-1]) ** 2
    return {
        "content": config["content_weight"] * content_term,
        "style": config["style_weight"] * style_term,
    } | ({"tv": config["tv_weight"] * (squares**1.25).sum()} if config.term("tv") else {})


SEVERAL = GATYS.replace(content_layers={"block1_conv2": 0.25, "block3_conv2": 3.0})


@pytest.mark.parametrize("config", [GATYS, KERAS, SEVERAL], ids=["gatys", "keras", "several"])
def test_value_and_gradient_equal_numpy_in_float64(vgg16, pictures, rng, config):
    content, styles = pictures
    image = np.clip(content + 0.1 * rng.normal(size=content.shape), 0, 1).astype(np.float32)
    targets = nst_jax.compute_targets(vgg16, content, styles, config)
    assert targets.terms["style"]["block3_conv1"].gram.shape == (2, 256, 256)
    value_and_grad = jax.jit(
        jax.vmap(
            jax.value_and_grad(nst_jax.objective_value, has_aux=True), in_axes=(None, None, 0, None)
        )
    )
    (totals, terms), gradients = value_and_grad(image, vgg16, targets, config)
    direction = rng.normal(size=image.shape)
    for n, style in enumerate(styles):
        expected = expected_terms(vgg16, image, content, style, config)
        for name, value in expected.items():
            np.testing.assert_allclose(terms[name][n], value, rtol=2e-5, err_msg=name)
        np.testing.assert_allclose(totals[n], sum(expected.values()), rtol=2e-5)
        h = 1e-6
        slope = [
            sum(expected_terms(vgg16, image + s * h * direction, content, style, config).values())
            for s in (1, -1)
        ]
        slope = (slope[0] - slope[1]) / (2 * h)
        found = (np.asarray(gradients[n], np.float64) * direction).sum()
        np.testing.assert_allclose(found, slope, rtol=1e-3)


def test_each_style_keeps_its_own_shape(vgg16, pictures):
    content, styles = pictures
    together = nst_jax.compute_targets(vgg16, content, styles, GATYS)
    for n, style in enumerate(styles):
        features = oracle.features(vgg16, style)["block3_conv1"]
        expected = oracle.gram(features) / features[..., 0].size
        np.testing.assert_allclose(
            together.terms["style"]["block3_conv1"].gram[n],
            expected,
            rtol=1e-4,
            atol=1e-5 * expected.max(),
        )


def test_each_row_of_a_mixing_is_divided_by_its_sum():
    rows = np.array([[5, 5], [0.7, 0.3], [1, 3], [3, -1]])
    wanted = [[0.5, 0.5], [0.7, 0.3], [0.25, 0.75], [1.5, -0.5]]
    np.testing.assert_allclose(objective.check_mixing(rows, 2), wanted, rtol=1e-6)
    near = np.float32([[0.33333, 0.66666]])  # as typed by hand: it stays, bit by bit
    np.testing.assert_array_equal(objective.check_mixing(near, 2), near)


def test_mixing_mixes_statistics(vgg16, pictures):
    content, styles = pictures
    plain = nst_jax.compute_targets(vgg16, content, styles, GATYS)
    mixing = np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    mixed = nst_jax.compute_targets(
        vgg16, content, styles, GATYS, combine=nst_jax.Combine(mixing=mixing)
    )
    gram = plain.terms["style"]["block1_conv1"].gram
    found = mixed.terms["style"]["block1_conv1"].gram
    assert mixed.terms["content"]["block3_conv2"].values.shape[0] == 3
    np.testing.assert_allclose(found[0], 0.25 * gram[0] + 0.75 * gram[1], rtol=1e-5)
    np.testing.assert_allclose(found[1], gram[0], rtol=1e-6)


def test_targets_of_one_style_are_taken_as_they_are(vgg16, pictures):
    content, styles = pictures
    targets = nst_jax.compute_targets(vgg16, content, styles[:1], GATYS)
    direct, _ = nst_jax.objective_value(jnp.asarray(content), vgg16, targets, GATYS)
    one = jax.tree.map(lambda leaf: leaf[0], targets)
    indexed, _ = nst_jax.objective_value(jnp.asarray(content), vgg16, one, GATYS)
    assert direct == indexed and direct > 0


def test_loss_is_zero_at_the_targets(vgg16, pictures):
    content, _ = pictures
    targets = nst_jax.compute_targets(vgg16, content, [content], GATYS)
    total, terms = nst_jax.objective_value(jnp.asarray(content), vgg16, targets, GATYS)
    scale, _ = nst_jax.objective_value(jnp.asarray(1 - content), vgg16, targets, GATYS)
    assert total <= 1e-9 * scale
    assert set(terms) == {"total", "content", "style"}  # of a total variation of 0 nothing


def test_changing_numbers_compiles_nothing_and_can_be_mapped(vgg16, pictures, compilations):
    content, styles = pictures
    value = jax.jit(nst_jax.objective_value)
    targets = nst_jax.compute_targets(vgg16, content, styles[:1], GATYS)
    image = jnp.asarray(content)
    first, _ = value(image, vgg16, targets, GATYS)
    with compilations() as count:
        heavier, _ = value(image, vgg16, targets, GATYS.replace(style_weight=3.0, steps=9))
        assert count() == 0
        value(image, vgg16, targets, GATYS.replace(style_normalization="keras"))
        assert count() > 0  # the counter counts
    np.testing.assert_allclose(heavier, 3 * first, rtol=1e-5)
    sweep = jnp.array([1.0, 2.0, 4.0])
    totals = jax.vmap(
        lambda weight: nst_jax.objective_value(
            image, vgg16, targets, GATYS.replace(style_weight=weight)
        )[0]
    )(sweep)
    np.testing.assert_allclose(totals, first * sweep, rtol=1e-5)


def test_layer_weights_weigh_layers(vgg16, pictures):
    content, styles = pictures
    image = jnp.asarray(content)
    targets = nst_jax.compute_targets(vgg16, content, styles[:1], GATYS)

    def style(weights):
        config = GATYS.replace(style_layers=dict(zip(GATYS["style_layers"], weights, strict=True)))
        return nst_jax.objective_value(image, vgg16, targets, config)[1]["style"]

    even, low, high = style((0.5, 0.5)), style((1.0, 0.0)), style((0.0, 1.0))
    np.testing.assert_allclose(even, 0.5 * low + 0.5 * high, rtol=1e-5)
    np.testing.assert_allclose(style((2.0, 3.0)), 2 * low + 3 * high, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": np.zeros((24, 32), np.float32)}, r"content must have shape \[H, W, 3\]"),
        (
            {"content": np.zeros((1, 2, 24, 32, 3), np.float32)},
            r"content must have shape \[H, W, 3\]",
        ),
        ({"styles": []}, "at least one picture"),
        ({"styles": [np.zeros((3, 8, 8), np.float32)]}, r"styles\[0\] must have shape"),
        ({"styles": [np.zeros((3, 32, 3), np.float32)]}, "at least 4 pixels"),
        ({"mixing": [[0.5, 0.5]]}, r"mixing must be \[outputs, 1 styles\]"),
        ({"mixing": [[0.0]]}, "each row of mixing must have a sum above 0"),
        ({"mixing": [[1.0], [np.nan]]}, r"a sum above 0, got sums \[1.0, nan\]"),
        ({"config": GATYS.replace(style_layers=("block9_conv1",))}, "unknown layer"),
    ],
)
def test_bad_input_is_refused(vgg16, change, message):
    picture = np.zeros((32, 32, 3), np.float32)
    arguments = {"content": picture, "styles": [picture], "config": GATYS, "mixing": None} | change
    mixing = arguments.pop("mixing")
    with pytest.raises(ValueError, match=message):
        nst_jax.compute_targets(vgg16, *arguments.values(), combine=nst_jax.Combine(mixing=mixing))


@pytest.mark.parametrize("content", [np.zeros((24, 32, 3), np.uint8), [[0.5]]])
def test_what_is_no_array_of_floats_is_refused(vgg16, content):
    style = np.zeros((32, 32, 3), np.float32)
    with pytest.raises(TypeError, match="content must be (floating point|an array)"):
        nst_jax.compute_targets(vgg16, content, [style], GATYS)


def test_a_batch_is_refused_with_the_way_to_map(vgg16, pictures):
    content, styles = pictures
    targets = nst_jax.compute_targets(vgg16, content, styles, GATYS)
    value = functools.partial(nst_jax.objective_value, params=vgg16, config=GATYS)
    with pytest.raises(ValueError, match="jax.vmap"):
        value(jnp.zeros((2, 24, 32, 3)), targets=targets)
    with pytest.raises(ValueError, match="jax.vmap"):
        value(jnp.asarray(content), targets=targets)
    with pytest.raises(ValueError, match="one size"):
        value(jnp.zeros((32, 32, 3)), targets=jax.tree.map(lambda leaf: leaf[0], targets))


def without(tree, name, layer=None):
    """The targets' tree without a term, or without a layer of it."""
    kept = {key: own for key, own in tree[name].items() if key != layer}
    return {key: own for key, own in tree.items() if key != name} | ({name: kept} if layer else {})


STYLE = "the term 'style' must have the layers block1_conv1, block3_conv1, got"


@pytest.mark.parametrize(
    ("config", "cut", "message"),
    [
        (GATYS.replace(style_layers=("block1_conv1",)), None, f"{STYLE} block1_conv1$"),
        (GATYS.replace(style_layers=()), None, f"{STYLE} none$"),
        (GATYS, ("style", "block1_conv1"), f"{STYLE} block3_conv1$"),
        (GATYS, ("style",), f"{STYLE} none$"),
        (GATYS, ("content",), "the term 'content' must have the layers block3_conv2, got none$"),
        (
            GATYS.replace(terms=GATYS.terms[::-1]),
            None,
            "must have the terms content, style in this order, got style, content$",
        ),
    ],
)
def test_targets_that_lack_a_layer_are_refused(vgg16, pictures, config, cut, message):
    content, styles = pictures
    targets = nst_jax.compute_targets(vgg16, content, styles[:1], config)
    if cut is not None:
        targets = dataclasses.replace(targets, terms=without(targets.terms, *cut))
    for find in (nst_jax.objective_value, objective.layer_losses, jax.jit(nst_jax.objective_value)):
        with pytest.raises(ValueError, match=f"(?m)^targets (of )?{message}"):
            find(jnp.asarray(content), vgg16, targets, GATYS)
    for find in (windows.value_and_grad, windows.layer_losses):
        with pytest.raises(ValueError, match=f"(?m)^targets (of )?{message}"):
            find(content, vgg16, targets, GATYS, tile=32)


def test_targets_of_windows_with_a_jitter_leave_the_content_to_each_step(vgg16, pictures):
    content, styles = pictures
    config = GATYS.replace(jitter=2)
    (targets,) = windows.compute_targets(vgg16, content, styles[:1], config, tile=32)
    key, image = jax.random.key(1), jnp.asarray(content)
    (total, _), _ = windows.value_and_grad(content, vgg16, targets, config, tile=32, key=key)
    whole, _ = nst_jax.objective_value(image, vgg16, targets, config, key=key)
    np.testing.assert_allclose(total, whole, rtol=1e-4)
    message = "term 'content' must have the layers block3_conv2, got none$"
    with pytest.raises(ValueError, match=message):
        nst_jax.objective_value(image, vgg16, targets, config)
    with pytest.raises(ValueError, match=message):
        windows.value_and_grad(content, vgg16, targets, GATYS, tile=32)


def test_no_layers_leave_total_variation_alone(vgg16, pictures):
    content, styles = pictures
    config = basic.CONFIG.replace(content_layers=(), style_layers=(), tv_weight=2.0)
    targets = nst_jax.compute_targets(vgg16, content, styles[:1], config)
    total, terms = nst_jax.objective_value(jnp.asarray(content), vgg16, targets, config)
    assert total == terms["tv"] > 0


def test_a_batch_of_configurations_by_its_axes(vgg16, pictures):
    content, styles = pictures
    image = jnp.asarray(content[::-1])
    weights = {"content_weight": np.float32([0.5, 2.0]), "style_weight": np.float32([3.0, 4.0])}
    config = GATYS.with_sweep(weights)
    targets = nst_jax.compute_targets(vgg16, content, styles[:1], config)
    axes = jax.tree.map(lambda number: 0 if np.ndim(number) else None, config)
    assert (axes["content_weight"], axes["style_weight"], axes["momentum"]) == (0, 0, None)
    mapped = jax.vmap(nst_jax.objective_value, in_axes=(None, None, None, axes))
    found, _ = mapped(image, vgg16, targets, config)
    for n in range(2):
        one = GATYS.replace(**{name: values[n] for name, values in weights.items()})
        alone, _ = nst_jax.objective_value(image, vgg16, targets, one)
        np.testing.assert_allclose(found[n], alone, rtol=1e-5)
    assert found[0] != found[1]


@pytest.mark.parametrize("paired", [False, True])
def test_targets_of_several_contents_are_those_of_each(vgg16, rng, paired):
    """In the order of `stylize`: all styles of the first content, then those of the second."""
    contents = rng.random((2, 24, 32, 3), np.float32)
    styles = [rng.random((20, 28, 3), np.float32) for _ in range(2)]
    config = basic.CONFIG.replace(**basic.FIRST_LAYERS)
    found = nst_jax.compute_targets(
        vgg16, contents, styles, config, combine=nst_jax.Combine(paired=paired)
    )
    each = [
        nst_jax.compute_targets(vgg16, content, styles[n : n + 1] if paired else styles, config)
        for n, content in enumerate(contents)
    ]
    wanted = jax.tree.map(lambda *leaves: np.concatenate(leaves), *each)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    value = jax.vmap(nst_jax.objective_value, in_axes=(0, None, 0, None))
    pictures = contents if paired else np.repeat(contents, 2, axis=0)
    losses, _ = value(pictures, vgg16, found, config)
    assert losses.shape == (2 if paired else 4,)
    again = nst_jax.compute_targets(vgg16, list(contents), styles, config)
    assert jax.tree.leaves(again)[0].shape[0] == 4
    with pytest.raises(ValueError, match="content must hold at least one picture, got none"):
        nst_jax.compute_targets(vgg16, contents[:0], styles, config)
