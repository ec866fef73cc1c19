"""Writing files so that they appear whole or not at all, and saying in one line why they don't."""

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class FileError(ValueError):
    """A file that cannot be read or written; the message is one line naming it."""


@contextlib.contextmanager
def writing(path: Path, *, error: type[FileError] = FileError) -> Iterator[None]:
    """Turns what goes wrong in writing a file into an `error`, one line that names it."""
    try:
        yield
    except FileError:
        raise
    except (OSError, ValueError) as cause:
        raise error(f"{path}: cannot be written: {reason(cause)}") from cause


@contextlib.contextmanager
def replacing(path: Path, *, error: type[FileError] = FileError) -> Iterator[io.BytesIO]:
    """What is written to the buffer given takes the place of `path` once all of it is on disk;
    missing folders are made.

    A buffer and not the file itself, since Pillow takes a write for whole of which a full disk
    took only the beginning.

    Raises:
      error: it cannot be written; what was there before is still there.
    """
    # In the same folder, since a file is replaced atomically only within one file system. What a
    # process that is killed leaves is replaced when its file is written again.
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
    """The beginning of a name that is too long for a disk, which has 255 bytes for it."""
    return os.fsencode(name)[:200].decode("utf-8", "ignore")


def unique(names: Sequence[str]) -> list[str]:
    """Names with a number behind those that came before, so that no file hides another."""
    found: dict[str, None] = {}  # quick to look up, and in order
    for name in names:
        candidate, number = name, 1
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found[candidate] = None
    return list(found)


def check_folder(folder: Path) -> None:
    """Makes a folder where there is none, and refuses one that takes no files."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def check_place(folder: Path) -> None:
    """Refuses a folder that takes no files, or where none can be made; unlike `check_folder` it
    leaves nothing behind."""
    with writing(folder):
        folder = folder.absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        tempfile.TemporaryFile(dir=there).close()


def from_json(text: str | bytes) -> Any:
    """What a text in JSON says; who calls it names the file.

    Raises:
      ValueError: it is no JSON, or nested more deeply than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def reason(error: Exception) -> str:
    """What went wrong, on one line and without repeating the file's name."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
