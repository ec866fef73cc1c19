import hashlib
import os
import shutil
import subprocess
import sys

import h5py
import jax
import numpy as np
import pytest
from foreign import constant_params

from nst_jax import vgg
from nst_jax.weights import fetch, load
from nst_jax.weights.load import BUNDLED_FOLDER, load_params, save_params, verify_params

MODELS = ("vgg16", "vgg19")


@pytest.fixture(scope="module", params=MODELS)
def bundled(request):
    return request.param, load_params(request.param)


@pytest.fixture
def narrow(monkeypatch):
    """Networks with few channels in their deep blocks, which are most of their size."""
    monkeypatch.setattr(vgg, "CHANNELS", (64, 128, 24, 24, 24))


@pytest.fixture
def vgg16_file(tmp_path, narrow):
    path = tmp_path / "vgg16_constant.h5"
    save_params(path, constant_params("vgg16"), dtype="float16")
    return path


def flip_byte(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


# Bundled files


def test_bundled_params_have_the_networks_shapes_in_float32(bundled):
    model, params = bundled
    assert jax.tree.map(np.shape, params) == vgg.parameter_shapes(model)
    leaves = jax.tree.leaves(params)
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == np.float32 for leaf in leaves)
    assert vgg.network_name(params) == model


def test_vgg19_kernels_keep_all_256_values_of_their_table():
    for layer, arrays in load_params("vgg19").items():
        assert np.unique(arrays["kernel"]).size == 256, layer


