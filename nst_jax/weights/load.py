"""Loading, checking and saving VGG weights in the HDF5 layouts of Keras.

In memory, parameters are the linen tree ``{layer: {"kernel": array, "bias": array}}`` in
float32: convolution kernels ``[3, 3, in, out]``, dense kernels ``[in, out]``, biases ``[out]``.
The first convolution reads its input channels in the order blue, green, red.

Two layouts on disk can be read, both with or without the classifier head:

- The layout of the files published with Keras. Files are written in this layout too. The
  attribute ``layer_names`` lists every layer, including layers without parameters. Each layer is a
  group. Its attribute ``weight_names`` lists its data sets, kernel first, e.g.
  ``block1_conv1/block1_conv1_W_1:0``. In whole models saved as ``.h5``, all this is in the group
  ``model_weights``.
- The layout of ``model.save_weights("x.weights.h5")`` in Keras 3. The k-th convolution is
  ``layers/conv2d_k/vars/0`` (kernel) and ``/1`` (bias). The k-th dense layer is
  ``layers/dense_k``. The first of each has no number.

Nothing in such a file is executed, and no other file is read through it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import vgg
from nst_jax.files.atomic import reason
from nst_jax.files.paths import check_local
from nst_jax.weights import fetch, hdf5

Params = dict[str, dict[str, Any]]
Precision = Literal["bundled", "full"]
StoredType = Literal["float32", "float16"]

CHECKSUMS = "SHA256SUMS"
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_Name = TypeVar("_Name", bound=str)

_PACKAGE = Path(__file__).resolve().parent.parent
# A wheel has the files inside the package. A checkout has them beside the package.
BUNDLED_FOLDER = next(
    (
        folder
        for folder in (_PACKAGE / "bundled", _PACKAGE.parent / "weights")
        if (folder / CHECKSUMS).is_file()
    ),
    _PACKAGE / "bundled",
)


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array in a file. Its values are read when NumPy asks for them.

    Attributes:
      path: the file.
      shape: the shape of the array.
      dtype: its NumPy type, or the file format's own name for a type that NumPy does not have.
      read: a function that returns the values.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], np.ndarray]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        with readable(self.path):
            array = self.read()
        return array if dtype is None else array.astype(dtype, copy=False)


def load_params(
    name_or_path: str | os.PathLike = "vgg19",
    *,
    model: vgg.Model | None = None,
    precision: Precision = "bundled",
    head: bool | None = None,
) -> Params:
    """Loads the weights of VGG16 or VGG19.

    Args:
      name_or_path: ``"vgg16"`` or ``"vgg19"``, or the path of an HDF5 file in one of Keras'
        layouts, in any floating-point precision.
      model: the network that the file must hold, ``"vgg16"`` or ``"vgg19"``. By default, either.
      precision: the file that a name stands for. ``"bundled"`` is the file that comes with the
        package: rounded weights without head, checked against their SHA-256 sums. ``"full"`` is
        the float32 original published with Keras, checked against its MD5 sum.
        ``scripts/fetch_weights.py`` downloads it into `nst_jax.weights.fetch.cache_dir`.
      head: ``True`` requires the classifier head, ``False`` leaves it out. By default, a path
        gives what its file holds, and a name gives the network without head.

    Returns:
      ``{layer: {"kernel", "bias"}}`` with float32 arrays on JAX's default device: convolutions
      ``[3, 3, in, out]``, dense layers ``[in, out]``, biases ``[out]``.

    Raises:
      ValueError: the file is absent, damaged or not HDF5; it does not hold exactly the finite
        parameters of one network (the message lists all wrong names); or an option does not go
        with the others.

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", https://arxiv.org/abs/1409.1556.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: wanted one of {', '.join(PRECISIONS)}, got {precision!r}")
    opener = open_params
    name = _name(name_or_path)
    if name is not None:
        model, opener = model or name, _open  # a right checksum makes `hdf5.check` needless
        path = _named_file(name, precision=precision, head=head)
    else:
        check_local("name_or_path", name_or_path)
        path = Path(name_or_path)
        names = " or ".join(repr(each) for each in vgg.CONVOLUTIONS)
        if precision != "bundled":
            raise ValueError(f"precision={precision!r} goes with {names}, got {path}")
        if not path.exists():
            raise ValueError(f"{path}: no such file (bundled weights: {names})")
    with opener(path, model=model, head=head) as stored:
        params: Params = {}
        for layer, arrays in stored.items():
            for kind, array in arrays.items():
                # NumPy widens float16 several times faster than HDF5 does.
                values = np.asarray(array).astype(np.float32, copy=False)
                _verify_finite(values, name=f"{layer}/{kind}", source=str(path))
                params.setdefault(layer, {})[kind] = values
    return jax.device_put(params)


