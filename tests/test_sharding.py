"""Meshes of eight CPU devices against one device."""

import re

import basic
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nst_jax
from nst_jax import objective, optimize, partition, sharding
from nst_jax.optimizers import LBFGS

CONFIG = basic.CONFIG.replace(
    content_layers=("block2_conv1",),
    style_layers=("block1_conv1", "block2_conv1"),
    content_weight=0.05,
    tv_weight=1e-6,
    tv_form="keras",
    size=None,
    steps=20,
)


def pictures(rng, *shapes):
    coarse = (jnp.asarray(rng.random((4, 4, 3), np.float32)) for _ in shapes)
    return [nst_jax.image.resize(x, *shape) for x, shape in zip(coarse, shapes, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "height", "styles", "changes"),
    [
        ("space:8", 32, 1, {}),
        ("style:2,space:4", 32, 2, {}),
        ("style:2,space:4", 21, 3, {"jitter": 2}),  # neither divides
        ("style:2,space:4", 21, 3, {"remat": True, "steps": 3}),
        ("space:2,width:4", 32, 1, {}),
        ("style:2,space:2,width:2", 21, 3, {}),
        (None, 16, 9, {}),  # as it is by default, with one output more than devices
    ],
)
def test_a_mesh_gives_what_one_device_gives(
    vgg16, rng, compilations, monkeypatch, mesh, height, styles, changes
):
    # One device would convolve by Winograd's algorithm, which rounds otherwise.
    monkeypatch.setattr(objective, "prepare", lambda params, config, **_: params)
    monkeypatch.setattr(partition, "COLUMNS", 12)
    content, *styles = pictures(rng, (height, 20), *[(16, 20)] * styles)
    changes = dict(changes)
    placement = nst_jax.Placement(remat=changes.pop("remat", False))
    config = CONFIG.replace(**changes)
    one = nst_jax.stylize(vgg16, content, styles, config, placement=placement)
    mesh = sharding.make_mesh(len(styles), sizes=mesh and sharding.parse_mesh(mesh))
    counts = []
    with compilations() as count:
        many = nst_jax.stylize(
            *(vgg16, content, styles, config),
            placement=placement.replace(mesh=mesh),
            callback=lambda _: counts.append(count()),
        )
    # What a step gives is placed as the next one takes it; the last look at the loss comes after.
    assert counts[0] == counts[-2]
    steps = 1 + np.arange(config.steps)[:, None]
    total = one.history["total"]
    for name, values in one.history.items():
        assert np.all(np.abs(many.history[name] - values) <= 1e-5 * steps * total), name
    moved = np.linalg.norm(np.asarray(one.images) - np.asarray(content))
    error = np.linalg.norm(np.asarray(many.images) - np.asarray(one.images))
    assert moved > 0.05 * config.steps and error <= 1e-5 * config.steps * moved


@pytest.mark.slow
def test_on_a_cpu_one_device_convolves_otherwise_and_paints_nearly_the_same(vgg16, rng):
    content, style = pictures(rng, (32, 20), (16, 20))
    config = CONFIG.replace(steps=5)
    mesh = sharding.make_mesh(1, devices=jax.devices()[:2])
    assert mesh.devices.shape == (1, 2)
    one = nst_jax.stylize(vgg16, content, [style], config)
    many = nst_jax.stylize(vgg16, content, [style], config, placement=nst_jax.Placement(mesh=mesh))
    np.testing.assert_allclose(many.history["total"], one.history["total"], rtol=1e-5)
    moved = np.linalg.norm(np.asarray(one.images) - np.asarray(content))
    error = np.linalg.norm(np.asarray(many.images) - np.asarray(one.images))
    assert moved > 0.5 and error <= 1e-5 * moved


def rough(image, wanted):
    """A loss that looks across the borders between devices."""
    value = jnp.mean(jnp.square(image - wanted)) + jnp.mean(
        jnp.square(jnp.diff(image, axis=0)) ** 2
    )
    return value, {"total": value}


@pytest.mark.slow
@pytest.mark.parametrize("linesearch", [False, True])
def test_lbfgs_on_a_mesh_is_that_on_one_device(rng, linesearch):
    """Of a loss without a network, whose rounding L-BFGS would magnify."""
    images, wanted = (np.stack(pictures(rng, (8, 4), (8, 4))) for _ in range(2))
    config = CONFIG.replace(
        optimizer=LBFGS(history_size=3, linesearch=linesearch), steps=4, learning_rate=1.0
    )
    mesh = sharding.make_mesh(2, sizes={"style": 2, "space": 4})
    one, history = optimize.run(rough, images, config, each=(wanted,))
    many, same = optimize.run(rough, images, config, each=(wanted,), mesh=mesh)
    assert np.all(history["total"][-1] < 0.9 * history["total"][0])
    np.testing.assert_allclose(same["total"], history["total"], rtol=1e-5)
    np.testing.assert_allclose(many.tree, one.tree, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "saving"), [(32, False), (40, False), (37, False), (32, True)])
