"""Conversion from Keras' files and, in safetensors files, from torchvision's names."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import foreign
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from safetensors.numpy import save_file

from nst_jax import vgg
from nst_jax.weights import convert
from nst_jax.weights.load import load_params, save_params

os.environ.setdefault("KERAS_BACKEND", "jax")

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = ("vgg16", "vgg19")
# The real body has 60 MB, the real head half a gigabyte.
CHANNELS, NARROW = vgg.CHANNELS, (64, 128, 24, 24, 24)
HIDDEN, CLASSES = 16, 7


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    monkeypatch.setattr(vgg, "CHANNELS", NARROW)
    monkeypatch.setattr(vgg, "HIDDEN", HIDDEN)


@pytest.fixture
def whole_body(monkeypatch, small_network):
    monkeypatch.setattr(vgg, "CHANNELS", CHANNELS)


def assert_same(found, wanted):
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, wanted)
    for layer, arrays in wanted.items():
        for kind, array in arrays.items():
            np.testing.assert_array_equal(found[layer][kind], array, err_msg=f"{layer}/{kind}")


# Keras


def narrowed(network):
    """The same network of Keras with few channels."""
    import keras

    def narrow(layer):
        given = layer.get_config()
        if "filters" in given:
            given["filters"] = NARROW[vgg.block_of(layer.name) - 1]
        return layer.__class__.from_config(given)

    return keras.models.clone_model(network, clone_function=narrow)


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory):
    """VGG16 with few channels and a small head, as written by Keras 3, and its parameters."""
    import keras

    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    base = narrowed(base)
    x = keras.layers.Flatten(name="flatten")(base.output)
    for name in ("fc1", "fc2"):
        x = keras.layers.Dense(HIDDEN, activation="relu", name=name)(x)
    x = keras.layers.Dense(CLASSES, activation="softmax", name="predictions")(x)
    model = keras.Model(base.input, x)
    random = np.random.default_rng(0)
    model.set_weights(
        [0.05 * random.standard_normal(array.shape, np.float32) for array in model.get_weights()]
    )
    folder = tmp_path_factory.mktemp("keras")
    files = {"weights": folder / "a.weights.h5", "model": folder / "a.h5"}
    model.save_weights(files["weights"])
    model.save(files["model"])
    # Before 3.5, Keras wrote the same without the layers' own names.
    files["nameless"] = folder / "nameless.weights.h5"
    files["nameless"].write_bytes(files["weights"].read_bytes())
    with h5py.File(files["nameless"], "r+") as file:
        for group in file["layers"].values():
            group["vars"].attrs.pop("name", None)
    params = {
        layer.name: dict(zip(("kernel", "bias"), layer.get_weights(), strict=True))
        for layer in model.layers
        if layer.get_weights()
    }
    return files, params


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["weights", "nameless", "model"])
def test_files_of_keras_3_load_as_keras_holds_them(keras_files, kind):
    files, params = keras_files
    assert_same(load_params(files[kind]), params)


def test_files_of_keras_3_without_head_load(tmp_path):
    import keras

    path = tmp_path / "a.weights.h5"
    model = narrowed(keras.applications.VGG19(weights=None, include_top=False))
    model.save_weights(path)
    params = load_params(path)
    assert vgg.network_name(params) == "vgg19"
    kernel = model.get_layer("block5_conv3").get_weights()[0]
    np.testing.assert_array_equal(params["block5_conv3"]["kernel"], kernel)


@pytest.mark.parametrize("kind", ["weights", "model"])
def test_files_of_keras_3_are_converted(keras_files, tmp_path, kind):
    files, params = keras_files
    path = tmp_path / "converted.h5"
    assert convert.convert(files[kind], path) == "vgg16"
    assert_same(load_params(path), params)
    with h5py.File(path) as file:
        assert "layer_names" in file.attrs


def test_a_file_of_ours_is_converted_to_half_precision(keras_files, tmp_path):
    _, params = keras_files
    full, half = tmp_path / "full.h5", tmp_path / "half.h5"
    save_params(full, params)
    convert.convert(full, half, dtype="float16")
    rounded = {
        layer: {
            "kernel": arrays["kernel"].astype(np.float16).astype(np.float32),
            "bias": arrays["bias"],
        }
        for layer, arrays in params.items()
    }
    assert_same(load_params(half), rounded)


def test_the_head_is_left_out_or_insisted_on(keras_files, tmp_path):
    files, params = keras_files
    path = tmp_path / "converted.h5"
    convert.convert(files["weights"], path, head=False)
    body = {layer: params[layer] for layer in params if layer not in vgg.HEAD_LAYERS}
    assert_same(load_params(path), body)
    with pytest.raises(ValueError, match="converted.h5: wanted the head .fc1, fc2"):
        convert.convert(path, tmp_path / "again.h5", head=True)
    convert.convert(files["weights"], path, head=True, overwrite=True)
    assert_same(load_params(path), params)


def drop_layer(layers):
    del layers["conv2d_3"]


def drop_bias(layers):
    del layers["dense_1/vars/1"]


def add_layer(layers):
    layers["batch_normalization/vars/0"] = np.zeros(3, np.float32)


def add_convolution(layers):
    layers["conv2d_13/vars/0"] = np.zeros((3, 3, NARROW[-1], NARROW[-1]), np.float32)


def reshape(layers):
    del layers["conv2d/vars/1"]
    layers["conv2d/vars/1"] = np.zeros((64, 1), np.float32)


def put_nan(layers):
    layers["dense/vars/1"][3] = np.nan


def put_integers(layers):
    del layers["conv2d/vars/1"]
    layers["conv2d/vars/1"] = np.zeros(64, np.uint16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_layer, "of vgg16: missing: block2_conv2/kernel, block2_conv2/bias$"),
        (drop_bias, "of vgg16: missing: fc2/bias$"),
        (add_layer, "of vgg16: unexpected: batch_normalization/kernel$"),
        (add_convolution, "of vgg16: unexpected: conv2d_13/kernel$"),
        (reshape, r"misshapen: block1_conv1/bias \(wanted \[64\], got \[64, 1\]\)$"),
        (put_nan, "fc1/bias holds 1 values that are NaN or infinite$"),
        (put_integers, r"not floating-point: block1_conv1/bias \(uint16\)$"),
    ],
)
def test_a_file_of_keras_3_with_wrong_contents_is_refused(keras_files, tmp_path, change, message):
    files, _ = keras_files
    path = tmp_path / "a.weights.h5"
    path.write_bytes(files["nameless"].read_bytes())
    with h5py.File(path, "r+") as file:
        change(file["layers"])
    with pytest.raises(ValueError, match=message) as error:
        load_params(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_vgg16_file_of_keras_3_is_no_vgg19(keras_files):
    files, _ = keras_files
    with pytest.raises(ValueError, match="of vgg19: missing: block3_conv4/kernel, .*block5_conv4"):
        load_params(files["weights"], model="vgg19")


# torchvision


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("head", [False, True])
def test_names_and_axes_of_torchvision_become_ours(tmp_path, model, head):
    params = foreign.random_params(model, head=head, classes=CLASSES)
    save_file(foreign.torchvision_state(params), tmp_path / "a.safetensors")
    path = tmp_path / "a.h5"
    assert convert.convert(tmp_path / "a.safetensors", path) == model
    loaded = load_params(path)
    # The first layer changes in value too: next section.
    assert loaded.pop("block1_conv1")["kernel"].shape == (3, 3, 3, 64)
    del params["block1_conv1"]
    assert_same(loaded, params)


def test_the_head_reads_the_same_features_in_either_order(tmp_path):
    params = foreign.random_params("vgg16", head=True, classes=CLASSES)
    state = foreign.torchvision_state(params)
    save_file(state, tmp_path / "a.safetensors")
    convert.convert(tmp_path / "a.safetensors", tmp_path / "a.h5")
    fc1 = load_params(tmp_path / "a.h5")["fc1"]
    features = np.random.default_rng(1).random((7, 7, NARROW[-1]), np.float32)
    wanted = state["classifier.0.weight"] @ features.transpose(2, 0, 1).ravel()
    np.testing.assert_allclose(features.ravel() @ fc1["kernel"], wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_other_floating_point_types_are_widened(tmp_path, dtype):
    params = foreign.random_params("vgg16")
    state = {name: a.astype(dtype) for name, a in foreign.torchvision_state(params).items()}
    save_file(state, tmp_path / "a.safetensors")
    convert.convert(tmp_path / "a.safetensors", tmp_path / "a.h5")
    bias = params["block5_conv3"]["bias"].astype(dtype).astype(np.float32)
    loaded = load_params(tmp_path / "a.h5")["block5_conv3"]
    np.testing.assert_array_equal(loaded["bias"], bias)


def test_all_wrong_names_are_listed_as_they_stand_in_the_file(tmp_path):
    state = foreign.torchvision_state(foreign.random_params("vgg16"))
    del state["features.2.weight"], state["features.28.bias"]
    state["features.3.running_mean"] = np.zeros(64, np.float32)
    state["features.0.weight"] = np.zeros((64, 1, 3, 3), np.float32)
    state["features.5.bias"] = np.zeros(128, np.int8)
    path = tmp_path / "a.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError) as error:
        convert.convert(path, tmp_path / "a.h5")
    assert str(error.value) == (
        f"{path}: not the parameters of vgg16: missing: features.2.weight, features.28.bias; "
        "unexpected: features.3.running_mean; "
        "misshapen: features.0.weight (wanted [64, 3, 3, 3], got [64, 1, 3, 3]); "
        "not floating-point: features.5.bias (I8)"
    )
    assert not (tmp_path / "a.h5").exists()


def test_a_torchvision_file_of_the_wrong_network_or_with_nan_is_refused(tmp_path):
    state = foreign.torchvision_state(foreign.random_params("vgg16"))
    path = tmp_path / "a.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError, match="of vgg19: missing: features.16.weight, .*features.34"):
        convert.convert(path, tmp_path / "a.h5", model="vgg19")
    state["features.10.bias"][:2] = np.nan
    save_file(state, path)
    with pytest.raises(ValueError, match="a.safetensors: block3_conv1/bias .* holds 2 values"):
        convert.convert(path, tmp_path / "a.h5")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


# The preprocessing in the first convolution


@pytest.fixture(scope="module", params=MODELS)
def first_layers(request):
    """block1_conv1 of the original network in torchvision's form, and converted to ours."""
    theirs = foreign.without_preprocessing(load_params(request.param))["block1_conv1"]
    return theirs, dict(zip(("kernel", "bias"), convert.fold_normalization(**theirs), strict=True))