@contextlib.contextmanager
def open_params(
    path: str | os.PathLike, *, model: vgg.Model | None = None, head: bool | None = None
) -> Iterator[Params]:
    """Opens an HDF5 file in one of Keras' layouts, after `weights.hdf5` has checked it.

    Args:
      path: the file.
      model: the network that the file must hold, as in `load_params`.
      head: whether the head is wanted, as in `load_params`.

    Yields:
      ``{layer: {"kernel": StoredArray, "bias": StoredArray}}``, with exactly the names and shapes
      of one network. The arrays can be read one by one until the context ends.

    Raises:
      ValueError: as in `load_params`, except that values may be NaN or infinite.
    """
    check_local("path", path)
    path = Path(path)
    with readable(path):
        path.open("rb").close()  # its error is clearer than h5py's
        if not h5py.is_hdf5(path):
            raise OSError("not HDF5; scripts/convert_weights.py converts PyTorch and safetensors")
        hdf5.check(path)
    with _open(path, model=model, head=head) as params:
        yield params


@contextlib.contextmanager
def _open(path: Path, *, model: vgg.Model | None, head: bool | None) -> Iterator[Params]:
    """Does what `open_params` does, for a file that is known to be readable."""
    with readable(path):
        file = h5py.File(path, "r")
    with file:
        with readable(path):
            arrays = {
                name: StoredArray(
                    path,
                    dataset.shape or (),
                    dataset.dtype,
                    functools.partial(dataset.__getitem__, ()),
                )
                for name, dataset in _datasets(file).items()
            }
        found = _verify_structure(arrays, model=model, source=str(path))
        params: Params = {}
        for name in flat_shapes(found, head="predictions/bias" in arrays):
            layer, kind = name.split("/")
            params.setdefault(layer, {})[kind] = arrays[name]
        yield select_head(params, head, source=str(path))


def select_head(params: Params, head: bool | None, *, source: str) -> Params:
    """Returns the parameters with head (True), without head (False), or unchanged (None).

    Raises:
      ValueError: the head is wanted and `params` do not hold it.
    """
    if head and "predictions" not in params:
        raise ValueError(f"{source}: wanted the head ({', '.join(vgg.HEAD_LAYERS)}), got none")
    if head is False:
        return {layer: params[layer] for layer in params if layer not in vgg.HEAD_LAYERS}
    return params


