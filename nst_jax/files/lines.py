"""Writes files of lines that grow during a run."""

import time
from pathlib import Path
from typing import BinaryIO

from nst_jax.files.atomic import writing
from nst_jax.files.paths import is_remote, write_object


class Lines:
    """A file of lines that grows.

    A local file grows on disk. An object in a bucket cannot grow. So its lines are kept in memory,
    and it is written whole.

    Args:
      path: the file. A local one is made by the first `write`, if it does not exist.
      start: what the file holds. What comes after it in a local file, for example a line that was
        cut off, is cut away.
      seconds: the least time between two writes of an object.
    """

    def __init__(self, path: Path, *, start: bytes = b"", seconds: float = 0):
        self._path, self._start, self._seconds = path, start, seconds
        self._file: BinaryIO | None = None
        self._object = bytearray(start) if is_remote(path) else None
        self._written = len(start)  # bytes of the object in the bucket
        self._due = 0.0

    def write(self, text: str) -> None:
        """Appends whole lines, which `flush` or `close` writes.

        Raises:
          FileError: they cannot be written.
        """
        if self._object is not None:
            self._object += text.encode()
            return
        with writing(self._path):
            if self._file is None:
                self._file = self._path.open("r+b" if self._path.exists() else "wb")
                self._file.seek(len(self._start))
                self._file.truncate()
            self._file.write(text.encode())

    def flush(self) -> None:
        """Writes the lines, unless they are of an object that was written a moment ago.

        Raises:
          FileError: they cannot be written.
        """
        if self._file is not None:
            with writing(self._path):
                self._file.flush()
        elif time.monotonic() >= self._due:
            self._write_object()

    def close(self) -> None:
        """Writes what is left, and closes the file.

        Raises:
          FileError: it cannot be written.
        """
        if self._file is not None:
            with writing(self._path):
                self._file.close()
        self._write_object()

    def _write_object(self) -> None:
        if self._object is None or self._written == len(self._object):
            return
        with writing(self._path):
            write_object(self._path, bytes(self._object))
        self._written = len(self._object)
        self._due = time.monotonic() + self._seconds
