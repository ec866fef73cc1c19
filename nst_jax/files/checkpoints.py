"""Checkpoints of a run in a folder, through orbax.

A checkpoint is there as a whole or not at all. It is written while the run goes on. The newest two
are kept. Each has the SHA-256 of its files, so that a damaged one is found and passed over: orbax
reads a damaged one, and may then give other numbers.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from nst_jax import optimize, sharding
from nst_jax.files.atomic import FileError, from_json, reason, replacing

KEPT = 2
SETTINGS = "settings.json"
ITEMS = ("states", "history")  # of a checkpoint, a folder each
SUMS = "SHA256SUMS"  # of the files of an item


class Checkpoints:
    """The checkpoints of one run: `stylize(..., resume=c.latest(), callback=c)`.

    As a context manager it closes itself, and then waits until the last checkpoint is on disk.

    Args:
      folder: where they go. It is made with the first step. None keeps no checkpoints.
      settings: what defines the run, in JSON's types.
      every: steps from one checkpoint to the next.

    Attributes:
      begun: whether an earlier run began here, with a checkpoint or without.
      damaged: the steps of the damaged checkpoints that `latest` passed over.

    Raises:
      ValueError: the folder holds those of a run with other settings, or of an unknown one.
    """

    def __init__(
        self, folder: str | pathlib.Path | None, settings: Mapping[str, Any], *, every: int = 50
    ):
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.folder = None if folder is None else pathlib.Path(folder).absolute()
        self._every = every
        self._settings = json.loads(json.dumps(settings))  # tuples are lists there, too
        self.begun = self._is_begun()
        self.damaged: list[int] = []
        self._manager = None
        self._parts: list[Mapping[str, np.ndarray]] = []
        self._saved = False

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Waits until all is on disk; `error` is what ended the run, if anything did."""
        if self._manager is not None:
            # Of an error already there, that another file cannot be written is no news.
            quietly = contextlib.suppress(FileError if error else ())
            with quietly, self._writing():
                self._manager.close()  # waits for what is being written

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns whatever orbax and what it builds on raise into a line that names the folder."""
        try:
            yield
        except FileError:
            raise
        except Exception as error:
            raise FileError(f"{self.folder}: cannot be written: {_reason(error)}") from error

    def _open(self):
        """orbax's manager of the folder."""
        if self._manager is not None:
            return self._manager
        import orbax.checkpoint as ocp  # takes half a second, which other runs can do without

        self.folder.mkdir(parents=True, exist_ok=True)
        # What the processes of a run share, the first of them writes.
        process = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"{process}"
        )
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        for name in ITEMS:
            handler = _summed_handler()(multiprocessing_options=alone)
            registry.add(name, ocp.args.StandardSave, handler)
            registry.add(name, ocp.args.StandardRestore, handler)
        self._manager = ocp.CheckpointManager(
            self.folder,
            handler_registry=registry,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=KEPT,
                create=False,
                cleanup_tmp_directories=process == 0,
                multiprocessing_options=alone,
            ),
        )
        return self._manager

    def latest(self) -> optimize.Checkpoint | None:
        """The newest checkpoint that is whole; None where there is none yet.

        Raises:
          ValueError: there are some, and all are damaged.
        """
        if not self.begun:
            return None
        manager = self._open()
        steps = sorted(manager.all_steps(), reverse=True)
        for step in steps:
            if not all(_intact(self.folder / str(step) / name) for name in ITEMS):
                continue
            found = self._read(step)
            self.damaged = steps[: steps.index(step)]
            if jax.process_index() == 0:
                for damaged in self.damaged:
                    manager.delete(damaged)  # the run comes there again
            self._parts = [found.history]
            return found
        if steps:
            raise ValueError(f"{self.folder}: its checkpoints are damaged: delete it to begin anew")
        return None

    def __call__(self, progress: optimize.Progress) -> None:
        """Follows a run, and saves where it is time to."""
        if self.folder is None:
            return
        if not self.begun:  # with the first step: what is refused before it leaves nothing here
            if jax.process_index() == 0:
                with replacing(self.folder / SETTINGS) as file:
                    file.write(json.dumps(self._settings, indent=2).encode())
            self.begun = True
        self._parts.append(progress.terms)
        before = progress.step - len(progress.terms["total"])
        due = progress.step // self._every > before // self._every
        if due or progress.step == progress.steps:
            self.save(progress)

    def save(self, progress: optimize.Progress) -> None:
        """Saves now what `__call__` has followed."""
        if self.folder is None:
            return
        step = progress.step
        # A copy: the next dispatch takes the states' memory.
        leaves = [np.array(sharding.to_host(leaf)) for leaf in jax.tree.leaves(progress.states)]
        manager = self._open()
        if jax.process_index() or manager.latest_step() == step:
            return
        history = {
            name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]
        }
        self._parts = [history]
        from orbax.checkpoint import args

        items = args.Composite(
            states=args.StandardSave({f"{n:03d}": leaf for n, leaf in enumerate(leaves)}),
            history=args.StandardSave(history),
        )
        with self._writing():
            manager.wait_until_finished()
            if not manager.save(step, args=items):  # orbax goes only forward
                raise FileError(
                    f"{self.folder} holds a later checkpoint than that of step {step}, which "
                    "is not saved: choose another folder, or empty this one"
                )
        if not self._saved:  # what keeps all of them from being written is told by the first
            self.wait()
        self._saved = True

    def wait(self) -> None:
        """Until what was saved is on disk."""
        if self._manager is not None:
            with self._writing():
                self._manager.wait_until_finished()

    def _read(self, step: int) -> optimize.Checkpoint:
        from orbax.checkpoint import args

        restore = args.Composite(states=args.StandardRestore(), history=args.StandardRestore())
        found = self._open().restore(step, args=restore)
        leaves = [np.asarray(found.states[name]) for name in sorted(found.states)]
        history = {name: np.asarray(rows) for name, rows in found.history.items()}
        return optimize.Checkpoint(step, leaves, history)

    def _is_begun(self) -> bool:
        if self.folder is None:
            return False
        path = self.folder / SETTINGS
        if not path.exists():
            # Of which run they are, nobody knows; and beside newer ones nothing would be saved.
            if any(step.name.isdigit() for step in self.folder.glob("[0-9]*")):
                raise ValueError(
                    f"{self.folder} holds checkpoints without their {SETTINGS}: choose another "
                    "folder, or empty this one"
                )
            return False
        try:
            settings = dict(from_json(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{path}: cannot be read as settings of a run: {reason(error)}"
            ) from error
        different = differences(settings, self._settings)
        if different and any(path.is_dir() for path in self.folder.iterdir()):
            raise ValueError(
                f"{self.folder} holds checkpoints of a run that differs in {different}"
            )
        return not different


def _reason(error: Exception) -> str:
    """What went wrong; of a chain of errors that ends with the system's words only these."""
    text = reason(error)
    return next((words for words in map(os.strerror, errno.errorcode) if words in text), text)


@functools.cache
def _summed_handler() -> type:
    """orbax's handler of trees that seals what it writes; orbax is imported when it is needed."""
    import orbax.checkpoint as ocp

    class Summed(ocp.StandardCheckpointHandler):
        """Writes the sums last, before orbax gives the folder its name."""

        def finalize(self, directory):
            super().finalize(directory)
            folder = pathlib.Path(directory)
            lines = [f"{digest}  {name}\n" for name, digest in _digests(folder).items()]
            (folder / SUMS).write_text("".join(lines), "utf-8")

    return Summed


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of each file of a folder, by its name there."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != SUMS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(folder).as_posix()] = digest
    return digests


def _intact(folder: pathlib.Path) -> bool:
    """Whether the files of a folder are as they were written."""
    try:
        lines = (folder / SUMS).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return False
    wanted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    return bool(wanted) and wanted.items() <= _digests(folder).items()


def differences(before: Mapping, now: Mapping, *, most: int = 3) -> str:
    """How settings differ, such as "steps (2 there, 3 now)"; nothing where they don't."""
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    told = [f"{name} ({before.get(name)} there, {now.get(name)} now)" for name in names[:most]]
    return ", ".join(told) + (f" and {len(names) - most} more" if len(names) > most else "")