def save_params(
    path: str | os.PathLike,
    params: Mapping[str, Mapping[str, Any]],
    *,
    dtype: StoredType = "float32",
    source: str = "params",
) -> None:
    """Writes parameters in Keras' HDF5 layout. Keras and `load_params` read it.

    The file appears under its name only when it is complete. The same parameters give the same
    bytes. Arrays are read one at a time, so that those of `open_params` are never all in memory.

    Args:
      path: the file to write. An existing file is replaced.
      params: the tree of VGG16 or VGG19, with or without head.
      dtype: how kernels are stored. ``"float32"`` is not compressed. ``"float16"`` is compressed
        with gzip, and rounds each value by at most 2^-11 of itself (3e-8 for values below
        6.1e-5). Biases are always float32.
      source: the name of the parameters in error messages, such as a file name.

    Raises:
      ValueError: the dtype is unknown, the folder does not exist, the parameters are not those of
        one network, or a stored value is not finite.
    """
    if dtype not in get_args(StoredType):
        raise ValueError(f"dtype: wanted 'float32' or 'float16', got {dtype!r}")
    path = Path(path)
    model = _verify_structure(_flatten(params), model=None, source=source)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            layers = _layers(model, head="predictions" in params)
            file.attrs["layer_names"] = np.array(layers, dtype="S")
            for layer in layers:
                arrays = params.get(layer, {})
                group = file.create_group(layer)
                _write_layer(group, layer, arrays, dtype=dtype, source=source)
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({reason(error)})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def verify_params(
    params: Mapping[str, Mapping[str, Any]],
    *,
    model: vgg.Model | None = None,
    source: str = "params",
) -> vgg.Model:
    """Checks that a tree holds exactly the parameters of one network, and that all are finite.

    Args:
      params: ``{layer: {"kernel": array, "bias": array}}``.
      model: the wanted network, ``"vgg16"`` or ``"vgg19"``. By default, either.
      source: the name of the parameters in error messages, such as a file name.

    Returns:
      The name of the network, ``"vgg16"`` or ``"vgg19"``.

    Raises:
      ValueError: names are missing or unexpected, shapes are wrong (the message lists all), an
        array is not floating point, or a value is NaN or infinite.
    """
    flat = _flatten(params)
    found = _verify_structure(flat, model=model, source=source)
    for name, array in flat.items():
        _verify_finite(np.asarray(array), name=name, source=source)
    return found


def match_network(
    arrays: Mapping[str, Any],
    wanted: Mapping[_Name, Mapping[str, tuple[int, ...]]],
    *,
    source: str,
) -> _Name:
    """Finds the network that has exactly the names and shapes of the arrays.

    Args:
      arrays: ``{name: array}``. Only shapes and types are looked at.
      wanted: ``{network: {name: shape}}``.
      source: the name of the arrays in error messages, such as a file name.

    Returns:
      The name of the network.

    Raises:
      ValueError: there is no such network. The message compares the arrays with the network that
        differs least. It lists names that are missing, unexpected, misshapen or not floating point.
    """
    differences = {name: _differences(arrays, shapes) for name, shapes in wanted.items()}
    nearest = min(differences, key=lambda name: sum(map(len, differences[name].values())))
    found = {kind: names for kind, names in differences[nearest].items() if names}
    if found:
        listing = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in found.items())
        raise ValueError(f"{source}: not the parameters of {nearest}: {listing}")
    return nearest


def networks(model: vgg.Model | None) -> tuple[vgg.Model, ...]:
    """Returns the networks to choose from: the given network, or all for None.

    Raises:
      ValueError: there is no such network.
    """
    if model is None:
        return tuple(vgg.CONVOLUTIONS)
    if model not in vgg.CONVOLUTIONS:
        raise ValueError(f"model: wanted one of {', '.join(vgg.CONVOLUTIONS)}, got {model!r}")
    return (model,)


