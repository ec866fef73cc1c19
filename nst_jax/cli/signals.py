"""Signals that end a run: the first one asks it to stop after its step, the second one ends it."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

import jax

from nst_jax.cli.console import complain

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A run was ended because it was asked to."""


class Stopping:
    """While it is entered, the first SIGINT or SIGTERM only asks to stop, the next one does it.

    Python itself hears signals between its own instructions only, not in a compilation or a long
    step, so a thread listens to what the system tells `signal.set_wakeup_fd`. Signals that were
    ignored before stay so.

    Attributes:
      received: the number of the signal that asked, or None.
    """

    def __init__(self):
        self.received: int | None = None
        self._before = {}

    def __enter__(self):
        # Of several processes each may be told at another step: a signal ends them at once. And
        # only the main thread may deal with signals.
        if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
            return self
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        if not heard:
            return self
        self._ours, self._systems = socket.socketpair()
        self._systems.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._systems.fileno(), warn_on_full_buffer=False)
        for number in heard:
            self._before[number] = signal.signal(number, lambda *_: None)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        return self

    def __exit__(self, *_):
        if self._before:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            self._systems.close()  # which ends the listener
            self._listener.join()
            self._ours.close()
            self._before = {}

    def _listen(self):
        while byte := self._ours.recv(1):
            number = byte[0]
            if number not in self._before:
                continue
            if self.received is not None:
                os._exit(128 + number)
            self.received = number
            print(
                "\nstopping after this step; once more to stop at once",
                file=sys.stderr,
                flush=True,
            )

    def check(self) -> None:
        """Ends the run, if it was asked to.

        Raises:
          Stopped: it was.
        """
        if self.received is not None:
            raise Stopped(f"stopped by {self.name}")

    @property
    def name(self) -> str:
        return signal.Signals(self.received).name

    @property
    def exit_code(self) -> int:
        """By the shell's convention 128 and the number of the signal."""
        return 128 + self.received


def run(work: Callable[[Stopping], int], *, left: str) -> int:
    """Does the `work` of a job and returns its exit code. A first SIGINT or SIGTERM ends it after
    the step that it is in; `left` says in what state."""
    stopping = Stopping()
    try:
        with stopping:
            return work(stopping)
    except Stopped:
        complain(f"stopped by {stopping.name}, {left}")
        return stopping.exit_code
