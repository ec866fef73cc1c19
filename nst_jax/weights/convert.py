"""Conversion of VGG weights from Keras, torchvision and safetensors files into our HDF5 layout.

Kernels are brought into our axis order (torchvision's are ``[out, in, 3, 3]`` and
``[out, in]``), and the inputs of the first dense layer, in torchvision ordered by channel,
then position, into ours, by position, then channel. The preprocessing that torchvision's
networks expect is folded into the first convolution: see `fold_normalization`.

torchvision's default weights are not those of the original networks but trained afresh: their
activations are of another size, so that loss weights tuned for the ones do not fit the others.

Nothing in any of these files is executed: PyTorch reads them with ``weights_only=True``, the
other formats can hold no code.
"""

import contextlib
import functools
import itertools
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import h5py
import jax.numpy as jnp
import numpy as np

from nst_jax import vgg
from nst_jax.weights.load import (
    Params,
    StoredArray,
    match_network,
    networks,
    open_params,
    readable,
    save_params,
    select_head,
)

FORMATS = ("auto", "keras", "torchvision", "safetensors")

# What torchvision subtracts from and divides by, RGB in [0, 1]:
# https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.vgg19.html
TORCHVISION_MEAN = (0.485, 0.456, 0.406)
TORCHVISION_STD = (0.229, 0.224, 0.225)

_SAFETENSORS_FLOATS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
}

# Files could make older versions run code in spite of weights_only=True:
# https://github.com/pytorch/pytorch/security/advisories/GHSA-63cw-57p8-fm3p
OLDEST_TORCH = (2, 10)


def convert(
    input_path: str | os.PathLike,
    output_path: str | os.PathLike,
    *,
    format: str = "auto",
    dtype: str = "float32",
    model: str | None = None,
    head: bool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    overwrite: bool = False,
) -> str:
    """Writes the parameters of a foreign file as our HDF5, layer by layer.

    One layer is in memory at a time, with a copy or two of it; only ``.pth`` files in the
    format from before PyTorch 1.6 are read whole, because PyTorch knows no other way.

    Args:
      input_path: the file to read.
      output_path: the file to write; it appears under its name only when it is complete.
      format: what the input is: ``"keras"``, HDF5 in a layout that
        `nst_jax.load_params` reads; ``"torchvision"``, a state dictionary of
        torchvision's ``vgg16`` or ``vgg19`` saved by PyTorch, old or new, which needs
        PyTorch; ``"safetensors"``, the same names in that format, which needs safetensors.
        With ``"auto"``, the file's first bytes tell.
      dtype: of the kernels written, ``"float32"`` or ``"float16"``: see
        `nst_jax.save_params`.
      model: the network that the file must hold, ``"vgg16"`` or ``"vgg19"``. By default
        the file tells.
      head: ``True`` wants the classifier head, ``False`` leaves it out; by default as in the
        file.
      mean: for torchvision's layout, what the network wants subtracted from its input, RGB in
        [0, 1]; by default (0.485, 0.456, 0.406). The file does not tell.
      std: what it then wants its input divided by; by default (0.229, 0.224, 0.225).
        torchvision's ``VGG16_Weights.IMAGENET1K_FEATURES``, the original network in this
        layout with a head of NaN, needs ``mean=(0.48235, 0.45882, 0.40784)``,
        ``std=(1 / 255,) * 3`` and ``head=False``.
      overwrite: whether an existing output may be replaced.

    Returns:
      The network's name, ``"vgg16"`` or ``"vgg19"``.

    Raises:
      ValueError: an unknown option; an input that is absent, damaged, of an unknown format,
        or holds anything but exactly the finite parameters of one network (one message lists
        all wrong names, as the file has them); an output that exists or cannot be written.
      ImportError: the package that the format needs is not installed.

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", https://arxiv.org/abs/1409.1556.
    """
    input_path, output_path = Path(input_path), Path(output_path)
    if format not in FORMATS:
        raise ValueError(f"format: wanted one of {', '.join(FORMATS)}, got {format!r}")
    if output_path.exists() and not overwrite:
        raise ValueError(f"{output_path}: exists already, and overwriting was not asked for")
    if format == "auto":
        format = detect_format(input_path)
    if format == "keras":
        if mean is not None or std is not None:
            raise ValueError(f"mean and std go with torchvision's layout, {input_path} is Keras'")
        opened = open_params(input_path, model=model)
    else:
        opened = _open_torchvision(
            input_path,
            _TENSORS[format],
            model=model,
            mean=TORCHVISION_MEAN if mean is None else mean,
            std=TORCHVISION_STD if std is None else std,
        )
    source = str(input_path)
    with opened as params:
        params = select_head(params, head, source=source)
        save_params(output_path, params, dtype=dtype, source=source)
        return vgg.network_name(params)


