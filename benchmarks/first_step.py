"""One start of the API in its own process, for `start_up`; prints its times as a line of JSON.

python -m benchmarks.first_step MODEL SIZE STYLES MOMENT_OF_START
"""

import sys
import time


class _Done(Exception):
    """The first dispatch has come back."""


def main(model: str, size: str, styles: str, started: str) -> None:
    import nst_jax

    imported = time.time()
    import jax

    params = jax.block_until_ready(nst_jax.load_params(model))
    loaded = time.time()
    from nst_jax import examples

    # Drawing is not timed: it stands for reading files, which takes almost no time.
    content, *pictures = (
        examples.by_name[name](int(size)) for name in ("butterfly", "rainbow", "triangles")
    )
    pictures = [pictures[index % len(pictures)] for index in range(int(styles))]
    config = nst_jax.presets["default"].replace(size=int(size))

    def stop(_):
        raise _Done

    ready = time.time()
    try:
        nst_jax.stylize(params, content, pictures, config, callback=stop)
    except _Done:
        stepped = time.time()
    import json

    from benchmarks import common

    moments = {
        "import_seconds": imported - float(started),
        "load_seconds": loaded - imported,
        "first_step_seconds": stepped - ready,
    }
    print(json.dumps({"moments": moments, "environment": common.environment()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
