"""Conversion of VGG weights from Keras, torchvision and safetensors files to our HDF5 layout.

The conversion from torchvision changes three things:

- The axes of the kernels, which are ``[out, in, 3, 3]`` and ``[out, in]`` in torchvision.
- The order of the inputs of the first dense layer. Torchvision orders them by channel, then
  position. We order them by position, then channel.
- The first convolution. It includes the preprocessing that torchvision's networks expect, see
  `fold_normalization`.

torchvision's default weights were trained anew. They are not the weights of the original networks,
and their activations have other magnitudes. Loss weights tuned for the originals do not fit them.

Nothing in these files is executed. PyTorch reads them with ``weights_only=True``, and the other
formats cannot hold code.
"""

import contextlib
import functools
import itertools
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import h5py
import jax.numpy as jnp
import numpy as np

from nst_jax import vgg
from nst_jax.files.paths import check_local
from nst_jax.weights.load import (
    Params,
    StoredArray,
    StoredType,
    match_network,
    networks,
    open_params,
    readable,
    save_params,
    select_head,
)

FileFormat = Literal["keras", "torchvision", "safetensors"]
Format = Literal["auto", FileFormat]
FORMATS: tuple[Format, ...] = get_args(Format)

# torchvision subtracts this mean and divides by this deviation, RGB in [0, 1]:
# https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.vgg19.html
TORCHVISION_MEAN = (0.485, 0.456, 0.406)
TORCHVISION_STD = (0.229, 0.224, 0.225)

_SAFETENSORS_FLOATS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
}

# With older versions, a file can execute code in spite of weights_only=True:
# https://github.com/pytorch/pytorch/security/advisories/GHSA-63cw-57p8-fm3p
OLDEST_TORCH = (2, 10)


def convert(
    input_path: str | os.PathLike,
    output_path: str | os.PathLike,
    *,
    format: Format = "auto",
    dtype: StoredType = "float32",
    model: vgg.Model | None = None,
    head: bool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    overwrite: bool = False,
) -> vgg.Model:
    """Converts a file of another program to our HDF5 layout, layer by layer.

    Only one layer is in memory at a time, with one or two copies of it. The exception is a
    ``.pth`` file in the format before PyTorch 1.6: PyTorch can only read it whole.

    Args:
      input_path: the file to read.
      output_path: the file to write. It appears under its name only when it is complete.
      format: the format of the input. ``"keras"`` is HDF5 in a layout that `nst_jax.load_params`
        reads. ``"torchvision"`` is a state dictionary of torchvision's ``vgg16`` or ``vgg19``,
        saved by any version of PyTorch, and needs PyTorch. ``"safetensors"`` holds the same names
        in that format, and needs safetensors. ``"auto"`` tells the format by the first bytes.
      dtype: the type of the written kernels, ``"float32"`` or ``"float16"``, see
        `nst_jax.save_params`.
      model: the network that the file must hold, ``"vgg16"`` or ``"vgg19"``. By default, either.
      head: ``True`` requires the classifier head, ``False`` leaves it out. By default, the output
        has a head if the file has one.
      mean: for torchvision's layout, the mean that the network needs subtracted from its input,
        RGB in [0, 1]. By default (0.485, 0.456, 0.406). The file does not hold it.
      std: for torchvision's layout, the deviation that the network needs its input divided by. By
        default (0.229, 0.224, 0.225). torchvision's ``VGG16_Weights.IMAGENET1K_FEATURES`` is the
        original network in this layout, with a head of NaN. It needs
        ``mean=(0.48235, 0.45882, 0.40784)``, ``std=(1 / 255,) * 3`` and ``head=False``.
      overwrite: whether an existing output is replaced.

    Returns:
      The name of the network, ``"vgg16"`` or ``"vgg19"``.

    Raises:
      ValueError: an option is unknown; the input is absent, damaged or of an unknown format; the
        input does not hold exactly the finite parameters of one network (the message lists all
        wrong names, as in the file); or the output exists or cannot be written.
      ImportError: a package that the format needs is not installed.

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", https://arxiv.org/abs/1409.1556.
    """
    check_local("input_path", input_path)
    check_local("output_path", output_path)
    input_path, output_path = Path(input_path), Path(output_path)
    if format not in FORMATS:
        raise ValueError(f"format: wanted one of {', '.join(FORMATS)}, got {format!r}")
    if output_path.exists() and not overwrite:
        raise ValueError(f"{output_path}: exists already; pass overwrite to replace it")
    kind = detect_format(input_path) if format == "auto" else format
    if kind == "keras":
        if mean is not None or std is not None:
            raise ValueError(f"mean and std are for torchvision's layout, {input_path} is Keras'")
        opened = open_params(input_path, model=model)
    else:
        opened = _open_torchvision(
            input_path,
            _TENSORS[kind],
            model=model,
            mean=TORCHVISION_MEAN if mean is None else mean,
            std=TORCHVISION_STD if std is None else std,
        )
    source = str(input_path)
    with opened as params:
        params = select_head(params, head, source=source)
        save_params(output_path, params, dtype=dtype, source=source)
        return vgg.network_name(params)


