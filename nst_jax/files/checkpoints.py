"""Saves the checkpoints of a run in a folder, by orbax.

A checkpoint appears whole or not at all. It is written while the run continues, and the newest two
are kept. Each checkpoint holds the SHA-256 of its files, so that a damaged one is found and
skipped. Without them, orbax may read a damaged checkpoint without an error and give wrong numbers.

The folder may be remote, `gs://bucket/name` or `s3://bucket/name`. Orbax then works in a temporary
folder, and `nst_jax.files.mirror` copies.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from nst_jax import optimize, sharding
from nst_jax.files import paths
from nst_jax.files.atomic import FileError, from_json, reading, reason, replacing
from nst_jax.files.mirror import Mirror

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

KEPT = 2
"""How many checkpoints are kept."""

SETTINGS = "settings.json"
"""The file with the settings of the run, in the folder of its checkpoints."""

ITEMS = ("states", "history")
"""The parts of a checkpoint, each a folder."""

SUMS = "SHA256SUMS"
"""The file with the sums of an item's files, in the item's folder."""


class Checkpoints:
    """Saves and finds the checkpoints of one run.

    Use it as `stylize(..., resume=checkpoints.latest(), callback=checkpoints)`. It is a context
    manager, which at its end waits until the last checkpoint is in the folder.

    Args:
      folder: the folder of the checkpoints, made after the first step; None saves nothing. It may
        be remote.
      settings: the settings that define the run, in JSON's types.
      every: steps from one checkpoint to the next.

    Attributes:
      folder: the folder's absolute path, or None.
      begun: whether an earlier run began in this folder, with or without a checkpoint.
      damaged: the steps of the damaged checkpoints that `latest` skipped.

    Raises:
      ValueError: `every` is less than 1, or the folder holds checkpoints of a run with other
        settings or with unknown ones.
      FileError: a remote folder cannot be read.
    """

    def __init__(
        self, folder: str | pathlib.Path | None, settings: Mapping[str, Any], *, every: int = 50
    ):
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.folder = None if folder is None else paths.absolute(paths.path_of(folder))
        self._every = every
        self._settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
        self.begun = self._is_begun()
        self.damaged: list[int] = []
        self._manager: ocp.CheckpointManager | None = None
        self._mirror: Mirror | None = None
        self._parts: list[Mapping[str, np.ndarray]] = []
        self._saved = False

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Waits until the last checkpoint is in the folder, and closes orbax's manager.

        Args:
          error: the error that ended the run, or None. With an error, a failure to write is not
            reported, so that it does not hide that error.

        Raises:
          FileError: `error` is None and the checkpoint cannot be written.
        """
        hidden = () if error is None else (FileError,)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(*hidden))
            stack.enter_context(self._writing())
            if self._mirror is not None:
                stack.callback(self._mirror.close)
            if self._manager is not None:
                stack.callback(self._manager.close)  # waits for the write in progress
            if self._mirror is not None:
                self._mirror.wait()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns any error of orbax or its dependencies into one line that names the folder."""
        try:
            yield
        except FileError:
            raise
        except Exception as error:
            raise FileError(f"{self.folder}: cannot be written: {_reason(error)}") from error

    def _open(self) -> "ocp.CheckpointManager":
        """Returns orbax's manager of the folder, made at the first call."""
        if self._manager is not None:
            return self._manager
        assert self.folder is not None
        if paths.is_remote(self.folder):
            self._mirror = Mirror(self.folder, sums=[f"{name}/{SUMS}" for name in ITEMS])
            with reading(self.folder):
                self._mirror.fetch()
        import orbax.checkpoint as ocp  # takes half a second, so only runs with checkpoints do it

        self._local.mkdir(parents=True, exist_ok=True)
        # Each process has a manager of its own, so that no process waits for another one. Only
        # the first process writes.
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
            self._local,
            handler_registry=registry,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=KEPT,
                create=False,
                cleanup_tmp_directories=process == 0,
                multiprocessing_options=alone,
            ),
        )
        return self._manager

    @property
    def _local(self) -> pathlib.Path:
        """The folder in which orbax works."""
        assert self.folder is not None
        return self.folder if self._mirror is None else self._mirror.local

    def latest(self) -> optimize.Checkpoint | None:
        """Returns the newest checkpoint that is not damaged; None if there is no checkpoint.

        Newer checkpoints that are damaged are deleted.

        Raises:
          ValueError: all checkpoints are damaged.
          FileError: a remote checkpoint cannot be copied.
        """
        if not self.begun:
            return None
        manager = self._open()
        steps = sorted(manager.all_steps(), reverse=True)
        for step in steps:
            if not all(_intact(self._local / str(step) / name) for name in ITEMS):
                continue
            found = self._read(step)
            self.damaged = steps[: steps.index(step)]
            if jax.process_index() == 0:
                for damaged in self.damaged:
                    manager.delete(damaged)  # the run will save these steps again
                    if self._mirror is not None:
                        self._mirror.forget(damaged)
            self._parts = [found.history]
            return found
        if steps:
            raise ValueError(
                f"{self.folder}: all checkpoints are damaged: delete the folder to start again"
            )
        return None

    def __call__(self, progress: optimize.Progress) -> None:
        """Follows a run as its callback: saves every `every` steps, and at the end.

        Raises:
          FileError: the checkpoint cannot be written.
        """
        if self.folder is None:
            return
        if not self.begun:  # only now, so that a run refused before its first step leaves no file
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
        """Saves a checkpoint now. `__call__` must have seen all steps up to this one.

        Raises:
          FileError: the checkpoint cannot be written, or the folder holds a later one.
        """
        if self.folder is None:
            return
        step = progress.step
        # Copies, because the next dispatch reuses the memory of the states.
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
        self.wait()
        with self._writing():
            if not manager.save(step, args=items):  # orbax refuses steps before its latest
                raise FileError(
                    f"{self.folder} holds a later checkpoint than step {step}, so this step was "
                    "not saved: choose another folder, or empty this one"
                )
        if self._mirror is not None:
            self._mirror.send(self._kept)
        if not self._saved:  # wait for the first one: if it cannot be written, none can
            self.wait()
        self._saved = True

    def wait(self) -> None:
        """Waits until the last saved checkpoint is in the folder.

        Raises:
          FileError: it cannot be written.
        """
        if self._manager is not None:
            with self._writing():
                if self._mirror is not None:
                    self._mirror.wait()
                self._manager.wait_until_finished()

    def _kept(self) -> Sequence[int]:
        """Returns the steps of the checkpoints, as soon as the last one is complete."""
        assert self._manager is not None
        self._manager.wait_until_finished()
        return self._manager.all_steps()

    def _read(self, step: int) -> optimize.Checkpoint:
        """Reads the checkpoint of a step."""
        from orbax.checkpoint import args

        restore = args.Composite(states=args.StandardRestore(), history=args.StandardRestore())
        found = self._open().restore(step, args=restore)
        states, history = found["states"], found["history"]
        leaves = [np.asarray(states[name]) for name in sorted(states)]
        history = {name: np.asarray(rows) for name, rows in history.items()}
        return optimize.Checkpoint(step, leaves, history)

    def _is_begun(self) -> bool:
        """Returns whether a run with these settings began in the folder.

        Raises:
          ValueError: the folder holds checkpoints of another run, or its settings cannot be read.
        """
        if self.folder is None:
            return False
        path = self.folder / SETTINGS
        with reading(self.folder):
            begun, folders = paths.exists(path), _folders(self.folder)
        if not begun:
            # Nobody knows which run they belong to. If they are later ones, orbax would not save.
            if any(name.isdigit() for name in folders):
                raise ValueError(
                    f"{self.folder} holds checkpoints without their {SETTINGS}: choose another "
                    "folder, or empty this one"
                )
            return False
        try:
            settings = dict(from_json(paths.read_bytes(path)))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{path}: cannot be read as settings of a run: {reason(error)}"
            ) from error
        different = differences(settings, self._settings)
        if different and folders:
            raise ValueError(
                f"{self.folder} holds checkpoints of a run that differs in {different}"
            )
        return not different


