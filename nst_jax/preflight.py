"""Does a run fit into memory? Asked of the compiler before the first step.

A picture to which XLA says no costs the wait for everything before it, and one to which the
operating system says no costs the process.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from nst_jax import memory, objective, optimize, tiling, vgg
from nst_jax.config import Config
from nst_jax.memory import GIB
from nst_jax.stylize import fit_shape

TILES = (2048, 1024, 512, 256)

# Bytes a pixel of a step that no configuration's program has been seen to need: what is far below
# the memory there is by this measure is not compiled just to be measured.
CERTAINLY = 6000
# Of a tiled run: pictures, gradient, moments and the content's activations in host memory.
TILED_HOST = 300


def available_bytes() -> int | None:
    """Memory that the first device has left; of a CPU what `memory.host_bytes` says."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return memory.host_bytes()


def program_bytes(
    params: Mapping,
    shape: tuple[int, int],
    outputs: int,
    config: Config,
    *,
    regions: int = 0,
    mesh: jax.sharding.Mesh | None = None,
) -> int | None:
    """Memory of the compiled step for so many outputs of `shape` `(H, W)`, arguments included;
    None where the backend doesn't tell.

    Args:
      params: parameter tree of VGG16 or VGG19.
      shape: of the pictures.
      outputs: how many.
      config: of the run.
      regions: of each output's masks, if it has any.
      mesh: devices that divide the step, of which it is the memory of one; but CPU devices share
        the host's, of which it is what all take.
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

    def prepare(params):
        return objective.prepare(params, config) if mesh is None else params

    images = jax.ShapeDtypeStruct((outputs, *shape, 3), jnp.float32)
    wanted = jax.eval_shape(targets, params, jax.ShapeDtypeStruct((*shape, 3), jnp.float32))
    program = optimize.lower(
        objective.objective_value,
        images,
        config,
        shared=(jax.eval_shape(prepare, params),),
        each=(wanted, optimize.batch_numbers(config, outputs)),
        mesh=mesh,
    )
    need = optimize.compiled_bytes(program.compile())
    if need is not None and mesh is not None and jax.default_backend() == "cpu":
        need *= mesh.size
    return need


def check(
    params: Mapping,
    shape: tuple[int, int],
    outputs: int,
    config: Config,
    *,
    regions: int = 0,
    mesh: jax.sharding.Mesh | None = None,
    available: int | None = None,
) -> None:
    """Refuses a run whose last scale would not fit into memory, untiled.

    On a mesh of several processes it refuses nothing: the others would wait for the one that ends.

    Args:
      params, outputs, config, regions, mesh: as of `program_bytes`.
      shape: of the content, before it is brought to the configured size.
      available: bytes there are; None is `available_bytes`, and no check where that is unknown.

    Raises:
      ValueError: it needs more. The message says how much, what there is, a size that fits, the
        largest to within a few hundredths, and the flags that would make this one fit.
    """
    if mesh is not None and mesh.is_multi_process:
        return
    available = available_bytes() if available is None else available
    if available is None:
        return
    height, width = fit_shape(shape, config)
    pixels = outputs * height * width
    if pixels * (CERTAINLY + _bytes_of_past_steps(config)) < available / 2:
        return
    options = {"regions": regions, "mesh": mesh}
    need = program_bytes(params, (height, width), outputs, config, **options)
    if need is not None and need > available:
        raise ValueError(
            advice(params, shape, outputs, config, need=need, available=available, **options)
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
    mesh: jax.sharding.Mesh | None = None,
    tile: int | None = None,
) -> str:
    """What a run takes, what there is, and what would fit, in one line.

    Args:
      params, shape, outputs, config, regions, mesh: as of `check`. A tile, which takes no mesh, is
        not named with one.
      need: what the run takes, in bytes; None asks the compiler.
      available: what there is; None is less than the need, of a run that has failed already.
      tile: of a run that has failed with it: only smaller ones are named.
    """
    if mesh is not None and mesh.is_multi_process:
        mesh = None  # to compile for it would take all of them
    whole = looked_at = fit_shape(shape, config)  # looked at at once, in so many pictures
    layers = objective.all_layers(config)
    line = f"{outputs} pictures" if outputs > 1 else "a picture"
    line += f" of {whole[1]}x{whole[0]}"
    tiled = tile is not None and max(whole) > tile
    if tiled:
        looked_at = tiling.grid(whole, tile, layers, model=vgg.network_name(params)).window
        line += f" in windows of {looked_at[1]}x{looked_at[0]}"
        outputs = 1

    def needed(shape, config):
        return program_bytes(params, shape, outputs, config, regions=regions, mesh=mesh)

    if need is None:
        need = needed(looked_at, config)
    if need is None:
        return f"{line} would take more memory than there is: a smaller --size or --tile takes less"
    line += f" would take {need / GIB:.2f} GiB of memory"
    if available is None:
        available = int(0.7 * need)
    else:
        line += f", and there are {available / GIB:.2f} GiB"
    deepest = max(vgg.smallest_side(layer) for layer in layers)
    # Memory grows with the number of pixels, from what the weights and statistics take.
    pixels = outputs * math.prod(looked_at)
    half = tuple(max(deepest, side // 2) for side in looked_at)
    slope = (need - needed(half, config)) / max(1, pixels - outputs * math.prod(half))
    fixed = need - slope * pixels
    # What a tiled run keeps on the host is the same with a smaller tile.
    on_host = 0 if tiled else _bytes_on_host(config, pixels)
    flags = _flags_that_fit(config, lambda saving: needed(looked_at, saving) <= available)
    if mesh is None:
        flags += _tile_that_fits(
            params,
            whole,
            config,
            lambda area: fixed + on_host + slope * area <= available,
            below=tile,
        )
    fits = "no smaller --tile fits"
    if not tiled:
        share = (available - fixed) / (need - fixed) if need > fixed else 0.0
        size = int(0.98 * _side(config, *whole) * math.sqrt(max(share, 0.0)))
        smaller = fit_shape(whole, config.replace(size=max(size, 1), first_size=None))
        fits = f"a --size of {size} fits" if min(smaller) >= deepest else "no --size fits"
    if flags:
        *others, last = flags
        named = f"{', '.join(others)}{' or ' * bool(others)}{last} makes this one fit"
        fits = named if tiled else f"{fits}; {named}"
    return f"{line}: {fits}"


def ran_out(error: Exception) -> bool:
    """Whether `error` says that memory ran out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


