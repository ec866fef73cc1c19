"""What the command says while it works: lines on stderr, of which `--quiet` leaves the errors."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence

_quiet = False


def be_quiet(quiet: bool) -> None:
    """From now on, whether nothing but errors is said."""
    global _quiet
    _quiet = quiet


def shows_progress() -> bool:
    """Whether bars that are drawn over and over have a place: a terminal, and not `--quiet`."""
    return sys.stderr.isatty() and not _quiet


def say(line: str) -> None:
    """A line for whoever runs the command."""
    if not _quiet:
        print(line, file=sys.stderr, flush=True)


def complain(line: str) -> None:
    """A line on what went wrong."""
    print(f"nst-jax: {line}", file=sys.stderr, flush=True)


class Warnings(logging.Handler):
    """Says what the package logs, in the words of everything else that the command says."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"nst-jax: {' '.join(record.getMessage().split())}")


@contextlib.contextmanager
def stdout_on_stderr() -> Iterator[None]:
    """Sends what libraries in C++ print onto stdout, which is for answers, to stderr."""
    print(end="", flush=True)
    try:
        kept = os.dup(1)
    except OSError:  # it is closed
        yield
        return
    try:
        with contextlib.suppress(OSError):  # or stderr is
            os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, the first and the last to the left, others right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    aligned = [
        [
            cell.ljust(width) if index in (0, len(widths) - 1) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in (headings, *rows)
    ]
    return "\n".join("  ".join(row).rstrip() for row in aligned)
