"""Conversion of .pth files, and that nothing in them is ever run."""

import pickle
import zipfile
from pathlib import Path

import foreign
import jax
import numpy as np
import pytest

from nst_jax import vgg
from nst_jax.weights import convert
from nst_jax.weights.load import load_params

pytestmark = pytest.mark.torch
CLASSES = 7


@pytest.fixture(scope="module")
def torch():
    # Not at the top: the file is collected where there is no PyTorch, too.
    import torch

    return torch


@pytest.fixture(autouse=True)
def small_head(monkeypatch):
    monkeypatch.setattr(vgg, "HIDDEN", 16)


@pytest.fixture
def state(torch):
    params = foreign.random_params("vgg19", head=True, classes=CLASSES)
    return {name: torch.from_numpy(a) for name, a in foreign.torchvision_state(params).items()}


def convert_and_load(path):
    output = path.with_suffix(".h5")
    convert.convert(path, output, overwrite=True)
    return load_params(output)


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dictionaries_old_and_new_are_converted(torch, state, tmp_path, zipped):
    path = tmp_path / "vgg19.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(path) == zipped
    loaded = convert_and_load(path)
    params = foreign.random_params("vgg19", head=True, classes=CLASSES)
    kernel, bias = convert.fold_normalization(**params["block1_conv1"])
    params["block1_conv1"] = {"kernel": kernel, "bias": bias}
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, params))


def test_parameters_and_half_precision_are_converted(torch, state, tmp_path):
    path = tmp_path / "vgg19.pth"
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in halved.items()}, path)
    loaded = convert_and_load(path)
    bias = halved["features.34.bias"].float().numpy()
    np.testing.assert_array_equal(loaded["block5_conv4"]["bias"], bias)


def test_all_wrong_names_are_listed_as_they_stand_in_the_file(torch, state, tmp_path):
    path = tmp_path / "vgg19.pth"
    del state["features.2.weight"]
    state["features.1.num_batches_tracked"] = torch.tensor(3)
    state["classifier.3.weight"] = torch.zeros(4096, 4096)
    state["classifier.6.bias"] = torch.zeros(CLASSES, dtype=torch.int64)
    torch.save(state, path)
    with pytest.raises(ValueError) as error:
        convert.convert(path, tmp_path / "a.h5")
    assert str(error.value) == (
        f"{path}: not the parameters of vgg19: missing: features.2.weight; "
        "unexpected: features.1.num_batches_tracked; "
        "misshapen: classifier.3.weight (wanted [16, 16], got [4096, 4096]); "
        "not floating-point: classifier.6.bias (torch.int64)"
    )


def test_a_tensor_that_cannot_be_read_is_told_once(torch, state, tmp_path):
    path = tmp_path / "vgg19.pth"
    state["features.2.weight"] = state["features.2.weight"].to_sparse()
    torch.save(state, path)
    with pytest.raises(ValueError, match="can't convert Sparse") as error:
        convert.convert(path, tmp_path / "a.h5")
    assert str(error.value).count(f"{path}: cannot be read") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["vgg19.pth"]


class Payload:
    """What an attacker would pickle: a call that leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_the_payload_works_where_nothing_prevents_it(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("kind", ["zip", "old", "pickle"])
@pytest.mark.parametrize("place", ["value", "all"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(torch, state, tmp_path, kind, place):
    payload = Payload(tmp_path / "trace")
    content = {**state, "features.0.bias": payload} if place == "value" else payload
    path = tmp_path / "vgg19.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(ValueError, match="nothing in it was run") as error:
        convert.convert(path, tmp_path / "a.h5")
    assert str(error.value).startswith(f"{path}: cannot be read (") and "\n" not in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["vgg19.pth"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("lost", [10, 1000, 1_000_000])
def test_a_truncated_file_gives_one_line(torch, state, tmp_path, zipped, lost):
    path = tmp_path / "vgg19.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(ValueError, match=r"vgg19\.pth: cannot be read \(") as error:
        convert.convert(path, tmp_path / "a.h5")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "wanted a dictionary of tensors by name, got list"),
        ({"epoch": 3}, "wanted a dictionary of tensors by name, got int as 'epoch'"),
        ({4: None}, "wanted a dictionary of tensors by name, got NoneType as 4"),
    ],
)
def test_other_contents_are_refused(torch, tmp_path, content, message):
    path = tmp_path / "a.pth"
    torch.save(content, path)
    with pytest.raises(ValueError) as error:
        convert.convert(path, tmp_path / "a.h5")
    assert str(error.value) == f"{path}: cannot be read ({message})"


def test_a_zip_archive_of_something_else_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b", b"x")
    with pytest.raises(ValueError, match=r"a\.pth: cannot be read \("):
        convert.convert(path, tmp_path / "a.h5")


def test_a_pytorch_that_can_be_made_to_run_code_is_refused(torch, state, tmp_path, monkeypatch):
    path = tmp_path / "vgg19.pth"
    torch.save(state, path)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ImportError, match=r"wanted PyTorch 2\.10 or later, got 2\.9\.1\+cpu"):
        convert.convert(path, tmp_path / "a.h5")