def test_a_picture_over_devices_swaps_borders_and_gathers_no_activations(
    vgg16, rng, monkeypatch, height, saving
):
    monkeypatch.setattr(partition, "COLUMNS", 8)
    within = nst_jax.Placement(remat=saving).partition_of(CONFIG.network)
    content, style = pictures(rng, (height, 24), (20, 28))
    mesh = sharding.make_mesh(1, sizes={"style": 1, "space": 8})
    targets = objective.compute_targets(vgg16, content, [style], CONFIG, partition=within)
    states = optimize.start(content[None], CONFIG)
    numbers = optimize.batch_numbers(CONFIG, 1)
    states = sharding.place(mesh, states, picture=content.shape)
    program = (
        optimize._program(saving)
        .lower(
            states,
            sharding.place(mesh, (vgg16,), whole=True),
            sharding.place(mesh, (targets, numbers)),
            numbers,
            jax.random.key(0),
            loss=objective.value_by(within),
            optimizer=None,
            length=1,
            mesh=mesh,
        )
        .compile()
    )
    text = program.as_text()
    assert re.search(r" collective-permute(-start)?\(", text)
    assert re.search(r" all-reduce(-start)?\(", text)  # the sums over positions
    gathered = re.findall(r"= [(]?f32\[([\d,]+)\]\S* all-gather", text)
    channels = {shape.split(",")[-1] for shape in gathered}
    # Of a height that doesn't divide, the picture is whole between steps, and its moments are.
    assert channels == (set() if height % 8 == 0 else {"3"})
    assert not re.search(r" all-to-all(-start)?\(", text)


def test_every_device_has_the_terms_of_every_step(rng):
    """Also of as many steps as devices, so that each process can read them."""
    images, wanted = (rng.random((2, 8, 4, 3), np.float32) for _ in range(2))
    mesh = sharding.make_mesh(2, sizes={"style": 2, "space": 1})

    def apart(image, wanted):
        value = jnp.sum(jnp.square(255 * (image - wanted)))
        return value, {"total": value}

    states = optimize.start(images, CONFIG)
    numbers = optimize.batch_numbers(CONFIG, 2)
    for in_turn in (False, True):
        _, terms = optimize._advance(
            sharding.place(mesh, jax.tree.map(jnp.copy, states), picture=images.shape[1:]),
            (),
            sharding.place(mesh, (wanted,)),
            sharding.place(mesh, numbers),
            jax.random.key(0),
            loss=apart,
            optimizer=None,
            length=2,
            mesh=mesh,
            in_turn=in_turn,
        )
        assert terms["total"].shape == (2, 2) and terms["total"].sharding.is_fully_replicated


@pytest.mark.parametrize("outputs", [2, 4])
def test_a_step_of_the_default_exchanges_rows_and_sums_alone(vgg16, rng, outputs):
    """Outputs and heights divided at once: what devices exchange, and how much of it."""
    height, width = 32, 24
    config = nst_jax.presets["default"].replace(
        size=None,
        first_size=None,
        first_steps=None,
        content_layers=("block2_conv2",),
        style_layers=("block1_conv1", "block2_conv1", "block3_conv1"),
        nearest_layers=("block2_conv2",),
    )
    content, *styles = pictures(rng, *[(height, width)] * (outputs + 1))
    targets = nst_jax.compute_targets(vgg16, content, styles, config)
    mesh = sharding.make_mesh(outputs, sizes={"style": 2, "space": 4})
    states = optimize.start(jnp.stack([content] * outputs), config)
    numbers = optimize.batch_numbers(config, outputs)
    program = optimize._program(lean=False).lower(
        sharding.place(mesh, states, picture=content.shape),
        sharding.place(mesh, (vgg16,), whole=True),
        sharding.place(mesh, (targets, numbers)),
        sharding.place(mesh, numbers),
        jax.random.key(0),
        loss=objective.objective_value,
        optimizer=None,
        length=1,
        mesh=mesh,
    )
    found = {}
    for line in program.compile().as_text().splitlines():
        if match := re.search(r"= (\S.*?) ([a-z]+-[a-z-]+?)(?:-start)?\(", line):
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            sizes = [[int(side) for side in shape.split(",") if side] for shape in shapes]
            found.setdefault(match[2], []).extend(sizes)
    assert found["collective-permute"] and found["all-reduce"]
    assert not found.keys() & {"all-to-all", "reduce-scatter"}
    own = outputs // 2
    for shape in found["collective-permute"]:  # rows of the neighbours, never a picture
        assert shape[0] == own and shape[1] <= 3
    for shape in found["all-reduce"]:  # numbers, mean features, Gram matrices, a border row
        grams = ([own, c, c] for c in (64, 128, 256))
        assert shape in ([own], [own, 1, width, 3], [own, 1, 128], [1, own, 128], *grams)
    for shape in found.get("all-gather", []):  # numbers of each output, for every process to read
        assert shape == [outputs]


