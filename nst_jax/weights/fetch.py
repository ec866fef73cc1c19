"""Downloads Keras' published VGG files, in full precision, into a cache folder.

A file appears under its name only when it is complete and its MD5 sum is right. Until then, its
first bytes are in ``<name>.part``. A broken download continues from there, also in another process
and from another mirror.

One process at a time downloads a file. The empty file ``<name>.lock`` serves as its lock, and is
not removed. The lock ends with the process that holds it. On Windows there is no lock.

Addresses, names and sums are those of ``keras.applications``. The class index holds the names of
the 1000 ImageNet classes, ``{"0": ["n01440764", "tench"], ...}``.
"""

# Why not pooch? Tried with pooch 1.9 against tests/http_server.py:
# - It sends no Range header. A download cut at byte 1000 of 300,000 starts again from byte 0.
# - It keeps no part. After a cut, nothing remains for the next call.
# - It does not lock. Two processes download the same file twice.
# - A killed process leaves a temporary file, and no later call removes or uses it.
# - It asks again after status 404: three requests with two retries.
# Checks by MD5, retries, timeouts and another base address (a mirror) work.

import contextlib
import hashlib
import http.client
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_CHUNK = 1 << 18  # bytes read from the connection at once
_LONGEST_WAIT = 60.0  # seconds between two tries
_LONGEST_TIMEOUT = 86400.0  # seconds
# These statuses are tried again, as 5xx are: request timeout, too many requests.
_TRY_AGAIN = (408, 429)


class RemoteFile(NamedTuple):
    """A published file: its address and the MD5 sum of its content, in hexadecimal."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The name on the server, in the cache and on every mirror."""
        return self.url.rpartition("/")[2]


_STORAGE = "https://storage.googleapis.com"
_VGG = _STORAGE + "/tensorflow/keras-applications/{0}/{0}_weights_tf_dim_ordering_tf_kernels{1}"

FILES: dict[str, RemoteFile] = {
    "vgg16": RemoteFile(_VGG.format("vgg16", ".h5"), "64373286793e3c8b2b4e3219cbf3544b"),
    "vgg16_notop": RemoteFile(
        _VGG.format("vgg16", "_notop.h5"), "6d6bbae143d832006294945121d1f1fc"
    ),
    "vgg19": RemoteFile(_VGG.format("vgg19", ".h5"), "cbe5617147190e668d6c5d5026f83318"),
    "vgg19_notop": RemoteFile(
        _VGG.format("vgg19", "_notop.h5"), "253f8cb515780f3b799900260a226db6"
    ),
    "imagenet_classes": RemoteFile(
        f"{_STORAGE}/download.tensorflow.org/data/imagenet_class_index.json",
        "c2c37ea517e94d9795004a39431a14cb",
    ),
}


class FetchError(OSError):
    """A file cannot be downloaded. The message is one line that names the file and the reason."""


class _TransientError(Exception):
    """A failure that may not occur at the next try."""


def cache_dir() -> Path:
    """Returns the folder for downloaded files. It need not exist.

    It is ``$NST_JAX_CACHE`` if set, else ``$XDG_CACHE_HOME/nst_jax``, else ``~/.cache/nst_jax``.

    Source: XDG Base Directory Specification,
    https://specifications.freedesktop.org/basedir-spec/latest/.
    """
    if own := os.environ.get("NST_JAX_CACHE"):
        return Path(own).expanduser()
    # The specification says to ignore relative paths.
    shared = os.environ.get("XDG_CACHE_HOME", "")
    return Path(shared if os.path.isabs(shared) else os.path.expanduser("~/.cache")) / "nst_jax"


def fetch(
    file: str | RemoteFile,
    *,
    directory: str | os.PathLike | None = None,
    mirror: str | None = None,
    retries: int = 4,
    timeout: float = 30.0,
    backoff: float = 1.0,
    progress: bool = True,
) -> Path:
    """Downloads a file if it is absent or damaged, and returns its path.

    Args:
      file: a key of `FILES`, or a `RemoteFile`.
      directory: the folder for the file. It is made if absent. By default `cache_dir`.
      mirror: the ``http://`` or ``https://`` address of a folder with files of the same names,
        used in place of the published address.
      retries: how often a download is tried again after a temporary failure: a timeout, a lost
        connection, a short answer or a server error (5xx).
      timeout: the longest silence of the server, in seconds.
      backoff: the wait before the first retry, in seconds. It doubles with each retry, up to a
        minute.
      progress: whether to report on stderr: lines, and a progress bar on a terminal.

    Returns:
      The path of the complete file. Its MD5 sum is right.

    Raises:
      FetchError: the server does not have the file, all retries failed, the content is wrong even
        after a complete new download, or the folder cannot be written.
      ValueError: the key is unknown, or the mirror, the retries or a time is out of range.

    Source of the files: ``keras.applications``, https://keras.io/api/applications/vgg/.
    """
    remote = _remote_file(file)
    if mirror is not None and not mirror.startswith(("http://", "https://")):
        raise ValueError(f"mirror: wanted an http:// or https:// address, got {mirror!r}")
    if retries < 0:
        raise ValueError(f"retries: wanted 0 or more, got {retries}")
    if not 0 < timeout <= _LONGEST_TIMEOUT:
        raise ValueError(f"timeout: wanted 0 < s <= {_LONGEST_TIMEOUT:g}, got {timeout}")
    if not backoff >= 0:
        raise ValueError(f"backoff: wanted 0 seconds or more, got {backoff}")
    url = remote.url if mirror is None else f"{mirror.rstrip('/')}/{remote.name}"
    path = Path(cache_dir() if directory is None else directory) / remote.name
    part = path.with_name(f"{path.name}.part")
    try:
        found = _md5(path)
        if found == remote.md5:
            return path
        if found is not None:
            _say(progress, f"{path}: wanted MD5 {remote.md5}, got {found}; replacing it")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(path.with_name(f"{path.name}.lock"), progress=progress):
            # Another process may have downloaded it in the meantime.
            if _md5(path) != remote.md5:
                _say(progress, f"downloading {url}")
                _download(
                    url,
                    part,
                    remote.md5,
                    retries=retries,
                    timeout=timeout,
                    backoff=backoff,
                    progress=progress,
                )
                os.replace(part, path)
                _say(progress, f"downloaded {path}, {path.stat().st_size / 1e6:.1f} MB")
    except FetchError:
        raise
    except OSError as error:
        raise FetchError(f"{error.filename or part}: {error.strerror or error}") from error
    return path


