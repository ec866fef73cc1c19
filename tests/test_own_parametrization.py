"""Pictures that are optimised by other parameters than their pixels."""

import dataclasses

import basic
import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest

import nst_jax
from nst_jax import optimize, sharding
from nst_jax.optimizers import LBFGS, SGD

CONFIG = basic.CONFIG.replace(
    size=None,
    content_layers=("block2_conv1",),
    style_layers=("block1_conv1", "block2_conv1"),
    style_weight=50.0,
    learning_rate=1.0,
    steps=5,
)


@dataclasses.dataclass(frozen=True)
class Logits(optimize.Parametrization):
    """Numbers of any size, which a sigmoid brings into the range."""

    def init(self, image):
        return jax.scipy.special.logit(jnp.clip(image, 1e-3, 1 - 1e-3))

    def render(self, tree):
        return jax.nn.sigmoid(tree)


@pytest.fixture
def pictures(rng):
    return own.pictures(rng, (44, 60), (40, 52))


def paint(params, pictures, config=CONFIG, **options):
    content, style = pictures
    return nst_jax.stylize(params, content, [style], config, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rate", "ways"),
    [(optimize.Pyramid(3), 1.0, ("tile", "remat", "mesh")), (Logits(), 10.0, ("strips",))],
)
def test_the_loss_falls_whole_in_parts_and_on_a_mesh(vgg16, pictures, kind, rate, ways):
    config = CONFIG.replace(learning_rate=rate)
    whole = paint(vgg16, pictures, config, parametrization=kind)
    assert (whole.history["total"][-1] < 0.8 * whole.history["total"][0]).all()
    assert whole.images.shape == (1, 44, 60, 3)
    assert whole.images.min() >= 0 and whole.images.max() <= 1
    mesh = sharding.make_mesh(1, sizes={"style": 1, "space": 4})
    given = {"tile": 32, "remat": True, "strips": 2, "mesh": mesh}
    for way in ways:
        placement = nst_jax.Placement(**{way: given[way]})
        found = paint(vgg16, pictures, config, parametrization=kind, placement=placement)
        # Rounding alone, which steps of one length magnify: 1e-4 seen.
        np.testing.assert_allclose(
            found.history["total"], whole.history["total"], rtol=1e-3, err_msg=way
        )


def test_a_step_is_that_of_the_chain_rule(rng):
    """On bands: the gradient of each is that of the picture, pulled back by finite differences."""
    image, goal = rng.random((2, 12, 9, 3))
    bands = optimize.Pyramid(2)
    config = CONFIG.replace(
        optimizer=SGD(
            learning_rate=0.1, normalize_gradient="none", momentum=0.0, schedule="constant"
        ),
        steps=1,
        clip=False,
    )

    def loss(image, goal):
        value = jnp.sum((255 * (image - goal)) ** 2)
        return value, {"total": value}

    states, _ = optimize.run(
        loss,
        jnp.asarray(image[None], jnp.float32),
        config,
        each=(jnp.asarray(goal[None], jnp.float32),),
        parametrization=bands,
    )
    first = [np.asarray(band, np.float64) for band in bands.init(jnp.asarray(image, jnp.float32))]
    with jax.enable_x64(True):  # for differences

        def value(tree):
            return float(jnp.sum((255 * (bands.render(tuple(tree)) - goal)) ** 2))

        for level in range(2):
            for place in ((0, 0, 0), (2, 1, 2), (first[level].shape[0] - 1, 0, 1)):
                slopes = []
                for sign in (1, -1):
                    moved = [band.copy() for band in first]
                    moved[level][place] += sign * 1e-4
                    slopes.append(value(moved))
                slope = (slopes[0] - slopes[1]) / 2e-4 / 255  # by grey levels
                step = 255 * (np.asarray(states.tree[level][0])[place] - first[level][place])
                # 1e-2: float32, of levels up to 255.
                np.testing.assert_allclose(step, -0.1 * slope, rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_the_config_chooses_pixels_or_a_pyramid(vgg16, pictures):
    made = []
    for levels, kind in ((1, optimize.Pixels()), (3, optimize.Pyramid(3))):
        plain = paint(vgg16, pictures, CONFIG.replace(pyramid=levels))
        told = paint(vgg16, pictures, parametrization=kind)
        np.testing.assert_array_equal(plain.images, told.images)
        made.append(plain.images)
    assert np.abs(made[0] - made[1]).mean() > 1e-3


@pytest.mark.slow
def test_coarse_to_fine_begins_each_scale_from_the_last_picture(vgg16, pictures):
    config = CONFIG.replace(size=60, first_size=40, scale_factor=1.5, **basic.FIRST_LAYERS)
    seen = []
    paint(
        vgg16,
        pictures,
        config,
        parametrization=optimize.Pyramid(3),
        callback=lambda progress: seen.append(np.array(progress.terms["total"])),
    )
    assert len(seen) == 10 and seen[9].item() < seen[5].item()


def test_it_goes_on_where_it_stood(vgg16, pictures, tmp_path):
    from nst_jax.files.checkpoints import Checkpoints

    whole = paint(vgg16, pictures, parametrization=optimize.Pyramid(3))

    def stop(progress):
        checkpoints(progress)
        if progress.step == 3:
            raise KeyboardInterrupt

    with (
        Checkpoints(tmp_path / "kept", {}, every=3) as checkpoints,
        pytest.raises(KeyboardInterrupt),
    ):
        paint(vgg16, pictures, parametrization=optimize.Pyramid(3), callback=stop)
    with Checkpoints(tmp_path / "kept", {}, every=3) as checkpoints:
        again = paint(
            vgg16, pictures, parametrization=optimize.Pyramid(3), resume=checkpoints.latest()
        )
    np.testing.assert_array_equal(again.images, whole.images)


@pytest.mark.slow
def test_lbfgs_wants_one_array(vgg16, pictures):
    config = CONFIG.replace(optimizer=LBFGS(schedule="constant"), **basic.FIRST_LAYERS)
    with pytest.raises(
        ValueError, match="LBFGS optimises one array, and Pyramid has a tree of them"
    ):
        paint(vgg16, pictures, config, parametrization=optimize.Pyramid(3))
    found = paint(vgg16, pictures, config, parametrization=Logits())
    assert (found.history["total"][-1] < found.history["total"][0]).all()
