"""Checkpoints of a run in a folder, through orbax: each there as a whole or not at all.

They are written beside the run, and the newest two are kept.
"""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from nst_jax import optimize, sharding

KEPT = 2
SUMS = "SHA256SUMS"  # of a checkpoint's files, written last


class Checkpoints:
    """Those of one run: `stylize(..., resume=checkpoints.latest(), callback=checkpoints)`.

    Args:
      folder: where they go; made if missing.
      settings: what makes the run what it is, JSON's types; a checkpoint of others is refused.
      every: steps from one to the next.
    """

    def __init__(self, folder: str | pathlib.Path, settings: Mapping[str, Any], *, every: int = 50):
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        import orbax.checkpoint as ocp  # takes half a second, which other runs can do without

        self._ocp, self._settings, self._every = ocp, dict(settings), every
        self.folder = pathlib.Path(folder).absolute()
        # What the processes of a run share, the first of them writes.
        process = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"{process}"
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=KEPT,
                create=False,
                multiprocessing_options=alone,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            ),
        )
        self._unsealed: list[int] = []
        self._parts: list[Mapping[str, np.ndarray]] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()  # waits for what is being written

    def latest(self) -> optimize.Checkpoint | None:
        """The newest checkpoint that is whole; None where there is none yet.

        Raises:
          ValueError: the checkpoints are of other settings, or all damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            if not _intact(self.folder / str(step)):
                continue
            settings, found = self._read(step)
            self._refuse_others(settings)
            for damaged in steps[: steps.index(step)]:
                self._manager.delete(damaged)  # the run comes there again
            self._parts = [found.history]
            return found
        if steps:
            raise ValueError(f"{self.folder}: its checkpoints are damaged: delete it to begin anew")
        return None

    def __call__(self, progress: optimize.Progress) -> None:
        """Follows a run, and saves where it is time to."""
        self._parts.append(progress.terms)
        before = progress.step - len(progress.terms["total"])
        due = progress.step // self._every > before // self._every
        if due or progress.step == progress.steps:
            self.save(progress)

    def save(self, progress: optimize.Progress) -> None:
        """Saves now, what `__call__` has followed."""
        step = progress.step
        # A copy: the next dispatch takes the states' memory.
        leaves = [np.array(leaf) for leaf in jax.tree.leaves(_on_host(progress.states))]
        if jax.process_index() or self._manager.latest_step() == step:
            return
        history = {
            name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]
        }
        self._parts = [history]
        args = self._ocp.args
        self._manager.wait_until_finished()
        self._unsealed.append(step)
        self._manager.save(
            step,
            args=args.Composite(
                settings=args.JsonSave(self._settings),
                states=args.StandardSave({f"{n:03d}": leaf for n, leaf in enumerate(leaves)}),
                history=args.StandardSave(history),
            ),
        )

    def _seal(self) -> None:
        """Writes the sums into the folder that orbax is about to give its name."""
        for folder in self.folder.glob(f"{self._unsealed.pop()}.*tmp*"):
            lines = [f"{digest}  {name}\n" for name, digest in _digests(folder).items()]
            (folder / SUMS).write_text("".join(lines), "utf-8")

    def _read(self, step: int) -> tuple[Mapping, optimize.Checkpoint]:
        """Settings and content of a checkpoint."""
        args = self._ocp.args
        found = self._manager.restore(
            step,
            args=args.Composite(
                settings=args.JsonRestore(),
                states=args.StandardRestore(),
                history=args.StandardRestore(),
            ),
        )
        leaves = [np.asarray(found.states[name]) for name in sorted(found.states)]
        history = {name: np.asarray(rows) for name, rows in found.history.items()}
        return found.settings, optimize.Checkpoint(step, leaves, history)

    def _refuse_others(self, settings: Mapping) -> None:
        names = [*self._settings, *(name for name in settings if name not in self._settings)]
        differing = [n for n in names if settings.get(n) != self._settings.get(n)]
        if differing:
            told = ", ".join(
                f"{name} ({settings.get(name)} there, {self._settings.get(name)} now)"
                for name in differing[:3]
            )
            told += ", ..." if len(differing) > 3 else ""
            raise ValueError(f"{self.folder} holds checkpoints of a run that differs in {told}")


def _on_host(states: optimize.State) -> optimize.State:
    """`states` where this process reaches all of them; all processes have to call it."""
    for leaf in jax.tree.leaves(states):
        if not getattr(leaf, "is_fully_addressable", True):
            return sharding.gather(leaf.sharding.mesh, states)
    return states


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint's items; orbax writes beside them to the last."""
    digests = {}
    for path in sorted(folder.glob("*/**/*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(folder).as_posix()] = digest
    return digests


def _intact(folder: pathlib.Path) -> bool:
    """Whether a checkpoint's files are as they were written."""
    try:
        lines = (folder / SUMS).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return False
    wanted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    return bool(wanted) and wanted.items() <= _digests(folder).items()
