"""Signals that end a run: the first stops it after its step, the second ends it at once."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import jax

from nst_jax.cli import console
from nst_jax.cli.console import complain

# A closed terminal sends SIGHUP.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A run ended because a signal asked it to.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells have it."""
        return 128 + self.number


class Stopping:
    """Inside this context, the first of `SIGNALS` asks to stop, and a second one ends it.

    A closed terminal may send SIGHUP twice, so a second SIGHUP changes nothing. If the reader of
    stderr closes its pipe, that counts as SIGPIPE, which Python does not receive.

    Python handles signals only between its own instructions, not during a compilation or a long
    step. Therefore a thread reads them from `signal.set_wakeup_fd`. Signals that were ignored
    before stay ignored.

    Attributes:
      signalled: the number of the first signal, or None.
    """

    def __init__(self):
        self.signalled: int | None = None
        self._before: dict[int, Any] = {}  # the handlers, as `signal.signal` returns them

    def __enter__(self):
        # Signals may reach several processes at different steps, so there they end a run at once.
        # Python lets only the main thread handle signals.
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

    @property
    def received(self) -> int | None:
        """The number of the signal that asks to stop, or None."""
        if self.signalled is None and console.reader_left() and jax.process_count() == 1:
            return signal.SIGPIPE
        return self.signalled

    def __exit__(self, *_):
        if self._before:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            self._systems.close()  # which ends the listener
            self._listener.join()
            self._ours.close()
            self._before = {}

    def _listen(self) -> None:
        """Waits for signals, in a thread of its own."""
        while byte := self._ours.recv(1):
            number = byte[0]
            if number not in self._before:
                continue
            if self.signalled is None:
                self.signalled = number
                console.STDERR.write("\nstopping after this step; a second signal stops at once\n")
            elif number != signal.SIGHUP:
                os._exit(Stopped(number).exit_code)

    def check(self) -> None:
        """Ends the run if a signal asked for it.

        Raises:
          Stopped: a signal did.
        """
        if self.received is not None:
            raise Stopped(self.received)


def run_until_stopped(work: Callable[[Stopping], int], *, left: str) -> int:
    """Runs `work` until it is done or a signal stops it, and returns the exit code.

    Args:
      work: does a job and returns its exit code.
      left: the end of the message about a signal; it says what state the job is left in.
    """
    stopping = Stopping()
    try:
        with stopping:
            return work(stopping)
    except Stopped as stopped:
        complain(f"{stopped}, {left}")
        return stopped.exit_code
