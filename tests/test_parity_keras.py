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


@pytest.mark.parametrize(("height", "width"), [(97, 131), (64, 48), (32, 33)])
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


# The head, in its full size: half a gigabyte each, so one network and one layout at a time.


def pictures():
    """Two pictures [2, 224, 224, 3] far apart: noise and a gradient."""
    y, x = np.mgrid[:224, :224] / 223
    noise = np.random.default_rng(0).random((224, 224, 3))
    gradient = np.dstack([y, x, 1 - y])
    return np.stack([noise, gradient]).astype(np.float32)


@pytest.fixture(scope="module", params=[("vgg16", "a.weights.h5"), ("vgg19", "a.h5")], ids=MODELS)
def with_head(request, keras, tmp_path_factory):
    """A file of random weights with head written by Keras, and Keras' probabilities."""
    model, name = request.param
    keras.utils.set_random_seed(0)
    network = getattr(keras.applications, model.upper())(weights=None)
    random = np.random.default_rng(0)
    for layer in network.layers:
        if layer.weights:  # Keras starts with biases of zero, which no mistake would show in
            layer.bias.assign(0.1 * random.standard_normal(layer.bias.shape, np.float32))
    # Keras' random weights make all classes nearly as probable: widen the spread of the logits.
    logits = np.log(parity.keras_predict(network, pictures()))
    predictions = network.get_layer("predictions")
    for variable in predictions.weights:
        variable.assign(variable * (2.0 / logits.std()))
    path = tmp_path_factory.mktemp(model) / name
    (network.save_weights if name.endswith(".weights.h5") else network.save)(path)
    probabilities = parity.keras_predict(network, pictures())
    del network, layer, predictions, variable
    gc.collect()
    yield model, path, probabilities
    path.unlink()


@pytest.mark.slow
def test_probabilities_equal_keras(with_head):
    _, path, expected = with_head
    with jax.default_matmul_precision("highest"):
        found = jax.jit(nst_jax.classify)(nst_jax.load_params(path), pictures())
    assert expected.max(axis=1).min() > 0.01  # against 0.001 when all are as probable
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_keras_loads_what_we_save_with_head(with_head, keras, tmp_path):
    model, written, _ = with_head
    path = tmp_path / "ours.h5"
    with open_params(written) as params:
        nst_jax.save_params(path, params)
        network = getattr(keras.applications, model.upper())(weights=path)
        path.unlink()
        assert_holds(network, params)
