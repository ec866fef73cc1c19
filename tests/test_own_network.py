"""A user's network that is no VGG: a small one of flax."""

import basic
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest

import nst_jax
from nst_jax.extractor import Extractor


class Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        fine = nn.tanh(nn.Conv(8, (3, 3), name="fine")(x - 0.5))
        coarse = nn.tanh(nn.Conv(12, (3, 3), name="coarse")(nn.avg_pool(fine, (2, 2), (2, 2))))
        return {"fine": fine, "coarse": coarse}


def features(params, image, layers):
    found = Small().apply({"params": params}, image[None])
    return {layer: found[layer][0] for layer in layers}


# A position of "coarse" sees 2 pixels of its own and, by each convolution, 1 and 2 beyond.
NETWORK = Extractor(features, layers={"fine": (1, 1), "coarse": (2, 3)})
CONFIG = basic.CONFIG.replace(
    size=None,
    network=NETWORK,
    content_layers=("coarse",),
    style_layers=("fine", "coarse"),
    style_weight=1e5,
    tv_weight=1e-6,
    tv_form="keras",
)


@pytest.fixture(scope="module")
def params():
    return Small().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]


@pytest.mark.slow
def test_every_way_gives_the_same(params, rng, monkeypatch):
    image, content, *styles = own.pictures(rng, (37, 53), (37, 53), (30, 41), (40, 33))
    given = {"combine": nst_jax.Combine(masks=rng.random((2, 37, 53), np.float32))}
    targets = nst_jax.compute_targets(params, content, styles, CONFIG, **given)
    wanted = own.value_and_grad(image, params, targets, CONFIG)
    assert wanted[0][1].keys() == {"total", "content", "style", "tv"}
    arguments = (params, image, content, styles, CONFIG)
    own.assert_same(own.in_scan(monkeypatch, *arguments, **given), wanted)
    own.assert_same(own.in_windows(*arguments, tile=20, **given), wanted)


@pytest.mark.slow
def test_it_paints(params, rng):
    content, *styles = own.pictures(rng, (40, 48), (30, 41), (40, 33))
    own.assert_paints_alike(params, content, styles, CONFIG, tile=20)


@pytest.mark.slow
def test_a_frame_begins_from_the_same_noise_wherever_it_is_in_a_batch(params, rng):
    *frames, style = own.pictures(rng, (24, 32), (24, 32), (24, 32), (30, 41))
    config = CONFIG.replace(init="noise", steps=1)

    def starts(*contents):
        seen = []
        nst_jax.stylize(
            *(params, list(contents), [style], config),
            key=jax.random.key(7),
            callback=lambda progress: seen.append(np.array(progress.states.start)),
        )
        return seen[0]

    together = starts(*frames)
    assert np.ptp(together[0]) > 0.5
    for start in (*together[1:], *starts(frames[2]), *starts(frames[1], frames[0])):
        np.testing.assert_array_equal(start, together[0])


def test_if_all_outputs_diverge_the_run_ends_with_the_last_finite_picture(params, rng):
    content, style = own.pictures(rng, (40, 48), (30, 41))
    config = CONFIG.replace(size=48, first_size=24, scale_factor=2, steps=4)
    config = config.replace(learning_rate=1e38, clip=False)
    result = nst_jax.stylize(params, content, [style], config)
    assert result.diverged.all() and result.images.shape == (1, 40, 48, 3)
    assert np.isfinite(result.images).all()
    assert len(result.history["total"]) < 4  # the first of two scales, and not to its end


def test_a_layer_that_it_lacks_is_refused(params, rng):
    content, style = own.pictures(rng, (40, 48), (30, 41))
    with pytest.raises(ValueError, match="unknown layer 'block1'; the layers are fine, coarse"):
        nst_jax.stylize(params, content, [style], CONFIG.replace(style_layers=("block1",)))
    with pytest.raises(ValueError, match=r"layer coarse has no position in a picture of \(1, 1\)"):
        nst_jax.compute_targets(params, content[:1, :1], [style], CONFIG)
