"""Ending a run by a signal, after the step that it is in."""

import os
import signal
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """While it is entered, the first SIGINT or SIGTERM only asks to stop, the next one does it.

    Attributes:
      received: the number of the signal that asked, or None.
    """

    def __init__(self):
        self.received: int | None = None
        self._before = {}

    def __enter__(self):
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number, _):
        self.received = number
        self.__exit__()
        # Not through Python's buffer, which the signal may have interrupted.
        os.write(
            sys.__stderr__.fileno(), b"\nstopping after this step; once more to stop at once\n"
        )

    @property
    def exit_code(self) -> int:
        """By the shell's convention 128 and the number of the signal."""
        return 128 + self.received
