"""Checks before the first step whether a run fits into memory. The compiler says what it takes.

A picture that XLA has no memory for costs the wait for everything before it. A picture that the
operating system has no memory for costs the process.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import objective, optimize, vgg
from nst_jax.coarse_to_fine import (
    at_scale,
    check_content,
    fit_shape,
    fit_style_shape,
    for_content,
    resized,
    scales,
    side_of,
    steps_at_scales,
)
from nst_jax.config import Config
from nst_jax.extractor import VGGExtractor
from nst_jax.files import host_memory
from nst_jax.files.host_memory import GIB
from nst_jax.objective import Targets
from nst_jax.partition import Partition, Placement, is_packed
from nst_jax.terms import Field, Tree, map_fields

TILES = (2048, 1024, 512, 256)
"""The tiles that a message may name."""

# No measured program has needed more bytes for each pixel of a step. A run far below the available
# memory by this bound is not compiled only to be measured.
MOST_BYTES_PER_PIXEL = 6000


# A step of the default takes so many times what its convolutions keep, and so many times less with
# --remat. They are measured, and only for a rough advice.
USUAL, REMAT_SAVES = 1.8, 3


class DoesNotFit(ValueError):
    """A run takes more memory than there is. The message is one line."""


def available_bytes() -> int | None:
    """The free memory of the first device, in bytes; None if nothing tells it.

    For a CPU it is what `host_memory.host_bytes` returns.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return host_memory.host_bytes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The parts of a run that its memory depends on.

    Attributes:
      params: the network's parameters.
      shape: `(H, W)` of the contents, before they are resized.
      outputs: how many pictures are painted at once.
      config: the settings of the run.
      styles: `(h, w)` of each style, before it is resized.
      contents: how many different contents there are. All have the same shape.
      sweep: as in `stylize`.
      regions: how many regions each output's masks have; 0 is no masks.
      inputs: as in `stylize`. Only the shapes of its arrays matter.
      placement: as in `stylize`. On a mesh, memory is that of one device. CPU devices share the
        host's memory: for them it is what all take together.
    """

    params: Mapping
    shape: tuple[int, int]
    outputs: int
    config: Config
    styles: Sequence[Sequence[int]] = ()
    contents: int = 1
    sweep: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    regions: int = 0
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    placement: Placement = Placement()

    def __post_init__(self):
        # As `stylize` does.
        config = for_content(self.config, self.shape)
        object.__setattr__(self, "config", config.on(self.placement.platform))

    def replace(self, **changes: Any) -> "Plan":
        """A copy with `changes`."""
        return dataclasses.replace(self, **changes)

    def placed(self, **changes: Any) -> "Plan":
        """A copy with `changes` of its placement."""
        return self.replace(placement=self.placement.replace(**changes))

    def program_bytes(self) -> int | None:
        """The memory of the compiled step on pictures of `shape`, with its arguments, in bytes.

        The pictures are not resized. None stands for a backend that does not tell.
        """
        config = resized(self.config)
        within = self.placement.partition_of(self.config.network, height=self.shape[0])
        images = jax.ShapeDtypeStruct((self.outputs, *self.shape[:2], 3), jnp.float32)
        targets = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((self.outputs, *leaf.shape), leaf.dtype),
            self._targets(config),
        )
        program = optimize.lower(
            objective.value_by(within),
            images,
            config,
            shared=(self._network(),),
            each=(targets, optimize.batch_numbers(config, self.outputs, sweep=self.sweep)),
            sweep=self.sweep,
            mesh=self.placement.mesh,
            lean=self.placement.remat,
            in_turn=is_packed(within),
            length=self.placement.steps_per_dispatch,
        )
        need = _compiled_bytes(program)
        if need is not None and self.placement.mesh is not None and jax.default_backend() == "cpu":
            need *= len(self.placement.mesh.local_devices)
        return need

    def targets_bytes(self) -> int | None:
        """The memory of the programs that find the targets before the steps, in bytes.

        One program evaluates a content of `shape`, another the largest style; this is the larger of
        the two. One device runs them, also on a mesh. None stands for a backend that does not tell.
        """
        config = resized(self.config)
        terms, within = objective.Objective.of(config), self._within
        programs = []
        if terms.layers("content"):
            programs.append(
                objective.targets_program(objective.content_targets).lower(
                    self._network(), _picture(self.shape), config, partition=within
                )
            )
        if terms.layers("style") and self.styles:
            style = max((tuple(style[:2]) for style in self.styles), key=math.prod)
            mask = jax.ShapeDtypeStruct(style, jnp.float32) if self.regions else None
            programs.append(
                objective.targets_program(objective.style_targets).lower(
                    self._network(), _picture(style), config, mask=mask, partition=within
                )
            )
        return _largest([_compiled_bytes(program) for program in programs])

    def kept_bytes(self) -> int:
        """What a tiled run keeps in host memory beside its windows, in bytes.

        These are pictures of `shape`, gradients, the optimiser's state and the targets.
        """
        images = jax.ShapeDtypeStruct((self.outputs, *self.shape[:2], 3), jnp.float32)
        states = jax.eval_shape(lambda images: optimize.start(images, self.config), images)
        picture = _picture(self.shape)
        of_a_content = (picture, picture, self._targets(self.config))
        return (
            _bytes(states)
            + self.config.optimizer.passing * _bytes(images)
            + self.contents * _bytes(of_a_content)  # each content as given, and resized
            + _bytes([_picture(style) for style in self.styles])
        )

    def _targets(self, config: Config) -> Targets:
        """The shapes of one output's targets."""
        inputs = map_fields(self._sized, self.inputs)
        return objective.target_shapes(
            *(self.params, self.shape[:2], config), regions=self.regions, inputs=inputs
        )

    def _sized(self, field: Field) -> Field:
        """The shape of a `Field` of the run's data for one output and a picture of `shape`."""
        _, _, *rest = np.shape(field.values)[field.per_output :]
        values = jax.ShapeDtypeStruct((*self.shape[:2], *rest), jnp.float32)
        return dataclasses.replace(field, values=values, per_output=False)

    def _network(self) -> Mapping:
        """The shapes of the parameters as `stylize` passes them to its programs."""
        return jax.eval_shape(
            lambda params: objective.prepare(
                params, self.config, partition=self._within, mesh=self.placement.mesh
            ),
            self.params,
        )

    @property
    def _within(self) -> Partition:
        """How one device divides a picture."""
        return self.placement.partition_of(self.config.network)

    def run_bytes(self) -> int | None:
        """The memory of the run's largest program, a step or one that finds targets, in bytes.

        On a CPU, what a tiled run keeps in host memory is included. None stands for a backend that
        does not tell.
        """
        needs = []
        for scale in self._largest_scales():
            found = [scale.plan.program_bytes()]
            # A step takes more than finding the targets of a picture of the same size: it also
            # keeps activations for the gradient. Rematerialisation keeps few, and on a mesh one
            # device finds the targets.
            larger = scale.pixels_of_style() > scale.pixels()
            if self.placement.mesh is not None or self.placement.remat or larger:
                found.append(scale.plan.targets_bytes())
            need = _largest(found)
            if need is None:
                return None
            needs.append(need + (scale.host if jax.default_backend() == "cpu" else 0))
        return max(needs)

    def check(self, *, available: int | None = None) -> None:
        """Refuses a run that does not fit into memory.

        On a mesh of several processes, all processes have to call it, with the same `available`.

        Args:
          available: how many bytes there are; None is `available_bytes`. Nothing is checked if it
            returns None.

        Raises:
          DoesNotFit: the run needs more. The message says how much, what there is, the largest size
            that fits, to within a few hundredths, and the flags with which this size would fit.
          ValueError: a tile that is too small for the layers.
        """
        if not any(steps_at_scales(self.config)):
            return  # a transfer of colours evaluates no network
        largest = self._largest_scales()
        host = 0 if jax.default_backend() == "cpu" else max(scale.host for scale in largest)
        there = host_memory.host_bytes() if host else None
        if there is not None and host > there:
            raise DoesNotFit(
                f"{self._described()} would take {host / GIB:.2f} GiB of the host's memory, and "
                f"there are {there / GIB:.2f} GiB: a smaller --size takes less"
            )
        available = available_bytes() if available is None else available
        self._refuse_by_arithmetic(largest, available)
        if available is None or max(scale.most_bytes() for scale in largest) < available / 2:
            return
        need = self.run_bytes()
        if need is not None and need > available:
            raise DoesNotFit(self.advice(need=need, available=available))

    def check_roughly(self, *, available: int | None = None) -> None:
        """Refuses a run that is far too large, by arithmetic on shapes. It compiles nothing.

        Args:
          available: as in `check`.

        Raises:
          DoesNotFit: the activations alone need more. The message is as in `check`.
        """
        if not any(steps_at_scales(self.config)):
            return
        available = available_bytes() if available is None else available
        self._refuse_by_arithmetic(self._largest_scales(), available)

    def _refuse_by_arithmetic(self, scales: "Sequence[_Scale]", available: int | None) -> None:
        if available is not None and any(scale.least_bytes() > available for scale in scales):
            raise DoesNotFit(self._rough_advice(available))

    def advice(self, *, need: int | None = None, available: int | None = None) -> str:
        """Says in one line what the run takes, what there is, and what would fit.

        It names only tiles that are smaller than the plan's own. It names no tile for a mesh, as
        tile and mesh exclude each other.

        Args:
          need: what the run takes, in bytes; None asks the compiler.
          available: what there is, in bytes. None is for a run that has failed already, and takes
            less than the need.
        """
        if (
            need is None
            and self.placement.mesh is not None
            and self.placement.mesh.is_multi_process
        ):
            # All processes would have to compile for this mesh, but one of them has failed.
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

        def needed(size: int) -> int:
            found = self.replace(config=self.config.replace(size=size)).run_bytes()
            assert found is not None  # a backend that tells for one size tells for all
            return found

        size = _size_that_fits(
            side_of(whole, self.config),
            needed,
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

    def _rough_advice(self, available: int) -> str:
        """As `advice`, by arithmetic alone, for a run that is far too large."""

        def about(plan: Plan) -> int:
            return max(scale.usual_bytes() for scale in plan._largest_scales())

        whole, need = fit_shape(self.shape, self.config), about(self)
        side = side_of(whole, self.config)
        sizes = (int(side * factor / 100) for factor in range(95, 0, -1))
        fit = (
            s for s in sizes if about(self.replace(config=self.config.replace(size=s))) <= available
        )
        size = next(fit, None)
        found = (
            "no --size fits"
            if size is None or not self._possible(size)
            else (f"a --size of {size} fits")
        )
        smaller = []
        if not self.placement.remat and need / REMAT_SAVES <= available:
            smaller.append(f"--remat (about {need / REMAT_SAVES / GIB:.1f} GiB)")
        if self.placement.mesh is None and not self.config.optimizer.searches:
            for tile in TILES:
                taken = (
                    about(self.placed(tile=tile)) if self._divides(whole, tile) else available + 1
                )
                if tile < max(whole) and taken <= available:
                    smaller.append(f"--tile={tile} (about {taken / GIB:.1f} GiB)")
                    break
        if smaller:
            found += f"; {' or '.join(smaller)} makes this one fit"
        together = int(self.outputs * available / need)
        if 0 < together < self.outputs:
            found += f"; {together} of the {self.outputs} pictures can be painted at once"
        return (
            f"{self._described()} would take about {need / GIB:.1f} GiB of memory, and there are "
            f"{available / GIB:.2f} GiB: {found}"
        )

    def activation_bytes(self) -> float:
        """What the network's convolutions keep of each pixel for the gradient, in bytes.

        It is 0 for a network that is not a VGG, and with rematerialisation.
        """
        network = self.config.network
        if not isinstance(network, VGGExtractor) or self.placement.remat:
            return 0.0
        layers = objective.Objective.of(self.config).layers()
        names = vgg.convolutions(vgg.network_name(self.params), layers)
        channels = sum(vgg.channels(name) / vgg.smallest_side(name) ** 2 for name in names)
        dtype, _ = vgg.resolved_precision(network.dtype, network.precision)
        return channels * jnp.dtype(vgg.DTYPES[dtype]).itemsize

    def _possible(self, size: int) -> bool:
        """Whether all layers have positions at this size."""
        try:
            check_content(
                self.params, self.shape, self.config.replace(size=size), styles=self.styles
            )
        except ValueError:
            return False
        return True

    def _divides(self, shape: tuple[int, int], tile: int) -> bool:
        """Whether a tile cuts a picture of `shape` into several windows."""
        try:
            return len(objective.Objective.of(self.config).grid(self.params, shape, tile)) > 1
        except ValueError:  # too small for the layers
            return False

    def _described(self) -> str:
        """The number of pictures and their size, for a message."""
        height, width = fit_shape(self.shape, self.config)
        many = self.outputs > 1
        return f"{f'{self.outputs} pictures' if many else 'a picture'} of {width}x{height}"

    def _largest_scales(self) -> list["_Scale"]:
        """The scales that can take the most memory.

        These are the last scale and, in a tiled run, the largest scale that needs no windows.
        """
        found, tile = [], self.placement.tile
        terms = objective.Objective.of(self.config)
        style_terms = terms.of_terms(lambda term: term.refers_to("style"))
        for size in reversed(scales(self.config)):
            here = at_scale(self.config, size)
            whole = fit_shape(self.shape, here)
            others = [fit_style_shape(style, here) for style in self.styles]
            plan = self.replace(shape=whole, styles=others, config=here).placed(tile=None)
            if tile is None or max(map(max, (whole, *others))) <= tile:
                return [*found, _Scale(plan)]
            if not found:
                host = plan.kept_bytes()
                window = terms.grid(self.params, whole, tile).window
                others = [style_terms.grid(self.params, other, tile).window for other in others]
                # A tiled run evaluates its outputs one by one, so each number of a sweep is alone.
                plan = plan.replace(shape=window, outputs=1, styles=others, sweep={})
                found.append(_Scale(plan, host))
        return found


class _Scale(NamedTuple):
    """One scale of a run.

    Attributes:
      plan: what a program evaluates at once: pictures, or one window. Before the steps, programs
        evaluate its styles one by one.
      host: what the host keeps beside it, in bytes.
    """

    plan: Plan
    host: int = 0

    def pixels(self) -> int:
        """How many pixels a step evaluates at once."""
        return self.plan.outputs * math.prod(self.plan.shape)

    def pixels_of_style(self) -> int:
        """How many pixels the largest style has."""
        return max(map(math.prod, self.plan.styles), default=0)

    def least_bytes(self) -> float:
        """A lower bound of the memory, in bytes, without compiling."""
        return self.pixels() * self.plan.activation_bytes()

    def usual_bytes(self) -> int:
        """About what it takes, in bytes, without compiling."""
        state = 3 * 4 * self.plan.config.optimizer.kept
        return self.host + int(self.pixels() * (USUAL * self.plan.activation_bytes() + state))

    def most_bytes(self) -> int:
        """An upper bound of the memory, in bytes, without compiling."""
        pixels = max(self.pixels(), self.pixels_of_style())
        return self.host + pixels * (MOST_BYTES_PER_PIXEL + 3 * 4 * self.plan.config.optimizer.kept)


def _compiled_bytes(program: jax.stages.Lowered) -> int | None:
    """The memory of a program, in bytes; None if the backend does not tell.

    On a CPU it is compiled without optimisation, as this is quicker and changes no buffer.
    """
    cpu = jax.default_backend() == "cpu"
    options: dict[str, Any] | None = {"xla_backend_optimization_level": 0} if cpu else None
    return optimize.compiled_bytes(program.compile(compiler_options=options))


def _largest(needs: Sequence[int | None]) -> int | None:
    """The largest of these numbers of bytes, or 0; None if one of them is None."""
    known = [need for need in needs if need is not None]
    return max(known, default=0) if len(known) == len(needs) else None


def _picture(shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*shape[:2], 3), jnp.float32)