def detect_format(path: Path) -> FileFormat:
    """Tells "keras", "torchvision" or "safetensors" by the first bytes of a file.

    Raises:
      ValueError: the file is absent, cannot be read, or has another format.
    """
    with readable(path):
        with path.open("rb") as file:
            start = file.read(9)
        if h5py.is_hdf5(path):
            return "keras"
        if start[8:] == b"{":  # the length of a JSON header, then the header
            return "safetensors"
        if start.startswith((b"PK", b"\x80\x02")):  # a zip archive, or a pickle from before 1.6
            return "torchvision"
        raise ValueError("neither HDF5 nor PyTorch nor safetensors")


def fold_normalization(
    kernel: np.ndarray,
    bias: np.ndarray,
    *,
    mean: Sequence[float] = TORCHVISION_MEAN,
    std: Sequence[float] = TORCHVISION_STD,
) -> tuple[np.ndarray, np.ndarray]:
    """Converts a first convolution from torchvision's preprocessing to ours.

    torchvision's network reads RGB in [0, 1], minus the mean, divided by the standard deviation.
    Our network reads BGR in 0-255, minus a slightly different mean. The difference d of the means
    is (0.005, 0.499, 0.409) grey levels of 255 in RGB. The function moves the channel order, the
    scale and d into kernel and bias. Where the 3x3 window lies inside the image, the output of the
    layer stays the same up to rounding.

    In the outermost ring of pixels the output changes. Zero padding stands for the mean colour, so
    in our network the surroundings of the image are lighter by d. The error is the sum of kernel
    times d over the taps outside. It depends on the position, so no kernel and bias can remove it.

    The error is small. With the original weights in torchvision's form, it is below 0.3 % of the
    layer's largest activation. Over whole 224x224 pictures (a drawing and noise), the error of
    this layer and the later layers was at most 0.07 % in root mean square, and that of their Gram
    matrices at most 0.05 %. The border affects gradients more. The gradient of a style loss with
    respect to a 65x83 picture differed by about 1 % (0.7 % VGG16, 1.4 % VGG19).

    Args:
      kernel: ``[3, 3, 3, out]``, input channels red, green, blue.
      bias: ``[out]``.
      mean: the mean that the network needs subtracted from its input, RGB in [0, 1].
      std: the deviation that the network needs its input divided by, positive.

    Returns:
      The kernel ``[3, 3, 3, out]``, input channels blue, green, red, and the bias ``[out]``. Both
      are float32.

    Raises:
      ValueError: `mean` or `std` is not three finite numbers, or `std` is not positive.

    Source: torchvision's preprocessing,
    https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.vgg19.html.
    """
    for name, values in (("mean", mean), ("std", std)):
        if np.shape(values) != (3,) or not np.all(np.isfinite(values)):
            raise ValueError(f"{name}: wanted three numbers (RGB), got {list(values)}")
    if min(std) <= 0:
        raise ValueError(f"std: wanted positive numbers, got {list(std)}")
    mean_difference = np.array(vgg.MEAN_BGR[::-1]) - 255 * np.array(mean)
    scaled = kernel / (255 * np.array(std))[:, None]
    shift = np.einsum("hwio,i->o", scaled, mean_difference)
    return scaled[:, :, ::-1].astype(np.float32), (bias + shift).astype(np.float32)


