"""Paths of files on a disk, and of objects in a bucket: `gs://bucket/name` and `s3://bucket/name`.

A remote path is one of etils' `epath`, which has the names of pathlib. fsspec moves the bytes, by
gcsfs and s3fs. They are the extra `cloud`, and are imported when the first remote path is used.

A bucket is no disk. It has no folders, so none is made: a folder is what the names of objects have
in common. An object appears whole or not at all. Nothing can be appended to it.
"""

import contextlib
import errno
import importlib.util
import io
import mimetypes
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    import fsspec


class _Client(NamedTuple):
    """What reaches a kind of storage.

    Attributes:
      package: its fsspec file system.
      content_type: the argument that says what an object holds, for browsers.
    """

    package: str
    content_type: str


_CLIENTS = {"gs": _Client("gcsfs", "content_type"), "s3": _Client("s3fs", "ContentType")}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


class StorageError(OSError):
    """A storage cannot be reached, or refuses. The message is one line that names the path."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


# ----------------------------------- Names --------------------------------------


def is_remote(name: str | os.PathLike[str]) -> bool:
    """Returns whether a path has a scheme such as `gs://`, known or not."""
    return _SCHEME.match(os.fspath(name)) is not None


def path_of(name: str | os.PathLike[str], *, error: type[ValueError] = ValueError) -> Path:
    """Returns the path that a user names, on a disk or in a bucket.

    Remote paths have the methods of `pathlib.PurePath`. The functions of this module read and write
    both kinds.

    Args:
      name: of a file or folder.
      error: the class of the error to raise.

    Raises:
      error: the scheme is unknown, its package is not installed, or the bucket has no name, or a
        pattern in place of one.
    """
    text = os.fspath(name)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return Path(text)
    client = _CLIENTS.get(scheme[1])
    if client is None:
        known = f"wanted a path on this machine, {' or '.join(f'{s}://' for s in _CLIENTS)}"
        if scheme[1].lower() in ("http", "https"):
            raise error(f"{text}: web addresses are not fetched: {known}")
        raise error(f"{text}: {known}, got {scheme[0]}")
    if not re.match(r"[^/*?\[]+(/|$)", text[scheme.end() :]):
        raise error(f"{text}: wanted {scheme[0]}bucket/name")
    if importlib.util.find_spec(client.package) is None:
        raise error(f"{text}: needs {client.package}: pip install {client.package}")
    from etils import epath

    return cast(Path, epath.Path(text))


def check_local(argument: str, name: str | os.PathLike[str] | None) -> None:
    """Refuses a remote path, and a pipe.

    Args:
      argument: what the message calls it.
      name: the path, or None.

    Raises:
      ValueError: it is one.
    """
    if name is None:
        return
    if is_remote(name):
        raise ValueError(f"{argument} must be a path on this machine, got '{os.fspath(name)}'")
    if is_pipe(Path(name)):
        raise ValueError(
            f"{argument} must be a file, which is read more than once, got the pipe "
            f"'{os.fspath(name)}'"
        )


def absolute(path: Path) -> Path:
    """Returns an absolute path. Remote paths always are."""
    return path if is_remote(path) else path.absolute()


def real(name: str | os.PathLike[str]) -> str:
    """Returns the one name of a file that may have several, because of links."""
    return os.fspath(name) if is_remote(name) else os.path.realpath(name)


# ------------------------------ Files and objects -------------------------------


def exists(path: Path) -> bool:
    """Returns whether there is a file or folder.

    Raises:
      OSError: nobody can tell.
    """
    return path.exists() if not is_remote(path) else _kind(path) is not None


def is_dir(path: Path) -> bool:
    """Returns whether there is a folder: remote, whether there are objects below the path.

    Raises:
      OSError: nobody can tell.
    """
    return path.is_dir() if not is_remote(path) else _kind(path) == "directory"


PIPE_BYTES = 2**30
"""The most bytes that are read from a pipe."""


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a file for reading. A remote one is read whole, and so is a pipe, up to `PIPE_BYTES`.

    Raises:
      OSError: it cannot be read, or a pipe gives more.
    """
    if is_remote(path):
        return io.BytesIO(read_bytes(path))
    file = path.open("rb")
    if file.seekable():
        return file
    with file:
        buffer = io.BytesIO()
        while chunk := file.read(2**20):
            if buffer.tell() + len(chunk) > PIPE_BYTES:
                raise OSError(errno.EFBIG, f"the pipe gives more than {PIPE_BYTES:,} bytes")
            buffer.write(chunk)
        buffer.seek(0)
        return buffer


