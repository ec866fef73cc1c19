"""Traces of a few steps, recorded by JAX's profiler."""

import os
from collections.abc import Sequence

import jax

from nst_jax.cli.look.observers import Observer, Pictures
from nst_jax.optimize import Progress

TRACED = 3  # steps


class Profile(Observer):
    """Traces a few steady steps of a run with JAX's profiler.

    The first two dispatches of a program are not steady, because the first one compiles it. The
    trace holds the next dispatches, at least `TRACED` steps together. A coarse-to-fine run is
    traced at its last scale. The trace is written below `plugins/profile/<time>/` of the folder,
    for XProf. `perfetto_trace.json.gz` in the same place is for Perfetto.

    Source: https://docs.jax.dev/en/latest/profiling.html.

    Attributes:
      traced: number of steps in the trace.
    """

    def __init__(self, folder: str | os.PathLike[str], size: Sequence[int]):
        """Makes the folder if it does not exist.

        Args:
          folder: the folder for the trace.
          size: height and width of the pictures at the last scale.

        Raises:
          ValueError: the folder cannot be made.
        """
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"profile_dir must be a folder, or a place for one, got {str(folder)!r}: "
                f"{error.strerror}"
            ) from error
        self._folder, self._size = folder, tuple(size)
        self._program: tuple[int, tuple[int, ...]] | None = None
        self._dispatches = 0
        self._tracing, self.traced = False, 0

    def __call__(self, progress: Progress, pictures: Pictures | None = None) -> None:
        length = len(progress.terms["total"])
        program = (length, progress.images.shape)
        self._dispatches = self._dispatches + 1 if program == self._program else 1
        self._program = program
        # The remaining steps at the end are dispatched one by one, by a program of their own.
        ends = progress.steps - progress.step < length
        if self._tracing:
            self.traced += length
            if ends or self.traced >= TRACED:
                self.close(None)
            return
        last_scale = progress.images.shape[1:3] == self._size
        if last_scale and self._dispatches == 2 and not (self.traced or ends):
            self._tracing = True
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)

    def close(self, error: BaseException | None) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
