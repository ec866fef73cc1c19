"""Keeps a folder of checkpoints in a bucket the same as a local folder.

A checkpoint is a folder, and a bucket has no folders that appear whole. So the files with the sums
are copied last: a checkpoint without all of them was not copied to its end, and does not count.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from nst_jax.files.paths import download, listing, remove, upload


class Mirror:
    """Copies checkpoints between a remote folder and a local one.

    In both, each checkpoint is a folder whose name is its step.

    Args:
      remote: the folder in a bucket.
      sums: the files that a whole checkpoint has, relative to its folder.

    Attributes:
      local: a temporary folder. `close` removes it.
    """

    def __init__(self, remote: Path, *, sums: Sequence[str]):
        self.local = Path(tempfile.mkdtemp(prefix="nst_jax-checkpoints-"))
        self._remote, self._sums = remote, sums
        self._same: set[int] = set()  # steps that are the same in both folders
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._sending: Future | None = None

    def fetch(self) -> None:
        """Copies the remote checkpoints to the local folder, except unfinished ones.

        Raises:
          OSError: one cannot be copied.
        """
        for step, names in self._steps().items():
            if all(f"{step}/{name}" in names for name in self._sums):
                for name in names:
                    download(self._remote / name, self.local / name)
                self._same.add(step)

    def forget(self, step: int) -> None:
        """Notes that the remote checkpoint of a step is no longer the local one."""
        self._same.discard(step)

    def send(self, kept: Callable[[], Sequence[int]]) -> None:
        """Makes the remote folder the same as the local one, in a thread.

        Call `wait` before, and before the local folder changes again.

        Args:
          kept: returns the steps in the local folder when they are complete. The thread calls it.
        """
        self._sending = self._thread.submit(self._send, kept)

    def wait(self) -> None:
        """Waits for the thread.

        Raises:
          Exception: whatever the thread raised.
        """
        if self._sending is not None:
            sending, self._sending = self._sending, None
            sending.result()

    def close(self) -> None:
        """Waits for the thread, drops its error, and removes the local folder."""
        self._thread.shutdown()
        shutil.rmtree(self.local, ignore_errors=True)

    def _send(self, kept: Callable[[], Sequence[int]]) -> None:
        """Copies new checkpoints, then removes those that are not kept."""
        steps, there = kept(), self._steps()
        for step in sorted(set(steps) - self._same):
            self._remove(there.pop(step, ()))  # for example an unfinished one
            files = sorted(path for path in (self.local / str(step)).rglob("*") if path.is_file())
            names = [path.relative_to(self.local).as_posix() for path in files]
            for name in sorted(names, key=self._is_sum):
                upload(self.local / name, self._remote / name)
            self._same.add(step)
        for step in there.keys() - set(steps):
            self._remove(there[step])

    def _remove(self, names: Sequence[str]) -> None:
        """Removes a remote checkpoint: first its sums, so that half a checkpoint never counts."""
        remove(self._remote, sorted(names, key=self._is_sum, reverse=True))

    def _is_sum(self, name: str) -> bool:
        return name.partition("/")[2] in self._sums

    def _steps(self) -> dict[int, list[str]]:
        """Returns the names of the files of each remote step."""
        found: dict[int, list[str]] = {}
        for name in listing(self._remote):
            step, slash, _ = name.partition("/")
            if slash and step.isdecimal():
                found.setdefault(int(step), []).append(name)
        return found
