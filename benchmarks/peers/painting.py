"""Paints a pair with a program, in a process of its own, and keeps the picture and its record.

The picture of a program is `<folder>/<program>/<content>__<style>.png`, and its record is the JSON
file beside it. A picture with its record is finished: it is not painted again.
"""

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, judge
from benchmarks.pastiche_side import Picture
from benchmarks.peers.programs import CONTENT, HERE, STYLE, Program
from nst_jax.files.images import read_image, write_image


class Failed(Exception):
    """A program did not paint. The message is its last line on stderr, or what was wrong."""


def finished(
    program: Program, content: Picture, style: Picture, folder: Path
) -> dict[str, Any] | None:
    """The record of a finished picture; None if there is none.

    Raises:
      ValueError: the picture was painted with other settings or from other pictures.
    """
    picture, path = files(program.name, content, style, folder)
    if not picture.is_file() or not path.is_file():
        return None
    record = json.loads(path.read_text("utf-8"))
    wanted = described(program, content, style)
    for key, value in wanted.items():
        if record[key] != value:
            raise ValueError(
                f"{path}: was painted with {key} {_text(record[key])}, not {_text(value)}: "
                "delete it or give another --output_dir"
            )
    return record


def paint(program: Program, content: Picture, style: Picture, folder: Path) -> dict[str, Any]:
    """Paints a pair and returns its record.

    Raises:
      Failed: the program failed, wrote no picture, or wrote one of another size.
    """
    height, width = content.pixels.shape[:2]
    if wrong := program.sides(height, width):
        raise Failed(f"{wrong}, got {height}x{width}")
    before = common.load()
    with tempfile.TemporaryDirectory() as name:
        own = Path(name)
        shutil.copyfile(content.path, own / CONTENT)
        shutil.copyfile(style.path, own / STYLE)
        took = _measured(program, own)
        outputs = sorted(own.glob(program.output))
        if len(outputs) != 1:
            raise Failed(f"wrote {len(outputs)} pictures {program.output}")
        painted = read_image(outputs[0])
        if painted.shape != content.pixels.shape:
            raise Failed(f"painted {_size(painted)} pixels, but the content has {height}x{width}")
        versions = own / "versions.json"
        versions = json.loads(versions.read_text("utf-8")) if versions.exists() else {}
        losses = _losses(own / program.log, program.steps) if program.log else {}
    picture, path = files(program.name, content, style, folder)
    picture.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    write_image(picture, painted)
    record = {
        **described(program, content, style),
        **took,
        **losses,
        "load": before,
        "versions": versions,
    }
    # Last and at once: a run that is stopped before has no record.
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    os.replace(partial, path)
    return record


def _losses(log: Path, steps: Sequence[int]) -> dict[str, list[list[float]]]:
    """The `losses` of a record: first, highest and last loss of each scale."""
    totals = [json.loads(line)["total"] for line in log.read_text("utf-8").splitlines()]
    ends = list(itertools.accumulate(steps, initial=0))
    if len(totals) != ends[-1]:
        raise Failed(f"logged {len(totals)} steps of {ends[-1]}")
    scales = [totals[begin:end] for begin, end in itertools.pairwise(ends)]
    return {"losses": [[scale[0], max(scale), scale[-1]] for scale in scales]}


def _measured(program: Program, folder: Path) -> dict[str, float]:
    paths = [*program.paths, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
    # The result lies apart, because a program may read its current folder.
    with tempfile.TemporaryDirectory() as apart:
        result = Path(apart, "result.json")
        measured = [sys.executable, str(HERE / "measured.py"), str(result), *program.command]
        code, stderr = _run(measured, folder, environment)
        if not result.exists():
            raise Failed(_last_line(stderr) or f"exit code {code}")
        found = json.loads(result.read_text("utf-8"))
    code = found.pop("exit_code")
    if code < 0:
        raise Failed(f"ended by {signal.Signals(-code).name}")
    if code:
        raise Failed(_last_line(stderr) or f"exit code {code}")
    return found


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """The exit code and stderr of a command. If this process is stopped, all of it is ended."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _, stderr = process.communicate()
    except BaseException:
        # The group, because the program that paints is a child of this command.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return process.returncode, stderr


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].strip()


def described(program: Program, content: Picture, style: Picture) -> dict[str, Any]:
    """What a record must share with the run that continues."""
    return {
        "program": program.name,
        "content": content.name,
        "style": style.name,
        "size": list(content.pixels.shape[:2]),
        "settings": list(program.settings),
        "inputs": [_digest(content), _digest(style)],
    }


def _digest(picture: Picture) -> str:
    return hashlib.sha256(picture.pixels.tobytes()).hexdigest()[:16]


def files(program: str, content: Picture, style: Picture, folder: Path) -> tuple[Path, Path]:
    """The picture and its record."""
    stem = judge.stem(content.name, style.name)
    return folder / program / f"{stem}.png", folder / program / f"{stem}.json"


def _size(picture: Any) -> str:
    return f"{picture.shape[0]}x{picture.shape[1]}"


def _text(value: Any) -> str:
    return " ".join(map(str, value))
