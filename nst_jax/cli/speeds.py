"""How long steps took in earlier runs on this machine, so that a run can say how long it will take.

The file `speeds.json` in the folder of compiled programs holds one number for each kind of program.
"""

import contextlib
import hashlib
import json
import pathlib

import jax

from nst_jax.cli import compilation
from nst_jax.config import Config
from nst_jax.files.atomic import FileError, reading, replacing
from nst_jax.partition import Placement

_MOST = 200  # kinds of program; the oldest are forgotten


def kind_of(config: Config, placement: Placement) -> str:
    """A name of the programs that take about the same time for each pixel on the same devices."""
    device = jax.devices()[0]
    described = (
        *(device.device_kind, jax.device_count(), jax.__version__),
        # The structure without its numbers: layers, forms, how many neighbours to choose from.
        str(jax.tree.structure((config.terms, config.optimizer))),
        repr(config.on(placement.platform).network),
        config.pyramid,
        *(placement.tile, placement.remat, placement.strips),
        None if placement.mesh is None else sorted(placement.mesh.shape.items()),
    )
    return hashlib.sha256(repr(described).encode()).hexdigest()[:16]


def recall(kind: str) -> float | None:
    """Seconds that a step took for each pixel of each picture; None if nobody knows."""
    found = _read().get(kind)
    return float(found) if isinstance(found, int | float) and found > 0 else None


def remember(kind: str, seconds: float) -> None:
    """Keeps what `recall` returns. A file that cannot be written is left as it is."""
    path = _path()
    if path is None:
        return
    known = _read()
    known.pop(kind, None)
    newest = dict([*known.items(), (kind, seconds)][-_MOST:])
    with contextlib.suppress(FileError), replacing(path) as file:
        file.write(json.dumps(newest).encode())


def _path() -> pathlib.Path | None:
    """Where the file is; None if programs are not kept."""
    if not jax.config.values["jax_enable_compilation_cache"]:
        return None
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder or "://" in folder:
        folder = compilation.default_folder()
    return pathlib.Path(folder) / "speeds.json"


def _read() -> dict:
    path = _path()
    if path is None:
        return {}
    try:
        with reading(path):
            found = json.loads(path.read_text("utf-8"))
    except (FileError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