@pytest.fixture(scope="module")
def activations(first_layers):
    """That layer before ReLU on a noise picture, in float64: with their weights and with ours."""
    theirs, ours = ({k: np.float64(v) for k, v in layer.items()} for layer in first_layers)
    picture = np.random.default_rng(0).random((64, 48, 3))
    standardized = (picture - foreign.MEAN) / foreign.STD
    grey_levels = 255 * picture[..., ::-1] - np.array(vgg.MEAN_BGR)
    return oracle.convolve(standardized, **theirs), oracle.convolve(grey_levels, **ours)


def test_folding_is_exact_inside_the_picture(activations):
    theirs, ours = (a[1:-1, 1:-1] for a in activations)
    assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()


def test_folding_is_off_in_the_outermost_ring_by_little_and_by_what_is_said(
    activations, first_layers
):
    theirs, ours = activations
    difference = ours - theirs
    relative = np.abs(difference).max() / np.abs(theirs).max()
    assert 1e-4 < relative < 3e-3
    assert np.linalg.norm(difference) < 5e-3 * np.linalg.norm(theirs)
    # Kernel times the difference of the mean colours, over the taps above the picture.
    kernel = np.float64(first_layers[1]["kernel"])[:, :, ::-1]
    mean_difference = np.array(vgg.MEAN_BGR[::-1]) - 255 * foreign.MEAN
    np.testing.assert_allclose(mean_difference, [0.005, 0.499, 0.409], atol=1e-12)
    wanted = np.einsum("wio,i->o", kernel[0], mean_difference)
    np.testing.assert_allclose(difference[0, 20], wanted, atol=1e-6 * np.abs(theirs).max())


