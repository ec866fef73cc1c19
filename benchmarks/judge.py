"""How good are finished pictures, whoever made them?

    python -m benchmarks.judge --contents=FOLDER --styles=FOLDER
        --programs=name:FOLDER,name:FOLDER [--model=vgg16] [--style_size=N] [--pairs=N]
        [--json=PATH] [--sheet=PATH]

Each program has a folder with its pictures, `<content>__<style>.png`; any format that nst_jax reads
will do. `<content>` and `<style>` are names of files in the folders of contents and of styles. All
programs must have the same pairs, and their pictures of a pair must have one size. The content is
resized to this size. The style is resized so that its longer side is the picture's longer side, as
nst_jax does by default, or `--style_size`.

Give the network that painted none of the pictures. nst_jax paints with VGG19 by default, so VGG16
is the default here. So no preset of nst_jax minimises one of these measures in that network.

Style, in the network, against the style picture. Each position of a layer describes the patch of
the picture that it sees. The layers are block1_conv1 to block5_conv1 of the picture at full, half
and a quarter of its size. A layer counts at a scale if both pictures have at least 16 positions
there.

effectiveness       higher is better: the mean over the layers at full size
sliced_wasserstein  lower is better: the mean over the layers of a scale, then over the scales
gram                lower is better: `gram_distance`, the mean likewise

Content, against the content picture:

self_similarity     higher is better: in the network, the mean of block3_conv1 and block4_conv1 at
                    full size, at up to 512 positions
edges               higher is better
luminance           higher is better
colour              neither is better, because a program may mean to take the style's colours

Artefacts; lower is better, and 0 is clean. What the style has too is no artefact, and neither is
what the content's border has:

checkerboard        doublings of `benchmarks.defaults.checkerboard` beyond the style's
speckle             doublings beyond the style's
ringing             share of the step, beyond the style's
border_energy       doublings beyond the content's
border_colour       grey levels beyond the content's
clipped             share of the values beyond the style's

`benchmarks/measures.py` defines each measure. The judge does not see every fault. For example, the
blocks of a JPEG file have no measure.

The three summaries are ranks, so no measure needs a weight. In each pair each measure ranks the
programs, with 1 for the best. Two programs that differ by less than the step of the measure share
their ranks, see `GROUPS`. The rank of a group is the mean over its measures, without colour, and
over the pairs. A rank does not tell how far apart two programs are, and it changes with the
programs in the comparison. So read the measures beside it.

The row `(content)` is the content itself, judged as a picture. It has no rank.
"""

import dataclasses
import functools
import itertools
import math
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

import nst_jax
from benchmarks import common, measures, reporting
from benchmarks.defaults import checkerboard
from nst_jax import image as image_lib
from nst_jax import vgg
from nst_jax.cli.flag_types import define_list, define_path
from nst_jax.files import images
from nst_jax.files.images import read_image, write_image
from nst_jax.settings import check_choice


class Measure(NamedTuple):
    """What a value of a measure means.

    Attributes:
      better: "higher", "lower" or "neither".
      step: the smallest difference that ranks one program before another, chosen by hand.
    """

    better: str
    step: float


GROUPS = {
    "style": {
        "effectiveness": Measure("higher", 0.05),
        "sliced_wasserstein": Measure("lower", 0.01),
        "gram": Measure("lower", 0.01),
    },
    "content": {
        "self_similarity": Measure("higher", 0.01),
        "edges": Measure("higher", 0.01),
        "luminance": Measure("higher", 0.01),
        "colour": Measure("neither", 0.01),
    },
    "artefacts": {
        "checkerboard": Measure("lower", 0.1),
        "speckle": Measure("lower", 0.1),
        "ringing": Measure("lower", 0.01),
        "border_energy": Measure("lower", 0.1),
        "border_colour": Measure("lower", 1.0),
        "clipped": Measure("lower", 0.01),
    },
}
CONTENT = "(content)"

SCALES = {"full": 1, "half": 2, "quarter": 4}
STYLE_LAYERS = tuple(f"block{block}_conv1" for block in range(1, 6))
SIMILARITY_LAYERS = ("block3_conv1", "block4_conv1")
MIN_SIDE = 32  # in pixels: five halvings leave one position
POSITIONS = 16  # the fewest of a layer that counts
SAMPLES = 512  # positions of the self-similarity


# ---------------------------------------------------------------------------------- one picture


