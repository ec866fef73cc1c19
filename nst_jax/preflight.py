"""Does a run fit into memory? Asked of the compiler before the first step.

A picture to which XLA says no costs the wait for everything before it, and one to which the
operating system says no costs the process.
"""

import functools
import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from nst_jax import objective, optimize, tiling, vgg
from nst_jax.config import Config
from nst_jax.stylize import fit_shape

GIB = 2**30
TILES = (2048, 1024, 512, 256)

# Bytes a pixel of a step that no configuration's program has been seen to need: what is far below
# the memory there is by this measure is not compiled just to be measured.
CERTAINLY = 6000
# Of a tiled run: pictures, gradient, moments and the content's activations in host memory.
TILED_HOST = 300


def available_bytes() -> int | None:
    """Memory that the first device has left; of a CPU what this process may still take, by the
    operating system and by the limits of a container. None where neither says so."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        if "MemAvailable" in fields:
            found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    elif "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", ()):
        found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit, used, stat, cache in (  # control groups, version 2 and 1
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        *[
            [f"memory/memory.{name}" for name in ("limit_in_bytes", "usage_in_bytes", "stat")]
            + ["total_inactive_file"]
        ],
    ):
        paths = [Path("/sys/fs/cgroup", name) for name in (limit, used, stat)]
        if all(path.exists() for path in paths):
            texts = [path.read_text().strip() for path in paths]
            if texts[0] != "max":
                # Files kept in memory make room when it is wanted.
                kept = dict(line.split() for line in texts[2].splitlines()).get(cache, 0)
                found.append(int(texts[0]) - int(texts[1]) + int(kept))
    return min(found, default=None)


def program_bytes(
    params: Mapping, shape: tuple[int, int], outputs: int, config: Config, *, regions: int = 0
) -> int:
    """Memory of the compiled step for so many outputs of `shape` `(H, W)`, arguments included.

    Args:
      params: parameter tree of VGG16 or VGG19.
      shape: of the pictures.
      outputs: how many.
      config: of the run.
      regions: of each output's masks, if it has any.
    """
    config = config.replace(size=None, first_size=None)

    def targets(params, content):
        style = objective.style_targets(params, content, config)
        masks = None
        if regions:
            mask = jnp.zeros((regions, *content.shape[:2]))
            masks = {layer: objective.at_layer(mask, layer) for layer in config.style_layers}
            style = jax.tree.map(lambda leaf: jnp.stack([leaf] * regions), style)
        found = objective.Targets(
            content=objective.content_targets(params, content, config),
            style=style,
            masks=masks,
            picture=content if config.jitter else None,
        )
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * outputs), found)

    images = jax.ShapeDtypeStruct((outputs, *shape, 3), jnp.float32)
    wanted = jax.eval_shape(targets, params, jax.ShapeDtypeStruct((*shape, 3), jnp.float32))
    program = optimize.lower(
        objective.objective_value,
        images,
        config,
        shared=(jax.eval_shape(functools.partial(objective.prepare, config=config), params),),
        each=(wanted, optimize.batch_numbers(config, outputs)),
    )
    return optimize.compiled_bytes(program.compile())


def check(
    params: Mapping,
    shape: tuple[int, int],
    outputs: int,
    config: Config,
    *,
    regions: int = 0,
    available: int | None = None,
) -> None:
    """Refuses a run whose last scale would not fit into memory, untiled and on one device.

    Args:
      params, outputs, config, regions: as of `program_bytes`.
      shape: of the content, before it is brought to the configured size.
      available: bytes there are; None is `available_bytes`, and no check where that is unknown.

    Raises:
      ValueError: it needs more. The message says how much, what there is, a size that fits, the
        largest to within a few hundredths, and the flags that would make this one fit.
    """
    available = available_bytes() if available is None else available
    if available is None:
        return
    height, width = fit_shape(shape, config)
    pixels = outputs * height * width
    if pixels * (CERTAINLY + _bytes_of_past_steps(config)) < available / 2:
        return
    need = program_bytes(params, (height, width), outputs, config, regions=regions)
    if need is not None and need > available:
        raise ValueError(
            advice(params, shape, outputs, config, need=need, available=available, regions=regions)
        )


def advice(
    params: Mapping,
    shape: tuple[int, int],
    outputs: int,
    config: Config,
    *,
    need: int | None = None,
    available: int | None = None,
    regions: int = 0,
) -> str:
    """What a run takes, what there is, and what would fit, in one line.

    Args:
      params, shape, outputs, config, regions: as of `check`.
      need: what the run takes, in bytes; None asks the compiler.
      available: what there is; None is less than the need, of a run that has failed already.
    """
    height, width = fit_shape(shape, config)
    pixels = outputs * height * width
    if need is None:
        need = program_bytes(params, (height, width), outputs, config, regions=regions)
    number = f"{outputs} pictures" if outputs > 1 else "a picture"
    line = f"{number} of {width}x{height} would take {need / GIB:.2f} GiB of memory"
    if available is None:
        available = int(0.7 * need)
    else:
        line += f", and there are {available / GIB:.2f} GiB"
    layers = objective.all_layers(config)
    deepest = max(vgg.smallest_side(layer) for layer in layers)
    # Memory grows with the number of pixels, from what the weights and statistics take.
    half = tuple(max(deepest, side // 2) for side in (height, width))
    half_pixels = outputs * math.prod(half)
    half_need = program_bytes(params, half, outputs, config, regions=regions)
    slope = (need - half_need) / max(1, pixels - half_pixels)
    fixed = need - slope * pixels
    share = (available - fixed) / (need - fixed) if need > fixed else 0.0
    size = int(0.98 * _side(config, height, width) * math.sqrt(max(share, 0.0)))
    smaller = fit_shape((height, width), config.replace(size=max(size, 1), first_size=None))
    fits = "no --size fits"
    if min(smaller) >= deepest:
        fits = f"a --size of {size} fits"
    flags = _flags_that_fit(params, (height, width), outputs, config, regions, available)
    tile = _tile_that_fits(params, (height, width), config, pixels, slope, fixed, available)
    if tile:
        flags.append(f"--tile={tile}")
    if flags:
        *others, last = flags
        fits += f"; {', '.join(others)}{' or ' * bool(others)}{last} makes this one fit"
    return f"{line}: {fits}"


def ran_out(error: Exception) -> bool:
    """Whether `error` says that memory ran out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