def test_folding_back_gives_the_original_weights(whole_body):
    for model in MODELS:
        params = load_params(model)
        theirs = foreign.without_preprocessing(params)["block1_conv1"]
        kernel, bias = convert.fold_normalization(**theirs)
        np.testing.assert_allclose(kernel, params["block1_conv1"]["kernel"], rtol=1e-6)
        np.testing.assert_allclose(bias, params["block1_conv1"]["bias"], rtol=1e-5, atol=1e-5)


def test_another_mean_and_deviation_are_folded_where_they_are_given(tmp_path):
    params = foreign.random_params("vgg16")
    save_file(foreign.torchvision_state(params), tmp_path / "a.safetensors")
    mean = np.array(vgg.MEAN_BGR[::-1]) / 255
    convert.convert(
        tmp_path / "a.safetensors", tmp_path / "a.h5", mean=mean, std=(1 / 255, 1 / 255, 1 / 255)
    )
    first = load_params(tmp_path / "a.h5")["block1_conv1"]
    wanted = params["block1_conv1"]["kernel"][:, :, ::-1]  # only RGB to BGR is left to do
    np.testing.assert_allclose(first["kernel"], wanted, rtol=1e-6)
    np.testing.assert_allclose(first["bias"], params["block1_conv1"]["bias"], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5, 0.5)}, r"mean: wanted three numbers \(RGB\), got \[0.5, 0.5\]"),
        ({"mean": (0.5, 0.5, np.nan)}, "mean: wanted three numbers"),
        ({"std": (0.2, 0.2, 0.0)}, r"std: wanted positive numbers, got \[0.2, 0.2, 0.0\]"),
    ],
)
def test_an_impossible_preprocessing_is_refused(tmp_path, options, message):
    save_file(foreign.torchvision_state(foreign.random_params("vgg16")), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=message):
        convert.convert(tmp_path / "a.safetensors", tmp_path / "a.h5", **options)