def _remote_file(file: str | RemoteFile) -> RemoteFile:
    if isinstance(file, RemoteFile):
        return file
    if file not in FILES:
        raise ValueError(f"file: wanted one of {', '.join(FILES)}, got {file!r}")
    return FILES[file]


def _download(
    url: str,
    part: Path,
    md5: str,
    *,
    retries: int,
    timeout: float,
    backoff: float,
    progress: bool,
) -> None:
    """Completes the part and checks its sum, or raises a FetchError."""
    failures, wrong_sums = 0, 0
    while wrong_sums < 2:
        try:
            _transfer(url, part, timeout=timeout, progress=progress)
        except _TransientError as error:
            if failures == retries:
                kept = f"; the next download continues from {part}" if part.exists() else ""
                raise FetchError(f"{url}: {error}, tries: {failures + 1}{kept}") from error
            # From 2^20 on, the longest wait applies anyway, and a larger power may overflow.
            wait = min(backoff * 2 ** min(failures, 20), _LONGEST_WAIT)
            failures += 1
            _say(progress, f"{url}: {error}; retry {failures} of {retries} in {wait:g} s")
            time.sleep(wait)
            continue
        found = _md5(part)
        if found == md5:
            return
        # The first bytes may be from another content. The next try starts from zero.
        part.unlink()
        wrong_sums += 1
        _say(progress, f"{url}: wanted MD5 {md5}, got {found}; removed the received bytes")
    raise FetchError(f"{url}: wanted MD5 {md5}, got {found}")


def _transfer(url: str, part: Path, *, timeout: float, progress: bool) -> None:
    """Appends the missing bytes to the part, until the server has sent all.

    It sends no If-Range header, so that another mirror can complete a part. The sum alone tells
    whether both pieces are of the right content.
    """
    offset = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "nst_jax"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with _network(url, timeout=timeout):
        try:
            request = urllib.request.Request(url, headers=headers)
            response = urllib.request.urlopen(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                error.close()
                # The server has no bytes after the part: it is complete, or of another content.
                return
            raise
    with response:
        start, end = _extent(response)
        if start is None or start > offset:
            # The answer leaves a gap after the part. The next try asks for the whole file.
            part.unlink(missing_ok=True)
            given = response.headers.get("Content-Range")
            raise _TransientError(f"wanted bytes from {offset} on, got Content-Range {given!r}")
        if start:
            _say(progress, f"{part.stem}: continuing from {start / 1e6:.1f} MB")
        with (
            open(part, "r+b" if start else "wb") as file,
            tqdm(
                desc=part.stem,
                initial=start,
                total=end,
                unit="B",
                unit_scale=True,
                dynamic_ncols=True,
                disable=None if progress else True,  # None: off if stderr is not a terminal
            ) as bar,
        ):
            file.seek(start)
            position = start
            while end is None or position < end:
                size = _CHUNK if end is None else min(_CHUNK, end - position)
                with _network(url, timeout=timeout):
                    chunk = response.read1(size)
                if not chunk:
                    break
                file.write(chunk)
                file.flush()  # so that a killed process leaves all received bytes
                position += len(chunk)
                bar.update(len(chunk))
            os.fsync(file.fileno())
    if end is not None and position < end:
        raise _TransientError(f"the connection closed at byte {position} of {end}")


def _extent(response: http.client.HTTPResponse) -> tuple[int | None, int | None]:
    """Returns the byte where the answer starts, and the size of the file. None is unknown.

    A server may start earlier than asked, at a block boundary.
    """
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    given = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", given)
    if match is None:
        return None, None
    return int(match[1]), int(match[2]) + 1 if match[3] == "*" else int(match[3])


@contextlib.contextmanager
def _network(url: str, *, timeout: float) -> Iterator[None]:
    """Turns errors of the transfer into a FetchError or a _TransientError."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"HTTP status {error.code} {error.reason}".rstrip()
        if error.code >= 500 or error.code in _TRY_AGAIN:
            raise _TransientError(reason) from error
        raise FetchError(f"{url}: {reason}") from error
    except (ValueError, http.client.InvalidURL) as error:
        raise FetchError(f"{url}: not an address: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)  # urllib wraps what failed while connecting
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise FetchError(f"{url}: certificate refused: {cause.verify_message}") from error
        if isinstance(cause, TimeoutError):
            raise _TransientError(f"no answer for {timeout:g} s") from error
        said = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise _TransientError(said) from error


@contextlib.contextmanager
def _exclusive(path: Path, *, progress: bool) -> Iterator[None]:
    """Holds the lock file at the path. Waits if another process holds it."""
    with open(path, "ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say(progress, f"{path.stem}: another process is downloading it; waiting")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _md5(path: Path) -> str | None:
    """Returns the MD5 sum of a file in hexadecimal, or None if there is no file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except FileNotFoundError:
        return None


def _say(progress: bool, text: str) -> None:
    if progress:
        print(text, file=sys.stderr, flush=True)
