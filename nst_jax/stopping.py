"""Ending a run by a signal, after the step that it is in."""

import os
import signal
import sys
import threading

import jax


class Stopped(Exception):
    """A run was ended because it was asked to."""


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
        # Of several processes each may be told at another step: a signal ends them at once. And
        # Python hears signals in the main thread only.
        if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
            return self
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number, _):
        self.received = number
        for again in SIGNALS:  # by the system itself: Python may be waiting for a long step
            signal.signal(again, signal.SIG_DFL)
        # Not through Python's buffer, which the signal may have interrupted.
        os.write(
            sys.__stderr__.fileno(), b"\nstopping after this step; once more to stop at once\n"
        )

    @property
    def name(self) -> str:
        return signal.Signals(self.received).name

    @property
    def exit_code(self) -> int:
        """By the shell's convention 128 and the number of the signal."""
        return 128 + self.received