def detect_format(path: Path) -> str:
    """Tells "keras", "torchvision" or "safetensors" by a file's first bytes.

    Raises:
      ValueError: the file is absent, cannot be read, or is none of these.
    """
    with readable(path):
        with path.open("rb") as file:
            start = file.read(9)
        if h5py.is_hdf5(path):
            return "keras"
        if start[8:] == b"{":  # the length of a JSON header, then the header
            return "safetensors"
        if start.startswith((b"PK", b"\x80\x02")):  # a zip archive, or a pickle as before 1.6
            return "torchvision"
        raise ValueError("neither HDF5 nor PyTorch nor safetensors")


def fold_normalization(
    kernel: np.ndarray,
    bias: np.ndarray,
    *,
    mean: Sequence[float] = TORCHVISION_MEAN,
    std: Sequence[float] = TORCHVISION_STD,
) -> tuple[np.ndarray, np.ndarray]:
    """Turns a first convolution for torchvision's preprocessing into one for ours.

    torchvision's network reads RGB in [0, 1], mean subtracted, divided by the standard
    deviation; ours reads BGR in 0-255, a slightly different mean subtracted. Channel order,
    scale and the difference d of the means, (0.005, 0.499, 0.409) grey levels of 255 in RGB,
    go into kernel and bias. The layer's output then stays the same up to rounding wherever
    the 3x3 window lies inside the image.

    In the outermost ring of pixels it does not: zero padding stands for the mean colour, and
    so the surroundings of the image are lighter by d in our network. The output there is off
    by the sum of kernel times d over the taps outside. No kernel and bias can undo that,
    since it depends on the position. It is small: with the original weights in torchvision's
    form, below 0.3 % of the layer's largest activation. Over whole 224x224 pictures (a drawing
    and noise), this layer and the later ones were off by at most 0.07 % in root mean square,
    their Gram matrices by at most 0.05 %. Gradients feel the border more: that of a style loss
    with respect to a 65x83 picture differed by about 1 % (0.7 % VGG16, 1.4 % VGG19).

    Args:
      kernel: ``[3, 3, 3, out]``, input channels red, green, blue.
      bias: ``[out]``.
      mean: what the network wants subtracted from its input, RGB in [0, 1].
      std: what it then wants its input divided by, positive.

    Returns:
      The kernel ``[3, 3, 3, out]``, input channels blue, green, red, and the bias ``[out]``,
      both float32.

    Raises:
      ValueError: mean or std is not three finite numbers, or std not positive.

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
    model: str | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> Iterator[Params]:
    """As `nst_jax.weights.load.open_params`, for a file with torchvision's names."""
    with open_tensors(path) as tensors:
        head = any(name.startswith("classifier.") for name in tensors)
        last = tensors["classifier.6.bias"].shape if "classifier.6.bias" in tensors else ()
        classes = last[0] if len(last) == 1 else vgg.CLASSES
        wanted = {
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
    """A kernel in our axis order, from torchvision's [out, in, 3, 3] or [out, in]."""
    if layer == "fc1":
        side = vgg.HEAD_SIZE // 2 ** len(vgg.CHANNELS)
        kernel = kernel.reshape(len(kernel), -1, side, side).transpose(2, 3, 1, 0)
        return kernel.reshape(-1, kernel.shape[-1])
    return kernel.T if kernel.ndim == 2 else kernel.transpose(2, 3, 1, 0)


@contextlib.contextmanager
def _torch_tensors(path: Path) -> Iterator[dict[str, StoredArray]]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"{path}: needs PyTorch: pip install 'nst_jax[torch]'") from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise ImportError(f"{path}: wanted PyTorch {oldest} or later, got {torch.__version__}")
    with readable(path):
        try:
            # Only the newer kind of file, a zip archive, can be mapped into memory.
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
        raise ImportError(
            f"{path}: needs safetensors: pip install 'nst_jax[safetensors]'"
        ) from error
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


def _torchvision_modules(model: str) -> dict[str, str]:
    """Where torchvision keeps each layer, ``{"block1_conv1": "features.0", ...}``.

    It numbers all modules of a chain: a ReLU follows each convolution, ReLU and dropout
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


def _torchvision_shapes(model: str, *, head: bool, classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's state dictionary of a network."""
    modules = _torchvision_modules(model)
    shapes = {}
    for layer, pair in vgg.parameter_shapes(model, head=head, classes=classes).items():
        *window, inputs, outputs = pair["kernel"]
        shapes[f"{modules[layer]}.weight"] = (outputs, inputs, *window)
        shapes[f"{modules[layer]}.bias"] = pair["bias"]
    return shapes
