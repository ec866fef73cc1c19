"""What the benchmarks share: what they measured with, their pictures, tables and JSON files."""

import datetime
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import nst_jax
from nst_jax import io

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")


def environment(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Date, device, how busy its host is, and versions: of Python, JAX, ours and `packages`."""
    device = jax.devices()[0]
    versions = {"nst_jax": nst_jax.__version__, "jax": jax.__version__}
    versions |= {name: metadata.version(name) for name in packages}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"{device.platform} ({device.device_kind})",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions | {"python": platform.python_version()},
    }


def print_environment(report: Mapping[str, Any]) -> None:
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    print(
        f"{report['device']}, {report['cores']} CPU cores with a load of {report['load']} before, "
        f"{report['date']}"
    )


def write_json(path: str | os.PathLike, report: Mapping[str, Any]) -> None:
    """Writes a report; what is not finite has to be said as None, for JSON has no word for it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", "utf-8")


def number(value: float) -> str:
    """A loss, which may be anything from 1 to 1e9, in few characters."""
    return f"{value:.1f}" if value < 1e6 else f"{value:.4g}"


def row(names: Iterable[str], cells: Iterable[str], width: int = 11) -> str:
    """A line of a table: names to the left, cells to the right."""
    return "".join(f"{name:<12}" for name in names) + "".join(f"{cell:>{width}}" for cell in cells)


def photographs() -> dict[str, np.ndarray]:
    """Photographs that come with scikit-image, `[H, W, 3]` in [0, 1].

    Raises:
      ImportError: it is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError(
            f"needs --contents=FOLDER or pip install scikit-image ({error})"
        ) from error
    return {name: getattr(data, name)().astype(np.float32) / 255 for name in PHOTOGRAPHS}


def read_folder(folder: str) -> dict[str, np.ndarray]:
    """The pictures of a folder by name, sorted."""
    paths = [path for path in sorted(Path(folder).iterdir()) if not path.name.startswith(".")]
    if not paths:
        raise ValueError(f"{folder}: holds no picture")
    return {path.stem: io.read_image(path) for path in paths if path.is_file()}


def grid(rows: Sequence[Sequence[np.ndarray]], headings: Sequence[str], cell: int) -> np.ndarray:
    """Pictures in cells of one size, beneath their headings; `[height, width, 3]`."""
    gap, head = 8, 28
    font = ImageFont.load_default(size=16)
    width = gap + len(headings) * (cell + gap)
    sheet = Image.new("RGB", (width, head + len(rows) * (cell + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        left = gap + column * (cell + gap)
        draw.text((left, 4), heading, fill="black", font=font)
        for number, row in enumerate(rows):
            picture = Image.fromarray(io.to_uint8(row[column]))
            top = head + number * (cell + gap)
            across, down = cell - picture.width, cell - picture.height
            sheet.paste(picture, (left + across // 2, top + down // 2))
    return np.asarray(sheet, np.float32) / 255
