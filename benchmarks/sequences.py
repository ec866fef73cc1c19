"""How much do the frames of a film flicker, and how long do they take?

    python -m benchmarks.sequences [--size=128] [--frames=6] [--styles=rainbow,triangles]
        [--flows=known,dis,still] [--preset=default] [--film=PATH] [--output_dir=FOLDER]
        [--json=PATH]

The frames are painted one by one, as single pictures, and then as a sequence. They are those of
`nst_jax.examples.butterfly_film`, whose flow is known, or of the animation or film `--film`. All
errors are measured by the same flow: the known one, or DIS between the frames of `--film`.

warping error   the mean square, in grey levels, of a picture's difference from the picture of the
                frame before, moved along the flow, where the flow is reliable; after Lai et al.:
                "Learning Blind Video Temporal Consistency", ECCV 2018,
                https://arxiv.org/abs/1808.00449
share           of the warping error of frames that are painted one by one
steps           of a frame after the first
s/frame         median seconds of a frame after the second, with all programs compiled
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import nst_jax
from benchmarks import common
from benchmarks.reporting import JSON_FLAG, Column, Report, ratio, significant
from nst_jax import examples, flow
from nst_jax.cli.flag_types import define_list, define_path
from nst_jax.coarse_to_fine import steps_at_scales
from nst_jax.files.footage import open_footage
from nst_jax.files.images import read_image, to_uint8, write_animation
from nst_jax.sequence import Pair, next_steps
from nst_jax.settings import check_choice

NAME = "sequences"
TITLE = "Flicker and time of sequences"
WAYS = ("known", "dis", "still")
COLUMNS = [
    Column("frames", "way", width=10),
    Column("warping error", "error", significant),
    Column("share", "share", ratio),
    Column("steps", "steps"),
    Column("s/frame", "seconds", significant),
]
FLAGS = {
    "size": (common.pixels, 128, "Longer side of the pictures in pixels."),
    "frames": (common.positive, 6, "Frames of the film, at least 3."),
    "styles": (define_list, ["rainbow", "triangles"], "Built-in styles, or files."),
    "flows": (define_list, list(WAYS), "Flows of the sequences: known, dis, still."),
    "preset": (flags.DEFINE_string, "default", "Preset, by name."),
    "model": (flags.DEFINE_string, "vgg19", "Network: vgg16 or vgg19."),
    "film": (define_path, None, "An animation or a film to paint, in place of the built-in one."),
    "output_dir": (define_path, None, "Folder for an animation of each way and style."),
    **JSON_FLAG,
}


def warping_error(pictures: Sequence[np.ndarray], pairs: Sequence[Pair]) -> float:
    """The mean square of each picture's difference from the one before, moved, in grey levels.

    Args:
      pictures: `[N, H, W, 3]` of each frame.
      pairs: (forward, backward) of each frame after the first.
    """
    squares, weights = 0.0, 0.0
    for before, after, (forward, backward) in zip(pictures, pictures[1:], pairs, strict=False):
        trust = np.asarray(flow.reliable(backward, forward))
        moved = np.asarray(flow.warp(before, backward))
        squares += float((trust[..., None] * np.square(255 * (after - moved))).sum())
        weights += 3 * len(after) * float(trust.sum())
    return squares / weights


def film_of(options: flags.FlagValues) -> tuple[list[np.ndarray], list[Pair]]:
    """The frames, and the flow that errors are measured by."""
    if options.film is None:
        film = examples.butterfly_film(options.size, frames=options.frames)
        return list(film.frames), list(zip(film.forward, film.backward, strict=True))
    footage = open_footage([Path(options.film)])
    frames = []
    for frame in footage.frames():
        shape = nst_jax.image.fit_size(*frame.shape[:2], options.size)
        frames.append(np.asarray(nst_jax.image.resize(frame, *shape)))
        if len(frames) == options.frames:
            break
    pairs = [
        (flow.dis(before, after), flow.dis(after, before))
        for before, after in zip(frames, frames[1:], strict=False)
    ]
    return frames, pairs


def timed(frames: Iterator[Any]) -> tuple[list[np.ndarray], list[float]]:
    """The pictures, and the seconds that each took."""
    pictures, seconds, start = [], [], time.perf_counter()
    for images in frames:
        pictures.append(np.asarray(images))
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return pictures, seconds


def main(options: flags.FlagValues) -> dict[str, Any]:
    if options.frames < 3:
        raise ValueError(f"--frames must be at least 3, got {options.frames}")
    check_choice("--preset", options.preset, nst_jax.presets)
    for way in options.flows:
        check_choice("--flows", way, WAYS)
    if options.film is not None and "known" in options.flows:
        raise ValueError("--flows=known needs the built-in film: leave out --film")
    config = nst_jax.presets[options.preset].replace(size=options.size)
    params = nst_jax.prepare(nst_jax.load_params(options.model), config)
    frames, pairs = film_of(options)
    styles = [
        examples.by_name[name](options.size) if name in examples.by_name else read_image(name)
        for name in options.styles
    ]
    report = Report(
        NAME,
        TITLE,
        COLUMNS,
        environment=common.environment(),
        settings={
            "preset": options.preset,
            "size": options.size,
            "pictures": len(frames),
            "styles": " ".join(Path(name).stem for name in options.styles),
            "film": "butterfly_film" if options.film is None else Path(options.film).name,
        },
        path=options.json,
    )
    flows: dict[str, Any] = {"known": pairs, "dis": flow.dis, "still": None}
    ways = {
        "one by one": (
            (nst_jax.stylize(params, frame, styles, config).images for frame in frames),
            sum(steps_at_scales(config)),
        )
    }
    for way in options.flows:
        painted = nst_jax.stylize_sequence(params, frames, styles, config, flows[way])
        ways[way] = painted, next_steps(config)
    alone = 0.0
    for way, (painted, steps) in ways.items():
        pictures, seconds = timed(painted)
        error = warping_error(pictures, pairs)
        alone = alone or error
        report.add(
            {
                "way": way,
                "error": error,
                "share": error / alone,
                "steps": steps,
                "seconds": statistics.median(seconds[2:]),
            }
        )
        if options.output_dir:
            for number, name in enumerate(options.styles):
                levels = [to_uint8(images[number]) for images in pictures]
                path = Path(options.output_dir) / f"{way.replace(' ', '_')}__{Path(name).stem}.webp"
                write_animation(path, levels, milliseconds=100, hold=None)
    return report.report


if __name__ == "__main__":
    common.run_command(NAME, FLAGS, main)
