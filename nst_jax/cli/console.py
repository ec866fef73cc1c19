"""Messages of the command on stderr. With `--quiet`, only errors are shown."""

import contextlib
import logging
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from absl import flags

_quiet = False


def be_quiet(quiet: bool) -> None:
    """Sets whether only errors are shown from now on."""
    global _quiet
    _quiet = quiet


def shows_progress() -> bool:
    """Whether to draw progress bars: on a terminal, and without `--quiet`."""
    return sys.stderr.isatty() and not _quiet


def say(line: str) -> None:
    """Shows a line to the user, except with `--quiet`."""
    if not _quiet:
        print(line, file=sys.stderr, flush=True)


def complain(line: str) -> None:
    """Shows an error to the user, also with `--quiet`."""
    print(f"nst-jax: {line}", file=sys.stderr, flush=True)


class Warnings(logging.Handler):
    """Shows what the package logs in the form of the command's own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"nst-jax: {' '.join(record.getMessage().split())}")


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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
