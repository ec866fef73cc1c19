"""How good are our pictures, and how long do they take, compared with other programs?

    python -m benchmarks.peers --output_dir=FOLDER [--size=256] [--presets=default,fast]
        [--peers=pastiche,nnst:FOLDER,...] [--peer_steps=name:N,...] [--python=PYTHON]
        [--contents=FOLDER] [--styles=FOLDER] [--[no]square] [--pairs=N]
        [--judges=vgg16,vgg19] [--json=PATH]

The peers are other people's programs. Nothing of them is part of this project: give the folder of a
checkout for each, and `pastiche` without a folder, if the interpreter has it. Known names:
pastiche, neural-style-pt, style-transfer-pytorch, nnst and strotss. `--python` is the interpreter
that has what they need: PyTorch, torchvision, Pillow, imageio, tifffile and tqdm.

Every program paints each pair in a process of its own, one after the other, and in reverse order on
every second pair. All read the same two PNG files, which have the final size. All get our weights,
in the form that each expects (`benchmarks/peers/weights.py`). Each has its own published settings.
The peers paint on a GPU if JAX has one, and else on the CPU, as ours do. `--peer_steps` changes the
iterations of those that have a flag for them: pastiche, neural-style-pt and style-transfer-pytorch.

A run can be stopped. The same command continues it: a finished picture with its record is not
painted again. Nor is a picture whose record and measures are in the file of `--json`, so another
machine can continue. If a program fails on a pair, the run goes on; the next run tries it again.

The judge (`benchmarks.judge`) then compares all pictures, once in each network of `--judges`,
because a program can please the network that it paints with. Files in the output folder:

contents, styles    the pictures that all programs read
PROGRAM             pictures `<content>__<style>.png` of a program, and their records
sheet.png           all pictures, labelled, of the pairs that every program has painted here
peers.json          the table below, unless `--json` names another file; each row has the record
                    and the measures of each pair. A record of ours also has the `losses`: first,
                    highest and last of each scale

network       that the program paints with
pairs         that it has painted, at this size; the file keeps the rows of other sizes
seconds       median of the whole process, from start to file; it includes reading the weights, and
              for ours also compiling
CPU s         median of the processor's seconds, all threads together; a busy machine changes it
              less than the seconds
peak MiB      the largest resident memory of any pair
style, content, artefacts   mean ranks by the judge, the first two in each network; 1 is best
"""

import itertools
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

import nst_jax
from benchmarks import common, judge, quality, reporting
from benchmarks.pastiche_side import Picture
from benchmarks.peers import painting, programs
from benchmarks.peers.programs import Program
from benchmarks.peers.weights import FORMS
from benchmarks.reporting import JSON_FLAG, Column, Report, mebibytes, ratio, significant
from nst_jax import examples, vgg
from nst_jax.cli.flag_types import define_list, define_path
from nst_jax.files.images import read_image, write_image
from nst_jax.settings import check_choice

NAME = "peers"
TITLE = "Pictures, time and memory beside other programs"
NETWORKS = ("vgg16", "vgg19")


def _rank_columns() -> list[Column]:
    by_network = [
        Column(
            f"{group} ({network})",
            f"{group}_{network}",
            ratio,
            of=lambda report, own=network: own in report["judges"],
        )
        for group in ("style", "content")
        for network in NETWORKS
    ]
    # No measure of artefacts uses a network.
    return [*by_network, Column("artefacts", "artefacts", ratio)]


COLUMNS = [
    Column("program", "program", width=22),
    Column("network", "network"),
    Column("size", "size"),
    Column("pairs", "pairs"),
    Column("seconds", "seconds", significant),
    Column("CPU s", "cpu_seconds", significant),
    Column("peak MiB", "peak_bytes", mebibytes),
    *_rank_columns(),
]
# Photographs of scikit-image's package; others it would have to download.
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "motorcycle", "camera")
CELL = 256  # pixels of a picture on the sheet
FAILED_BY_SIGNAL = 128 + signal.SIGTERM
FLAGS = {
    "output_dir": (define_path, None, "Folder for pictures, records and results."),
    "size": (common.pixels, 256, "Longer side of all pictures in pixels."),
    "presets": (define_list, ["default", "fast"], "Presets of ours, by name."),
    "peers": (define_list, [], "name:folder for each peer; pastiche alone has no folder."),
    "peer_steps": (define_list, [], "name:N for a peer with another number of iterations."),
    "python": (define_path, sys.executable, "Interpreter of the peers."),
    "contents": (define_path, None, "Folder of content pictures."),
    "styles": (define_path, None, "Folder of style pictures."),
    "square": (flags.DEFINE_boolean, True, "Cut the middle square out of every picture."),
    "pairs": (common.positive, None, "Number of pairs after which to stop."),
    "judges": (define_list, list(NETWORKS), "Networks that judge."),
    **JSON_FLAG,
}

Records = dict[tuple[str, str], dict[str, Any]]  # by content and style


# ----------------------------------------------------------------------------------- what to paint


def middle(picture: np.ndarray) -> np.ndarray:
    """The largest square in the middle of `[H, W, 3]`."""
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]


