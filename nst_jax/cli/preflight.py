"""Does a run fit into memory? Asked of the compiler before the first step.

A picture to which XLA says no costs the wait for everything before it, and one to which the
operating system says no costs the process.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import objective, optimize
from nst_jax.coarse_to_fine import check_content, fit_shape, scales
from nst_jax.config import Config
from nst_jax.files import host_memory
from nst_jax.files.host_memory import GIB
from nst_jax.partition import Placement
from nst_jax.terms import Field, map_fields

TILES = (2048, 1024, 512, 256)

# Bytes a pixel of a step that no configuration's program has been seen to need: what is far below
# the memory there is by this measure is not compiled just to be measured.
CERTAINLY = 6000


class DoesNotFit(ValueError):
    """A run that takes more memory than there is; the message is one line."""


def available_bytes() -> int | None:
    """Memory that the first device has left; of a CPU what `memory.host_bytes` says."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return host_memory.host_bytes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A run, as far as its memory depends on it.

    Attributes:
      params: the network's parameters.
      shape: `(H, W)` of the contents, before they are brought to the size.
      outputs: how many pictures are made at once.
      config: of the run.
      styles: `(h, w)` of each style, before it is brought to the size.
      contents: how many different ones, all of that shape, the outputs are of.
      sweep: as of `stylize`.
      regions: of each output's masks, if it has any.
      inputs: as of `stylize`; of arrays only the shape matters.
      placement: as of `stylize`. On a mesh memory is that of one device; but CPU devices share
        the host's, of which it is what all take.
    """

    params: Mapping
    shape: tuple[int, int]
    outputs: int
    config: Config
    styles: Sequence[Sequence[int]] = ()
    contents: int = 1
    sweep: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    regions: int = 0
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    placement: Placement = Placement()

    def replace(self, **changes) -> "Plan":
        """A copy with `changes`."""
        return dataclasses.replace(self, **changes)

    def placed(self, **changes) -> "Plan":
        """A copy with changes of its placement."""
        return self.replace(placement=self.placement.replace(**changes))

    def program_bytes(self) -> int | None:
        """Memory of the compiled step on pictures of `shape` as they are, arguments included; None
        where the backend doesn't tell."""
        config = self.config.replace(size=None, first_size=None)
        images = jax.ShapeDtypeStruct((self.outputs, *self.shape[:2], 3), jnp.float32)
        targets = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((self.outputs, *leaf.shape), leaf.dtype),
            self._targets(config),
        )
        program = optimize.lower(
            objective.value_by(self.placement.partition),
            images,
            config,
            shared=(self._network(),),
            each=(targets, optimize.batch_numbers(config, self.outputs, sweep=self.sweep)),
            sweep=self.sweep,
            mesh=self.placement.mesh,
            lean=self.placement.remat,
        )
        need = _compiled_bytes(program)
        if need is not None and self.placement.mesh is not None and jax.default_backend() == "cpu":
            need *= len(self.placement.mesh.local_devices)
        return need

    def targets_bytes(self) -> int | None:
        """Memory of the programs that look at a content of `shape`, and at the largest of the
        styles, once before the steps: the larger of the two. One device runs them, on a mesh too.
        """
        config = self.config.replace(size=None, first_size=None)
        terms, within = objective.Objective.of(config), self.placement.partition
        programs = []
        if terms.layers("content"):
            programs.append(
                objective.content_targets.lower(
                    self._network(), _picture(self.shape), config, partition=within
                )
            )
        if terms.layers("style") and self.styles:
            style = max((tuple(style[:2]) for style in self.styles), key=math.prod)
            mask = jax.ShapeDtypeStruct(style, jnp.float32) if self.regions else None
            programs.append(
                objective.style_targets.lower(
                    self._network(), _picture(style), config, mask=mask, partition=within
                )
            )
        needs = [_compiled_bytes(program) for program in programs]
        return None if None in needs else max(needs, default=0)

    def kept_bytes(self) -> int:
        """What a tiled run keeps in host memory beside its windows: pictures of `shape`, gradients,
        the optimiser's state and the targets."""
        images = jax.ShapeDtypeStruct((self.outputs, *self.shape[:2], 3), jnp.float32)
        states = jax.eval_shape(lambda images: optimize.start(images, self.config), images)
        picture = _picture(self.shape)
        of_a_content = (picture, picture, self._targets(self.config))
        return (
            _bytes(states)
            + self.config.optimizer.passing * _bytes(images)
            + self.contents * _bytes(of_a_content)  # as it was given and at its size
            + _bytes([_picture(style) for style in self.styles])
        )

    def _targets(self, config):
        inputs = map_fields(self._sized, self.inputs)
        return objective.target_shapes(
            *(self.params, self.shape[:2], config), regions=self.regions, inputs=inputs
        )

    def _sized(self, field: Field) -> Field:
        """A `Field` of the run's data as one output has it, of a picture of `shape`."""
        _, _, *rest = np.shape(field.values)[field.per_output :]
        values = jax.ShapeDtypeStruct((*self.shape[:2], *rest), jnp.float32)
        return dataclasses.replace(field, values=values, per_output=False)

    def _network(self):
        """The parameters as `stylize` hands them to its programs."""
        if self.placement.mesh is not None:
            return jax.eval_shape(lambda params: params, self.params)
        return jax.eval_shape(lambda params: objective.prepare(params, self.config), self.params)

    def run_bytes(self) -> int | None:
        """Memory that the largest program of the run takes, be it a step or one that finds the
        targets; with what a tiled run keeps in host memory, where the host is the device. None
        where the backend doesn't tell."""
        needs = []
        for look in self._looks():
            found = [look.plan.program_bytes()]
            # A step looks forward as well, and keeps what it sees, unless it computes it again.
            larger = look.pixels_of_style() > look.pixels()
            if self.placement.mesh is not None or self.placement.remat or larger:
                found.append(look.plan.targets_bytes())
            if None in found:
                return None
            needs.append(max(found) + (look.host if jax.default_backend() == "cpu" else 0))
        return max(needs)

    def check(self, *, available: int | None = None) -> None:
        """Refuses a run that would not fit into memory. On a mesh of several processes all of them
        have to call it, with the same `available`.

        Args:
          available: bytes there are; None is `available_bytes`, and no check where it knows none.

        Raises:
          DoesNotFit: it needs more. The message says how much, what there is, a size that fits, the
            largest to within a few hundredths, and the flags that would make this one fit.
          ValueError: a tile that is too small for the layers.
        """
        looks = self._looks()
        host = 0 if jax.default_backend() == "cpu" else max(look.host for look in looks)
        there = host_memory.host_bytes() if host else None
        if there is not None and host > there:
            raise DoesNotFit(
                f"{self._described()} would take {host / GIB:.2f} GiB of the host's memory, and "
                f"there are {there / GIB:.2f} GiB: a smaller --size takes less"
            )
        available = available_bytes() if available is None else available
        if available is None or max(look.certainly() for look in looks) < available / 2:
            return
        need = self.run_bytes()
        if need is not None and need > available:
            raise DoesNotFit(self.advice(need=need, available=available))

    def advice(self, *, need: int | None = None, available: int | None = None) -> str:
        """What the run takes, what there is, and what would fit, in one line. Only smaller tiles
        than this one are named, and none with a mesh, which takes none.

        Args:
          need: what the run takes, in bytes; None asks the compiler.
          available: what there is; None is less than the need, of a run that has failed already.
        """
        if (
            need is None
            and self.placement.mesh is not None
            and self.placement.mesh.is_multi_process
        ):
            # To compile for it would take all of them, and one has failed.
            return self.placed(mesh=None).advice(available=available)
        line, whole = self._described(), fit_shape(self.shape, self.config)
        if self.placement.tile is not None and max(whole) > self.placement.tile:
            terms = objective.Objective.of(self.config)
            height, width = terms.grid(self.params, whole, self.placement.tile).window
            line += f" in windows of {width}x{height}"
        need = self.run_bytes() if need is None else need
        if need is None:
            smaller = "a smaller --size or --tile takes less"
            return f"{line} would take more memory than there is: {smaller}"
        line += f" would take {need / GIB:.2f} GiB of memory"
        if available is None:
            available = int(0.7 * need)
        else:
            line += f", and there are {available / GIB:.2f} GiB"
        size = _size_that_fits(
            _side(self.config, *whole),
            lambda size: self.replace(config=self.config.replace(size=size)).run_bytes(),
            need=need,
            available=available,
            possible=self._possible,
        )
        tiles = []
        if self.placement.mesh is None and not self.config.optimizer.searches:
            below = self.placement.tile or max(whole)
            tiles = [tile for tile in TILES if tile < below and self._divides(whole, tile)]
        flags = _flags_that_fit(self, available, tiles=tiles)
        fits = f"a --size of {size} fits" if size else "no --size fits"
        if flags:
            *others, last = flags
            fits += f"; {', '.join(others)}{' or ' * bool(others)}{last} makes this one fit"
        return f"{line}: {fits}"

    def _possible(self, size: int) -> bool:
        """Whether the layers have positions at this size."""
        try:
            check_content(
                self.params, self.shape, self.config.replace(size=size), styles=self.styles
            )
        except ValueError:
            return False
        return True

    def _divides(self, shape: tuple[int, int], tile: int) -> bool:
        """Whether a tile cuts a picture."""
        try:
            return len(objective.Objective.of(self.config).grid(self.params, shape, tile)) > 1
        except ValueError:  # too small for the layers
            return False

    def _described(self) -> str:
        height, width = fit_shape(self.shape, self.config)
        many = self.outputs > 1
        return f"{f'{self.outputs} pictures' if many else 'a picture'} of {width}x{height}"

    def _looks(self) -> list["_Look"]:
        """At the last scale and, of a tiled run, at the largest that is looked at whole."""
        found, tile = [], self.placement.tile
        terms = objective.Objective.of(self.config)
        of_styles = terms.of_terms(lambda term: term.refers == "style")
        for size in reversed(scales(self.config)):
            here = self.config.replace(size=size, first_size=None)
            whole, *others = (fit_shape(picture, here) for picture in (self.shape, *self.styles))
            plan = self.replace(shape=whole, styles=others, config=here).placed(tile=None)
            if tile is None or max(map(max, (whole, *others))) <= tile:
                return [*found, _Look(plan)]
            if not found:
                host = plan.kept_bytes()
                window = terms.grid(self.params, whole, tile).window
                others = [of_styles.grid(self.params, other, tile).window for other in others]
                # One by one, so that a number that is explored is one, too.
                plan = plan.replace(shape=window, outputs=1, styles=others, sweep={})
                found.append(_Look(plan, host))
        return found


