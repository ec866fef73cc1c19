import jax
import numpy as np
import pytest

import nst_jax
from nst_jax import examples, extractor, vgg
from nst_jax.partition import Together, Windows


@pytest.mark.slow
def test_the_usual_sizes_are_those_of_pictures(vgg16, vgg19):
    """Measured again on the built-in pictures alone, at 128 pixels."""
    pictures = np.stack(
        [examples.by_name[name](128) for name in ("butterfly", "rainbow", "triangles")]
    )
    ratios = {}
    for model, params in (("vgg16", vgg16), ("vgg19", vgg19)):
        layers = vgg.layer_names(model)
        features = jax.jit(
            lambda params, x, layers=layers: nst_jax.features(params, x, layers=layers)
        )
        found = features(params, pictures)
        usual = extractor.usual_sizes(model)
        assert usual.keys() == set(layers)
        ratios[model] = {
            layer: np.sqrt(np.mean(np.square(found[layer], dtype=np.float64))) / usual[layer]
            for layer in layers
        }
        values = np.array(list(ratios[model].values()))
        assert values.min() > 0.9 and values.max() < 1.5, ratios[model]
    # What the pictures are accounts for hardly any difference between the networks.
    for block in range(1, 6):
        layer = f"block{block}_conv1"
        assert ratios["vgg16"][layer] == pytest.approx(ratios["vgg19"][layer], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("partition", [Together(), Windows(loop="scan")], ids=str)
def test_features_are_divided_in_the_objective(vgg16, rng, partition):
    """Of losses quadratic in the features, the same as weights divided by their squares."""
    image, content, style = rng.random((3, 24, 32, 3), np.float32)
    usual = extractor.usual_sizes("vgg16")
    layers = ("block1_conv1", "block2_last")
    config = nst_jax.presets["wasserstein"].replace(
        content_layers=("block2_last",),
        style_layers=dict(zip(layers, (2.0, 3.0), strict=True)),
    )
    sizes = [usual["block1_conv1"], usual["block2_conv2"]]
    divided = config.replace(
        normalize_features=False,
        content_weight=0.015 / sizes[1] ** 2,
        style_layers=dict(zip(layers, (2 / sizes[0] ** 2, 3 / sizes[1] ** 2), strict=True)),
    )
    terms = []
    for each, how in ((config, partition), (divided, Together())):
        targets = nst_jax.compute_targets(vgg16, content, [style], each, partition=how)
        value, layer_losses = (
            jax.jit(function, static_argnames="partition")
            for function in (nst_jax.objective_value, nst_jax.objective.layer_losses)
        )
        found = value(image, vgg16, targets, each, partition=how)[1]
        by_layer = layer_losses(image, vgg16, targets, each, partition=how)
        terms.append({**found, **by_layer["style"]})
    for name, value in terms[0].items():
        np.testing.assert_allclose(value, terms[1][name], rtol=2e-4, err_msg=name)