@pytest.mark.parametrize(
    ("outputs", "shape"),
    [(8, (8, 1)), (1, (1, 8)), (2, (2, 4)), (6, (2, 4)), (3, (1, 8)), (9, (8, 1)), (12, (8, 1))],
)
def test_by_default_outputs_are_divided_first(outputs, shape):
    assert sharding.make_mesh(outputs).devices.shape == shape
    assert sharding.make_mesh(outputs, devices=jax.devices()[:1]) is None


def test_bad_meshes_are_refused():
    assert sharding.parse_mesh("space:2") == {"style": 1, "space": 2}
    assert sharding.parse_mesh("width:4,space:2") == {"style": 1, "space": 2, "width": 4}
    for text in ("", "style", "style:0", "style:two", "style:2,style:2", "time:2", "style:-1"):
        with pytest.raises(ValueError, match="mesh must be like 'style:4,space:2', got"):
            sharding.parse_mesh(text)
    with pytest.raises(ValueError, match="style:4,space:4 needs 16 devices, but there are 8"):
        sharding.make_mesh(4, sizes={"style": 4, "space": 4})
    with pytest.raises(ValueError, match="style:4,space:4,width:2 needs 32 devices, but there"):
        sharding.make_mesh(4, sizes={"style": 4, "space": 4, "width": 2})


def test_a_mesh_with_other_axes_is_refused():
    devices = np.array(jax.devices()).reshape(2, 4)
    sharding.check_mesh(None)
    sharding.check_mesh(sharding.make_mesh(2))
    sharding.check_mesh(jax.sharding.Mesh(devices, ("style", "space")))
    sharding.check_mesh(sharding.make_mesh(2, sizes={"style": 2, "space": 2, "width": 2}))
    with pytest.raises(TypeError, match="^mesh must be a jax.sharding.Mesh, .* got 'style:2'$"):
        sharding.check_mesh("style:2")
    for names in (("data", "model"), ("style", "model")):
        wanted = "mesh must have the axes ('style', 'space') and may have 'width', got "
        wanted = re.escape(f"{wanted}{names}")
        with pytest.raises(ValueError, match=f"^{wanted}$"):
            sharding.check_mesh(jax.sharding.Mesh(devices, names))
    with pytest.raises(ValueError, match=r"^mesh must have the axes .* got \('style',\)$"):
        sharding.check_mesh(jax.sharding.Mesh(devices.ravel(), ("style",)))
    explicit = (jax.sharding.AxisType.Explicit,) * 2
    mesh = jax.make_mesh((2, 4), ("style", "space"), axis_types=explicit)
    with pytest.raises(ValueError, match="^mesh must have axes of type Auto, .* Explicit, Explici"):
        sharding.check_mesh(mesh)


def test_placing_divides_what_divides():
    mesh = sharding.make_mesh(2, sizes={"style": 2, "space": 4})
    picture = (8, 5, 3)
    shapes = {
        (2, 8, 5, 3): (1, 2, 5, 3),
        (2, 6, 8, 5, 3): (1, 6, 2, 5, 3),  # L-BFGS's memory of six steps
        (2, 7, 7): (1, 7, 7),
        (3, 8, 5, 3): (3, 2, 5, 3),
        (2,): (2,),
    }
    for shape, piece in shapes.items():
        placed = sharding.place(mesh, np.arange(np.prod(shape)).reshape(shape), picture=picture)
        assert placed.sharding.shard_shape(shape) == piece
        np.testing.assert_array_equal(sharding.gather(mesh, placed).ravel(), np.arange(placed.size))
    blocks = sharding.make_mesh(2, sizes={"style": 2, "space": 2, "width": 2})
    for shape, piece in {(2, 8, 6, 3): (1, 4, 3, 3), (2, 8, 5, 3): (1, 4, 5, 3)}.items():
        placed = sharding.place(blocks, np.zeros(shape), picture=shape[1:])
        assert placed.sharding.shard_shape(shape) == piece
    whole = sharding.place(mesh, np.zeros((2, 8, 5, 3)), picture=picture, whole=True)
    assert whole.sharding.is_fully_replicated


def test_tiles_and_meshes_exclude_each_other():
    with pytest.raises(ValueError, match="tile and mesh exclude each other"):
        nst_jax.Placement(tile=24, mesh=sharding.make_mesh(1))
