"""A trace of a few steady steps of a run, by JAX's profiler."""

import os
from collections.abc import Sequence

import jax

from nst_jax.optimize import Progress

STEPS = 3


class Profile:
    """Traces steps of a run that it follows as a callback; a context manager.

    Steady are the dispatches of a program that has been dispatched twice: the first compiles it.
    Of a coarse-to-fine run those at the last scale are traced. The trace holds the first
    dispatches that take at least `STEPS` steps together; it lies under
    `plugins/profile/<time>/` of the folder, for XProf, and there as `perfetto_trace.json.gz`.

    Source: https://docs.jax.dev/en/latest/profiling.html.

    Attributes:
      traced: number of steps in the trace.
    """

    def __init__(self, folder: str | os.PathLike[str], size: Sequence[int]):
        """Args:
        folder: where the trace goes, made if absent.
        size: height and width of the pictures at the last scale.

        Raises:
          ValueError: no folder can be made there.
        """
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"profile_dir must be a folder, or a place for one, got {str(folder)!r}: "
                f"{error.strerror}"
            ) from error
        self._folder, self._size = folder, tuple(size)
        self._program, self._dispatches = None, 0
        self._tracing, self.traced = False, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

    def __call__(self, progress: Progress) -> None:
        length = len(progress.terms["total"])
        program = (length, progress.images.shape)
        self._dispatches = self._dispatches + 1 if program == self._program else 1
        self._program = program
        # The steps left over at the end are dispatched one by one, by a program of their own.
        ends = progress.steps - progress.step < length
        if self._tracing:
            self.traced += length
            if ends or self.traced >= STEPS:
                self.__exit__()
            return
        last_scale = progress.images.shape[1:3] == self._size
        if last_scale and self._dispatches == 2 and not (self.traced or ends):
            self._tracing = True
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
