"""A picture in horizontal strips, all in memory, against the whole picture."""

import functools
import re

import basic
import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest
from test_own_network import NETWORK

import nst_jax
from nst_jax import objective, sharding, vgg, windows
from nst_jax.partition import Together, Windows
from nst_jax.settings import turned
from nst_jax.terms import WassersteinStyle

CONFIG = basic.CONFIG.replace(
    size=None,
    content_layers=("block2_conv1",),
    style_layers=("block1_conv1", "block2_conv2", "block3_conv1"),
    style_weight=1e3,
    tv_form="keras",
    tv_weight=1e-9,  # its gradient must not hide that of the network
)


WASSERSTEIN = turned(CONFIG.term("style"), WassersteinStyle)


@functools.partial(jax.jit, static_argnames="partition")
def everything(image, params, targets, config, *, key=None, partition):
    """Values and gradient of the objective, and what each layer adds."""
    value = functools.partial(objective.objective_value, key=key, partition=partition)
    layers = objective.layer_losses(image, params, targets, config, partition=partition)
    return jax.value_and_grad(value, has_aux=True)(image, params, targets, config), layers


def differences(found, wanted):
    """The largest relative difference of the values, and that of the gradients by their norm."""
    (value, slope), layers = found
    (expected, gradient), expected_layers = wanted
    values = jax.tree.map(
        lambda a, b: abs(float(a) / float(b) - 1), (value, layers), (expected, expected_layers)
    )
    slope, gradient = (np.asarray(x, np.float64) for x in (slope, gradient))
    error = np.linalg.norm(slope - gradient) / np.linalg.norm(gradient)
    return max(jax.tree.leaves(values)), float(error)


def assert_same(found, wanted, *, error=1e-5):
    """Strips add up the same float32 numbers in another order. Each sum on the way may differ by
    some units of 2^-24 = 6e-8; at most 9e-7 were measured, and 1e-5 leaves room for other machines.
    """
    value, gradient = differences(found, wanted)
    assert value <= error and gradient <= error, (value, gradient)


CASES = {
    "odd": (37, (3,), {}),
    "even": (64, (8,), {"padding": "replicate", "style_layers": ("block1_conv2", "block2_pool")}),
    "jitter": (45, (3,), {"pooling": "average", "padding": "replicate", "jitter": 3}),
    "empty": (21, (8,), {"pooling": "l2", "style": WASSERSTEIN, "masks": True}),
    "scaled": (51, (2,), {"normalize_features": True, "style_layers": ("block2_conv1",)}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("height", "counts", "changes"), CASES.values(), ids=CASES)
def test_strips_give_what_the_whole_gives(vgg16, rng, height, counts, changes):
    """Heights that are odd, that strips don't divide, and that leave strips empty."""
    image, content, *styles = own.pictures(rng, *[(height, 38)] * 2, (30, 41), (40, 33))
    changes = dict(changes)
    masked = changes.pop("masks", False)
    masks = rng.random((2, height, 38), np.float32) if masked else None
    config = CONFIG.replace(**changes)
    targets = nst_jax.compute_targets(
        *(vgg16, content, styles if masked else styles[:1], config),
        combine=nst_jax.Combine(masks=masks),
    )
    look = functools.partial(
        everything, image, vgg16, targets, config, key=jax.random.key(2) if config.jitter else None
    )
    wanted = look(partition=Together())
    for count in counts:
        assert_same(look(partition=Together(count)), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"dtype": "bfloat16"}, {"prepared": True}])
def test_precisions_and_prepared_parameters(vgg16, rng, changes):
    image, content, style = own.pictures(rng, (45, 38), (45, 38), (30, 41))
    changes = dict(changes)
    prepared = changes.pop("prepared", False)
    config = CONFIG.replace(**changes)
    params = vgg.prepare(vgg16, layers=config["style_layers"]) if prepared else vgg16
    targets = nst_jax.compute_targets(params, content, [style], config)
    wanted, found = (
        everything(image, params, targets, config, partition=Together(count)) for count in (1, 3)
    )
    # bfloat16 rounds by up to 2e-3, and a border row's gradient twice: 8e-4 were measured.
    # Winograd's rounding depends on where its tiles lie.
    assert_same(found, wanted, error=2e-5 if prepared else 4e-3)


