"""Loading, checking and saving VGG weights in the HDF5 layouts of Keras.

In memory, parameters are the linen tree ``{layer: {"kernel": array, "bias": array}}`` in
float32: convolution kernels ``[3, 3, in, out]``, dense kernels ``[in, out]``, biases
``[out]``. The first convolution reads its input channels in the order blue, green, red.

On disk, two layouts are read, both with or without the classifier head:

- that of the files published with Keras, which is also the one written: the attribute
  ``layer_names`` lists every layer, the parameter-free ones included; each layer is a group
  whose attribute ``weight_names`` lists its data sets, kernel first, e.g.
  ``block1_conv1/block1_conv1_W_1:0``. In whole models saved as ``.h5``, all this lies in the
  group ``model_weights``;
- that of ``model.save_weights("x.weights.h5")`` in Keras 3: the k-th convolution is
  ``layers/conv2d_k/vars/0`` (kernel) and ``/1`` (bias), the k-th dense layer
  ``layers/dense_k``, both without the number for the first.

Nothing in such a file is ever executed, and no other file is read through it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import vgg
from nst_jax.files.atomic import reason
from nst_jax.weights import fetch, hdf5

Params = dict[str, dict[str, Any]]

CHECKSUMS = "SHA256SUMS"
PRECISIONS = ("bundled", "full")

_PACKAGE = Path(__file__).resolve().parent.parent
# An installed wheel carries the files inside the package, a checkout beside it.
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
    """An array in a file: its values are read when NumPy asks for them.

    Attributes:
      path: the file.
      shape: the array's shape.
      dtype: its NumPy type, or the file format's own name for a type that NumPy lacks.
      read: returns the values.
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
    model: str | None = None,
    precision: str = "bundled",
    head: bool | None = None,
) -> Params:
    """Loads the weights of VGG16 or VGG19.

    Args:
      name_or_path: ``"vgg16"`` or ``"vgg19"``, or the path of an HDF5 file in either of
        Keras' layouts, in any floating-point precision.
      model: the network that the file must hold, ``"vgg16"`` or ``"vgg19"``. By default
        the file tells.
      precision: which file a name stands for: ``"bundled"``, the rounded weights that come
        with the package, without head, checked against their SHA-256 sums; or ``"full"``,
        the float32 originals published with Keras, which ``scripts/fetch_weights.py`` puts
        into `nst_jax.fetch.cache_dir`, checked against their MD5 sums.
      head: ``True`` wants the classifier head, ``False`` leaves it out. By default, a path
        gives what its file holds, a name the network without head.

    Returns:
      ``{layer: {"kernel", "bias"}}`` with float32 arrays on JAX's default device:
      convolutions ``[3, 3, in, out]``, dense layers ``[in, out]``, biases ``[out]``.

    Raises:
      ValueError: the file is absent, damaged or not HDF5, or holds anything but exactly the
        finite parameters of one network (all wrong names are listed in the one message); or
        an option that does not go with the others.

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", https://arxiv.org/abs/1409.1556.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: wanted one of {', '.join(PRECISIONS)}, got {precision!r}")
    opener = open_params
    if name_or_path in vgg.CONVOLUTIONS:
        model, opener = model or name_or_path, _open  # of a file whose checksum is verified
        path = _named_file(name_or_path, precision=precision, head=head)
    else:
        path = Path(name_or_path)
        names = " or ".join(repr(name) for name in vgg.CONVOLUTIONS)
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
    path: str | os.PathLike, *, model: str | None = None, head: bool | None = None
) -> Iterator[Params]:
    """Opens an HDF5 file in either of Keras' layouts, if `weights.hdf5` finds that it is sound.

    Args:
      path: the file.
      model, head: as in `load_params`.

    Yields:
      ``{layer: {"kernel": StoredArray, "bias": StoredArray}}``: exactly the names and shapes
      of one network, readable one by one until the context ends.

    Raises:
      ValueError: as in `load_params`; finite values are the reader's to check.
    """
    path = Path(path)
    with readable(path):
        path.open("rb").close()  # unlike h5py, says in plain words what it is if no file
        if not h5py.is_hdf5(path):
            raise OSError("not HDF5; scripts/convert_weights.py converts PyTorch, safetensors")
        hdf5.check(path)
    with _open(path, model=model, head=head) as params:
        yield params


@contextlib.contextmanager
def _open(path: Path, *, model: str | None, head: bool | None) -> Iterator[Params]:
    """`open_params` of a file that can be read."""
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
    """The parameters with (True) or without (False) head, or as they are (None).

    Raises:
      ValueError: a head is wanted and there is none.
    """
    if head and "predictions" not in params:
        raise ValueError(f"{source}: has no head, that is no {', '.join(vgg.HEAD_LAYERS)}")
    if head is False:
        return {layer: params[layer] for layer in params if layer not in vgg.HEAD_LAYERS}
    return params


def save_params(
    path: str | os.PathLike,
    params: Mapping[str, Mapping[str, Any]],
    *,
    dtype: str = "float32",
    source: str = "params",
) -> None:
    """Writes parameters in Keras' HDF5 layout, which Keras and `load_params` read.

    The file appears under its name only when it is complete, and the same parameters give
    the same bytes. Arrays are taken one at a time: those of `open_params` are never all
    in memory.

    Args:
      path: the file to write; an existing one is replaced.
      params: the tree of VGG16 or VGG19, with or without head.
      dtype: how kernels are stored: ``"float32"``, plain, or ``"float16"``, compressed with
        gzip, rounding each value by at most 2^-11 of itself (3e-8 for values below 6.1e-5).
        Biases are always float32.
      source: what an error message calls the parameters, such as a file's name.

    Raises:
      ValueError: an unknown dtype, a folder that is not there, parameters that are not those
        of one network, or values that are not finite once stored.
    """
    if dtype not in ("float32", "float16"):
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
    params: Mapping[str, Mapping[str, Any]], *, model: str | None = None, source: str = "params"
) -> str:
    """Checks that a tree holds exactly the parameters of one network, all of them finite.

    Args:
      params: ``{layer: {"kernel": array, "bias": array}}``.
      model: the network wanted, ``"vgg16"`` or ``"vgg19"``; by default either.
      source: what the error message calls the parameters, such as a file's name.

    Returns:
      The network's name, ``"vgg16"`` or ``"vgg19"``.

    Raises:
      ValueError: names are missing, unexpected or misshapen (one message lists them all), an
        array is not of floating point, or a value is NaN or infinite.
    """
    flat = _flatten(params)
    found = _verify_structure(flat, model=model, source=source)
    for name, array in flat.items():
        _verify_finite(np.asarray(array), name=name, source=source)
    return found


def match_network(
    arrays: Mapping[str, Any], wanted: Mapping[str, Mapping[str, tuple[int, ...]]], *, source: str
) -> str:
    """Tells whose parameters the arrays are, or everything that is wrong with them.

    Args:
      arrays: ``{name: array}``; only shapes and types are looked at.
      wanted: ``{network: {name: shape}}``.
      source: what the error message calls the arrays, such as a file's name.

    Returns:
      The network whose names and shapes they have exactly.

    Raises:
      ValueError: there is none; the message lists what is missing, unexpected, misshapen or
        not of floating point, compared with the network that differs least.
    """
    differences = {name: _differences(arrays, shapes) for name, shapes in wanted.items()}
    nearest = min(differences, key=lambda name: sum(map(len, differences[name].values())))
    found = {kind: names for kind, names in differences[nearest].items() if names}
    if found:
        listing = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in found.items())
        raise ValueError(f"{source}: not the parameters of {nearest}: {listing}")
    return nearest


def networks(model: str | None) -> tuple[str, ...]:
    """The networks to choose from: the one given, or all; ValueError if there is no such."""
    if model is None:
        return tuple(vgg.CONVOLUTIONS)
    if model not in vgg.CONVOLUTIONS:
        raise ValueError(f"model: wanted one of {', '.join(vgg.CONVOLUTIONS)}, got {model!r}")
    return (model,)


def flat_shapes(
    model: str, *, head: bool, classes: int = vgg.CLASSES
) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's parameters, ``{"block1_conv1/kernel": (3, 3, 3, 64), ...}``."""
    return _flatten(vgg.parameter_shapes(model, head=head, classes=classes))


