"""The networks against Keras' own, both sides with the weights of one file."""

import gc
from pathlib import Path

import jax
import numpy as np
import pytest

import nst_jax
from benchmarks import parity
from nst_jax import vgg
from nst_jax.weights.load import open_params

MODELS = ("vgg16", "vgg19")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def keras():
    return parity.import_keras()


# Features


@pytest.fixture(scope="module", params=MODELS)
def network(request, keras):
    """A network of Keras with the bundled weights, and our parameters from the same file."""
    path = parity.bundled_file(request.param)
    return parity.keras_network(request.param, path), nst_jax.load_params(path)


@pytest.mark.parametrize(
    ("height", "width"), [(97, 131), pytest.param(64, 48, marks=pytest.mark.slow), (32, 33)]
)
def test_every_layer_equals_keras(network, height, width):
    keras_network, params = network
    images = parity.random_images(2, height=height, width=width)
    errors = parity.layer_errors(params, keras_network, images)
    assert tuple(errors) == vgg.layer_names(vgg.network_name(params))
    assert all(error <= 1e-5 for error in errors.values()), errors


def test_a_slightly_wrong_kernel_shows_from_its_layer_on(network):
    keras_network, params = network
    changed = params | {
        "block3_conv2": params["block3_conv2"]
        | {"kernel": params["block3_conv2"]["kernel"] * 1.0001}
    }
    images = parity.random_images(1, height=32, width=32)
    errors = parity.layer_errors(changed, keras_network, images)
    names = list(errors)
    first = names.index("block3_conv2")
    assert all(errors[name] <= 1e-5 for name in names[:first]), errors
    assert all(errors[name] > 1e-5 for name in names[first:]), errors


# Files


def assert_holds(network, params):
    """A network of Keras has exactly these parameters, bit for bit."""
    held = {layer.name: layer for layer in network.layers if layer.weights}
    assert held.keys() == params.keys()
    for name, layer in held.items():
        for variable, kind in zip(layer.weights, ("kernel", "bias"), strict=True):
            assert np.array_equal(variable.numpy(), params[name][kind]), f"{name}/{kind}"


def test_keras_loads_the_bundled_vgg19(keras, monkeypatch):
    monkeypatch.chdir(ROOT)
    network = keras.applications.VGG19(weights="weights/vgg19.h5", include_top=False)
    assert_holds(network, nst_jax.load_params("vgg19"))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_keras_loads_what_we_save_without_head(keras, tmp_path, model):
    params = vgg.init_params(jax.random.key(0), model)
    path = tmp_path / "ours.h5"
    nst_jax.save_params(path, params)
    network = parity.keras_network(model, path)
    path.unlink()
    assert_holds(network, params)


# The head, in its full size: half a gigabyte each, so one network at a time, and VGG16 for both.


def pictures():
    """Two pictures [2, 224, 224, 3] far apart: noise and a gradient."""
    y, x = np.mgrid[:224, :224] / 223
    noise = np.random.default_rng(0).random((224, 224, 3))
    gradient = np.dstack([y, x, 1 - y])
    return np.stack([noise, gradient]).astype(np.float32)


@pytest.fixture(scope="module")
def with_head(keras, tmp_path_factory):
    """Files of random weights with head written by Keras, in both layouts, and what it predicts."""
    keras.utils.set_random_seed(0)
    network = keras.applications.VGG16(weights=None)
    random = np.random.default_rng(0)
    for layer in network.layers:
        if layer.weights:  # Keras starts with biases of zero, which no mistake would show in
            layer.bias.assign(0.1 * random.standard_normal(layer.bias.shape, np.float32))
    # Keras' random weights make all classes nearly as probable: widen the spread of the logits.
    logits = np.log(parity.keras_predict(network, pictures()))
    predictions = network.get_layer("predictions")
    for variable in predictions.weights:
        variable.assign(variable * (2.0 / logits.std()))
    folder = tmp_path_factory.mktemp("head")
    paths = folder / "a.weights.h5", folder / "a.h5"
    network.save_weights(paths[0])
    network.save(paths[1])
    probabilities = parity.keras_predict(network, pictures())
    del network, layer, predictions, variable
    gc.collect()
    yield paths, probabilities
    for path in paths:
        path.unlink()


@pytest.mark.slow
def test_probabilities_equal_keras(with_head):
    paths, expected = with_head
    assert expected.max(axis=1).min() > 0.01  # against 0.001 when all are as probable
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    for path in paths:
        with jax.default_matmul_precision("highest"):
            found = jax.jit(nst_jax.classify)(nst_jax.load_params(path), pictures())
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=path.name)


@pytest.mark.slow
def test_keras_loads_what_we_save_with_head(with_head, keras, tmp_path):
    paths, _ = with_head
    path = tmp_path / "ours.h5"
    with open_params(paths[0]) as params:
        nst_jax.save_params(path, params)
        network = keras.applications.VGG16(weights=path)
        path.unlink()
        assert_holds(network, params)