def inputs(options: flags.FlagValues) -> list[dict[str, np.ndarray]]:
    """The contents and the styles by name, from the flags' folders or built in."""
    contents = (
        common.read_folder(options.contents)
        if options.contents
        else common.photographs(PHOTOGRAPHS)
    )
    if options.styles:
        styles = common.read_folder(options.styles)
    else:
        styles = {name: examples.by_name[name](options.size) for name in quality.STYLES}
    both = [contents, styles]
    if options.square:
        both = [{name: middle(one) for name, one in each.items()} for each in both]
    return both


def write_weights(chosen: Sequence[str], folder: Path) -> None:
    """Writes `<network>-<form>.npz` for every peer of these names."""
    wanted = {(programs.PEERS[name].network, programs.PEERS[name].form) for name in chosen}
    for network, form in sorted(wanted):
        np.savez(folder / f"{network}-{form}.npz", **FORMS[form](nst_jax.load_params(network)))


# ---------------------------------------------------------------------------------------- painting


def earlier_records(
    rows: Sequence[Mapping[str, Any]],
    chosen: Sequence[Program],
    pairs: Sequence[tuple[Picture, Picture]],
) -> dict[str, Records]:
    """The records in rows of a results file that are of these programs, settings and pictures."""
    kept = {
        (record["program"], record["content"], record["style"]): record
        for row in rows
        for record in row.get("records", [])
    }
    found: dict[str, Records] = {program.name: {} for program in chosen}
    for program, (content, style) in itertools.product(chosen, pairs):
        pair = content.name, style.name
        record = kept.get((program.name, *pair), {})
        if painting.described(program, content, style).items() <= record.items():
            found[program.name][pair] = record
    return found


def paint_all(
    chosen: Sequence[Program],
    pairs: Sequence[tuple[Picture, Picture]],
    folder: Path,
    earlier: Mapping[str, Records] | None = None,
) -> tuple[dict[str, Records], dict[str, list[str]]]:
    """Paints what is not finished, pair by pair.

    Args:
      chosen: the programs.
      pairs: of a content and a style.
      folder: of the pictures and their records.
      earlier: records of pictures that are not painted, by program, see `earlier_records`.

    Returns:
      The records and the reasons of failures, by program.

    Raises:
      ValueError: a finished picture has other settings.
    """
    records = {program.name: dict((earlier or {}).get(program.name, {})) for program in chosen}
    failures: dict[str, list[str]] = {program.name: [] for program in chosen}
    for content, style in pairs:  # refuses before hours of work
        for program in chosen:
            if record := painting.finished(program, content, style, folder):
                records[program.name].setdefault((content.name, style.name), record)
    for number, (content, style) in enumerate(pairs):
        pair = content.name, style.name
        for program in reversed(chosen) if number % 2 else chosen:
            said = f"{program.name}: {content.name} in {style.name}"
            if pair in records[program.name]:
                continue
            try:
                record = painting.paint(program, content, style, folder)
            except painting.Failed as error:
                failures[program.name].append(str(error))
                print(f"{said} failed: {error}", file=sys.stderr, flush=True)
                continue
            records[program.name][pair] = record
            seconds, peak = significant(record["seconds"]), mebibytes(record["peak_bytes"])
            print(f"{said}: {seconds} s, {peak} MiB", flush=True)
    return records, failures


# ----------------------------------------------------------------------------------------- judging


