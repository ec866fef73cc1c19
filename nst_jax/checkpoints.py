"""Checkpoints of a run in a folder, through orbax: each there as a whole or not at all.

They are written beside the run, and the newest two are kept.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from nst_jax import console, files, optimize, sharding
from nst_jax.observers import Observer, Pictures

KEPT = 2
SETTINGS = "settings.json"
SUMS = "SHA256SUMS"  # of a checkpoint's files, written last


class Checkpoints(Observer):
    """Those of one run: `stylize(..., resume=checkpoints.latest(), callback=checkpoints)`.

    Args:
      folder: where they go; made with the first step. None: nowhere, none are kept.
      settings: what makes the run what it is, JSON's types.
      every: steps from one to the next.

    Attributes:
      begun: whether the run was begun before, with a checkpoint already or without.
      damaged: the steps of the checkpoints that `latest` has passed over.

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
        self._unsealed: list[int] = []
        self._saved = False

    def close(self, error: BaseException | None) -> None:
        if self._manager is not None:
            # Of an error already there, that another file cannot be written is no news.
            quietly = contextlib.suppress(files.FileError if error else ())
            with quietly, self._writing():
                self._manager.close()  # waits for what is being written

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns whatever orbax and what it builds on raise into a line that names the folder."""
        try:
            yield
        except files.FileError:
            raise
        except Exception as error:
            raise files.FileError(f"{self.folder}: cannot be written: {_reason(error)}") from error

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
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=KEPT,
                create=False,
                cleanup_tmp_directories=process == 0,
                multiprocessing_options=alone,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
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
            if not _intact(self.folder / str(step)):
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

    def __call__(self, progress: optimize.Progress, pictures: Pictures | None = None) -> None:
        """Follows a run, and saves where it is time to."""
        if self.folder is None:
            return
        if not self.begun:  # with the first step: what is refused before it leaves nothing here
            if jax.process_index() == 0:
                with files.replacing(self.folder / SETTINGS) as file:
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
        leaves = [np.array(sharding.whole(leaf)) for leaf in jax.tree.leaves(progress.states)]
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
            self._unsealed.append(step)
            if not manager.save(step, args=items):  # orbax goes only forward
                raise files.FileError(
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

    def _seal(self) -> None:
        """Writes the sums into the folder that orbax is about to give its name.

        What that folder is called is orbax's own affair, and may be another in another version.
        """
        step = self._unsealed.pop()
        folders = list(self.folder.glob(f"{step}.*tmp*"))
        if not folders:
            found = ", ".join(sorted(path.name for path in self.folder.iterdir()))
            raise files.FileError(
                f"{self.folder}: the checkpoint of step {step} cannot be sealed: wanted "
                f"{step}.*tmp*, which is what orbax 0.12 writes into, got {found}"
            )
        for folder in folders:
            lines = [f"{digest}  {name}\n" for name, digest in _digests(folder).items()]
            (folder / SUMS).write_text("".join(lines), "utf-8")

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
            settings = dict(files.from_json(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            reason = files.reason(error)
            raise ValueError(f"{path}: cannot be read as settings of a run: {reason}") from error
        differences = console.differences(settings, self._settings)
        if differences and any(path.is_dir() for path in self.folder.iterdir()):
            raise ValueError(
                f"{self.folder} holds checkpoints of a run that differs in {differences}"
            )
        return not differences


def _reason(error: Exception) -> str:
    """What went wrong; of a chain of errors that ends with the system's words only these."""
    text = files.reason(error)
    return next((words for words in map(os.strerror, errno.errorcode) if words in text), text)


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
