"""The programs that paint: presets of ours, and peers from folders of the user."""

import dataclasses
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nst_jax
from benchmarks.processes import ROOT
from nst_jax import vgg
from nst_jax.coarse_to_fine import steps_at_scales
from nst_jax.settings import check_choice

HERE = Path(__file__).resolve().parent
CONTENT, STYLE, OUTPUT = "content.png", "style.png", "output.png"
SEED = 0
OURS: vgg.Model = "vgg19"  # the network of our presets
OURS_OUTPUT = f"out/{Path(CONTENT).stem}__{Path(STYLE).stem}.png"


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another program.

    Attributes:
      home: where it comes from.
      licence: of its code.
      network: whose weights it paints with.
      form: in which it gets them, see `benchmarks.peers.weights`.
      entry: a file that its folder must have; None if it is installed.
      steps: its own number of iterations; None if no argument changes it.
      arguments: of its command line, from (side in pixels, steps or None, "cpu" or "gpu"). It reads
        `content.png` and `style.png` in the current folder, and writes `output.png`.
      sides: tells what is wrong with pictures of (height, width); None if nothing is.
    """

    home: str
    licence: str
    network: vgg.Model
    form: str
    entry: str | None
    steps: int | None
    arguments: Callable[[int, int | None, str], list[str]]
    sides: Callable[[int, int], str | None] = lambda height, width: None


def _pastiche(size: int, steps: int | None, device: str) -> list[str]:
    return [
        *("--content", CONTENT, "--styles", STYLE, "--output", OUTPUT, "--no-verbose"),
        *("--size", str(size), "--style-size", str(size), "--seed", str(SEED)),
        *("--device", {"cpu": "cpu", "gpu": "cuda"}[device]),
        *(["--num-steps", str(steps)] if steps else []),
    ]


def _neural_style_pt(size: int, steps: int | None, device: str) -> list[str]:
    return [
        *("-content_image", CONTENT, "-style_image", STYLE, "-output_image", OUTPUT),
        *("-image_size", str(size), "-seed", str(SEED), "-print_iter", "0", "-save_iter", "0"),
        # The file has no head, and its code checks for one unless told not to.
        *("-model_file", "vgg19.pth", "-disable_check"),
        *("-gpu", {"cpu": "c", "gpu": "0"}[device]),
        *(["-num_iterations", str(steps)] if steps else []),
    ]


def _style_transfer_pytorch(size: int, steps: int | None, device: str) -> list[str]:
    # Its own numbers are 500, and 1000 at the first scale.
    numbers = ["--iterations", str(steps), "--initial-iterations", str(2 * steps)] if steps else []
    return [
        *(CONTENT, STYLE, "--output", OUTPUT, "--end-scale", str(size)),
        *("--random-seed", str(SEED), "--devices", {"cpu": "cpu", "gpu": "cuda:0"}[device]),
        *numbers,
    ]


def _nnst(size: int, steps: int | None, device: str) -> list[str]:
    paths = ["--content_path", CONTENT, "--style_path", STYLE, "--output_path", OUTPUT]
    return [
        *paths,
        *(["--cpu"] if device == "cpu" else []),
        *(["--high_res"] if size > 512 else []),
    ]


def _strotss(size: int, steps: int | None, device: str) -> list[str]:
    scales = 2 + round(math.log2(size / 64))
    return [CONTENT, STYLE, "1.0", str(scales), OUTPUT, *(["-cpu"] if device == "cpu" else [])]


def _nnst_sides(height: int, width: int) -> str | None:
    if min(height, width) < 256:
        return "its pyramid needs at least 256 pixels a side"
    return None


def _strotss_sides(height: int, width: int) -> str | None:
    if max(height, width) < 64 or not math.log2(max(height, width) / 64).is_integer():
        return "its longer side is 64, 128, 256, 512 or 1024 pixels"
    return None


PEERS: Mapping[str, Peer] = {
    "pastiche": Peer(
        "https://pypi.org/project/pastiche/",
        *("MIT", "vgg19", "caffe", None, 1000, _pastiche),
    ),
    "neural-style-pt": Peer(
        "https://github.com/ProGamerGov/neural-style-pt",
        *("MIT", "vgg19", "caffe", "neural_style.py", 1000, _neural_style_pt),
    ),
    "style-transfer-pytorch": Peer(
        "https://github.com/crowsonkb/style-transfer-pytorch",
        *("MIT", "vgg19", "torchvision", "style_transfer/cli.py", 500, _style_transfer_pytorch),
    ),
    "nnst": Peer(
        "https://github.com/nkolkin13/NeuralNeighborStyleTransfer",
        *("MIT", "vgg16", "torchvision", "styleTransfer.py", None, _nnst, _nnst_sides),
    ),
    "strotss": Peer(
        "https://github.com/nkolkin13/STROTSS",
        *("none given", "vgg16", "torchvision", "styleTransfer.py", None, _strotss, _strotss_sides),
    ),
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that paints a pair.

    Attributes:
      name: of its folder of pictures and its row.
      network: that it paints with.
      command: its command line, in a folder with `content.png` and `style.png`.
      output: the file that it writes, as a pattern in this folder.
      settings: what its record says about how it painted.
      paths: folders of Python modules that it needs.
      sides: see `Peer`.
      log: the file in which it logs the loss of each step, one after the other; None if no file.
      steps: how many steps it takes at each of its scales; none without a log.
    """

    name: str
    network: str
    command: tuple[str, ...]
    output: str
    settings: tuple[str, ...]
    paths: tuple[str, ...] = ()
    sides: Callable[[int, int], str | None] = lambda height, width: None
    log: str | None = None
    steps: tuple[int, ...] = ()