def test_targets_are_those_of_the_whole(vgg16, rng):
    content, style = own.pictures(rng, (37, 38), (30, 41))
    mask = rng.random((30, 41), np.float32)
    whole, parts = (objective.Objective.of(CONFIG, partition=Together(count)) for count in (1, 3))
    found, wanted = (
        (
            jax.jit(each.style_targets)(vgg16, style, mask=mask),
            jax.jit(each.content_targets)(vgg16, content),
        )
        for each in (parts, whole)
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * float(jnp.max(jnp.abs(b))))


def test_a_batch_of_pictures(vgg16, rng):
    content, style, *images = own.pictures(rng, (37, 38), (30, 41), (37, 38), (37, 38))
    targets = objective.one_output(nst_jax.compute_targets(vgg16, content, [style], CONFIG))
    look = functools.partial(own.value_and_grad.__wrapped__, partition=Together(3))
    batch = jax.jit(jax.vmap(look, in_axes=(0, None, None, None)))
    (totals, _), slopes = batch(np.stack(images), vgg16, targets, CONFIG)
    for image, total, slope in zip(images, totals, slopes, strict=True):
        (value, _), gradient = own.value_and_grad(image, vgg16, targets, CONFIG)
        np.testing.assert_allclose(total, value, rtol=1e-5)
        assert np.linalg.norm(slope - gradient) <= 1e-5 * np.linalg.norm(gradient)


@pytest.mark.parametrize("repeat", [False, True])
def test_a_halo_is_the_rows_of_the_whole(rng, repeat):
    x = rng.random((10, 3, 2), np.float32)
    found = vgg.Strips(10).halo(vgg.divide_rows(x, 5, 2), repeat=repeat)
    wanted = np.pad(x, ((1, 1), (0, 0), (0, 0)), mode="edge" if repeat else "constant")
    np.testing.assert_array_equal(found, [wanted[2 * n : 2 * n + 4] for n in range(5)])
    np.testing.assert_array_equal(vgg.join_rows(vgg.divide_rows(x, 4, 3), 10), x)


@pytest.mark.slow
@pytest.mark.parametrize(("styles", "padding"), [(1, "zeros"), (2, "replicate")])
def test_on_a_mesh_strips_exchange_rows_and_sums_alone(vgg16, rng, styles, padding):
    """How often, and how much, in the value and its gradient."""
    height, width = 64, 24
    config = CONFIG.replace(
        padding=padding, style_layers=("block1_conv1", "block2_conv1", "block3_conv1")
    )
    content, *pictures = own.pictures(rng, (height, width), *[(20, 28)] * styles)
    targets = nst_jax.compute_targets(vgg16, content, pictures, config)
    mesh = sharding.make_mesh(styles, sizes={"style": styles, "space": 4})
    look = jax.vmap(
        functools.partial(own.value_and_grad.__wrapped__, partition=Together(8)),
        in_axes=(0, None, 0, None),
    )

    def step(images, params, targets):
        value, gradient = look(images, params, targets, config)
        return value, sharding.constrain_evenly(mesh, gradient, picture=content.shape)

    program = jax.jit(step).lower(
        sharding.place(mesh, np.stack([content] * styles), picture=content.shape),
        sharding.place(mesh, vgg16, whole=True),
        sharding.place(mesh, targets),
    )
    found = {}
    names = "collective-permute|all-reduce|all-gather|all-to-all|reduce-scatter"
    for line in program.compile().as_text().splitlines():
        if match := re.search(rf"= (\S.*?) ({names})(?:-start)?\(", line):
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            sizes = [[int(side) for side in shape.split(",") if side] for shape in shapes]
            found.setdefault(match[2], []).append(sizes)
    assert found.keys() == {"collective-permute", "all-reduce"}
    # Two rows for each of 5 convolutions, and as many in the gradient; total variation's two.
    assert len(found["collective-permute"]) == 22
    for ((*_, rows, columns, _),) in found["collective-permute"]:
        assert rows == 1 and columns <= width + 2
    (sums,) = found["all-reduce"]  # numbers and Gram matrices of an output
    assert sorted(shape[-2:] for shape in sums if len(shape) > 1) == [
        [c, c] for c in (64, 128, 256)
    ]