def _bytes(tree: Tree) -> int:
    """The bytes of all arrays of a tree together."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def ran_out(error: Exception) -> bool:
    """Whether `error` says that memory ran out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


def _size_that_fits(
    side: int,
    needed: Callable[[int], int],
    *,
    need: int,
    available: int,
    possible: Callable[[int], bool],
) -> int | None:
    """The largest size that fits, to within a few hundredths; None if none fits.

    It halves the size until it fits. Memory grows about as the number of pixels, which gives a
    guess of the largest size. It asks about the guess, and then about smaller sizes until one fits.

    Args:
      side: a size that does not fit.
      needed: gives the bytes that a size takes.
      need: `needed(side)`.
      available: the bytes that there are.
      possible: says whether a size is large enough for the layers.
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
    """The smallest sets of memory-saving flags with which a run fits, as text.

    If a set has a tile, it is the largest of `tiles` that fits.
    """
    savings: dict[str, Callable[[Plan], Plan]] = {}
    if not plan.placement.remat:
        savings["--remat"] = lambda plan: plan.placed(remat=True, strips=None)
    if plan.config.flat().get("dtype", "bfloat16") != "bfloat16":
        savings["--dtype=bfloat16"] = lambda plan: plan.replace(
            config=plan.config.replace(dtype="bfloat16", precision=None)
        )

    def fits(flags: Sequence[str], tile: int | None = plan.placement.tile) -> bool:
        saving = plan.placed(tile=tile)
        for flag in flags:
            if flag in savings:
                saving = savings[flag](saving)
        need = saving.run_bytes()
        return need is not None and need <= available

    options, found = [*savings, *["--tile"] * bool(tiles)], {}
    if options and not fits(options, *sorted(tiles)[:1]):
        return []  # not even with all flags together
    sets = (itertools.combinations(options, count + 1) for count in range(len(options)))
    for flags in itertools.chain.from_iterable(sets):
        if any(set(fewer) <= set(flags) for fewer in found):
            continue
        if "--tile" not in flags:
            if fits(flags):
                found[flags] = " with ".join(flags)
            continue
        for tile in sorted(tiles):  # if one does not fit, no larger one does
            if not fits(flags, tile):
                break
            found[flags] = " with ".join([*flags[:-1], f"--tile={tile}"])
    return list(found.values())
