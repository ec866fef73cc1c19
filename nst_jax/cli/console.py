"""Messages of the command on stderr. With `--quiet`, only errors are shown."""

import contextlib
import logging
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import IO, NoReturn

from absl import flags

_quiet = False
_reader_left = False


def be_quiet(quiet: bool) -> None:
    """Sets whether only errors are shown from now on."""
    global _quiet
    _quiet = quiet


def shows_progress() -> bool:
    """Whether to draw progress bars: on a terminal, and without `--quiet`."""
    return STDERR.isatty() and not _quiet


def say(line: str) -> None:
    """Shows a line to the user, except with `--quiet`."""
    if not _quiet:
        STDERR.write(f"{line}\n")


def complain(line: str) -> None:
    """Shows an error to the user, also with `--quiet`."""
    STDERR.write(f"nst-jax: {line}\n")


def reader_left() -> bool:
    """Whether the reader of stderr has closed its pipe, as `head` does. A run then stops."""
    return _reader_left


class _Stderr:
    """stderr, whose failures end no run: its terminal may be closed, or its disk may be full."""

    encoding = "utf-8"

    def write(self, text: str) -> None:
        """Writes a text at once."""
        global _reader_left
        if sys.stderr is None:  # closed before the start; `print` would take stdout
            return
        try:
            print(end=text, file=sys.stderr, flush=True)
        except OSError as error:
            _reader_left |= isinstance(error, BrokenPipeError)
            _discard(sys.stderr)

    def flush(self) -> None:
        """Does nothing: `write` leaves nothing behind."""

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return sys.stderr is not None and sys.stderr.isatty()

    def fileno(self) -> int:
        """The number of its file, for whoever asks for the width of the terminal."""
        return sys.stderr.fileno()


STDERR = _Stderr()


def _discard(stream: IO[str]) -> None:
    """Lets a stream go nowhere from now on, so that Python can close it at the end."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Warnings(logging.Handler):
    """Shows what the package logs in the form of the command's own lines, each line once.

    A data set may read a file many times.
    """

    def __init__(self):
        super().__init__()
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(record.getMessage().split())
        if line not in self._shown:
            self._shown.add(line)
            say(f"nst-jax: {line}")


def read_flags(argv: Sequence[str]) -> list[str]:
    """Reads the flags of a script, as `flags_parser` of `absl.app.run`, and returns the rest.

    Bad flags end the process with one line on stderr. Absl itself ends `--help` with the exit code
    of an error; here it is 0.
    """
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"{pathlib.Path(argv[0]).stem}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except (SystemExit, BrokenPipeError):  # absl's help flags end the process
        leave()


def leave() -> NoReturn:
    """Ends the process with success, also if the reader of stdout, such as `head`, has left."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)
    sys.exit(0)


@contextlib.contextmanager
def stdout_on_stderr() -> Iterator[None]:
    """Sends to stderr what C++ libraries print on stdout, because stdout is for answers."""
    print(end="", flush=True)
    try:
        kept = os.dup(1)
    except OSError:  # stdout is closed
        yield
        return
    try:
        with contextlib.suppress(OSError):  # stderr may be closed
            os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats rows as columns. The first and the last are aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    aligned = [
        [
            cell.ljust(width) if index in (0, len(widths) - 1) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in (headings, *rows)
    ]
    return "\n".join("  ".join(row).rstrip() for row in aligned)
