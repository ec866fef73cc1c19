"""Does a run fit into memory? Asked of the compiler before the first step.

A picture to which XLA says no costs the wait for everything before it, and one to which the
operating system says no costs the process.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import memory, objective, optimize
from nst_jax.config import Config
from nst_jax.memory import GIB
from nst_jax.stylize import check_content, fit_shape, scales

TILES = (2048, 1024, 512, 256)

# Bytes a pixel of a step that no configuration's program has been seen to need: what is far below
# the memory there is by this measure is not compiled just to be measured.
CERTAINLY = 6000
# Pictures of each output that a tiled run has in host memory beside the optimiser's state, at the
# most: where it started, gradients here and in the optimiser's hands and the one that is being
# added up, the last ones for whoever follows, and what the step takes meanwhile, by optimiser.
PASSING = {"sgd": 7, "adam": 7, "lbfgs": 12}


class DoesNotFit(ValueError):
    """A run that takes more memory than there is; the message is one line."""


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
    images = jax.ShapeDtypeStruct((outputs, *shape, 3), jnp.float32)
    targets = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((outputs, *leaf.shape), leaf.dtype),
        objective.target_shapes(params, shape, config, regions=regions),
    )
    program = optimize.lower(
        objective.objective_value,
        images,
        config,
        shared=(_network(params, config, mesh),),
        each=(targets, optimize.batch_numbers(config, outputs)),
        mesh=mesh,
    )
    need = _compiled_bytes(program)
    if need is not None and mesh is not None and jax.default_backend() == "cpu":
        need *= len(mesh.local_devices)
    return need


def targets_bytes(
    params: Mapping,
    shape: tuple[int, int],
    config: Config,
    *,
    styles: Sequence[tuple[int, int]] = (),
    regions: int = 0,
    mesh: jax.sharding.Mesh | None = None,
) -> int | None:
    """Memory of the programs that look at the content, of `shape` `(H, W)`, and at the largest of
    the styles, once before the steps: the larger of the two. One device runs them, on a mesh too.

    Args:
      params, shape, config, regions, mesh: as of `program_bytes`.
      styles: `(h, w)` of each.
    """
    config = config.replace(size=None, first_size=None)
    network = _network(params, config, mesh)
    programs = []
    terms = objective.Objective.of(config)
    if terms.layers("content"):
        programs.append(objective.content_targets.lower(network, _picture(shape), config))
    if terms.layers("style") and styles:
        style = max(styles, key=math.prod)
        mask = jax.ShapeDtypeStruct(style, jnp.float32) if regions else None
        programs.append(objective.style_targets.lower(network, _picture(style), config, mask=mask))
    needs = [_compiled_bytes(program) for program in programs]
    return None if None in needs else max(needs, default=0)


def _compiled_bytes(program):
    """What it takes, without making it fast, which takes longer and changes no buffer."""
    cpu = jax.default_backend() == "cpu"
    return optimize.compiled_bytes(
        program.compile(compiler_options={"xla_backend_optimization_level": 0} if cpu else None)
    )


def _network(params, config, mesh):
    """The parameters as `stylize` hands them to its programs."""
    if mesh is not None:
        return jax.eval_shape(lambda params: params, params)
    return jax.eval_shape(lambda params: objective.prepare(params, config), params)


def _picture(shape):
    return jax.ShapeDtypeStruct((*shape, 3), jnp.float32)


def kept_bytes(
    params: Mapping,
    shape: tuple[int, int],
    outputs: int,
    config: Config,
    *,
    styles: Sequence[tuple[int, int]] = (),
    contents: int = 1,
    regions: int = 0,
) -> int:
    """What a tiled run keeps in host memory beside its windows: pictures, gradients, the
    optimiser's state and the targets.

    Args:
      params, shape, outputs, config, regions: as of `program_bytes`.
      styles: `(h, w)` of each.
      contents: how many different ones the outputs are of.
    """
    images = jax.ShapeDtypeStruct((outputs, *shape, 3), jnp.float32)
    states = jax.eval_shape(lambda images: optimize.start(images, config), images)
    of_a_content = (
        _picture(shape),
        _picture(shape),
        objective.target_shapes(params, shape, config, regions=regions),
    )
    return (
        _bytes(states)
        + PASSING[config.optimizer] * _bytes(images)
        + contents * _bytes(of_a_content)  # as it was given and at its size
        + _bytes([_picture(style) for style in styles])
    )


def _bytes(tree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class _Look(NamedTuple):
    """Pictures that a run looks at at once: so many of `shape`, and before them styles one by one;
    with what the host keeps beside them."""

    config: Config
    shape: tuple[int, int]
    outputs: int
    styles: list[tuple[int, int]]
    host: int = 0

    def pixels(self) -> int:
        return self.outputs * math.prod(self.shape)

    def pixels_of_style(self) -> int:
        return max(map(math.prod, self.styles), default=0)

    def certainly(self) -> int:
        """Bytes that nothing has been seen to need more than."""
        pixels = max(self.pixels(), self.pixels_of_style())
        return self.host + pixels * (CERTAINLY + _bytes_of_past_steps(self.config))


def _looks(params, shape, outputs, config, *, styles, contents, regions, tile) -> list[_Look]:
    """At the last scale and, of a tiled run, at the largest that is looked at whole."""
    terms, found = objective.Objective.of(config), []
    of_styles = terms.of_terms(lambda term: term.refers == "style")
    for size in reversed(scales(config)):
        here = config.replace(size=size, first_size=None)
        whole, *others = (fit_shape(picture, here) for picture in (shape, *styles))
        if tile is None or max(map(max, (whole, *others))) <= tile:
            return [*found, _Look(here, whole, outputs, others)]
        if not found:
            host = kept_bytes(
                *(params, whole, outputs, here), styles=others, contents=contents, regions=regions
            )
            window = terms.grid(params, whole, tile).window
            others = [of_styles.grid(params, other, tile).window for other in others]
            # One by one, so that a number that is explored is one, too.
            here = jax.tree.map(lambda number: np.ravel(number)[0], here)
            found.append(_Look(here, window, 1, others, host))
    return found


def run_bytes(
    params: Mapping,
    shape: tuple[int, int],
    outputs: int,
    config: Config,
    *,
    styles: Sequence[tuple[int, int]] = (),
    contents: int = 1,
    regions: int = 0,
    mesh: jax.sharding.Mesh | None = None,
    tile: int | None = None,
) -> int | None:
    """Memory that the largest program of a run takes, be it a step or one that finds the targets;
    with what a tiled run keeps in host memory, where the host is the device. None where the backend
    doesn't tell.

    Args:
      params, outputs, config, regions, mesh: as of `program_bytes`.
      shape, styles: of the content and of the styles, before they are brought to the size.
      contents: how many different ones, all of that shape, the outputs are of.
      tile: longest side of the windows in which larger pictures are looked at, or None.
    """
    sizes = {"styles": styles, "contents": contents, "regions": regions, "tile": tile}
    options, needs = {"regions": regions, "mesh": mesh}, []
    for look in _looks(params, shape, outputs, config, **sizes):
        found = [program_bytes(params, look.shape, look.outputs, look.config, **options)]
        # A step looks forward as well, and keeps what it sees, unless it computes it again.
        if mesh is not None or config.remat or look.pixels_of_style() > look.pixels():
            found.append(
                targets_bytes(params, look.shape, look.config, styles=look.styles, **options)
            )
        if None in found:
            return None
        needs.append(max(found) + (look.host if jax.default_backend() == "cpu" else 0))
    return max(needs)


def check(
    params: Mapping,
    shape: tuple[int, int],
    outputs: int,
    config: Config,
    *,
    styles: Sequence[tuple[int, int]] = (),
    contents: int = 1,
    regions: int = 0,
    mesh: jax.sharding.Mesh | None = None,
    tile: int | None = None,
    available: int | None = None,
) -> None:
    """Refuses a run that would not fit into memory.

    Args:
      params, shape, outputs, config, styles, contents, regions, mesh, tile: as of `run_bytes`. On a
        mesh of several processes all of them have to call it, with the same `available`.
      available: bytes there are; None is `available_bytes`, and no check where it knows
        none.

    Raises:
      DoesNotFit: it needs more. The message says how much, what there is, a size that fits, the
        largest to within a few hundredths, and the flags that would make this one fit.
      ValueError: a tile that is too small for the layers.
    """
    sizes = {"styles": styles, "contents": contents, "regions": regions, "tile": tile}
    looks = _looks(params, shape, outputs, config, **sizes)
    host = 0 if jax.default_backend() == "cpu" else max(look.host for look in looks)
    there = memory.host_bytes() if host else None
    if there is not None and host > there:
        raise DoesNotFit(
            f"{_described(shape, outputs, config)} would take {host / GIB:.2f} GiB of the host's "
            f"memory, and there are {there / GIB:.2f} GiB: a smaller --size takes less"
        )
    available = available_bytes() if available is None else available
    if available is None or max(look.certainly() for look in looks) < available / 2:
        return
    need = run_bytes(params, shape, outputs, config, mesh=mesh, **sizes)
    if need is not None and need > available:
        raise DoesNotFit(
            advice(
                *(params, shape, outputs, config),
                need=need,
                available=available,
                mesh=mesh,
                **sizes,
            )
        )


def advice(
    params: Mapping,
    shape: tuple[int, int],
    outputs: int,
    config: Config,
    *,
    need: int | None = None,
    available: int | None = None,
    styles: Sequence[tuple[int, int]] = (),
    contents: int = 1,
    regions: int = 0,
    mesh: jax.sharding.Mesh | None = None,
    tile: int | None = None,
) -> str:
    """What a run takes, what there is, and what would fit, in one line.

    Args:
      params, shape, outputs, config, styles, contents, regions, mesh, tile: as of `run_bytes`. Of
        tiles only smaller ones are named, and none with a mesh, which takes none.
      need: what the run takes, in bytes; None asks the compiler.
      available: what there is; None is less than the need, of a run that has failed already.
    """
    if need is None and mesh is not None and mesh.is_multi_process:
        mesh = None  # to compile for it would take all of them, and one has failed

    def needed(config, tile=tile):
        options = {"styles": styles, "contents": contents, "regions": regions, "mesh": mesh}
        return run_bytes(params, shape, outputs, config, tile=tile, **options)

    line = _described(shape, outputs, config)
    terms = objective.Objective.of(config)
    whole = fit_shape(shape, config)
    if tile is not None and max(whole) > tile:
        height, width = terms.grid(params, whole, tile).window
        line += f" in windows of {width}x{height}"
    need = needed(config) if need is None else need
    if need is None:
        return f"{line} would take more memory than there is: a smaller --size or --tile takes less"
    line += f" would take {need / GIB:.2f} GiB of memory"
    if available is None:
        available = int(0.7 * need)
    else:
        line += f", and there are {available / GIB:.2f} GiB"

    def possible(size):
        try:
            check_content(params, shape, config.replace(size=size), styles=styles)
        except ValueError:  # too small for the layers
            return False
        return True

    size = _size_that_fits(
        _side(config, *whole),
        lambda size: needed(config.replace(size=size)),
        need=need,
        available=available,
        possible=possible,
    )
    tiles = []
    if mesh is None and not (config.optimizer == "lbfgs" and config.linesearch):
        tiles = [x for x in TILES if x < (tile or max(whole)) and _divides(params, whole, x, terms)]
    flags = _flags_that_fit(
        config, lambda saving, tile=tile: needed(saving, tile) <= available, tiles=tiles
    )
    fits = f"a --size of {size} fits" if size else "no --size fits"
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


def _described(shape, outputs, config):
    height, width = fit_shape(shape, config)
    return f"{f'{outputs} pictures' if outputs > 1 else 'a picture'} of {width}x{height}"


def _side(config, height, width):
    return height if config.size_of == "height" else max(height, width)


def _divides(params, shape, tile, terms):
    try:
        return len(terms.grid(params, shape, tile)) > 1
    except ValueError:  # too small for the layers
        return False


def _size_that_fits(
    side: int,
    needed: Callable[[int], int],
    *,
    need: int,
    available: int,
    possible: Callable[[int], bool],
) -> int | None:
    """The largest size with `needed(size) <= available`, to within a few hundredths, if any.

    It is halved until it fits; then, as memory grows about as the number of pixels does, what that
    comes to is asked about itself, and what is smaller until it fits.
    """
    while True:
        smaller = next(filter(possible, range(side // 2, side)), None)
        if smaller is None:
            return None
        less = needed(smaller)
        if less <= available:
            break
        side, need = smaller, less
    share = (available - less) / (need - less)
    size = int(0.98 * math.sqrt(smaller**2 + share * (side**2 - smaller**2)))
    while size > smaller and needed(size) > available:
        size = int(0.97 * size)
    return max(size, smaller)


def _flags_that_fit(
    config: Config, fits: Callable[..., bool], *, tiles: Sequence[int]
) -> list[str]:
    """The smallest sets of flags that save memory with which `fits(config)`, or `fits(config,
    tile)` with the largest of `tiles`."""
    changes = {"--remat": ("remat", True), "--precision=bfloat16": ("precision", "bfloat16")}
    # Not whole configurations: their numbers may be arrays, which are not simply equal or not.
    changes = {
        flag: (name, value)
        for flag, (name, value) in changes.items()
        if getattr(config, name) != value
    }
    options, found = [*changes, *["--tile"] * bool(tiles)], {}
    if options and not fits(config.replace(**dict(changes.values())), *sorted(tiles)[:1]):
        return []  # not even all of them together
    for flags in (x for n in range(len(options)) for x in itertools.combinations(options, n + 1)):
        if any(set(fewer) <= set(flags) for fewer in found):
            continue
        saving = config.replace(**dict(changes[flag] for flag in flags if flag in changes))
        if "--tile" not in flags:
            if fits(saving):
                found[flags] = " with ".join(flags)
            continue
        for tile in sorted(tiles):  # where a smaller one doesn't fit, no larger one does
            if not fits(saving, tile):
                break
            found[flags] = " with ".join([*flags[:-1], f"--tile={tile}"])
    return list(found.values())
