"""The command line: absl flags -> configuration -> run -> files.

`nst-jax --content=a.jpg --styles=b.jpg,c.jpg` or `python -m nst_jax` with the same flags.
"""

import dataclasses
import importlib.metadata
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from nst_jax import examples, io, report
from nst_jax import vgg as vgg_lib
from nst_jax.config import Config, check_choice, presets
from nst_jax.optimize import Progress
from nst_jax.stylize import stylize
from nst_jax.version import __version__
from nst_jax.weights import load_params

BAD_INPUT = 1
DIVERGED = 3

# What `--demo` uses where no flag says otherwise: small enough for a laptop's processor.
DEMO = {"size": 256, "steps": 120}

RUN_FLAGS = {
    "content": (flags.DEFINE_string, None, "content picture"),
    "styles": (flags.DEFINE_list, [], "style pictures, separated by commas"),
    "output_dir": (flags.DEFINE_string, "out", "folder that the pictures go to"),
    "demo": (flags.DEFINE_boolean, False, "use the built-in pictures; needs no input"),
    "model": (flags.DEFINE_string, "vgg19", "bundled network, vgg16 or vgg19"),
    "weights": (flags.DEFINE_string, None, "weights file (HDF5, Keras' layout) in its place"),
    "preset": (flags.DEFINE_string, "default", f"settings: {', '.join(presets)}"),
    "seed": (flags.DEFINE_integer, 0, "of the noise that --init=noise starts from"),
    "log_every": (flags.DEFINE_integer, 10, "steps between lines of metrics.jsonl"),
}

# One flag for each field of the configuration; None leaves what the preset says.
CONFIG_FLAGS = {
    "size": (flags.DEFINE_integer, "longer side of the pictures, pixels"),
    "steps": (flags.DEFINE_integer, "optimisation steps"),
    "content_layers": (flags.DEFINE_list, "layers compared with the content"),
    "style_layers": (flags.DEFINE_list, "layers whose Gram matrices are compared"),
    "content_weight": (flags.DEFINE_float, "weight of the content loss"),
    "style_weight": (flags.DEFINE_float, "weight of the style loss"),
    "tv_weight": (flags.DEFINE_float, "weight of the total variation"),
    "content_layer_weights": (flags.DEFINE_list, "a weight for each content layer"),
    "style_layer_weights": (flags.DEFINE_list, "a weight for each style layer"),
    "content_reduction": (flags.DEFINE_string, "half_sum or mean of squared differences"),
    "style_normalization": (flags.DEFINE_string, "gatys or keras"),
    "pooling": (flags.DEFINE_string, "pooling of the network: max"),
    "optimizer": (flags.DEFINE_string, "sgd, adam or lbfgs"),
    "learning_rate": (flags.DEFINE_float, "grey levels (of 255)"),
    "momentum": (flags.DEFINE_float, "of SGD; 0 is none"),
    "normalize_gradient": (flags.DEFINE_boolean, "divide gradients by their root mean square"),
    "schedule": (flags.DEFINE_string, "of the learning rate: constant, exponential, cosine"),
    "decay_rate": (flags.DEFINE_float, "factor of the exponential schedule"),
    "decay_steps": (flags.DEFINE_float, "steps for one factor of the exponential schedule"),
    "clip": (flags.DEFINE_boolean, "keep the picture in its range at each step"),
    "init": (flags.DEFINE_string, "start from the content picture or from noise"),
}

for _name, (_define, _default, _help) in RUN_FLAGS.items():
    _define(_name, _default, _help)
for _name, (_define, _help) in CONFIG_FLAGS.items():
    _define(_name, None, f"{_help} (default: the preset's)")

FLAGS = flags.FLAGS


class Picture(NamedTuple):
    """A named picture, `[H, W, 3]` in [0, 1]."""

    name: str
    image: np.ndarray


def config_from_flags() -> Config:
    """The preset, with every field that a flag gives."""
    check_choice("--preset", FLAGS.preset, presets)
    config = presets[FLAGS.preset]
    given = {name: FLAGS[name].value for name in CONFIG_FLAGS if FLAGS[name].value is not None}
    if FLAGS.demo:
        given = DEMO | given
    for name, value in given.items():
        if name.endswith("_layers"):
            given[name] = tuple(value)
        elif name.endswith("_layer_weights"):
            given[name] = _floats(name, value)
    return config.replace(**given)


def _floats(name: str, texts: Sequence[str]) -> tuple[float, ...]:
    try:
        return tuple(float(text) for text in texts)
    except ValueError:
        raise ValueError(f"--{name} must be numbers, got {','.join(texts)!r}") from None


def read_inputs(size: int | None) -> tuple[Picture, list[Picture]]:
    """Content and styles, from files or built in."""
    if FLAGS.demo:
        if FLAGS.content or FLAGS.styles:
            raise ValueError("--demo has its own pictures: leave out --content and --styles")
        side = size or DEMO["size"]
        drawn = [
            Picture(name, draw(side))
            for name, draw in (
                ("butterfly", examples.butterfly),
                ("rainbow", examples.rainbow),
                ("triangles", examples.triangles),
            )
        ]
        return drawn[0], drawn[1:]
    if not FLAGS.content or not FLAGS.styles:
        raise ValueError("--content and --styles are needed (or --demo)")
    names = _unique([pathlib.Path(path).stem for path in FLAGS.styles])
    styles = [
        Picture(name, io.read_image(path)) for name, path in zip(names, FLAGS.styles, strict=True)
    ]
    return Picture(pathlib.Path(FLAGS.content).stem, io.read_image(FLAGS.content)), styles