@contextlib.contextmanager
def _open_torchvision(
    path: Path,
    open_tensors: Callable,
    *,
    model: vgg.Model | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> Iterator[Params]:
    """Does what `nst_jax.weights.load.open_params` does, for a file with torchvision's names."""
    with open_tensors(path) as tensors:
        head = any(name.startswith("classifier.") for name in tensors)
        last = tensors["classifier.6.bias"].shape if "classifier.6.bias" in tensors else ()
        classes = last[0] if len(last) == 1 else vgg.CLASSES
        wanted: dict[vgg.Model, dict[str, tuple[int, ...]]] = {
            name: _torchvision_shapes(name, head=head, classes=classes) for name in networks(model)
        }
        found = match_network(tensors, wanted, source=str(path))
        modules = _torchvision_modules(found)
        params: Params = {}
        for layer, shapes in vgg.parameter_shapes(found, head=head, classes=classes).items():
            weight, bias = (tensors[f"{modules[layer]}.{kind}"] for kind in ("weight", "bias"))
            if layer == "block1_conv1":
                kernel = _kernel(np.asarray(weight), layer)
                kernel, bias = fold_normalization(kernel, np.asarray(bias), mean=mean, std=std)
            else:
                read = functools.partial(_read_kernel, weight, layer)
                kernel = StoredArray(path, shapes["kernel"], weight.dtype, read)
            params[layer] = {"kernel": kernel, "bias": bias}
        yield params


def _read_kernel(weight: StoredArray, layer: str) -> np.ndarray:
    return _kernel(weight.read(), layer)


def _kernel(kernel: np.ndarray, layer: str) -> np.ndarray:
    """Brings a kernel from torchvision's order [out, in, 3, 3] or [out, in] into ours."""
    if layer == "fc1":
        side = vgg.HEAD_SIZE // 2 ** len(vgg.CHANNELS)
        kernel = kernel.reshape(len(kernel), -1, side, side).transpose(2, 3, 1, 0)
        return kernel.reshape(-1, kernel.shape[-1])
    return kernel.T if kernel.ndim == 2 else kernel.transpose(2, 3, 1, 0)


@contextlib.contextmanager
def _torch_tensors(path: Path) -> Iterator[dict[str, StoredArray]]:
    try:
        import torch  # pyright: ignore[reportMissingImports]  (an extra)
    except ImportError as error:
        raise ImportError(f"{path}: needs PyTorch: pip install torch") from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise ImportError(f"{path}: wanted PyTorch {oldest} or later, got {torch.__version__}")
    with readable(path):
        try:
            # Only newer files, which are zip archives, can be mapped into memory.
            mapped = zipfile.is_zipfile(path)
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            raise ValueError("damaged, or not only tensors; nothing in it was run") from error
        wanted = "wanted a dictionary of tensors by name"
        if not isinstance(state, Mapping):
            raise ValueError(f"{wanted}, got {type(state).__name__}")
        tensors = {}
        for name, tensor in state.items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                raise ValueError(f"{wanted}, got {type(tensor).__name__} as {name!r}")
            tensors[name] = StoredArray(
                path,
                tuple(tensor.shape),
                np.float32 if tensor.is_floating_point() else str(tensor.dtype),
                lambda tensor=tensor: tensor.detach().to(torch.float32).numpy(),
            )
    yield tensors


@contextlib.contextmanager
def _safetensors_tensors(path: Path) -> Iterator[dict[str, StoredArray]]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError(f"{path}: needs safetensors: pip install safetensors") from error
    with readable(path):
        file = safe_open(path, framework="numpy")
    with file:
        tensors = {}
        for name in file.keys():  # noqa: SIM118  (it cannot be iterated over)
            stored = file.get_slice(name)
            dtype = stored.get_dtype()
            tensors[name] = StoredArray(
                path,
                tuple(stored.get_shape()),
                _SAFETENSORS_FLOATS.get(dtype, dtype),
                functools.partial(file.get_tensor, name),
            )
        yield tensors


_TENSORS = {"torchvision": _torch_tensors, "safetensors": _safetensors_tensors}


def _torchvision_modules(model: vgg.Model) -> dict[str, str]:
    """Returns torchvision's name of each layer, ``{"block1_conv1": "features.0", ...}``.

    torchvision numbers all modules of a chain. A ReLU follows each convolution. ReLU and dropout
    follow each hidden dense layer.
    """
    modules = {}
    number = 0
    for layer in vgg.layer_names(model):
        modules[layer] = f"features.{number}"
        number += 1 if layer.endswith("_pool") else 2
    numbers = itertools.count(step=3)
    return modules | {
        layer: f"classifier.{n}" for layer, n in zip(vgg.HEAD_LAYERS, numbers, strict=False)
    }


def _torchvision_shapes(
    model: vgg.Model, *, head: bool, classes: int
) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes in torchvision's state dictionary of a network."""
    modules = _torchvision_modules(model)
    shapes = {}
    for layer, pair in vgg.parameter_shapes(model, head=head, classes=classes).items():
        *window, inputs, outputs = pair["kernel"]
        shapes[f"{modules[layer]}.weight"] = (outputs, inputs, *window)
        shapes[f"{modules[layer]}.bias"] = pair["bias"]
    return shapes