def is_pipe(path: Path) -> bool:
    """Returns whether a file can be read only once."""
    return not is_remote(path) and path.is_fifo()


def read_bytes(path: Path) -> bytes:
    """Returns what a file holds.

    Raises:
      OSError: it cannot be read.
    """
    if not is_remote(path):
        return path.read_bytes()
    with _told(path, missing="no such object or bucket"):
        return cast(bytes, _storage(path).cat_file(str(path)))


def existing(folder: Path) -> Callable[[str], bool]:
    """Returns a function that tells whether a name in `folder` exists.

    A remote folder is listed once, now. So many questions take no more time than one.

    Raises:
      OSError: the folder cannot be listed.
    """
    if not is_remote(folder):
        return lambda name: (folder / name).exists()
    names: set[str] = set()
    for name in listing(folder):
        while name and name not in names:  # the folders that it lies in exist, too
            names.add(name)
            name = name.rpartition("/")[0]
    return names.__contains__


# ----------------------------------- Objects ------------------------------------


def write_object(path: Path, data: bytes) -> None:
    """Writes an object. One that was there before stays until all bytes are in the storage.

    Raises:
      OSError: it cannot be written.
    """
    client = _CLIENTS[str(path).partition(":")[0]]
    kind, _ = mimetypes.guess_type(path.name)
    with _told(path):
        options = {} if kind is None else {client.content_type: kind}
        _storage(path).pipe_file(str(path), data, **options)


def listing(folder: Path, *, prefix: str = "") -> list[str]:
    """Returns the names of all objects below a remote folder, relative to it and sorted.

    Args:
      folder: the folder. There may be nothing below it.
      prefix: the beginning of the names.

    Raises:
      OSError: there is no such bucket, or it cannot be listed.
    """
    root = "/".join(folder.parts[2:]) + "/"
    with _told(folder):
        found = _storage(folder).find(str(folder), prefix=prefix)
    # A name that ends in "/" is an empty object, by which web consoles mark a folder.
    names = (name.removeprefix(root) for name in found if name.startswith(root + prefix))
    return sorted(name for name in names if name and not name.endswith("/"))


def remove(folder: Path, names: Iterable[str]) -> None:
    """Removes objects below a remote folder, in this order.

    Raises:
      OSError: one of them cannot be removed.
    """
    with _told(folder):
        for name in names:
            _storage(folder).rm_file(str(folder / name))


def upload(source: Path, target: Path) -> None:
    """Copies a file to an object.

    Raises:
      OSError: it cannot be copied.
    """
    with _told(target):
        _storage(target).put_file(str(source), str(target))


def download(source: Path, target: Path) -> None:
    """Copies an object to a file. Missing folders are made.

    Raises:
      OSError: it cannot be copied.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _told(source, missing="no such object or bucket"):
        _storage(source).get_file(str(source), str(target))


def try_writing(folder: Path) -> None:
    """Writes an object below a remote folder and removes it, as files are replaced later.

    Raises:
      OSError: that is impossible.
    """
    name = f".nst_jax-{uuid.uuid4().hex}"
    write_object(folder / name, b"")
    remove(folder, [name])


def _storage(path: Path) -> "fsspec.AbstractFileSystem":
    """Returns the file system of a remote path."""
    import fsspec

    # Without a cache of listings, which would not show what other processes have written.
    return fsspec.filesystem(str(path).partition(":")[0], use_listings_cache=False)


def _kind(path: Path) -> str | None:
    """Returns "file" or "directory"; None if there is neither."""
    with _told(path):
        try:
            return _storage(path).info(str(path))["type"]
        except FileNotFoundError:
            return None


@contextlib.contextmanager
def _told(path: Path, *, missing: str = "no such bucket") -> Iterator[None]:
    """Turns any error of the block into a `StorageError`.

    The clients raise errors of many classes. Some of them, such as botocore's for missing
    credentials, are not an `OSError`.

    Args:
      path: what the block reads or writes.
      missing: what the message says if it is not there.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(errno.ENOENT, missing, str(path)) from error
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise StorageError(errno.EIO, text, str(path)) from error