# Files and options


@pytest.fixture
def state_file(tmp_path):
    return written(tmp_path)


@pytest.fixture
def whole_state_file(tmp_path, whole_body):
    return written(tmp_path)


def written(folder):
    path = folder / "a.safetensors"
    save_file(foreign.torchvision_state(foreign.random_params("vgg16")), path)
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def replace_by_picture(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))


def empty(path):
    path.write_bytes(b"")


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def huge_header(path):
    path.write_bytes(b"\xff" * 8 + b"{" + bytes(100))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "cannot be read .*not fully covered"),
        (replace_by_picture, r"cannot be read \(neither HDF5 nor PyTorch nor safetensors\)$"),
        (empty, r"cannot be read \(neither HDF5 nor PyTorch nor safetensors\)$"),
        (replace_by_folder, "cannot be read .Is a directory"),
        (huge_header, "cannot be read .*header too large"),
        (Path.unlink, "no such file$"),
    ],
)
def test_an_unreadable_file_gives_one_line_that_names_it(state_file, damage, message):
    damage(state_file)
    with pytest.raises(ValueError, match=message) as error:
        convert.convert(state_file, state_file.with_name("a.h5"))
    assert str(error.value).startswith(f"{state_file}: ")
    assert "\n" not in str(error.value)
    assert not state_file.with_name("a.h5").exists()


def test_a_kernel_damaged_in_an_hdf5_file_leaves_no_output(tmp_path):
    path = tmp_path / "a.h5"
    save_params(path, foreign.random_params("vgg16"), dtype="float16")
    with h5py.File(path) as file:
        chunk = file["block5_conv3/block5_conv3_W_1:0"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match="a.h5: cannot be read"):
        convert.convert(path, tmp_path / "b.h5")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