def flat_shapes(
    model: vgg.Model, *, head: bool, classes: int = vgg.CLASSES
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a network's parameters, ``{"block1_conv1/kernel": (3, 3, 3, 64)}``."""
    return _flatten(vgg.parameter_shapes(model, head=head, classes=classes))


def verify_checksum(path: str | os.PathLike) -> None:
    """Checks a file against its line in the file ``SHA256SUMS`` in the same folder.

    Raises:
      ValueError: one of the files is absent, there is no line for the file, or the sums differ.
    """
    path = Path(path)
    sums = path.with_name(CHECKSUMS)
    with readable(sums):
        lines = [line.split() for line in sums.read_text("utf-8").splitlines()]
    wanted = {line[1]: line[0] for line in lines if len(line) == 2}.get(path.name)
    if wanted is None:
        raise ValueError(f"{sums}: has no line for {path.name}")
    _verify_digest(path, wanted, kind="SHA-256", digest=hashlib.sha256, source=f"as in {sums}")


def sha256(name_or_path: str | os.PathLike = "vgg19") -> str:
    """Returns the SHA-256 sum, in hexadecimal, of the file that `load_params` reads by default."""
    name = _name(name_or_path)
    path = Path(name_or_path) if name is None else BUNDLED_FOLDER / f"{name}.h5"
    return _digest(path, hashlib.sha256)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns any error in reading a damaged file into a ValueError: one line that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except Exception as error:  # on damaged bytes, libraries raise errors of all kinds
        raise ValueError(f"{path}: cannot be read ({reason(error)})") from error


def _name(name_or_path: str | os.PathLike) -> vgg.Model | None:
    """Returns the name of a network. None if the argument is a path."""
    return next((name for name in vgg.CONVOLUTIONS if name == name_or_path), None)


def _named_file(model: vgg.Model, *, precision: Precision, head: bool | None) -> Path:
    """Returns the bundled or the cached file of a network, after checking its sum."""
    if precision == "bundled":
        if head:
            raise ValueError("head=True goes with precision='full': no head is bundled")
        path = BUNDLED_FOLDER / f"{model}.h5"
        verify_checksum(path)
        return path
    key = model if head else f"{model}_notop"
    path = fetch.cache_dir() / fetch.FILES[key].name
    if not path.exists():
        command = f"python scripts/fetch_weights.py --files={key}"
        raise ValueError(f"{path}: no such file; download it with: {command}")
    md5 = functools.partial(hashlib.md5, usedforsecurity=False)
    _verify_digest(path, fetch.FILES[key].md5, kind="MD5", digest=md5, source="as published")
    return path


def _verify_digest(path: Path, wanted: str, *, kind: str, digest: Callable, source: str) -> None:
    found = _digest(path, digest)
    if found != wanted:
        raise ValueError(f"{path}: damaged: wanted {kind} {wanted}, {source}, got {found}")


def _digest(path: Path, digest: Callable) -> str:
    with readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, digest).hexdigest()


def _layers(model: vgg.Model, *, head: bool) -> list[str]:
    """Returns all layers in the order of Keras' files, including layers without parameters."""
    layers = ["input_1", *vgg.layer_names(model)]
    return layers + ["flatten", *vgg.HEAD_LAYERS] if head else layers