def test_bundled_files_are_small_and_documented():
    folder = BUNDLED_FOLDER
    assert sum((folder / f"{model}.h5").stat().st_size for model in MODELS) < 60e6
    readme = (folder / "README.md").read_text("utf-8")
    for line in (folder / "SHA256SUMS").read_text("utf-8").splitlines():
        digest, name = line.split()
        assert f"| `{name}` |" in readme and digest in readme


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a peak of the process alone")
def test_bundled_vgg19_loads_in_little_memory():
    """At most 3x the parameters' size in float32."""
    code = """if True:
        import pathlib, re, jax
        from nst_jax.weights import load
        def peak():  # getrusage would also count the process that this one was forked from
            status = pathlib.Path("/proc/self/status").read_text()
            return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
        jax.block_until_ready(jax.numpy.zeros(1))
        before = peak()
        params = jax.block_until_ready(load.load_params("vgg19"))
        growth = peak() - before
        print(growth / sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 <= float(run.stdout) < 3


# Checksums


@pytest.fixture
def bundle(tmp_path, monkeypatch, narrow):
    """A bundled folder of its own, with a small file."""
    monkeypatch.setattr(load, "BUNDLED_FOLDER", tmp_path)
    path = tmp_path / "vgg16.h5"
    save_params(path, constant_params("vgg16"), dtype="float16")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  vgg16.h5\n")
    return path


def test_a_bundled_file_is_checked_on_load(bundle):
    assert load_params("vgg16")["block1_conv1"]["bias"][0] == 0.5
    with h5py.File(bundle) as file:
        offset = file["block1_conv1/block1_conv1_b_1:0"].id.get_offset()
    flip_byte(bundle, offset)
    load_params(bundle)  # a bias carries no checksum of its own
    with pytest.raises(ValueError, match=r"vgg16\.h5: damaged: wanted SHA-256 [0-9a-f]{64}"):
        load_params("vgg16")


def test_a_bundled_file_without_its_sum_is_refused(bundle):
    sums = bundle.with_name("SHA256SUMS")
    sums.write_text("\n")
    with pytest.raises(ValueError, match=r"SHA256SUMS: has no line for vgg16\.h5"):
        load_params("vgg16")
    sums.unlink()
    with pytest.raises(ValueError, match="SHA256SUMS: no such file"):
        load_params("vgg16")


# Files that are no weights


def not_hdf5(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


def damaged_kernel(path):
    with h5py.File(path) as file:
        chunk = file["block5_conv3/block5_conv3_W_1:0"].id.get_chunk_info(0)
    flip_byte(path, chunk.byte_offset + chunk.size // 2)


def absent(path):
    path.unlink()


def folder(path):
    path.unlink()
    path.mkdir()


def other_hdf5(path):
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)


def absent_data_set(path):
    with h5py.File(path, "r+") as file:
        del file["block3_conv1/block3_conv1_b_1:0"]


def group_for_data_set(path):
    absent_data_set(path)
    with h5py.File(path, "r+") as file:
        file.create_group("block3_conv1/block3_conv1_b_1:0")


def link_to_another_file(path):
    absent_data_set(path)
    other = path.with_name("other.h5")
    with h5py.File(other, "w") as file:
        file["secret"] = np.zeros(24, np.float32)
    with h5py.File(path, "r+") as file:
        link = h5py.ExternalLink(str(other), "secret")
        file["block3_conv1/block3_conv1_b_1:0"] = link


def values_in_another_file(path):
    absent_data_set(path)
    other = path.with_name("other.raw")
    other.write_bytes(bytes(96))
    with h5py.File(path, "r+") as file:
        file.create_dataset(
            "block3_conv1/block3_conv1_b_1:0",
            shape=(24,),
            dtype=np.float32,
            external=[(str(other), 0, 96)],
        )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (not_hdf5, r"cannot be read \(not HDF5; scripts/convert_weights\.py converts"),
        (empty, "cannot be read"),
        (truncated, "cannot be read .*truncated"),
        (damaged_kernel, "cannot be read"),
        (absent, "no such file"),
        (folder, "cannot be read .Is a directory"),
        (other_hdf5, "in no layout of Keras: no layer_names, no layers"),
        (absent_data_set, "cannot be read .*block3_conv1_b_1:0"),
        (group_for_data_set, "block3_conv1/bias is a group, not a data set"),
        (link_to_another_file, "the values of block3_conv1/bias lie in another file"),
        (values_in_another_file, "the values of block3_conv1/bias lie in another file"),
    ],
)
def test_an_unreadable_file_gives_one_line_that_names_it(vgg16_file, damage, message):
    damage(vgg16_file)
    with pytest.raises(ValueError, match=message) as error:
        load_params(vgg16_file)
    assert str(error.value).startswith(f"{vgg16_file}: ")
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_told_the_bundled_ones():
    with pytest.raises(ValueError, match=r"vgg18: no such file \(bundled .*'vgg16' or 'vgg19'"):
        load_params("vgg18")


# Full precision


@pytest.fixture
def cache(tmp_path, monkeypatch, narrow):
    """A cache folder of its own; the files of the network get their sums in put()."""
    monkeypatch.setenv("NST_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(vgg, "HIDDEN", 16)  # 400 MB less

    def put(key, *, head=False):
        path = tmp_path / fetch.FILES[key].name
        save_params(path, constant_params(key[:5], value=0.25, head=head))
        md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        monkeypatch.setitem(fetch.FILES, key, fetch.FILES[key]._replace(md5=md5))
        return path

    return put


@pytest.mark.parametrize("model", MODELS)
def test_full_precision_is_the_fetched_file(cache, model):
    cache(f"{model}_notop")
    params = load_params(model, precision="full")
    assert jax.tree.map(np.shape, params) == vgg.parameter_shapes(model)
    assert params["block5_conv1"]["bias"][0] == 0.25


def test_full_precision_with_head_is_the_other_file(cache):
    cache("vgg16", head=True)
    params = load_params("vgg16", precision="full", head=True)
    assert params.keys() == vgg.parameter_shapes("vgg16", head=True).keys()
    with pytest.raises(ValueError, match="_notop.h5: no such file"):
        load_params("vgg16", precision="full")


@pytest.mark.parametrize(("head", "key"), [(None, "vgg19_notop"), (True, "vgg19")])
def test_an_absent_original_is_told_how_to_fetch_and_where_it_belongs(tmp_path, cache, head, key):
    with pytest.raises(ValueError) as error:
        load_params("vgg19", precision="full", head=head)
    assert str(error.value) == (
        f"{tmp_path / fetch.FILES[key].name}: no such file; "
        f"download it with: python scripts/fetch_weights.py --files={key}"
    )


def test_a_damaged_original_is_refused(cache):
    path = cache("vgg19_notop")
    flip_byte(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match="damaged: wanted MD5 [0-9a-f]{32}, as published, got"):
        load_params("vgg19", precision="full")


def test_options_that_do_not_go_together_are_refused(vgg16_file):
    with pytest.raises(ValueError, match="precision: wanted one of bundled, full, got 'half'"):
        load_params("vgg19", precision="half")
    with pytest.raises(ValueError, match="precision='full' goes with 'vgg16' or 'vgg19', got /"):
        load_params(vgg16_file, precision="full")
    with pytest.raises(ValueError, match="head=True goes with precision='full'"):
        load_params("vgg19", head=True)
    with pytest.raises(ValueError, match="vgg16_constant.h5: wanted the head .fc1"):
        load_params(vgg16_file, head=True)


# Structure


def test_one_message_lists_every_missing_unexpected_and_misshapen_name():
    params = constant_params("vgg19")
    del params["block2_conv1"]
    del params["block3_conv4"]["bias"]
    params["block6_conv1"] = {"kernel": np.zeros((1, 1))}
    params["block1_conv1"]["kernel"] = np.zeros((3, 3, 64, 3))
    params["block5_conv1"]["bias"] = np.zeros((512,), np.int32)
    with pytest.raises(ValueError) as error:
        verify_params(params, source="some.h5")
    assert str(error.value) == (
        "some.h5: not the parameters of vgg19: "
        "missing: block2_conv1/kernel, block2_conv1/bias, block3_conv4/bias; "
        "unexpected: block6_conv1/kernel; "
        "misshapen: block1_conv1/kernel (wanted [3, 3, 3, 64], got [3, 3, 64, 3]); "
        "not floating-point: block5_conv1/bias (int32)"
    )


def rename_layer(file):
    file.move("block4_conv2", "block4_conv9")
    names = [n.replace(b"block4_conv2", b"block4_conv9") for n in file.attrs["layer_names"]]
    file.attrs["layer_names"] = names


def drop_layer(file):
    file.attrs["layer_names"] = [n for n in file.attrs["layer_names"] if n != b"block1_conv2"]


def add_data_set(file):
    layer = file["block1_conv1"]
    layer["extra:0"] = np.zeros(2, np.float32)
    layer.attrs["weight_names"] = [*layer.attrs["weight_names"], b"extra:0"]


def reshape(file):
    name = "block1_conv2/block1_conv2_b_1:0"
    del file[name]
    file[name] = np.zeros((64, 1), np.float32)


def leave_empty(file):
    name = "block1_conv2/block1_conv2_b_1:0"
    del file[name]
    file[name] = h5py.Empty(np.float32)


def put_nan(file):
    file["block2_conv2/block2_conv2_b_1:0"][7] = np.nan


def put_infinity(file):
    file["block2_conv2/block2_conv2_W_1:0"][0, 0, :2, 0] = np.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            rename_layer,
            "missing: block4_conv2/kernel, block4_conv2/bias; unexpected: block4_conv9",
        ),
        (drop_layer, "of vgg16: missing: block1_conv2/kernel, block1_conv2/bias$"),
        (add_data_set, "of vgg16: unexpected: block1_conv1/extra:0$"),
        (reshape, r"misshapen: block1_conv2/bias \(wanted \[64\], got \[64, 1\]\)"),
        (leave_empty, r"misshapen: block1_conv2/bias \(wanted \[64\], got \[\]\)"),
        (put_nan, "block2_conv2/bias holds 1 values that are NaN or infinite"),
        (put_infinity, "block2_conv2/kernel holds 2 values that are NaN or infinite"),
    ],
)
def test_a_file_with_wrong_contents_is_refused(vgg16_file, change, message):
    with h5py.File(vgg16_file, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=message) as error:
        load_params(vgg16_file)
    assert str(error.value).startswith(f"{vgg16_file}: ")


def test_the_wrong_network_is_refused_with_what_it_lacks(vgg16_file):
    assert vgg.network_name(load_params(vgg16_file, model="vgg16")) == "vgg16"
    with pytest.raises(ValueError, match="not the parameters of vgg19: missing: .*block5_conv4"):
        load_params(vgg16_file, model="vgg19")
    with pytest.raises(ValueError, match="of vgg16: unexpected: block3_conv4/kernel"):
        verify_params(constant_params("vgg19"), model="vgg16")
    with pytest.raises(ValueError, match="model: wanted one of vgg16, vgg19, got 'resnet'"):
        load_params(vgg16_file, model="resnet")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("head", [False, True])
def test_complete_params_tell_their_network(model, head):
    assert verify_params(constant_params(model, head=head)) == model


def test_half_a_head_is_refused():
    params = constant_params("vgg16", head=True)
    del params["fc2"], params["predictions"]
    with pytest.raises(ValueError, match="missing: fc2/kernel, fc2/bias, predictions/kernel"):
        verify_params(params)


def test_brain_floats_are_floating_point_and_quantized_integers_are_not():
    params = constant_params("vgg16")
    params["block1_conv1"]["bias"] = np.zeros(64, jax.numpy.bfloat16)
    assert verify_params(params) == "vgg16"
    params["block1_conv1"]["bias"] = np.zeros(64, np.uint8)
    with pytest.raises(ValueError, match=r"not floating-point: block1_conv1/bias \(uint8\)$"):
        verify_params(params)


def test_nan_is_refused_by_name():
    params = constant_params("vgg16")
    params["block3_conv2"]["bias"] = np.full(256, np.nan)
    with pytest.raises(ValueError, match="params: block3_conv2/bias holds 256 values"):
        verify_params(params)


# Saving


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 2.0**-11)])
def test_saved_params_load_as_they_were(tmp_path, narrow, dtype, tolerance):
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda array: 0.1 * random.standard_normal(array.shape, np.float32),
        constant_params("vgg16"),
    )
    path = tmp_path / "saved.h5"
    save_params(path, params, dtype=dtype)
    loaded = load_params(path)
    for layer, arrays in params.items():
        np.testing.assert_array_equal(loaded[layer]["bias"], arrays["bias"])
        np.testing.assert_allclose(
            loaded[layer]["kernel"], arrays["kernel"], rtol=tolerance, atol=tolerance * 2**-13
        )


def test_the_head_is_saved_and_loaded_with_its_own_number_of_classes(tmp_path, monkeypatch, narrow):
    monkeypatch.setattr(vgg, "HIDDEN", 16)  # 400 MB less to write
    params = constant_params("vgg16", head=True, classes=7)
    params["predictions"]["kernel"] = np.arange(16 * 7, dtype=np.float32).reshape(16, 7)
    path = tmp_path / "head.h5"
    save_params(path, params, dtype="float16")
    loaded = load_params(path)
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(np.shape, params)
    np.testing.assert_array_equal(loaded["predictions"]["kernel"], params["predictions"]["kernel"])
    assert loaded["fc1"]["kernel"][-1, -1] == 0.5
    assert load_params(path, head=True).keys() == params.keys()
    assert load_params(path, head=False).keys() == vgg.parameter_shapes("vgg16").keys()


def test_the_layout_is_that_of_keras(vgg16_file):
    with h5py.File(vgg16_file) as file:
        layers = [name.decode() for name in file.attrs["layer_names"]]
        assert layers[:4] == ["input_1", "block1_conv1", "block1_conv2", "block1_pool"]
        assert layers[-1] == "block5_pool" and len(layers) == 1 + 13 + 5
        assert file["block1_pool"].attrs["weight_names"].size == 0
        names = [b"block1_conv1_W_1:0", b"block1_conv1_b_1:0"]
        assert list(file["block1_conv1"].attrs["weight_names"]) == names
        kernel, bias = (file["block1_conv1"][name] for name in names)
        assert (kernel.shape, kernel.dtype, kernel.compression) == ((3, 3, 3, 64), "f2", "gzip")
        assert (bias.shape, bias.dtype, bias.compression) == ((64,), "f4", None)


def test_other_data_set_names_and_float64_load_too(vgg16_file):
    with h5py.File(vgg16_file, "r+") as file:
        layer = file["block1_conv1"]
        del layer["block1_conv1_b_1:0"]
        layer["block1_conv1/bias:0"] = np.arange(64, dtype=np.float64)
        layer.move("block1_conv1_W_1:0", "block1_conv1/kernel:0")
        layer.attrs["weight_names"] = ["block1_conv1/kernel:0", "block1_conv1/bias:0"]
    arrays = load_params(vgg16_file)["block1_conv1"]
    np.testing.assert_array_equal(arrays["bias"], np.arange(64))
    assert arrays["bias"].dtype == arrays["kernel"].dtype == np.float32


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_same_params_give_the_same_bytes(tmp_path, narrow, dtype):
    for name in ("first.h5", "second.h5"):
        save_params(tmp_path / name, constant_params("vgg16"), dtype=dtype)
    first, second = ((tmp_path / name).read_bytes() for name in ("first.h5", "second.h5"))
    assert first == second


def test_a_failed_save_leaves_the_old_file_and_nothing_else(vgg16_file):
    before = vgg16_file.read_bytes()
    params = constant_params("vgg16")
    params["block5_conv3"]["kernel"] = np.broadcast_to(np.float32(1e5), (3, 3, 24, 24))
    with pytest.raises(ValueError, match="block5_conv3/kernel in float16 holds .* infinite"):
        save_params(vgg16_file, params, dtype="float16")
    with pytest.raises(ValueError, match="'float32' or 'float16', got 'int8'"):
        save_params(vgg16_file, params, dtype="int8")
    assert vgg16_file.read_bytes() == before
    assert [entry.name for entry in vgg16_file.parent.iterdir()] == [vgg16_file.name]


@pytest.mark.parametrize("folder", ["absent", "file"])
def test_saving_into_what_is_no_folder_names_the_file(tmp_path, folder):
    (tmp_path / "file").touch()
    path = tmp_path / folder / "a.h5"
    with pytest.raises(ValueError, match="cannot be written") as error:
        save_params(path, constant_params("vgg16"))
    assert str(error.value).startswith(f"{path}: ")


def test_no_other_package_is_imported_until_a_file_needs_it():
    code = """if True:
        import sys, nst_jax.weights.convert
        assert not {"keras", "onnx", "safetensors", "torch"} & sys.modules.keys()
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_works_from_anywhere_under_any_name(tmp_path, monkeypatch):
    shutil.copy(BUNDLED_FOLDER / "vgg16.h5", tmp_path / "mine.hdf5")
    monkeypatch.chdir(tmp_path)
    params = load_params("mine.hdf5")
    bundled = load_params("vgg16")
    assert jax.tree.all(jax.tree.map(np.array_equal, params, bundled))