def test_an_output_is_replaced_only_on_request(state_file):
    output = state_file.with_name("a.h5")
    output.write_text("precious")
    with pytest.raises(ValueError, match="a.h5: exists already; pass overwrite to replace it"):
        convert.convert(state_file, output)
    assert output.read_text() == "precious"
    convert.convert(state_file, output, overwrite=True)
    assert vgg.network_name(load_params(output)) == "vgg16"


def test_wrong_options_are_refused(state_file):
    output = state_file.with_name("a.h5")
    with pytest.raises(ValueError, match="format: wanted one of auto, keras, .*got 'onnx'"):
        convert.convert(state_file, output, format="onnx")
    with pytest.raises(ValueError, match="dtype: wanted 'float32' or 'float16', got 'int8'"):
        convert.convert(state_file, output, dtype="int8")
    with pytest.raises(ValueError, match="model: wanted one of vgg16, vgg19, got 'vgg11'"):
        convert.convert(state_file, output, model="vgg11")
    with pytest.raises(ValueError, match="a.safetensors: cannot be read .not HDF5"):
        convert.convert(state_file, output, format="keras")
    with pytest.raises(ValueError, match="cannot be written"):
        convert.convert(state_file, output.parent / "absent" / "a.h5")
    convert.convert(state_file, output)
    with pytest.raises(ValueError, match="mean and std are for torchvision's layout"):
        convert.convert(output, output.with_name("b.h5"), std=foreign.STD)


@pytest.mark.parametrize("package", ["safetensors", "torch"])
def test_a_missing_package_is_named_with_what_installs_it(state_file, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    chosen = {"safetensors": "auto", "torch": "torchvision"}[package]
    message = rf"a\.safetensors: needs \w+: pip install {package}$"
    with pytest.raises(ImportError, match=message):
        convert.convert(state_file, state_file.with_name("a.h5"), format=chosen)


@pytest.mark.parametrize("source", ["keras", "safetensors"])
def test_conversion_holds_one_layer_at_a_time(whole_state_file, source):
    path = whole_state_file
    if source == "keras":
        path = path.with_name("keras.h5")
        save_params(path, foreign.random_params("vgg16"))
    largest = 4 * 3 * 3 * 512 * 512
    tracemalloc.start()
    try:
        convert.convert(path, path.with_name("a.h5"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A layer, its transposed copy and the mask of its finite values; the whole is 6.2 layers.
    assert peak < 3 * largest


# The script


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, "scripts/convert_weights.py", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


def test_the_script_converts_and_says_what_it_wrote(whole_state_file):
    output = whole_state_file.with_name("a.h5")
    result = run_script(
        f"--input={whole_state_file}", f"--output={output}", "--dtype=float16", "--nohead",
        "--mean=0.48235,0.45882,0.40784", "--std=0.00392157,0.00392157,0.00392157",
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    size = output.stat().st_size / 1e6
    assert result.stdout == f"{output}: vgg16, {size:.1f} MB\n"
    wanted = foreign.random_params("vgg16")["block4_conv1"]["bias"]
    np.testing.assert_array_equal(load_params(output)["block4_conv1"]["bias"], wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input=absent.h5"], "convert_weights: absent.h5: no such file\n"),
        (["--input=setup.cfg"], "setup.cfg: cannot be read (neither HDF5 nor PyTorch nor safe"),
        (["--input=weights/vgg16.h5", "--head"], "weights/vgg16.h5: wanted the head (fc1"),
        (["--input=weights/vgg16.h5", "--mean=a,b,c"], "--mean: wanted numbers, got 'a,b,c'\n"),
        (["--input=a", "more.h5"], "unexpected argument 'more.h5': give files by --input"),
    ],
)
def test_the_script_ends_bad_input_with_one_line(tmp_path, arguments, message):
    result = run_script(f"--output={tmp_path / 'a.h5'}", *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("convert_weights: ") and message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
