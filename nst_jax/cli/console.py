"""Messages of the command on stderr. With `--quiet`, only errors are shown.

Names of files stand in the messages as they are, byte by byte. Only control characters are escaped,
because they could move the terminal's cursor.
"""

import codecs
import contextlib
import logging
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import IO, NoReturn

from absl import flags

_quiet = False
_reader_left = False

# Control characters; a byte that is one on terminals of 8 bits and is no UTF-8, as Python decodes
# it; and surrogates that stand for no byte.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udc9f\udd00-\udfff]")


def escaped(text: str) -> str:
    """Returns a text for the terminal, with control characters as \\n, \\x1b and so on."""
    return _CONTROL.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udc9f":
        return f"\\x{ord(character) - 0xDC00:x}"
    return character.encode("unicode_escape").decode()


def shell_line(arguments: Sequence[str]) -> str:
    """Returns arguments as a line for a shell, which gives the same arguments again.

    Arguments with control characters are quoted as in bash, ksh and zsh: $'...'.
    """
    return " ".join(map(_quoted, arguments))


def _quoted(argument: str) -> str:
    if not _CONTROL.search(argument):
        return shlex.quote(argument)
    # As \u0085, because \x85 would be a byte.
    bare = re.sub(r"[\\']", r"\\\g<0>", argument)
    bare = re.sub("[\x80-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", bare)
    return f"$'{escaped(bare)}'"


def show_names_as_they_are() -> None:
    """Lets stdout and stderr take the bytes of names that are no text in the user's encoding."""
    codecs.register_error("nst_jax.bytes", _as_bytes)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="nst_jax.bytes")  # pyright: ignore[reportAttributeAccessIssue]


def _as_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encodes one character: a byte that was decoded as a surrogate, or an escape."""
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return _escape(character), error.start + 1


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
        STDERR.write(f"{escaped(line)}\n")


def complain(line: str) -> None:
    """Shows an error to the user, also with `--quiet`."""
    STDERR.write(f"nst-jax: {escaped(line)}\n")


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
        line = record.getMessage()
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


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Formats rows as lines. The first and the last column are aligned left, the others right."""
    headings, *rows = [list(map(escaped, row)) for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    aligned = [
        [
            cell.ljust(width) if index in (0, len(widths) - 1) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in (headings, *rows)
    ]
    return ["  ".join(row).rstrip() for row in aligned]
