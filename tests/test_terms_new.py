"""The equations of newer terms against NumPy in float64, and the terms in every evaluation."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest
from commandline import FAST

import nst_jax
from nst_jax import terms
from nst_jax.terms import (
    distances,
    kernels,
    laplacian,
    matting,
    nearest,
    relaxed_transport,
    sampling,
    sliced,
)

N, M, C = 24, 17, 5
AT = terms.At((1, N), {"image": (1, N)}, {"image": C}, {"image": np.zeros(2, np.int32)})


@pytest.fixture
def sets(rng):
    return rng.normal(size=(N, C)), rng.normal(size=(M, C)) + 0.3


# ------------------------- Oracles, in float64 by plain loops -------------------------


def cosine(x, y):
    return np.array([[1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in y] for a in x])


def relaxed(distances):
    return max(distances.min(0).mean(), distances.min(1).mean())


def moments(x, y):
    (mean, covariance), (other, wanted) = ((v.mean(0), np.cov(v.T, bias=True)) for v in (x, y))
    return np.abs(mean - other).mean() + np.abs(covariance - wanted).mean()


def similarity(x, y):
    one, other = cosine(x, x), cosine(y, y)
    return np.abs(one / one.sum(0) - other / other.sum(0)).mean()


def quantile_distance(x, y):
    """np.quantile's method "hazen" puts sample i at the share (i + 1/2) / n."""
    shares = (np.arange(len(x)) + 0.5) / len(x)
    wanted = np.quantile(y, shares, axis=0, method="hazen")
    return np.mean((np.sort(x, axis=0) - wanted) ** 2)


def discrepancy(x, y, kind):
    def k(a, b):
        if kind == "gaussian":
            return np.exp(-np.sum((a - b) ** 2) / (2 * 1.5**2))
        return (a @ b / 1.5**2) ** (2 if kind == "polynomial" else 1)

    def mean(a, b):
        return np.mean([[k(v, w) for w in b] for v in a])

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def shifted_gram(x, y):
    """The squared distance of the means of products, after 0.75 is subtracted from each feature."""
    own, wanted = ((v - 0.75).T @ (v - 0.75) / len(v) for v in (x, y))
    return np.sum((own - wanted) ** 2) / np.sum(wanted**2)


def shifted_gram_of_sums(x, y):
    """The same, from sums of the features as they are."""
    term = terms.ShiftedGramStyle(normalization="relative", shift=-0.75)
    own, wanted = (
        term.target("image", term.sums("image", v[None], None, None, AT), AT) for v in (x, y)
    )
    return term.distance(own, wanted, "image", AT)


def laplacian_oracle(x, y):
    def filtered(image):
        pooled = image[:12, :9].reshape(4, 3, 3, 3, 3).mean((1, 3)).sum(-1)
        return [
            4 * pooled[i, j]
            - pooled[i - 1, j]
            - pooled[i + 1, j]
            - pooled[i, j - 1]
            - pooled[i, j + 1]
            for i in range(1, 3)
            for j in range(1, 2)
        ]

    return np.sum((np.subtract(filtered(x), filtered(y))) ** 2)


CONTENT = np.random.default_rng(7).normal(size=(N, C))
"""Another picture's features, at the places of those that are compared."""


def matched(x, y):
    chosen = cosine(CONTENT - CONTENT.mean(0), y - y.mean(0)).argmin(1)
    return np.diag(cosine(x, y[chosen])).mean()