class _Look(NamedTuple):
    """Pictures that a run looks at at once, and before them its styles one by one; with what the
    host keeps beside them."""

    plan: Plan
    host: int = 0

    def pixels(self) -> int:
        return self.plan.outputs * math.prod(self.plan.shape)

    def pixels_of_style(self) -> int:
        return max(map(math.prod, self.plan.styles), default=0)

    def certainly(self) -> int:
        """Bytes that nothing has been seen to need more than."""
        pixels = max(self.pixels(), self.pixels_of_style())
        return self.host + pixels * (CERTAINLY + 3 * 4 * self.plan.config.optimizer.kept)


def _compiled_bytes(program):
    """What it takes, without making it fast, which takes longer and changes no buffer."""
    cpu = jax.default_backend() == "cpu"
    return optimize.compiled_bytes(
        program.compile(compiler_options={"xla_backend_optimization_level": 0} if cpu else None)
    )


def _picture(shape):
    return jax.ShapeDtypeStruct((*shape[:2], 3), jnp.float32)


def _bytes(tree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def ran_out(error: Exception) -> bool:
    """Whether `error` says that memory ran out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


def _side(config, height, width):
    return height if config.size_of == "height" else max(height, width)


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


def _flags_that_fit(plan: Plan, available: int, *, tiles: Sequence[int]) -> list[str]:
    """The smallest sets of flags that save memory with which a run fits; a tile among them is the
    largest of `tiles` that does."""
    savings = {}
    if not plan.placement.remat:
        savings["--remat"] = lambda plan: plan.placed(remat=True, strips=1)
    if plan.config.flat().get("dtype", "bfloat16") != "bfloat16":
        savings["--dtype=bfloat16"] = lambda plan: plan.replace(
            config=plan.config.replace(dtype="bfloat16", precision=None)
        )

    def fits(flags, tile=plan.placement.tile):
        saving = plan.placed(tile=tile)
        for flag in flags:
            saving = savings.get(flag, lambda plan: plan)(saving)
        return saving.run_bytes() <= available

    options, found = [*savings, *["--tile"] * bool(tiles)], {}
    if options and not fits(options, *sorted(tiles)[:1]):
        return []  # not even all of them together
    for flags in (x for n in range(len(options)) for x in itertools.combinations(options, n + 1)):
        if any(set(fewer) <= set(flags) for fewer in found):
            continue
        if "--tile" not in flags:
            if fits(flags):
                found[flags] = " with ".join(flags)
            continue
        for tile in sorted(tiles):  # where a smaller one doesn't fit, no larger one does
            if not fits(flags, tile):
                break
            found[flags] = " with ".join([*flags[:-1], f"--tile={tile}"])
    return list(found.values())