def ours(presets: Sequence[str], size: int) -> list[Program]:
    """Presets as programs. Each is a run of `nst-jax`, with its start and its compilation.

    Raises:
      ValueError: a preset is unknown or there twice.
    """
    found = []
    for name in presets:
        check_choice("--presets", name, nst_jax.presets)
        settings = (
            *(f"--preset={name}", f"--model={OURS}", f"--size={size}", f"--seed={SEED}"),
            *("--nocompilation_cache", "--log_every=1"),
        )
        files = (f"--content={CONTENT}", f"--styles={STYLE}", "--output_dir=out", "--quiet")
        command = (sys.executable, "-m", "nst_jax", *files, *settings)
        steps = tuple(steps_at_scales(nst_jax.presets[name].replace(size=size)))
        found.append(
            Program(
                *(name, OURS, command, OURS_OUTPUT, settings, (str(ROOT),)),
                log="out/metrics.jsonl",
                steps=steps,
            )
        )
    return found


def named(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """`{name: value}` of texts `name:value`; a text without ":" has an empty value.

    Raises:
      ValueError: a name is no peer's or there twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition(":")
        check_choice(f"--{flag}", name, PEERS)
        if name in found:
            raise ValueError(f"--{flag}: {name} is there twice")
        found[name] = value
    return found


def peers(
    texts: Sequence[str],
    steps: Sequence[str],
    *,
    size: int,
    python: str,
    device: str,
    weights: Path,
) -> list[Program]:
    """Peers as programs.

    Args:
      texts: `name:folder` each, or the name alone of one that is installed.
      steps: `name:N` each.
      size: longer side of the pictures.
      python: their interpreter.
      device: "cpu" or "gpu".
      weights: folder with `<network>-<form>.npz`.

    Raises:
      ValueError: a name is unknown, a folder is missing or another program's, or steps are wrong.
    """
    numbers = named("peer_steps", steps)
    folders = {name: os.path.expanduser(folder) for name, folder in named("peers", texts).items()}
    for name, text in numbers.items():
        if name not in folders:
            raise ValueError(f"--peer_steps: {name} is not in --peers")
        if PEERS[name].steps is None:
            raise ValueError(f"--peer_steps: no argument of {name} changes its iterations")
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"--peer_steps: wanted {name}:N with N of at least 1, got {text!r}")
    found = []
    for name, folder in folders.items():
        peer = PEERS[name]
        if peer.entry is None and folder:
            raise ValueError(f"--peers: {name} is an installed package, give it no folder")
        if peer.entry is not None:
            _check_folder(name, folder, peer)
        settings = peer.arguments(size, int(numbers[name]) if name in numbers else None, device)
        folder = str(Path(folder).resolve()) if folder else ""
        file = str((weights / f"{peer.network}-{peer.form}.npz").resolve())
        command = (python, str(HERE / "runner.py"), name, folder, file, str(size), *settings)
        found.append(
            Program(name, peer.network, command, OUTPUT, tuple(settings), sides=peer.sides)
        )
    return found


def _check_folder(name: str, folder: str, peer: Peer) -> None:
    if not folder:
        raise ValueError(f"--peers: wanted {name}:FOLDER with a checkout of {peer.home}")
    if not Path(folder).is_dir():
        raise ValueError(f"--peers: {name}: no such folder: {folder}")
    if not Path(folder, str(peer.entry)).is_file():
        raise ValueError(f"--peers: {name}: {folder} has no {peer.entry}; it is at {peer.home}")