CASES = {
    "remd": (
        lambda x, y: relaxed_transport.relaxed_transport(distances.cosine_distances(x, y)),
        lambda x, y: relaxed(cosine(x, y)),
    ),
    "moments": (relaxed_transport.moment_distance, moments),
    "similarity": (
        lambda x, y: relaxed_transport.self_similarity_distance(x, y[jnp.arange(N) % M]),
        lambda x, y: similarity(x, y[np.arange(N) % M]),
    ),
    "sliced": (
        lambda x, y: sliced.wasserstein_along_axes(x, jnp.sort(y, axis=0)),
        quantile_distance,
    ),
    "nearest": (nearest.nearest_distance, lambda x, y: cosine(x, y).min(1).mean()),
    "matched": (lambda x, y: nearest.matched_distance(x, np.float32(CONTENT), y), matched),
    "gaussian": (
        lambda x, y: kernels.mean_discrepancy(x, y, kind="gaussian", width=1.5),
        lambda x, y: discrepancy(x, y, "gaussian"),
    ),
    "polynomial": (
        lambda x, y: kernels.mean_discrepancy(x, y, kind="polynomial", width=1.5),
        lambda x, y: discrepancy(x, y, "polynomial"),
    ),
    "linear": (
        lambda x, y: kernels.mean_discrepancy(x, y, kind="linear", width=1.5),
        lambda x, y: discrepancy(x, y, "linear"),
    ),
    "shifted_gram": (shifted_gram_of_sums, shifted_gram),
    "batch_norm": (
        lambda x, y: kernels.batch_norm_distance(x.mean(0), x.std(0), y.mean(0), y.std(0)),
        lambda x, y: np.mean((x.mean(0) - y.mean(0)) ** 2 + (x.std(0) - y.std(0)) ** 2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_equations_are_those_of_the_papers(sets, name):
    """Value, and gradient against central differences of the oracle."""
    function, oracle = CASES[name]
    x, y = sets
    value, slope = jax.value_and_grad(function)(
        jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    )
    np.testing.assert_allclose(value, oracle(x, y), rtol=2e-5)
    direction = np.random.default_rng(1).normal(size=x.shape)
    step = 1e-5
    wanted = (oracle(x + step * direction, y) - oracle(x - step * direction, y)) / (2 * step)
    np.testing.assert_allclose(np.sum(slope * direction), wanted, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_equations_work_under_vmap_and_jit(sets, name):
    function, _ = CASES[name]
    x, y = (jnp.asarray(v, jnp.float32) for v in sets)
    several = jnp.stack([x, x[::-1] * 2, x + 1])
    each = [function(one, y) for one in several]
    found = jax.jit(jax.vmap(function, in_axes=(0, None)))(several, y)
    np.testing.assert_allclose(found, each, rtol=1e-5)


def test_the_laplacian_is_that_of_the_paper(rng):
    x, y = rng.random((2, 14, 10, 3))
    found = laplacian.laplacian_distance(np.float32(x), np.float32(y), 3)
    np.testing.assert_allclose(found, laplacian_oracle(x, y), rtol=1e-5)


def matting_laplacian(content, epsilon):
    """The matrix of Levin, Lischinski, Weiss, 2008, equation 12, with windows of 3x3 pixels."""
    height, width = content.shape[:2]
    colours, found = content.reshape(-1, 3), np.zeros((height * width,) * 2)
    for row in range(height - 2):
        for column in range(width - 2):
            inside = [(row + i) * width + column + j for i in range(3) for j in range(3)]
            own = colours[inside] - colours[inside].mean(axis=0)
            covariance = own.T @ own / 9 + epsilon / 9 * np.eye(3)
            affinity = (1 + own @ np.linalg.inv(covariance) @ own.T) / 9
            found[np.ix_(inside, inside)] += np.eye(9) - affinity
    return found


@pytest.mark.parametrize("kind", ["colours", "one line of colours", "grey", "flat"])
def test_the_matting_loss_is_the_quadratic_form_of_the_matting_laplacian(rng, kind):
    image, content = rng.random((2, 7, 9, 3))
    if kind != "colours":  # then the covariance of a window has no inverse without epsilon
        line = {"one line of colours": [0.9, 0.2, 0.5], "grey": [1, 1, 1], "flat": [0, 0, 0]}[kind]
        content = 0.05 + 0.9 * content[..., :1] * np.array(line)
    matrix = matting_laplacian(content, 1e-4)
    flat = image.reshape(-1, 3)

    def loss(image):
        return jnp.sum(matting.affine_residuals(image, np.float32(content), 1e-4))

    value, gradient = jax.jit(jax.value_and_grad(loss))(np.float32(image))
    np.testing.assert_allclose(value, np.einsum("ic,ij,jc", flat, matrix, flat), rtol=1e-4)
    np.testing.assert_allclose(
        gradient.reshape(-1, 3), 2 * matrix @ flat, atol=1e-4 * np.abs(matrix @ flat).max()
    )
    # An affine map of the colours costs nothing, and neither do other colours without edges.
    mapped = content @ rng.random((3, 3)) * 0.3 + 0.1
    assert loss(np.float32(mapped)) < 1e-3 * value and abs(loss(np.float32(0 * image + 0.7))) < 1e-5


def test_blocks_of_bounded_memory_change_nothing(sets, monkeypatch):
    x, y = (jnp.asarray(v, jnp.float32) for v in sets)
    whole = jax.value_and_grad(nearest.nearest_distance)(x, y)
    monkeypatch.setattr(nearest, "BLOCK", 5 * N)
    for one, other in zip(whole, jax.value_and_grad(nearest.nearest_distance)(x, y), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    term = terms.SlicedWassersteinStyle(layers=("image",), slices=12, quantiles=40)
    at = terms.At((4, 6), {"image": (4, 6)}, {"image": C}, {"image": np.zeros(2, np.int32)})
    target = {"image": term.target("image", y, at)}
    found = []
    for block in (sliced.BLOCK, 3 * N):
        monkeypatch.setattr(sliced, "BLOCK", block)
        found.append(jax.grad(lambda x: term.loss({"image": x}, target, at)["image"])(x))
    np.testing.assert_allclose(*found, atol=1e-6)


def test_weights_of_rows_are_those_of_the_mean(sets, rng):
    x, y = sets
    weights = rng.random(len(x))
    weights[::3] = 0
    distances = 1 - nearest_cosines(x, y)
    wanted = (weights * distances).sum() / weights.sum()
    found = nearest.nearest_distance(np.float32(x), np.float32(y), weights=np.float32(weights))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    # Half of the chosen rows are those of half of the weight, and none has weight 0.
    shares = jnp.array([0, 4, 0, 1, 1, 1, 1, 0], jnp.float32)
    counts = np.bincount(sampling.spread_places(shares, 64), minlength=8)
    np.testing.assert_allclose(counts, [0, 32, 0, 8, 8, 8, 8, 0], atol=1)


def nearest_cosines(x, y):
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    return (x @ y.T).max(axis=1)


@pytest.mark.slow
def test_regions_have_neighbours_of_their_own_style(vgg16, rng):
    """Two halves, each with a style, are two pictures of half the positions."""
    image, content, *styles = own.pictures(rng, (32, 64), (32, 64), (30, 41), (24, 40))
    config = own.ALONE.replace(terms=(terms.NearestNeighbors(layers=("block1_conv1",), rows=64),))
    left = np.zeros((32, 64), np.float32)
    left[:, :32] = 1
    combine = nst_jax.Combine(masks=np.stack([left, 1 - left])[None])
    targets = nst_jax.compute_targets(vgg16, content, styles, config, combine=combine)
    targets = jax.tree.map(lambda leaf: leaf[0], targets)
    value, _ = nst_jax.objective_value(image, vgg16, targets, config)
    wanted = 0.0
    for half, style in zip((np.s_[:, :32], np.s_[:, 32:]), styles, strict=True):
        alone, target = (
            np.float64(config.network(vgg16, picture, ("block1_conv1",))["block1_conv1"])
            for picture in (image, style)
        )
        rows = alone[half].reshape(-1, 64)
        others = target.reshape(-1, 64) - target.reshape(-1, 64).mean(axis=0)
        chosen = others[sampling.spread_places(np.ones(len(others), np.float32), 64)]
        cosines = nearest_cosines(rows - rows.mean(axis=0), np.float64(chosen))
        wanted += 0.5 * (1 - cosines).mean()
    np.testing.assert_allclose(value, wanted, rtol=1e-4)


def test_quantiles_are_those_of_numpy(rng):
    ordered = np.sort(rng.normal(size=(31, 3)), axis=0)
    for count in (1, 7, 31, 90):
        shares = (np.arange(count) + 0.5) / count
        wanted = np.quantile(ordered, shares, axis=0, method="hazen")
        np.testing.assert_allclose(sliced.quantiles(np.float32(ordered), count), wanted, rtol=1e-5)


def test_directions_are_unit_vectors_that_stay():
    directions = sliced.random_directions(7, 12)
    assert directions.shape == (7, 12)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1, rtol=1e-6)
    np.testing.assert_array_equal(directions, sliced.random_directions(7, 12))


# ------------------------------- Terms in an objective --------------------------------

LAYERS = ("block1_conv1", "block2_conv1")
TERMS = {
    "sliced": terms.SlicedWassersteinStyle(layers=LAYERS, slices=16, quantiles=64),
    "histogram": terms.HistogramStyle(layers=LAYERS, quantiles=64),
    "batch_norm": terms.BatchNormStyle(layers=LAYERS),
    "shifted_gram": terms.ShiftedGramStyle(layers=LAYERS, normalization="relative"),
    "kernel": terms.KernelStyle(layers=LAYERS, samples=48),
    "nearest": terms.NearestNeighbors(layers=LAYERS, rows=64),
    "matched": terms.MatchedNeighbors(layers=LAYERS, samples=48, style_samples=64),
    "remd": terms.RelaxedTransport(layers=LAYERS, samples=48, style_samples=64),
    "moments": terms.MomentMatching(layers=LAYERS, samples=48, style_samples=64),
    "palette": terms.Palette(samples=48, style_samples=64),
    "similarity": terms.SelfSimilarity(layers=LAYERS, samples=32),
    "laplacian": terms.Laplacian(squares=3),
    "matting": terms.Matting(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_a_style_or_content_in_itself_has_little_loss(vgg16, rng, name):
    """A picture is nearer to itself than to another one."""
    picture, other = own.pictures(rng, (37, 53), (37, 53))
    config = own.ALONE.replace(terms=(TERMS[name],))
    losses = []
    for wanted in (picture, other):
        targets = nst_jax.compute_targets(vgg16, wanted, [wanted], config)
        (value, _), slope = own.value_and_grad(picture, vgg16, targets, config)
        losses.append(float(value))
        assert np.all(np.isfinite(slope))
    assert -1e-6 <= losses[0] < 0.7 * losses[1] and losses[1] > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_flat_and_black_pictures_stay_finite(vgg16, name):
    config = own.ALONE.replace(terms=(TERMS[name],))
    flat = np.zeros((20, 24, 3), np.float32)
    targets = nst_jax.compute_targets(vgg16, flat, [flat], config)
    (value, _), slope = own.value_and_grad(flat, vgg16, targets, config)
    assert np.isfinite(value) and np.all(np.isfinite(slope))


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_every_way_of_looking_gives_the_same(vgg16, rng, monkeypatch, name):
    image, content, style = own.pictures(rng, (37, 53), (37, 53), (30, 41))
    term = TERMS[name]
    config = own.ALONE.replace(terms=(term,))
    targets = nst_jax.compute_targets(vgg16, content, [style], config)
    key = None if term.fixed else jax.random.key(5)
    wanted = own.value_and_grad(image, vgg16, targets, config, key)
    arguments = (vgg16, image, content, [style], config)
    own.assert_same(own.in_strips(*arguments, key=key), wanted)
    if term.additive:
        own.assert_same(own.in_windows(*arguments, key=key), wanted)
    elif name != "laplacian":  # which looks at no layer of the network
        with pytest.raises(ValueError, match=f"{term.name!r} doesn't add up over parts"):
            nst_jax.stylize(
                *(vgg16, content, [style], config), placement=nst_jax.Placement(tile=28)
            )
    # Rounding decides the order of values that are nearly equal, and so what they become.
    rtol = 2e-4 if name == "histogram" else 2e-5
    own.assert_same(own.in_scan(monkeypatch, *arguments, key=key), wanted, rtol=rtol)


@pytest.mark.slow
def test_flags_choose_them(run, tmp_path):
    code, err = run(
        "--demo",
        f"--output_dir={tmp_path}",
        *FAST,
        "--mesh=style:1",
        "--style_loss=sliced",
        "--style_slices=8",
        "--nearest_weight=3",
        "--nearest_layers=block2_conv1",
        "--remd_weight=1",
        "--remd_layers=block1_conv1,block2_conv1",
    )
    assert code == 0, err
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    assert config["terms"] == {
        "content": "Content",
        "style": "SlicedWassersteinStyle",
        "tv": "TotalVariation",
        "nearest": "NearestNeighbors",
        "remd": "RelaxedTransport",
    }
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"style", "nearest", "remd"} <= line.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sliced", "nearest", "matched", "remd"])
def test_several_outputs_are_vmapped(vgg16, rng, name):
    content, *styles = own.pictures(rng, (32, 32), (30, 41), (24, 32))
    config = own.ALONE.replace(terms=(TERMS[name],), steps=2)
    both = nst_jax.stylize(vgg16, content, styles, config)
    alone = [nst_jax.stylize(vgg16, content, [style], config) for style in styles]
    for number, one in enumerate(alone):
        np.testing.assert_allclose(
            both.history["total"][:, number], one.history["total"][:, 0], rtol=1e-3
        )


@pytest.mark.parametrize("of", ["whole", "parts"])
def test_drawn_places_that_a_mask_leaves_out_are_replaced_in_all_layers(rng, of):
    """A style whose features tell their column; its mask covers the right half, softly."""
    sides = {"fine": (8, 12), "coarse": (4, 6)}
    at = terms.At(
        (8, 12), sides, {"fine": 2, "coarse": 1}, dict.fromkeys(sides, np.zeros(2, np.int32)),
        key=jax.random.key(3),
    )  # fmt: skip
    drawn, columns = {}, {}
    for layer, (rows, width) in sides.items():
        columns[layer] = jnp.tile(jnp.arange(1.0, width + 1), (rows, 1))
        x = jnp.stack([columns[layer]] * at.channels[layer], axis=-1)
        mask = jnp.where(columns[layer] > width / 2, 0.25, 0.0)
        parts = [(slice(0, rows), 0)]
        if of == "parts":
            parts = [(slice(0, rows // 2), 0), (slice(rows // 2, rows), rows // 2)]
        found = []
        for part, first in parts:
            here = terms.At(
                at.shape, sides, at.channels, {layer: np.array([first, 0], np.int32)}, key=at.key
            )
            found.append(sampling.drawn_style(x[part], here, layer, 64, mask[part]))
        drawn[layer] = jax.tree.map(lambda *leaves: sum(leaves), *found)
    joined = np.asarray(sampling.style_hypercolumns(drawn, {"fine": 1.0, "coarse": 100.0}))
    fine, again, coarse = joined.T
    assert set(fine) <= set(range(7, 13)) and len(set(fine)) == 6
    np.testing.assert_array_equal(fine, again)
    np.testing.assert_array_equal(coarse / 10, np.ceil(fine / 2))  # the same places


def test_a_sample_at_every_position_is_the_layer(rng):
    x = jnp.asarray(rng.random((3, 4, 2), np.float32))
    places = jnp.stack(jnp.meshgrid(jnp.arange(3), jnp.arange(4), indexing="ij"), -1).reshape(-1, 2)
    np.testing.assert_array_equal(
        sampling.features_at(x, places, np.zeros(2, int), None), x.reshape(-1, 2)
    )
    # A part that begins at row 1 has the rows of its own positions, and zeros elsewhere.
    part = sampling.features_at(x[1:], places, np.array([1, 0]), None).reshape(3, 4, 2)
    np.testing.assert_array_equal(part[1:], x[1:])
    assert not part[0].any()