def _bytes_of_past_steps(config: Config) -> int:
    """What L-BFGS keeps a pixel: of each past step the step and the change of the gradient."""
    return 24 * config.memory if config.optimizer == "lbfgs" else 0


def _side(config, height, width):
    return height if config.size_of == "height" else max(height, width)


def _flags_that_fit(params, shape, outputs, config, regions, available):
    """Those of the flags that save memory, or both together, with which the run would fit."""
    changes = {"--remat": {"remat": True}, "--precision=bfloat16": {"precision": "bfloat16"}}
    changes = {flag: new for flag, new in changes.items() if config.replace(**new) != config}

    def fits(*names):
        saving = config.replace(**{k: v for name in names for k, v in changes[name].items()})
        return program_bytes(params, shape, outputs, saving, regions=regions) <= available

    alone = [name for name in changes if fits(name)]
    if not alone and len(changes) > 1 and fits(*changes):
        return [" with ".join(changes)]
    return alone


def _tile_that_fits(params, shape, config, pixels, slope, fixed, available):
    """The largest of `TILES` whose windows fit, or None."""
    if config.optimizer == "lbfgs" and config.linesearch:
        return None
    on_host = 0
    if jax.default_backend() == "cpu":
        on_host = pixels * (TILED_HOST + _bytes_of_past_steps(config))
    layers = objective.all_layers(config)
    for tile in TILES:
        try:
            windows = tiling.grid(shape, tile, layers, model=vgg.network_name(params))
        except ValueError:  # too small for the layers
            continue
        area = math.prod(windows.window)
        if len(windows) > 1 and fixed + on_host + slope * area <= available:
            return tile
    return None
