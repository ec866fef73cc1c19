"""Running jobs of the command line, over given pictures and over data sets alike.

A job divides its pictures into paintings, each of one call of `stylize`. What there is around that
call stands here: devices, the check of memory, checkpoints and observers, another attempt where
pictures diverge, and what is left where memory runs out, a disk is full or a signal ends the run.
"""

import contextlib
import dataclasses
import importlib.metadata
import itertools
import os
import pathlib
import platform
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import jax
import numpy as np

from nst_jax import files, preflight, sharding
from nst_jax.checkpoints import Checkpoints
from nst_jax.config import Config
from nst_jax.console import complain, say
from nst_jax.objective import Combine
from nst_jax.observers import Group, Observers
from nst_jax.partition import Placement
from nst_jax.stylize import Result, steps_at_scales, stylize
from nst_jax.version import __version__

DIVERGED = 3


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


def environment(*, packages: Iterable[str] = ()) -> dict:
    """Device and versions, also of further `packages`, for the record."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", *packages)
    return {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "versions": {"python": platform.python_version(), "nst_jax": __version__}
        | {package: importlib.metadata.version(package) for package in packages},
    }


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for by jobs of all kinds.

    Attributes:
      config: the settings.
      initial: a picture to start from, or None.
      seed: of the random key.
      placement: where pictures are looked at, but for the mesh.
      mesh: sizes of the mesh's axes; None is as `sharding.make_mesh` divides by itself.
      apart: whether each of several processes computes by itself, on its own devices.
    """

    config: Config
    initial: np.ndarray | None = None
    seed: int = 0
    placement: Placement = Placement()
    mesh: Mapping[str, int] | None = None
    apart: ClassVar[bool] = False

    def settings(self) -> dict:
        """What config.json says of the settings and of what they are computed with."""
        placed = {name: getattr(self.placement, name) for name in ("tile", "remat", "strips")}
        placed["mesh"] = self.mesh and dict(self.mesh)
        network = self.config.network
        if hasattr(network, "resolved"):  # what None stood for here, whatever it will later
            network = network.resolved()
        config = self.config.replace(network=network)
        return placed | {"config": config.to_dict(), **environment()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Painting:
    """Outputs that one call of `stylize` makes.

    Attributes:
      group: the outputs, and their contents, all of one shape.
      styles: `[h, w, 3]`; of theirs and of the contents' pictures the check of memory needs no
        more than the shapes.
      combine: how contents and styles are combined.
      sweep: what is explored, a number for each output.
      hint: what else takes less memory, to end the advice with.
      name: of the folder of its checkpoints.
    """

    group: Group
    styles: Sequence[np.ndarray]
    combine: Combine
    sweep: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    hint: str = ""
    name: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runner:
    """Makes the paintings of a job.

    Attributes:
      job, params: what is asked for, and the network.
      stopping: asks for the end.
      saving: gives the checkpoints by the name of a painting and its attempt.
      retries: how often pictures that diverged are painted again, at a tenth of the learning rate
        each time.
    """

    job: Job
    params: Mapping
    stopping: Stopping
    saving: Callable[[str], Checkpoints] = lambda name: Checkpoints(None, {})
    retries: int = 0

    def check_memory(self, paintings: Iterable[Painting]) -> None:
        """Refuses paintings of which one would not fit into memory.

        Raises:
          preflight.DoesNotFit: it would not.
        """
        available = preflight.available_bytes()
        if not self.job.apart:  # they compile together, and refuse together
            available = sharding.least(available)
        for painting in paintings:
            try:
                self._plan(painting).check(available=available)
            except preflight.DoesNotFit as error:
                raise preflight.DoesNotFit(f"{error}{painting.hint}") from error

    def paint(
        self,
        painting: Painting,
        watch: Observers,
        *,
        keep: Callable[[np.ndarray], Iterable[pathlib.Path]] | None = None,
    ) -> Result:
        """Paints, again where outputs diverge. Whoever calls it tells `watch` of the end. Where
        the run ends too early `keep` writes the pictures as they are; None lets them go.

        Raises:
          Stopped: by a signal; the pictures are kept.
          ValueError: out of memory, or a file that cannot be written; the last pictures are kept.
        """
        sweep = dict(painting.sweep)
        rates = sweep.get("learning_rate", self.job.config.optimizer.learning_rate)
        rates = np.broadcast_to(rates, len(painting.group.stems))
        for attempt in range(self.retries + 1):
            result = self._attempt(painting, sweep, attempt, watch, keep)
            if attempt == self.retries or not result.diverged.any():
                break
            if keep is not None:
                keep(np.asarray(result.images))
            self.stopping.check()
            again = itertools.compress(painting.group.stems, result.diverged)
            complain(f"{', '.join(again)}: diverged, once more at a tenth of the learning rate")
            # All of them in the same program: the others come out as they did.
            rates = np.where(result.diverged, rates / 10, rates)
            sweep["learning_rate"] = rates
        return result

    def _attempt(self, painting, sweep, attempt, watch, keep) -> Result:
        leads = self.job.apart or jax.process_index() == 0
        steps, latest = sum(steps_at_scales(self.job.config)), None

        def follow(progress):
            nonlocal latest
            if keep is not None and jax.process_count() == 1:
                latest = np.array(progress.images)
            observers(progress)
            if self.stopping.received and progress.step < progress.steps:
                if keep is not None:
                    keep(latest)
                checkpoints.save(progress)
                checkpoints.wait()
                self.stopping.check()

        try:
            again = f"-again{attempt}" if attempt else ""
            with self.saving(f"{painting.name}{again}") as checkpoints:
                # Checkpoints first: a run is theirs before it leaves anything in its folder.
                observers = watch.after(checkpoints)
                resume = checkpoints.latest()
                if resume is not None and leads:
                    passed = [f"checkpoint of step {n} is damaged: " for n in checkpoints.damaged]
                    say(f"{''.join(passed)}going on from step {resume.step} of {steps}")
                group = painting.group._replace(
                    history=resume and resume.history, steps=steps, attempt=attempt
                )
                try:
                    observers.begin(group)
                    return stylize(
                        self.params,
                        [content.image for content in group.contents],
                        painting.styles,
                        self.job.config,
                        sweep=sweep,
                        combine=painting.combine,
                        key=jax.random.key(self.job.seed),
                        initial=self.job.initial,
                        resume=resume,
                        callback=follow,
                        placement=self._placement(len(group.stems)),
                        on_window=observers.window,
                    )
                finally:
                    observers.pause()
        except (jax.errors.JaxRuntimeError, MemoryError, files.FileError) as error:
            full = isinstance(error, files.FileError)
            if not (full or preflight.ran_out(error)) or not leads:
                raise
            if latest is not None:
                # Their folder may be what cannot be written to: that is told already.
                with contextlib.suppress(files.FileError):
                    for path in keep(latest):
                        say(f"wrote {path}")
            if full:
                raise
            advice = self._plan(painting).advice()
            raise ValueError(f"out of memory: {advice}{painting.hint}") from error

    def _plan(self, painting: Painting) -> preflight.Plan:
        contents, outputs = painting.group.contents, len(painting.group.stems)
        masks = painting.combine.masks
        return preflight.Plan(
            params=self.params,
            shape=contents[0].image.shape[:2],
            outputs=outputs,
            config=self.job.config,
            sweep=painting.sweep,
            styles=[style.shape[:2] for style in painting.styles],
            contents=len(contents),
            regions=0 if masks is None else masks.shape[1],
            placement=self._placement(outputs),
        )

    def _placement(self, outputs: int) -> Placement:
        """Where so many outputs are made: on all devices, if there are several."""
        if self.job.placement.tile is not None and self.job.mesh is None:
            return self.job.placement
        devices = jax.local_devices() if self.job.apart else None
        mesh = sharding.make_mesh(outputs, sizes=self.job.mesh, devices=devices)
        return self.job.placement.replace(mesh=mesh)
