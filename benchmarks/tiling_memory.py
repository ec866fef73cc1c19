"""Memory and time of a step against the picture's size, tiled and whole.

    python -m benchmarks.tiling_memory --sizes=1024x768,2048x1536 --tiles=512,whole

Each measurement has a process of its own, so that its peak is its own. 24 megapixels, alone on
the machine, with the operating system's word for it beside ours:

    /usr/bin/time -v python -m benchmarks.tiling_memory --sizes=6000x4000 --tiles=512 --steps=1

The peak is the resident set's (Linux); on an accelerator its own stands in a further column.
A step's time is the last step's; of a single step it includes compiling.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags

import nst_jax
from benchmarks import common

GIB = 2**30

FLAGS = {
    "sizes": (flags.DEFINE_list, ["512x384", "1024x768", "1536x1024"], "Pictures, width x height."),
    "tiles": (flags.DEFINE_list, ["512", "whole"], "Tiles in pixels, or whole."),
    "steps": (common.positive, 2, "Steps of each measurement."),
    "model": (flags.DEFINE_string, "vgg19", "vgg16 or vgg19."),
    "optimizer": (flags.DEFINE_string, "sgd", "sgd, adam or lbfgs (with a memory of five steps)."),
    "json": (flags.DEFINE_string, None, "File for the measurements."),
    "here": (flags.DEFINE_boolean, False, "The one measurement in this process, a line of JSON."),
}


def measure(options: flags.FlagValues, size: str, tile: str) -> dict:
    """Steps on one picture of noise, in this process."""
    width, height = map(int, size.split("x"))
    rng = np.random.default_rng(0)
    content = rng.random((height, width, 3), np.float32)
    style = rng.random((128, 128, 3), np.float32)
    config = nst_jax.Config(size=None, steps=options.steps, optimizer=options.optimizer, memory=5)
    times = [time.perf_counter()]
    result = nst_jax.stylize(
        nst_jax.load_params(options.model),
        content,
        [style],
        config,
        tile=None if tile == "whole" else int(tile),
        callback=lambda _: times.append(time.perf_counter()),
    )
    if result.diverged.any():
        raise ArithmeticError("a step was not finite")
    found = {"seconds": times[-1] - times[-2], "peak_bytes": peak()}
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        found["device_peak_bytes"] = device.memory_stats()["peak_bytes_in_use"]
    return found


def peak() -> int:
    """Largest resident set of this process so far, in bytes."""
    # Of this program alone; getrusage's would include what started it, before exec.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status names no VmHWM")


def in_a_process(options: flags.FlagValues, size: str, tile: str) -> dict:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.tiling_memory", "--here"]
    command += [f"--sizes={size}", f"--tiles={tile}"]
    command += [f"--{name}={options[name].value}" for name in ("steps", "model", "optimizer")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:  # killed for its memory, for one
        return {"error": f"exit code {done.returncode}"}
    return json.loads(done.stdout)


def main(options: flags.FlagValues) -> None:
    if options.here:
        try:
            found = measure(options, options.sizes[0], options.tiles[0])
        except (ValueError, ArithmeticError, jax.errors.JaxRuntimeError) as error:
            found = {"error": str(error).splitlines()[0]}
        print(json.dumps(found))
        return
    report = common.environment() | {"steps": options.steps, "model": options.model}
    report |= {"optimizer": options.optimizer, "measurements": []}
    common.print_environment(report)
    print(common.row(["picture", "tile"], ["megapixels", "peak GiB", "bytes/px", "s a step"]))
    for size in options.sizes:
        width, height = map(int, size.split("x"))
        for tile in options.tiles:
            found = in_a_process(options, size, tile)
            report["measurements"].append({"size": size, "tile": tile, **found})
            cells = [f"{width * height / 1e6:.2f}"]
            if "error" in found:
                cells.append(found["error"])
            else:
                for name in ("peak_bytes", "device_peak_bytes"):
                    if name in found:
                        cells.append(f"{found[name] / GIB:.2f}")
                cells.insert(2, f"{found['peak_bytes'] / (width * height):.0f}")
                cells.insert(3, f"{found['seconds']:.2f}")
            print(common.row([size, tile], cells), flush=True)
    if options.json:
        common.write_json(options.json, report)


if __name__ == "__main__":
    common.run_command("tiling_memory", FLAGS, main)