def _bytes_of_past_steps(config: Config) -> int:
    """What L-BFGS keeps a pixel: of each past step the step and the change of the gradient."""
    return 24 * config.memory if config.optimizer == "lbfgs" else 0


def _bytes_on_host(config: Config, pixels: int) -> int:
    """What a tiled run keeps beside its windows in the memory that these are in."""
    if jax.default_backend() != "cpu":
        return 0
    return pixels * (TILED_HOST + _bytes_of_past_steps(config))


def _side(config, height, width):
    return height if config.size_of == "height" else max(height, width)


def _flags_that_fit(config, fits):
    """Those of the flags that save memory, or both together, with which `fits(config)`."""
    changes = {"--remat": ("remat", True), "--precision=bfloat16": ("precision", "bfloat16")}
    # Not whole configurations: their numbers may be arrays, which are not simply equal or not.
    changes = {
        flag: (name, value)
        for flag, (name, value) in changes.items()
        if getattr(config, name) != value
    }

    def fits_with(*flags):
        return fits(config.replace(**dict(changes[flag] for flag in flags)))

    alone = [flag for flag in changes if fits_with(flag)]
    if not alone and len(changes) > 1 and fits_with(*changes):
        return [" with ".join(changes)]
    return alone


def _tile_that_fits(params, shape, config, fits, *, below=None):
    """The flag of the largest of `TILES` whose windows, of so many pixels, fit, if any does."""
    if config.optimizer == "lbfgs" and config.linesearch:
        return []
    layers = objective.all_layers(config)
    for tile in TILES:
        if below is not None and tile >= below:
            continue
        try:
            windows = tiling.grid(shape, tile, layers, model=vgg.network_name(params))
        except ValueError:  # too small for the layers
            continue
        if len(windows) > 1 and fits(math.prod(windows.window)):
            return [f"--tile={tile}"]
    return []