def _unique(names: Sequence[str]) -> list[str]:
    """Names with a number behind those that came before, so that no output hides another."""
    found: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found.append(candidate)
    return found


class Monitor:
    """Follows a run: a progress bar on a terminal, plain lines elsewhere, and metrics.jsonl."""

    def __init__(self, path: pathlib.Path, styles: Sequence[str], steps: int, log_every: int):
        self._styles, self._steps, self._log_every = styles, steps, log_every
        self._start = time.perf_counter()
        self._file = path.open("w", encoding="utf-8")
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=steps, unit="step", dynamic_ncols=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        seconds = time.perf_counter() - self._start
        total = progress.terms["total"]
        first = progress.step - len(total) + 1
        for row, step in enumerate(range(first, progress.step + 1)):
            if step == 1 or step % self._log_every == 0 or step == self._steps:
                for index, style in enumerate(self._styles):
                    terms = {name: float(v[row, index]) for name, v in progress.terms.items()}
                    # "style" is the picture's name, so the term goes by another.
                    terms["style_loss"] = terms.pop("style")
                    line = {"step": step, "style": style, **terms, "seconds": round(seconds, 3)}
                    self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        losses = ", ".join(
            f"{style} {loss:.4g}" for style, loss in zip(self._styles, total[-1], strict=True)
        )
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss: {losses}", refresh=False)
            self._bar.update(len(total))
        elif first == 1 or progress.step * 10 // self._steps > (first - 1) * 10 // self._steps:
            _say(f"step {progress.step}/{self._steps}, {seconds:.1f} s, loss: {losses}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def record(config: Config, content: Picture, styles: Sequence[Picture], network: str) -> dict:
    """What config.json holds: enough to make the pictures again."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow")
    return {
        "preset": FLAGS.preset,
        "network": network,
        "weights": FLAGS.weights or FLAGS.model,
        "content": FLAGS.content or content.name,
        "styles": FLAGS.styles or [style.name for style in styles],
        "seed": FLAGS.seed,
        "config": dataclasses.asdict(config),
        "device": jax.devices()[0].device_kind,
        "versions": {"nst_jax": __version__}
        | {package: importlib.metadata.version(package) for package in packages},
    }


def run() -> int:
    """One job, from the flags to the files; returns the exit code."""
    config = config_from_flags()
    if FLAGS.log_every < 1:
        raise ValueError(f"--log_every must be at least 1, got {FLAGS.log_every}")
    content, styles = read_inputs(config.size)
    params = load_params(FLAGS.weights or FLAGS.model)
    folder = pathlib.Path(FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    described = record(config, content, styles, vgg_lib.network_name(params))
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", "utf-8")
    names = [style.name for style in styles]
    with Monitor(folder / "metrics.jsonl", names, config.steps, FLAGS.log_every) as monitor:
        result = stylize(
            params,
            content.image,
            [style.image for style in styles],
            config,
            key=jax.random.key(FLAGS.seed),
            callback=monitor,
        )
    write_outputs(folder, content, styles, result)
    diverged = [name for name, bad in zip(names, result.diverged, strict=True) if bad]
    if diverged:
        _say(
            f"nst-jax: {', '.join(diverged)}: stopped at a value that is not finite, the last "
            "finite picture is kept; try a smaller --learning_rate"
        )
        return DIVERGED
    return 0


def write_outputs(folder, content: Picture, styles: Sequence[Picture], result) -> None:
    """The pictures, the contact sheet and the loss curves."""
    images = np.asarray(result.images)
    names = [style.name for style in styles]
    for name, image in zip(names, images, strict=True):
        path = folder / f"{content.name}__{name}.png"
        io.write_image(path, image)
        _say(f"wrote {path}")
    sheet = report.contact_sheet(
        content.image,
        [style.image for style in styles],
        images,
        content_label=content.name,
        style_labels=names,
    )
    io.write_image(folder / "contact_sheet.png", sheet)
    try:
        report.loss_curves(folder / "loss_curves.png", result.history, names)
    except ImportError as error:
        _say(f"nst-jax: {error}")


def _main(argv: Sequence[str]) -> int:
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected argument {argv[1]!r}: pictures go into flags, see --help")
        return run()
    except (ValueError, TypeError, OSError) as error:
        logging.debug("the error in full", exc_info=True)
        first, *_ = str(error).splitlines() or [type(error).__name__]
        _say(f"nst-jax: {first}")
        return BAD_INPUT


def main() -> None:
    """Entry point of the `nst-jax` command."""
    for name in (*RUN_FLAGS, *CONFIG_FLAGS):
        # `--help` shows the flags of the main module: make ours its own, however it is started.
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])
    # JAX's notes of the backends that it didn't find are no news to whoever runs this.
    FLAGS.set_default("verbosity", logging.WARNING)
    app.run(_main)