def _folders(folder: pathlib.Path) -> set[str]:
    """Returns the names of the folders in a folder, which need not exist."""
    if paths.is_remote(folder):
        return {name.partition("/")[0] for name in paths.listing(folder) if "/" in name}
    return {path.name for path in folder.glob("*") if path.is_dir()}


def _reason(error: Exception) -> str:
    """Returns an error's message on one line: the system's own words alone, if it holds some."""
    text = reason(error)
    return next((words for words in map(os.strerror, errno.errorcode) if words in text), text)


@functools.cache
def _summed_handler() -> type:
    """Returns the class of orbax's handler that adds sums. It imports orbax only when called."""
    import orbax.checkpoint as ocp

    class Summed(ocp.StandardCheckpointHandler):
        """orbax's handler of trees that also writes the sums of the files."""

        def finalize(self, directory):
            # The sums come last, just before orbax gives the folder its final name.
            super().finalize(directory)
            folder = pathlib.Path(directory)
            lines = [f"{digest}  {name}\n" for name, digest in _digests(folder).items()]
            (folder / SUMS).write_text("".join(lines), "utf-8")

    return Summed


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """Returns the SHA-256 of each file of a folder, by the file's path in the folder."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != SUMS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(folder).as_posix()] = digest
    return digests


def _intact(folder: pathlib.Path) -> bool:
    """Returns whether the files of an item still have the sums that were written with them."""
    try:
        lines = (folder / SUMS).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return False
    wanted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    return bool(wanted) and wanted.items() <= _digests(folder).items()


def differences(before: Mapping, now: Mapping, *, most: int = 3) -> str:
    """Says how settings differ, such as "steps (2 there, 3 now)"; "" if they are equal.

    Args:
      before: the settings on disk.
      now: the settings of this run.
      most: how many names are told; the others are counted.
    """
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    told = [f"{name} ({before.get(name)} there, {now.get(name)} now)" for name in names[:most]]
    return ", ".join(told) + (f" and {len(names) - most} more" if len(names) > most else "")