def test_bad_partitions_are_refused(vgg16, rng):
    for count in (0, -1, 2.0, True, None):
        with pytest.raises(ValueError, match="strips must be a whole number, at least 1, got"):
            Together(count)
    with pytest.raises(ValueError, match="loop must be one of host, scan, got 'device'"):
        Windows(tile=64, loop="device")
    for loop, tile in (("host", None), ("host", 0), ("scan", 0), ("scan", 1.5)):
        with pytest.raises(ValueError, match="tile must be a whole number, at least 1, got"):
            Windows(tile=tile, loop=loop)
    image, style = own.pictures(rng, (20, 24), (20, 24))
    targets = nst_jax.compute_targets(vgg16, image, [style], CONFIG)
    for look in (objective.objective_value, objective.layer_losses):
        with pytest.raises(ValueError, match=r"Windows\(tile=64, loop='host'\) needs passes by th"):
            look(image, vgg16, targets, CONFIG, partition=Windows(tile=64))
        with pytest.raises(TypeError, match="partition must be a Together or a Windows, got True"):
            look(image, vgg16, targets, CONFIG, partition=True)
    own_network = CONFIG.replace(network=NETWORK, content_layers=("fine",), style_layers=())
    message = (
        r"Together\(strips=2, packed=False\) needs a network with in_strips, and Extractor has none"
    )
    with pytest.raises(ValueError, match=message):
        objective.objective_value(image, vgg16, targets, own_network, partition=Together(2))


@pytest.mark.parametrize("given", [{"strips": 2}, {"remat": True}, {"tile": 40}])
def test_circular_padding_needs_whole_pictures(vgg16, given):
    picture = np.full((48, 48, 3), 0.5, np.float32)
    config = CONFIG.replace(padding="circular", size=None)
    with pytest.raises(ValueError, match="circular padding needs whole"):
        nst_jax.stylize(vgg16, picture, [picture], config, placement=nst_jax.Placement(**given))


@pytest.mark.parametrize("form", ["keras", "nine_point", "l1"])
def test_the_loss_of_a_tile_has_no_seam(vgg16, rng, form):
    """With circular padding, rolling a texture by the stride of the layers changes no loss."""
    image, _, style = own.pictures(rng, (32, 48), (32, 48), (40, 40))
    config = CONFIG.replace(
        content=None, padding="circular", tv_form=form, style_weight=30.0, tv_weight=1.0
    )
    targets = nst_jax.compute_targets(vgg16, image, [style], config=config)
    targets = jax.tree.map(lambda leaf: leaf[0], targets)
    rolled = np.roll(image, (16, 32), (0, 1))
    (value, terms), gradient = own.value_and_grad(image, vgg16, targets, config)
    (moved, others), slope = own.value_and_grad(rolled, vgg16, targets, config)
    assert set(terms) == {"style", "tv", "total"}
    for name, term in terms.items():
        np.testing.assert_allclose(term, others[name], rtol=1e-5)
    np.testing.assert_allclose(value, moved, rtol=1e-5)
    np.testing.assert_allclose(
        np.roll(gradient, (16, 32), (0, 1)), slope, atol=1e-4 * np.abs(slope).max()
    )


def test_a_placement_says_which_partition(vgg16, rng):
    network = CONFIG.network
    assert nst_jax.Placement().partition_of(network) == Together()
    assert nst_jax.Placement(strips=8).partition_of(network) == Together(8)
    assert nst_jax.Placement(remat=True).partition_of(network) == Windows(loop="scan")
    with pytest.raises(ValueError, match="remat and strips exclude each other"):
        nst_jax.Placement(remat=True, strips=2)
    with pytest.raises(ValueError, match="strips must be a whole number, at least 1, got 0"):
        nst_jax.Placement(strips=0)
    with pytest.raises(TypeError, match="remat must be True or False, got 1"):
        nst_jax.Placement(remat=1)


@pytest.mark.slow
def test_a_window_of_the_host_may_be_in_strips(vgg16, rng):
    image, content, style = own.pictures(rng, (60, 75), (60, 75), (50, 41))
    config = CONFIG.replace(style_layers=("block1_conv1", "block2_conv1"))
    (targets,) = windows.compute_targets(
        vgg16, content, [style], config, tile=40, within=Together(2)
    )
    found = windows.value_and_grad(
        np.asarray(image), vgg16, targets, config, tile=40, within=Together(2)
    )
    whole = nst_jax.compute_targets(vgg16, content, [style], config)
    own.assert_same(found, own.value_and_grad(image, vgg16, whole, config))