def _write_layer(
    group: h5py.Group, layer: str, arrays: Mapping[str, Any], *, dtype: StoredType, source: str
) -> None:
    names = {"kernel": f"{layer}_W_1:0", "bias": f"{layer}_b_1:0"} if arrays else {}
    group.attrs["weight_names"] = np.array(list(names.values()), dtype="S")
    for kind, name in names.items():
        compact = kind == "kernel" and dtype == "float16"
        with np.errstate(over="ignore"):  # an overflow is refused in the next line
            array = np.asarray(arrays[kind]).astype(dtype if compact else np.float32, copy=False)
        _verify_finite(array, name=f"{layer}/{kind} in {array.dtype}", source=source)
        # One chunk for a convolution. Chunks of about 16 MB, in rows, for a dense kernel.
        rows = max(1, min(array.shape[0], 2**24 * array.shape[0] // max(array.nbytes, 1)))
        compression: dict[str, Any] = (
            {"compression": "gzip", "compression_opts": 9, "chunks": (rows, *array.shape[1:])}
            if compact
            else {}
        )
        # With time stamps, the bytes would differ between runs.
        group.create_dataset(name, data=array, track_times=False, **compression)


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Returns the data sets of a file, ``{"block1_conv1/kernel": ...}``. Reads no values."""
    root = _group(file, "model_weights") if "model_weights" in file else file
    if "layer_names" in root.attrs:
        found = _listed_datasets(root)
    elif "layers" in file:
        found = _numbered_datasets(_group(file, "layers"))
    else:
        raise OSError("it is HDF5, but in no layout of Keras: no layer_names, no layers")
    datasets: dict[str, h5py.Dataset] = {}
    for name, dataset in found.items():
        if not isinstance(dataset, h5py.Dataset):
            raise OSError(f"{name} is a group, not a data set")
        # With such links, a file could read other files that it must not know.
        elsewhere = dataset.file.filename != file.filename
        if elsewhere or dataset.external or dataset.is_virtual:
            raise OSError(f"the values of {name} lie in another file")
        datasets[name] = dataset
    return datasets


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    group = parent[name]
    if not isinstance(group, h5py.Group):
        raise OSError(f"{name} is not a group")
    return group


def _listed_datasets(root: h5py.Group) -> dict[str, Any]:
    """Finds the data sets in the layout with attributes. Layer names are Keras' and ours."""
    found = {}
    for layer in _strings(root.attrs["layer_names"]):
        group = _group(root, layer)
        names = _strings(group.attrs["weight_names"])
        # As in Keras, the position tells the kernel from the bias. The names do not matter.
        for kind, name in zip(("kernel", "bias", *names[2:]), names, strict=False):
            found[f"{layer}/{kind}"] = group[name]
    return found


def _numbered_datasets(groups: h5py.Group) -> dict[str, Any]:
    """Finds the data sets in the layout of Keras 3: layers by class and number, conv2d_1, ...

    Newer versions of Keras also store the name of a layer, but they load by number too.
    """
    layers = [str(layer) for layer in groups]
    count = sum(layer.startswith("conv2d") for layer in layers)
    # The nearest network. A wrong number of convolutions is then reported by name.
    model = min(vgg.CONVOLUTIONS, key=lambda name: abs(sum(vgg.CONVOLUTIONS[name]) - count))
    own = list(vgg.parameter_shapes(model))
    names = dict(_numbered("conv2d", own)) | dict(_numbered("dense", vgg.HEAD_LAYERS))
    found = {}
    for layer in layers:
        group = _group(groups, layer)
        arrays = _group(group, "vars") if "vars" in group else {}
        for key, dataset in arrays.items():
            kind = {"0": "kernel", "1": "bias"}.get(str(key), str(key))
            found[f"{names.get(layer, layer)}/{kind}"] = dataset
    return found


def _numbered(stem: str, layers: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, layer in enumerate(layers):
        yield f"{stem}_{number}" if number else stem, layer


def _strings(attribute: Any) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in attribute]


def _flatten(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{layer}/{kind}": leaf for layer in tree for kind, leaf in tree[layer].items()}


def _verify_structure(
    arrays: Mapping[str, Any], *, model: vgg.Model | None, source: str
) -> vgg.Model:
    """Does what `match_network` does, with our names and the file's own number of classes."""
    head = any(name.split("/")[0] in vgg.HEAD_LAYERS for name in arrays)
    last = getattr(arrays.get("predictions/bias"), "shape", ())
    classes = last[0] if len(last) == 1 else vgg.CLASSES
    wanted: dict[vgg.Model, dict[str, tuple[int, ...]]] = {
        name: flat_shapes(name, head=head, classes=classes) for name in networks(model)
    }
    return match_network(arrays, wanted, source=source)


def _differences(
    arrays: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, list[str]]:
    common = [name for name in wanted if name in arrays]
    return {
        "missing": [name for name in wanted if name not in arrays],
        "unexpected": [name for name in arrays if name not in wanted],
        "misshapen": [
            f"{name} (wanted {list(wanted[name])}, got {list(arrays[name].shape)})"
            for name in common
            if tuple(arrays[name].shape) != wanted[name]
        ],
        "not floating-point": [
            f"{name} ({arrays[name].dtype})"
            for name in common
            if not _is_floating(arrays[name].dtype)
        ],
    }


def _is_floating(dtype: Any) -> bool:
    try:
        return jnp.issubdtype(dtype, np.floating)
    except TypeError:  # a type that NumPy does not know
        return False


def _verify_finite(array: np.ndarray, *, name: str, source: str) -> None:
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise ValueError(f"{source}: {name} holds {bad} values that are NaN or infinite")