def judge_all(
    records: Mapping[str, Records],
    pairs: Sequence[tuple[Picture, Picture]],
    folder: Path,
    networks: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Judges each picture once, into `judged` of its record: `{network: {measure: value}}`.

    Returns:
      `{network: the judge's summary}` of the programs that have painted every pair.
    """
    complete = [name for name, own in records.items() if len(own) == len(pairs)]
    found = {}
    for network in networks:
        params = nst_jax.load_params(network)
        rows = []
        for content, style in pairs:
            pair = content.name, style.name
            own = {name: painted[pair] for name, painted in records.items() if pair in painted}
            _judge(own, content, style, folder, network, params)
            figures = {name: own[name]["judged"][network] for name in complete}
            rows.append({"programs": figures, "ranks": judge.group_ranks(figures)})
        if complete:
            found[network] = judge.summary(rows)
            print(f"\nJudged by {network}:")
            judge.print_tables({"pairs": rows, "summary": found[network]})
    return found


def _judge(
    records: Mapping[str, dict[str, Any]],
    content: Picture,
    style: Picture,
    folder: Path,
    network: str,
    params: Mapping,
) -> None:
    waiting = [name for name, one in records.items() if network not in one.get("judged", {})]
    if not waiting:
        return
    inputs = [judge.describe(one.name, one.pixels, params) for one in (content, style)]
    for name in waiting:
        picture = read_image(painting.files(name, content, style, folder)[0])
        figures = judge.judge_described(judge.describe(name, picture, params), *inputs)
        kept = itertools.chain.from_iterable(judge.GROUPS.values())
        own = records[name].setdefault("judged", {})
        own[network] = {measure: figures[measure] for measure in kept}


def write_sheet(
    programs: Sequence[str], pairs: Sequence[tuple[Picture, Picture]], folder: Path
) -> None:
    """Writes `sheet.png` of the pairs whose pictures by these programs are all in the folder."""
    rows = []
    for content, style in pairs:
        paths = [painting.files(name, content, style, folder)[0] for name in programs]
        if programs and all(path.is_file() for path in paths):
            pictures = [content.pixels, style.pixels, *map(read_image, paths)]
            rows.append([judge.fitted(picture, CELL) for picture in pictures])
    if rows:
        sheet = common.grid(rows, ("content", "style", *programs), CELL)
        write_image(folder / "sheet.png", sheet)


def table_row(
    program: Program,
    records: Records,
    failures: Sequence[str],
    judged: Mapping[str, Mapping[str, Any]],
    *,
    pairs: int,
    size: int,
) -> dict[str, Any]:
    """The row of a program, of a run on `pairs` pairs at `size` pixels."""
    found: dict[str, Any] = {
        "program": program.name,
        "network": program.network,
        "size": size,
        "pairs": len(records),
        "settings": list(program.settings),
    }
    if failures:
        found["note"] = f"failed on {len(failures)} of {pairs} pairs: {failures[0]}"[:200]
    if not records:
        return found
    for key, reduce in (
        ("seconds", statistics.median),
        ("cpu_seconds", statistics.median),
        ("peak_bytes", max),
    ):
        values = [record[key] for record in records.values()]
        found[key] = reduce(values)
        found[f"{key}_range"] = [min(values), max(values)]
    found["load_range"] = [
        reduce(record["load"] for record in records.values()) for reduce in (min, max)
    ]
    for network, summary in judged.items():
        if program.name in summary:
            own = summary[program.name]
            ranks = {group: own[f"rank_{group}"]["mean"] for group in judge.GROUPS}
            found["artefacts"] = ranks.pop("artefacts")
            found |= {f"{group}_{network}": rank for group, rank in ranks.items()}
            found[f"measures_{network}"] = own
    found["records"] = list(records.values())
    return found


# ----------------------------------------------------------------------------------------- command


def shown_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments for the report, with the last part of each path: folders differ by machine."""
    found = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        parts = [part.rstrip("/").rpartition("/") for part in value.split(",")]
        # "name:folder" keeps its name.
        kept = [
            f"{head.partition(':')[0]}:{tail}" if ":" in head else tail for head, _, tail in parts
        ]
        found.append(f"{name}{equals}{','.join(kept)}" if equals else argument)
    return found


def main(options: flags.FlagValues) -> dict[str, Any]:
    if not options.output_dir:
        raise ValueError("needs --output_dir=FOLDER")
    for network in options.judges:
        check_choice("--judges", network, vgg.CONVOLUTIONS)
    folder = Path(options.output_dir)
    # This process must leave the memory of a GPU to those that paint.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device = "gpu" if jax.default_backend() == "gpu" else "cpu"
    with tempfile.TemporaryDirectory() as weights:
        chosen = programs.ours(options.presets, options.size) + programs.peers(
            options.peers,
            options.peer_steps,
            size=options.size,
            python=options.python,
            device=device,
            weights=Path(weights),
        )
        if not chosen:
            raise ValueError("needs --presets or --peers")
        environment = common.environment()
        environment["arguments"] = shown_arguments(environment["arguments"])
        path = options.json or folder / "peers.json"
        # Refuses a wrong file before hours of work.
        before = reporting.read_results(reporting.device_file(path, environment)).get(NAME, {})
        sized = [
            quality.write_sized(each, folder / name, options.size)
            for each, name in zip(inputs(options), ("contents", "styles"), strict=True)
        ]
        pairs = quality.pairs_of(*sized)[: options.pairs]
        write_weights(list(programs.named("peers", options.peers)), Path(weights))
        # So that what is painting ends with this process, and its folder is removed.
        earlier = signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILED_BY_SIGNAL))
        known = [row for row in before.get("rows", []) if row["size"] == options.size]
        try:
            records, failures = paint_all(
                chosen, pairs, folder, earlier_records(known, chosen, pairs)
            )
        finally:
            signal.signal(signal.SIGTERM, earlier)
    judged = judge_all(records, pairs, folder, options.judges)
    write_sheet([name for name, own in records.items() if len(own) == len(pairs)], pairs, folder)
    versions = [
        record["versions"]
        for own in records.values()
        for record in own.values()
        if record["versions"]
    ]
    if versions:
        environment["versions"] = environment["versions"] | {"torch": versions[-1]["torch"]}
    print()
    report = Report(
        NAME,
        TITLE,
        COLUMNS,
        environment=environment,
        settings={
            "peers_on": device,
            "threads": os.environ.get("OMP_NUM_THREADS", "as each program likes"),
            "judges": " ".join(options.judges),
        },
        path=path,
        # Slow programs may have painted smaller pictures, in a run of their own.
        rows=[row for row in before.get("rows", []) if row["size"] != options.size],
    )
    for program in chosen:
        name = program.name
        report.add(
            table_row(
                program, records[name], failures[name], judged, pairs=len(pairs), size=options.size
            )
        )
    return report.report