def verify_checksum(path: str | os.PathLike) -> None:
    """Checks a file against the line with its name in the ``SHA256SUMS`` beside it.

    Raises:
      ValueError: either file is absent, there is no such line, or the sums differ.
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
    """SHA-256 sum, in hexadecimal, of the file that `load_params` reads by default."""
    bundled = name_or_path in vgg.CONVOLUTIONS
    path = BUNDLED_FOLDER / f"{name_or_path}.h5" if bundled else Path(name_or_path)
    return _digest(path, hashlib.sha256)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns whatever reading a damaged file raises into one line that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except Exception as error:  # damaged bytes make libraries raise nearly anything
        raise ValueError(f"{path}: cannot be read ({reason(error)})") from error


def _named_file(model: str, *, precision: str, head: bool | None) -> Path:
    """The bundled or the cached file of a network, its checksum verified."""
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
        raise ValueError(f"{path}: no such file; this fetches it: {command}")
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


def _layers(model: str, *, head: bool) -> list[str]:
    """All layers in the order of Keras' files, parameter-free ones included."""
    layers = ["input_1", *vgg.layer_names(model)]
    return layers + ["flatten", *vgg.HEAD_LAYERS] if head else layers


def _write_layer(
    group: h5py.Group, layer: str, arrays: Mapping[str, Any], *, dtype: str, source: str
) -> None:
    names = {"kernel": f"{layer}_W_1:0", "bias": f"{layer}_b_1:0"} if arrays else {}
    group.attrs["weight_names"] = np.array(list(names.values()), dtype="S")
    for kind, name in names.items():
        compact = kind == "kernel" and dtype == "float16"
        with np.errstate(over="ignore"):  # an overflow is refused in the next line
            array = np.asarray(arrays[kind]).astype(dtype if compact else np.float32, copy=False)
        _verify_finite(array, name=f"{layer}/{kind} in {array.dtype}", source=source)
        # One chunk a convolution; of a dense kernel, rows of about 16 MB.
        rows = max(1, min(array.shape[0], 2**24 * array.shape[0] // max(array.nbytes, 1)))
        compression = (
            {"compression": "gzip", "compression_opts": 9, "chunks": (rows, *array.shape[1:])}
            if compact
            else {}
        )
        # Time stamps would make the bytes differ from one run to the next.
        group.create_dataset(name, data=array, track_times=False, **compression)


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """The data sets of a file, ``{"block1_conv1/kernel": ...}``; none is read yet."""
    root = file.get("model_weights", file)
    if "layer_names" in root.attrs:
        found = _listed_datasets(root)
    elif "layers" in file:
        found = _numbered_datasets(file["layers"])
    else:
        raise OSError("it is HDF5, but in no layout of Keras: no layer_names, no layers")
    for name, dataset in found.items():
        if not isinstance(dataset, h5py.Dataset):
            raise OSError(f"{name} is a group, not a data set")
        # Such links would let a file make others readable that it should know nothing of.
        elsewhere = dataset.file.filename != file.filename
        if elsewhere or dataset.external or dataset.is_virtual:
            raise OSError(f"the values of {name} lie in another file")
    return found


def _listed_datasets(root: h5py.Group) -> dict[str, h5py.Dataset]:
    """The layout with attributes: the names of the layers are Keras' and ours."""
    found = {}
    for layer in _strings(root.attrs["layer_names"]):
        names = _strings(root[layer].attrs["weight_names"])
        # As in Keras, the position tells the kernel from the bias, whatever their names.
        for kind, name in zip(("kernel", "bias", *names[2:]), names, strict=False):
            found[f"{layer}/{kind}"] = root[layer][name]
    return found


def _numbered_datasets(groups: h5py.Group) -> dict[str, h5py.Dataset]:
    """The layout of Keras 3, which names layers by class and number: conv2d, conv2d_1, ...

    Newer versions also note the layer's own name, but load by number, as is done here.
    """
    count = sum(group.startswith("conv2d") for group in groups)
    # One too many or too few is then told as such.
    model = min(vgg.CONVOLUTIONS, key=lambda name: abs(sum(vgg.CONVOLUTIONS[name]) - count))
    layers = list(vgg.parameter_shapes(model))
    names = dict(_numbered("conv2d", layers)) | dict(_numbered("dense", vgg.HEAD_LAYERS))
    found = {}
    for group in groups:
        for key, dataset in groups[group].get("vars", {}).items():
            kind = {"0": "kernel", "1": "bias"}.get(key, key)
            found[f"{names.get(group, group)}/{kind}"] = dataset
    return found


def _numbered(stem: str, layers: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, layer in enumerate(layers):
        yield f"{stem}_{number}" if number else stem, layer


def _strings(attribute: np.ndarray) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in attribute]


def _flatten(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{layer}/{kind}": leaf for layer in tree for kind, leaf in tree[layer].items()}


def _verify_structure(arrays: Mapping[str, Any], *, model: str | None, source: str) -> str:
    """As `match_network`, with our names and the file's own number of classes."""
    head = any(name.split("/")[0] in vgg.HEAD_LAYERS for name in arrays)
    last = getattr(arrays.get("predictions/bias"), "shape", ())
    classes = last[0] if len(last) == 1 else vgg.CLASSES
    wanted = {name: flat_shapes(name, head=head, classes=classes) for name in networks(model)}
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
