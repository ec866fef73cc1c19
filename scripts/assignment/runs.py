"""One optimisation that can be ended at any moment and goes on when it is asked for again, and how
long it all took."""

import contextlib
import json
import shutil
import time
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tqdm

import nst_jax
from nst_jax import optimize
from nst_jax.config import Config
from nst_jax.files.atomic import replacing
from nst_jax.files.checkpoints import Checkpoints

CHECKPOINT_EVERY = 250  # steps


class Painted(NamedTuple):
    """What a run made.

    Attributes:
      images: `[N, H, W, 3]`; without `config.clip` values may leave [0, 1].
      history: `{term: [steps, N]}`, each before its step.
      diverged: `[N]` of bool.
      snapshots: `{step: [N, H, W, 3]}`, the pictures after so many steps, in order.
      seconds: of the whole run, with compiling and snapshots; None if it was interrupted.
    """

    images: np.ndarray
    history: dict[str, np.ndarray]
    diverged: np.ndarray
    snapshots: dict[int, np.ndarray]
    seconds: float | None


def paint(
    folder: Path,
    params: Mapping,
    contents: Sequence[np.ndarray],
    styles: Sequence[np.ndarray],
    config: Config,
    *,
    sweep: Mapping[str, np.ndarray] | None = None,
    snapshots_at: Collection[int] = (),
    key: jax.Array | None = None,
    stop_after: int | None = None,
) -> Painted:
    """`nst_jax.stylize`, of which `folder` keeps the result, and checkpoints until there is one.

    Args:
      folder: of this run alone.
      params, contents, styles, config, sweep, key: as of `nst_jax.stylize`; each time the same.
      snapshots_at: steps after which to keep the pictures; where a dispatch takes several steps,
        after the dispatch.
      stop_after: for tests: a step after which KeyboardInterrupt is raised.

    Raises:
      ValueError: what an earlier call kept is damaged.
    """
    result = folder / "result.npz"
    if result.exists():
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return _read(folder)
    begun = time.perf_counter()
    with Checkpoints(folder / "checkpoints", {}, every=CHECKPOINT_EVERY) as checkpoints:
        resume = checkpoints.latest()
        done = resume.step if resume else 0
        bar = tqdm.tqdm(
            desc=folder.name, total=config.steps, initial=done, unit="step", disable=None
        )

        def follow(progress: optimize.Progress) -> None:
            before = progress.step - len(progress.terms["total"])
            bar.update(progress.step - before)
            if any(before < step <= progress.step for step in snapshots_at):
                _write(folder / f"step_{progress.step:06d}.npz", images=progress.images)
            checkpoints(progress)
            if stop_after is not None and progress.step >= stop_after:
                raise KeyboardInterrupt

        with bar:
            painted = nst_jax.stylize(
                params,
                contents,
                styles,
                config,
                sweep=sweep,
                key=key,
                resume=resume,
                callback=follow,
            )
    _write(
        result,
        images=painted.images,
        diverged=painted.diverged,
        seconds=np.nan if resume else time.perf_counter() - begun,
        **painted.history,
    )
    shutil.rmtree(folder / "checkpoints")
    return _read(folder)


@contextlib.contextmanager
def timed(folder: Path, name: str) -> Iterator[None]:
    """Keeps in `folder` how long a piece of work takes that is done within, the first time.

    Of a piece that is cut off, how long it took is not known, then or later.
    """
    path = folder / f"{name}.json"
    known = path.exists()
    if not known:
        _keep(path, None)
    begun = time.perf_counter()
    yield
    if not known:
        _keep(path, time.perf_counter() - begun)


def total_seconds(folder: Path) -> float | None:
    """Of all pieces that are `timed` in `folder`; None if any was cut off.

    Raises:
      ValueError: what an earlier call kept is damaged.
    """
    taken = []
    for path in sorted(folder.glob("*.json")):
        try:
            seconds = json.loads(path.read_text("utf-8"))
            taken.append(seconds if seconds is None else float(seconds))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: damaged, wanted a number of seconds or null") from error
    return None if None in taken else sum(taken)


def _keep(path: Path, seconds: float | None) -> None:
    with replacing(path) as file:
        file.write(json.dumps(seconds).encode())


def _write(path: Path, **arrays: np.ndarray) -> None:
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)


def _read(folder: Path) -> Painted:
    arrays = _arrays(folder / "result.npz", "images", "diverged", "seconds", "total")
    snapshots = {
        int(path.stem.removeprefix("step_")): _arrays(path, "images")["images"]
        for path in sorted(folder.glob("step_*.npz"))
    }
    seconds = float(arrays.pop("seconds"))
    return Painted(
        images=arrays.pop("images"),
        diverged=arrays.pop("diverged"),
        history=arrays,
        snapshots=snapshots,
        seconds=None if np.isnan(seconds) else seconds,
    )


def _arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays of a file, those with the names among them."""
    try:
        with np.load(path) as found:
            arrays = dict(found)
        if missing := [name for name in names if name not in arrays]:
            raise ValueError(f"{', '.join(missing)}: not there")
        return arrays
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged, delete {path.parent} to have it made anew") from error
