"""The default objective and step in plain PyTorch, for `against_torch`.

It has the same weights, layers, losses and update as ours, on a batch of pictures, one per style. A
variant is any of these words joined by "+", or "eager" for none:

channels_last  pictures, weights and activations in that memory format
compile        loss and update, each under `torch.compile`
bfloat16       the network under autocast; Gram matrices in TF32 if the device has it, losses in
               float32
tf32           convolutions and Gram matrices in TF32, PyTorch's default for convolutions on recent
               NVIDIA cards; without this word they are in float32, as ours are
"""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks import common
from nst_jax import objective, vgg
from nst_jax.config import Config

WORDS = ("channels_last", "compile", "bfloat16", "tf32")


def import_torch() -> ModuleType:
    """Imports PyTorch, with as many threads as JAX has.

    Raises:
      ImportError: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"needs PyTorch: pip install '.[compare]' ({error})") from error
    torch.set_num_threads(common.cores())
    torch.backends.cudnn.benchmark = True  # XLA chooses among kernels by trying them too
    return torch


class TorchSide:
    """Pictures that PyTorch optimises.

    Args:
      params: our parameter tree.
      content: `[H, W, 3]`; each picture starts from it.
      styles: N pictures `[h, w, 3]`.
      config: in the default's form: mean content error, Gram matrices with pastiche's normaliser,
        max pooling, zero padding; SGD by normalised gradients with a cosine schedule.
      variant: see above.
      device: "cpu" or "cuda".
    """

    def __init__(
        self,
        params: Mapping,
        content: np.ndarray,
        styles: Sequence[np.ndarray],
        config: Config,
        *,
        variant: str,
        device: str,
    ):
        self._torch = torch = import_torch()
        words = set(variant.split("+")) - {"eager"}
        if not words <= set(WORDS):
            raise ValueError(f"a variant must be of {', '.join(WORDS)} or eager, got {variant!r}")
        self._device, self._config = device, config
        self._channels_last = "channels_last" in words
        self._autocast = "bfloat16" in words
        self._tf32 = "tf32" in words
        self._format = torch.channels_last if self._channels_last else torch.contiguous_format
        self._layers = objective.Objective.of(config).layers()
        names = vgg.convolutions(vgg.network_name(params), self._layers)
        self._weights = {
            name: (
                self._tensor(np.moveaxis(np.asarray(params[name]["kernel"]), (3, 2), (0, 1))),
                self._tensor(np.asarray(params[name]["bias"])),
            )
            for name in names
        }
        mean = np.array(vgg.MEAN_BGR, np.float32)[:, None, None]
        self._mean = torch.tensor(mean, device=device)
        with torch.no_grad():
            found = self._features(self._pictures(content[None]))
            self._content = {layer: found[layer] for layer in config["content_layers"]}
            found = [self._features(self._pictures(style[None])) for style in styles]
            self._grams = {
                layer: torch.cat([self._gram(each[layer]) for each in found])
                for layer in config["style_layers"]
            }
        self.images = self._pictures(np.repeat(content[None], len(styles), axis=0))
        self._momentum = torch.zeros_like(self.images)
        self._taken = 0
        compiling = torch.compile if "compile" in words else lambda function: function
        self._loss, self._moved = compiling(self._losses), compiling(self._update)

    def value_and_gradient(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses `[N]` of pictures `[N, H, W, 3]`, and their gradients."""
        losses, gradient = self._differentiate(self._pictures(images))
        return losses.detach().cpu().numpy(), gradient.permute(0, 2, 3, 1).cpu().numpy()

    def pictures(self) -> np.ndarray:
        """`[N, H, W, 3]` in [0, 1]."""
        return self.images.permute(0, 2, 3, 1).cpu().numpy()

    def step(self) -> None:
        _, gradient = self._differentiate(self.images)
        rate = self._config.optimizer.learning_rate * 0.5
        rate *= 1 + math.cos(math.pi * self._taken / self._config.steps)
        # A tensor, because a number would be a constant of the compiled function.
        rate = self._torch.tensor(rate, device=self._device)
        with self._torch.no_grad():
            self.images, self._momentum = self._moved(self.images, self._momentum, gradient, rate)
        self._taken += 1

    def seconds(self, steps: int) -> float:
        """Mean seconds of `steps` steps in a row, after one that is not timed."""
        self.step()
        self._wait()
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        self._wait()
        return (time.perf_counter() - start) / steps

    def _wait(self) -> None:
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def _tensor(self, array: np.ndarray) -> Any:
        tensor = self._torch.tensor(np.ascontiguousarray(array), device=self._device)
        return tensor.contiguous(memory_format=self._format) if tensor.ndim == 4 else tensor

    def _pictures(self, images: np.ndarray) -> Any:
        return self._tensor(np.moveaxis(np.asarray(images), -1, 1))

    def _features(self, images) -> dict[str, Any]:
        """Activations `[N, C, h, w]` of the compared layers, in float32."""
        functional = self._torch.nn.functional
        cast = contextlib.nullcontext()
        if self._autocast:
            cast = self._torch.autocast(self._device, self._torch.bfloat16)
        found = {}
        with cast:
            x = 255 * images.flip(1) - self._mean
            for name, (kernel, bias) in self._weights.items():
                if name.endswith("_conv1") and found:
                    x = functional.max_pool2d(x, 2)
                x = functional.relu(functional.conv2d(x, kernel, bias, padding=1))
                found[name] = x
        return {layer: found[layer].float() for layer in self._layers}

    def _gram(self, features) -> Any:
        """Gram matrices `[N, C, C]`, without moving the activations in memory."""
        positions = features.shape[2] * features.shape[3]
        if self._channels_last:
            flat = features.permute(0, 2, 3, 1).flatten(1, 2)
            return flat.mT @ flat / positions
        flat = features.flatten(2)
        return flat @ flat.mT / positions

    def _losses(self, images) -> Any:
        """The loss of each picture, `[N]`."""
        config, features = self._config, self._features(images)
        losses = 0.0
        content, style = config.term("content"), config.term("style")
        for layer, share in content.layers.items():
            error = (features[layer] - self._content[layer]).square().mean(dim=(1, 2, 3))
            losses = losses + content.weight * share * error
        for layer, share in style.layers.items():
            apart = (self._gram(features[layer]) - self._grams[layer]).square().sum(dim=(1, 2))
            losses = losses + style.weight * share / features[layer].shape[1] ** 4 * apart
        return losses

    def _differentiate(self, images) -> tuple[Any, Any]:
        images = images.detach().requires_grad_()
        cudnn, matmul = self._torch.backends.cudnn, self._torch.backends.cuda.matmul
        matmul.allow_tf32 = self._tf32 or self._autocast
        with cudnn.flags(enabled=True, benchmark=cudnn.benchmark, allow_tf32=self._tf32):
            losses = self._loss(images)
            (gradient,) = self._torch.autograd.grad(losses.sum(), images)
        return losses, gradient

    def _update(self, images, momentum, gradient, rate) -> tuple[Any, Any]:
        size = gradient.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        momentum = self._config.optimizer.momentum * momentum + gradient / size
        return (images - rate / 255 * momentum).clamp(0, 1), momentum
