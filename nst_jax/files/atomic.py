"""Writes files so that they appear whole or not at all. Errors are one line that says why.

The paths may be remote: see `nst_jax.files.paths`.
"""

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nst_jax.files import paths


class FileError(ValueError):
    """A file cannot be read or written. The message is one line that names the file."""


@contextlib.contextmanager
def writing(path: Path, *, error: type[FileError] = FileError) -> Iterator[None]:
    """Turns an `OSError` or a `ValueError` of the block into an `error`.

    Args:
      path: the file or folder that the block writes; the message names it.
      error: the class of the error to raise.

    Raises:
      error: the block failed. The message is one line.
    """
    try:
        yield
    except FileError:
        raise
    except (OSError, ValueError) as cause:
        raise error(f"{path}: cannot be written: {reason(cause)}") from cause


@contextlib.contextmanager
def reading(path: Path, *, error: type[FileError] = FileError) -> Iterator[None]:
    """Turns an `OSError` of the block into an `error`.

    Args:
      path: the file or folder that the block reads; the message names it.
      error: the class of the error to raise.

    Raises:
      error: the block failed. The message is one line.
    """
    try:
        yield
    except OSError as cause:
        raise error(f"{path}: cannot be read: {reason(cause)}") from cause


@contextlib.contextmanager
def replacing(path: Path, *, error: type[FileError] = FileError) -> Iterator[io.BytesIO]:
    """Replaces a file by what the block writes to a buffer.

    The file changes only when all bytes are on disk, or in the storage of a remote path. Missing
    folders are made.

    Args:
      path: the file.
      error: the class of the error to raise.

    Yields:
      The buffer. It is not the file itself: on a full disk Pillow reports success although only
      the beginning was written.

    Raises:
      error: the file cannot be written; a file that was there before stays as it was.
    """
    if paths.is_remote(path):
        with writing(path, error=error):
            buffer = io.BytesIO()
            yield buffer
            paths.write_object(path, buffer.getvalue())
        return
    # In the same folder, because a file is replaced atomically only within one file system. If the
    # process is killed, the temporary file stays until `path` is written again.
    temporary = path.with_name(f".{short(path.name)}.tmp")
    with writing(path, error=error):
        try:
            buffer = io.BytesIO()
            yield buffer
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def short(name: str) -> str:
    """Returns the first 200 bytes of a name: a file's name has at most 255 on most disks."""
    if len(data := os.fsencode(name)) <= 200:
        return name
    # Bytes that are no UTF-8 stay, but no character is cut.
    end = next((end for end in range(200, 196, -1) if data[end] & 0xC0 != 0x80), 200)
    return os.fsdecode(data[:end])


def unique(names: Sequence[str]) -> list[str]:
    """Returns the names with a number added to repeated ones, so that no file replaces another."""
    found: dict[str, None] = {}  # quick to look up, and in order
    for name in names:
        candidate, number = name, 1
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found[candidate] = None
    return list(found)


def check_folder(folder: Path) -> None:
    """Makes a folder if it is missing, and checks that files can be written there.

    Raises:
      FileError: the folder cannot be made, or takes no files.
    """
    if paths.is_remote(folder):
        check_place(folder)
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def check_place(folder: Path) -> None:
    """Checks that files can be written to a folder, or that the folder can be made.

    Unlike `check_folder`, it leaves nothing behind.

    Raises:
      FileError: the folder, or the nearest folder above it, takes no files.
    """
    with writing(folder):
        if paths.is_remote(folder):
            paths.try_writing(folder)
            return
        folder = folder.absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        tempfile.TemporaryFile(dir=there).close()


def from_json(text: str | bytes) -> Any:
    """Parses JSON. The caller names the file in its own message.

    Raises:
      ValueError: the text is not JSON, or is nested more deeply than Python can read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message; of a `FileError`, the whole message.

    There, a line feed is part of a file's name.
    """
    text = str(error) or type(error).__name__
    return text if isinstance(error, FileError) else text.split("\n")[0]


def reason(error: Exception) -> str:
    """Returns an error's message on one line. The message of an `OSError` omits the file's name."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