@dataclasses.dataclass(frozen=True, eq=False)
class Described:
    """A picture and what the network sees of it.

    Attributes:
      pixels: `[H, W, 3]` in [0, 1], float64.
      features: `{scale: {layer: [positions, C]}}`, float32, of the layers with at least 16
        positions.
    """

    pixels: np.ndarray
    features: dict[str, dict[str, np.ndarray]]

    @functools.cached_property
    def components(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The principal components of each layer at full size, found once for all programs."""
        return {
            layer: measures.principal_components(values.astype(np.float64))
            for layer, values in self.features["full"].items()
        }


def describe(name: str, picture: np.ndarray, params: Mapping) -> Described:
    """Runs the network on a picture at each scale.

    Args:
      name: of the argument in error messages.
      picture: float `[H, W, 3]` in [0, 1], at least 32 pixels a side.
      params: parameters of VGG16 or VGG19.

    Raises:
      ValueError, TypeError: `picture` is something else.
    """
    image_lib.check_image(name, picture, single=True)
    if min(picture.shape[:2]) < MIN_SIDE:
        raise ValueError(
            f"{name} must have at least {MIN_SIDE} pixels a side, got "
            f"{picture.shape[0]}x{picture.shape[1]}"
        )
    seen = _features(np.asarray(picture, np.float32), params)
    features = {
        scale: {
            layer: np.asarray(values).reshape(-1, values.shape[-1])
            for layer, values in layers.items()
        }
        for scale, layers in seen.items()
    }
    return Described(np.asarray(picture, np.float64), features)


@jax.jit
def _features(picture: jax.Array, params: Mapping) -> dict[str, dict[str, jax.Array]]:
    found = {}
    for scale, divisor in SCALES.items():
        height, width = (side // divisor for side in picture.shape[:2])
        layers = [
            layer
            for layer in STYLE_LAYERS
            if math.prod(side // vgg.smallest_side(layer) for side in (height, width)) >= POSITIONS
        ]
        scaled = image_lib.resize(picture, height, width)
        found[scale] = vgg.features(params, scaled, layers=layers)
    return found


def judge(
    output: np.ndarray, content: np.ndarray, style: np.ndarray, params: Mapping
) -> dict[str, float]:
    """All measures of one picture; the top of this file lists them.

    Args:
      output: the picture, float `[H, W, 3]` in [0, 1].
      content: float `[H, W, 3]` in [0, 1].
      style: float `[h, w, 3]` in [0, 1], of the size at which it should match the picture.
      params: parameters of the network that did not paint the picture.

    Returns:
      `{measure: value}`: the measures of `GROUPS`. The measures of style also have values by scale,
      such as `gram_half`, or by layer, such as `effectiveness_block1_conv1`.

    Raises:
      ValueError, TypeError: a picture has another layout or is below 32 pixels a side; or `output`
        and `content` have different sizes.
    """
    pictures = {"output": output, "content": content, "style": style}
    return judge_described(*(describe(name, value, params) for name, value in pictures.items()))


def judge_described(output: Described, content: Described, style: Described) -> dict[str, float]:
    """The result of `judge`, of pictures that the network has seen."""
    if output.pixels.shape != content.pixels.shape:
        (height, width), (wanted_height, wanted_width) = (
            described.pixels.shape[:2] for described in (output, content)
        )
        raise ValueError(
            f"output must have the content's size, {wanted_height}x{wanted_width}, got "
            f"{height}x{width}"
        )
    return {
        **_style_measures(output, style),
        **_content_measures(output, content),
        **_artefacts(output.pixels, content.pixels, style.pixels),
    }


def _style_measures(output: Described, style: Described) -> dict[str, float]:
    def shared(scale: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for layer, own in output.features[scale].items():
            if layer in style.features[scale]:
                wanted = style.features[scale][layer]
                yield layer, own.astype(np.float64), wanted.astype(np.float64)

    by_layer = {
        layer: measures.effectiveness(own, wanted, components=style.components[layer])
        for layer, own, wanted in shared("full")
    }
    found = {"effectiveness": statistics.mean(by_layer.values())}
    found |= {f"effectiveness_{layer}": value for layer, value in by_layer.items()}
    for name, measure in (
        ("sliced_wasserstein", measures.sliced_wasserstein),
        ("gram", measures.gram_distance),
    ):
        by_scale = {
            f"{name}_{scale}": statistics.mean(
                measure(own, wanted) for _, own, wanted in shared(scale)
            )
            for scale in SCALES
        }
        found |= {name: statistics.mean(by_scale.values()), **by_scale}
    return found


def _content_measures(output: Described, content: Described) -> dict[str, float]:
    similar = []
    for layer in SIMILARITY_LAYERS:
        own, wanted = (described.features["full"][layer] for described in (output, content))
        count = min(len(wanted), SAMPLES)
        places = np.random.default_rng(0).choice(len(wanted), count, replace=False)
        own, wanted = (features[places].astype(np.float64) for features in (own, wanted))
        similar.append(measures.self_similarity(own, wanted))
    pixels = (output.pixels, content.pixels)
    return {
        "self_similarity": statistics.mean(similar),
        "edges": measures.edges(*pixels),
        "luminance": measures.luminance(*pixels),
        "colour": measures.colour(*pixels),
    }


def _artefacts(output: np.ndarray, content: np.ndarray, style: np.ndarray) -> dict[str, float]:
    return {
        "checkerboard": measures.doublings(checkerboard(output), checkerboard(style)),
        "speckle": measures.doublings(measures.speckle(output), measures.speckle(style)),
        "ringing": max(0.0, measures.ringing(output) - measures.ringing(style)),
        "border_energy": max(0.0, measures.border_energy(output) - measures.border_energy(content)),
        "border_colour": max(0.0, measures.border_colour(output) - measures.border_colour(content)),
        "clipped": max(0.0, measures.clipped(output) - measures.clipped(style)),
    }


# --------------------------------------------------------------------------------- many pictures


def ranks(values: Sequence[float], measure: Measure) -> list[float]:
    """The rank of each value, 1 for the best.

    The rank is 1, and 1 more for each value that is better by the measure's step, and 1/2 more for
    each other value that is nearer. So the ranks of N values sum to N (N + 1) / 2.

    Args:
      values: one for each program.
      measure: of which "higher" or "lower" is better.
    """
    sign = -1 if measure.better == "higher" else 1
    found = []
    for value in values:
        behind = [sign * (value - other) for other in values]
        near = sum(abs(by) < measure.step for by in behind) - 1  # without itself
        found.append(1 + sum(by >= measure.step for by in behind) + near / 2)
    return found


def group_ranks(programs: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """`{program: {group: rank}}` of one pair, each the mean over the group's measures."""
    found = {name: {} for name in programs}
    for group, members in GROUPS.items():
        each = [
            ranks([figures[name] for figures in programs.values()], measure)
            for name, measure in members.items()
            if measure.better != "neither"
        ]
        for name, own in zip(programs, zip(*each, strict=True), strict=True):
            found[name][group] = statistics.mean(own)
    return found


def summary(pairs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and deviation over the pairs, of every measure and rank, by program.

    The content itself is in it if the pairs have its measures. A deviation of one pair is None.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in (*pairs[0]["programs"], *([CONTENT] if CONTENT in pairs[0] else [])):
        rows = [pair[CONTENT] if name == CONTENT else pair["programs"][name] for pair in pairs]
        # A measure of one layer or scale may be missing in small pictures.
        keys = dict.fromkeys(itertools.chain.from_iterable(rows))
        found[name] = {key: _spread([row[key] for row in rows if key in row]) for key in keys}
        if name != CONTENT:
            for group in GROUPS:
                found[name][f"rank_{group}"] = _spread(
                    [pair["ranks"][name][group] for pair in pairs]
                )
    return found


def _spread(values: Sequence[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "deviation": deviation}


# --------------------------------------------------------------------------------------- files


def listing(flag: str, folder: str) -> dict[str, Path]:
    """The files of a folder that `read_image` reads, by their names without suffixes.

    Raises:
      ValueError: there is no such folder, it has no picture, or two have one name.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"--{flag}: no such folder: {folder}")
    found: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in images.suffixes():
            continue
        if path.stem in found:
            raise ValueError(f"--{flag}: {found[path.stem]} and {path.name} have the same name")
        found[path.stem] = path
    if not found:
        raise ValueError(f"--{flag}: {folder} holds no picture")
    return found


def program_folders(texts: Sequence[str]) -> dict[str, str]:
    """`{name: folder}` of the texts `name:folder`.

    Raises:
      ValueError: there is none, one is no such text, or two have one name.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, _, folder = text.partition(":")
        if not name or not folder or name in found or name == CONTENT:
            raise ValueError(
                f"--programs must be name:folder,name:folder with each name once, got "
                f"{','.join(texts)!r}"
            )
        found[name] = os.path.expanduser(folder)
    if not found:
        raise ValueError("--programs must be name:folder,name:folder, got none")
    return found


def pairs_of(
    contents: Iterable[str], styles: Iterable[str], programs: Mapping[str, Mapping[str, Path]]
) -> list[tuple[str, str]]:
    """The pairs of a content and a style that the programs have painted.

    Raises:
      ValueError: a program lacks a pair of another, or there is none.
    """
    pairs = [
        (content, style)
        for content, style in itertools.product(contents, styles)
        if any(stem(content, style) in files for files in programs.values())
    ]
    for (content, style), (name, files) in itertools.product(pairs, programs.items()):
        if stem(content, style) not in files:
            has = next(name for name, own in programs.items() if stem(content, style) in own)
            raise ValueError(
                f"--programs: {name} has no {stem(content, style)}, but {has} has: all must have "
                "the same pairs"
            )
    if not pairs:
        raise ValueError(
            "--programs: no picture is named <content>__<style> after files of --contents and "
            "--styles"
        )
    return pairs


def stem(content: str, style: str) -> str:
    """The name of a picture's file without its suffix."""
    return f"{content}__{style}"


class Shapes(NamedTuple):
    """Heights and widths in pixels: of the pictures of a pair, and of its style beside them."""

    picture: tuple[int, int]
    style: tuple[int, int]


def checked_shapes(
    content: Path, style: Path, paths: Mapping[str, Path], style_size: int | None
) -> Shapes:
    """The sizes at which a pair is judged, from the headers of its files.

    Raises:
      ValueError: two programs' pictures have different sizes; they do not have the content's
        proportions, up to a pixel; or the style is too narrow.
    """
    shapes = {path: images.read_shape(path) for path in paths.values()}
    first, *_ = shapes
    picture = shapes[first]
    for path, shape in shapes.items():
        if shape != picture:
            raise ValueError(
                f"{path}: {_size(shape)} pixels, but {first} has {_size(picture)}: the pictures "
                "of a pair must have one size"
            )
    wanted = image_lib.fit_size(*images.read_shape(content), max(picture))
    if max(abs(own - side) for own, side in zip(picture, wanted, strict=True)) > 1:
        raise ValueError(
            f"{first}: {_size(picture)} pixels, but its content {content} would have "
            f"{_size(wanted)}: it is cropped or stretched"
        )
    beside = image_lib.fit_size(*images.read_shape(style), style_size or max(picture))
    if min(beside) < MIN_SIDE:
        raise ValueError(
            f"{style}: {_size(beside)} pixels beside the picture, must be at least {MIN_SIDE} a "
            "side: give a larger --style_size"
        )
    return Shapes(picture, beside)


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def fitted(picture: np.ndarray, size: int) -> np.ndarray:
    """The picture with `size` pixels on its longer side."""
    height, width, _ = picture.shape
    return images.resize(picture, *image_lib.fit_size(height, width, size))


# -------------------------------------------------------------------------------------- command


def run(
    contents: Mapping[str, Path],
    styles: Mapping[str, Path],
    programs: Mapping[str, Mapping[str, Path]],
    *,
    model: vgg.Model,
    size: int | None,
    limit: int | None,
    json_path: str | None,
    sheet_path: str | None,
    cell: int,
) -> dict[str, Any]:
    """Judges all pairs and prints the tables; `size` is the styles' longer side.

    Returns:
      The report, which is written to JSON after each pair.
    """
    painted = pairs_of(contents, styles, programs)
    chosen = painted[:limit]
    # A wrong file should be refused before minutes of work.
    shapes = [
        checked_shapes(contents[content], styles[style], _paths(programs, content, style), size)
        for content, style in chosen
    ]
    report = common.environment() | {"model": model, "style_size": size}
    report["measures"] = {
        group: {name: measure._asdict() for name, measure in members.items()}
        for group, members in GROUPS.items()
    }
    print(f"{len(chosen)} pairs of {len(programs)} programs, judged by {model}")
    common.print_environment(report)
    used = {stem(*pair) for pair in painted}
    for name, files in programs.items():
        if ignored := len(files.keys() - used):
            print(f"{name}: {ignored} more pictures are of no pair of --contents and --styles")
    if json_path:
        json_path = str(reporting.device_file(json_path, report, prefix="judge-"))
    report |= {"summary": {}, "pairs": []}
    params = nst_jax.load_params(model)
    rows = []
    for (content_name, style_name), sizes in zip(chosen, shapes, strict=True):
        paths = _paths(programs, content_name, style_name)
        outputs = {name: read_image(path) for name, path in paths.items()}
        content = images.resize(read_image(contents[content_name]), *sizes.picture)
        style = images.resize(read_image(styles[style_name]), *sizes.style)
        described_content = describe("content", content, params)
        described_style = describe("style", style, params)
        figures = {
            name: judge_described(
                describe(name, picture, params), described_content, described_style
            )
            for name, picture in outputs.items()
        }
        report["pairs"].append(
            {
                "content": content_name,
                "style": style_name,
                "shape": list(sizes.picture),
                "style_shape": list(sizes.style),
                "programs": figures,
                CONTENT: judge_described(described_content, described_content, described_style),
                "ranks": group_ranks(figures),
            }
        )
        report["summary"] = summary(report["pairs"])
        if json_path:
            common.write_json(json_path, report)
        if sheet_path:
            rows.append([fitted(one, cell) for one in (content, style, *outputs.values())])
            headings = ("content", "style", *outputs)
            write_image(sheet_path, common.grid(rows, headings, cell))
        print(f"judged {content_name} in {style_name}", flush=True)
    print_tables(report)
    return report


def _paths(programs: Mapping[str, Mapping[str, Path]], content: str, style: str) -> dict[str, Path]:
    """The pictures' files of one pair, by program."""
    return {name: files[stem(content, style)] for name, files in programs.items()}


HEADINGS = {
    "effectiveness": "effective",
    "sliced_wasserstein": "Wasserstein",
    "self_similarity": "similarity",
    "border_energy": "border energy",
    "border_colour": "border colour",
}
WIDTH = 17
SIGNS = {"higher": " +", "lower": " -", "neither": ""}


def print_tables(report: Mapping[str, Any]) -> None:
    """Prints a table for each group of measures, with a row for each program."""
    pairs = len(report["pairs"])
    left = max(12, *(len(name) + 2 for name in report["summary"]))
    print(
        f"\nMeans over {pairs} pairs (deviations); + is better if higher, - if lower; rank: 1 best"
    )
    for group, members in GROUPS.items():
        columns = {
            HEADINGS.get(name, name) + SIGNS[measure.better]: name
            for name, measure in members.items()
        }
        columns["rank -"] = f"rank_{group}"
        print("\n" + common.row((f"{group:<{left}}",), columns, WIDTH))
        for name, found in report["summary"].items():
            cells = [_cell(found.get(key)) for key in columns.values()]
            print(common.row((f"{name:<{left}}",), cells, WIDTH))


def _cell(spread: Mapping[str, Any] | None) -> str:
    if spread is None:
        return "-"
    deviation = spread["deviation"]
    return f"{spread['mean']:.3f}" + (f" ({deviation:.3f})" if deviation is not None else "")


FLAGS = {
    "contents": (define_path, None, "Folder of the content pictures."),
    "styles": (define_path, None, "Folder of the style pictures."),
    "programs": (
        define_list,
        [],
        "name:folder for each program; a folder holds <content>__<style>.png.",
    ),
    "model": (
        flags.DEFINE_string,
        "vgg16",
        "The network that judges; it should have painted none of the pictures.",
    ),
    "style_size": (
        common.pixels,
        None,
        "Longer side of the styles in pixels; by default that of the picture.",
    ),
    "pairs": (common.positive, None, "Number of pairs after which to stop."),
    "json": (define_path, None, "File or folder for the result as JSON."),
    "sheet": (define_path, None, "Picture file for the labelled sheet, such as sheet.png."),
    "cell": (common.pixels, 256, "Longer side of the pictures on the sheet, in pixels."),
}


def main(options: flags.FlagValues) -> dict[str, Any]:
    for flag in ("contents", "styles"):
        if not options[flag].value:
            raise ValueError(f"needs --{flag}=FOLDER")
    check_choice("--model", options.model, vgg.CONVOLUTIONS)
    folders = program_folders(options.programs)
    return run(
        listing("contents", options.contents),
        listing("styles", options.styles),
        {name: listing("programs", folder) for name, folder in folders.items()},
        model=options.model,
        size=options.style_size,
        limit=options.pairs,
        json_path=options.json,
        sheet_path=options.sheet,
        cell=options.cell,
    )


if __name__ == "__main__":
    common.run_command("judge", FLAGS, main)
