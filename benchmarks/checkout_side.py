"""Paints with the presets of any checkout of nst_jax, for `benchmarks.defaults`.

It runs as a script in its own process, with the checkout on `PYTHONPATH`, so it uses only what
every version of the package has. It reads one task per line from stdin, as JSON:

    {"content": FILE.npy, "style": FILE.npy, "preset": NAME, "changes": {...}, "output": FILE.npy}

It answers each with a line of JSON on stdout: `seconds` of a whole call of `stylize` with all
programs compiled, `setup_seconds` of the call that compiled them, and `losses` of each scale from
the first to the last step.
"""

import json
import sys
import time

import jax
import numpy as np

import nst_jax


def few(steps):
    """The fewest steps that compile all programs of a run: a whole chunk and a rest."""
    chunk = nst_jax.optimize.steps_per_dispatch()
    return chunk * bool(steps // chunk) + bool(steps % chunk)


def paint(params, task):
    config = nst_jax.presets[task["preset"]].replace(**task["changes"])
    content, style = np.load(task["content"]), np.load(task["style"])
    jax.clear_caches()  # each picture pays for its compilation
    setup = -time.perf_counter()
    first_steps = config.first_steps and few(config.first_steps)
    short = config.replace(steps=few(config.steps), first_steps=first_steps)
    jax.block_until_ready(nst_jax.stylize(params, content, [style], short).images)
    setup += time.perf_counter()
    scales = []

    def note(progress):
        size = list(progress.images.shape[1:3])
        if not scales or scales[-1]["size"] != size:
            scales.append({"size": size, "losses": []})
        scales[-1]["losses"] += np.asarray(progress.terms["total"])[:, 0].tolist()

    seconds = -time.perf_counter()
    result = nst_jax.stylize(params, content, [style], config, callback=note)
    picture = np.asarray(result.images[0])
    seconds += time.perf_counter()
    np.save(task["output"], picture)
    losses = [scale["losses"] for scale in scales]
    return {"seconds": seconds, "setup_seconds": setup, "losses": losses}


def main():
    params = nst_jax.load_params("vgg19")
    for line in sys.stdin:
        print(json.dumps(paint(params, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
