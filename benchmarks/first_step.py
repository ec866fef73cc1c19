"""One start of the API in its own process, for `start_up`; prints its times as a line of JSON.

python -m benchmarks.first_step MODEL SIZE STYLES MOMENT_OF_START
"""

import itertools
import sys
import time
from collections.abc import Iterable

import numpy as np

# JAX's events, and the time that each belongs to.
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace_seconds",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "trace_seconds",
    "/jax/core/compile/backend_compile_duration": "compile_seconds",
}


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans (start, end), which may nest or overlap."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def pictures(size: int, styles: int) -> list[np.ndarray]:
    """A content and styles, drawn in `size` x `size` pixels."""
    from nst_jax import examples  # the import of the package is timed

    names = ["butterfly", *itertools.islice(itertools.cycle(("rainbow", "triangles")), styles)]
    return [examples.by_name[name](size) for name in names]


class _Done(Exception):
    """The first dispatch has come back."""


def main(model: str, size: str, styles: str, started: str) -> None:
    import nst_jax

    imported = time.time()
    import jax

    params = jax.block_until_ready(nst_jax.load_params(model))
    loaded = time.time()
    # Drawing is not timed: it stands for reading files, which takes almost no time.
    content, *drawn = pictures(int(size), int(styles))
    config = nst_jax.presets["default"].replace(size=int(size))

    def stop(_):
        raise _Done

    spans = {part: [] for part in EVENTS.values()}

    def listen(event: str, seconds: float, **_) -> None:
        if part := EVENTS.get(event):
            now = time.time()
            spans[part].append((now - seconds, now))

    jax.monitoring.register_event_duration_secs_listener(listen)
    ready = time.time()
    try:
        nst_jax.stylize(params, content, drawn, config, callback=stop)
    except _Done:
        stepped = time.time()
    import json

    from benchmarks import common

    moments = {
        "import_seconds": imported - float(started),
        "load_seconds": loaded - imported,
        "first_step_seconds": stepped - ready,
        **{part: covered(each) for part, each in spans.items()},
    }
    print(json.dumps({"moments": moments, "environment": common.environment()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
