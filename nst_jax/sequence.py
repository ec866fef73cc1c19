"""Sequences: the frames of a film, painted so that they do not flicker.

Manuel Ruder, Alexey Dosovitskiy, Thomas Brox: "Artistic Style Transfer for Videos", GCPR 2016,
https://arxiv.org/abs/1604.08610

Each frame starts from the picture of the frame before, moved along the optical flow. Where the flow
is not reliable, it starts from the frame itself in the colours of that picture. The term `Temporal`
holds the rest. A cut begins anew.

Images are float32 sRGB, RGB order, range [0, 1], `[H, W, 3]` for one and `[N, H, W, 3]` for many.
"""

import collections
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from nst_jax import flow as flow_lib
from nst_jax import optimize, sharding
from nst_jax.coarse_to_fine import checked, fit, for_content, prepared_on, steps_at_scales, stylize
from nst_jax.color import match_colors
from nst_jax.config import Config
from nst_jax.flow import FindFlow, resize_flow, warp
from nst_jax.objective import Combine
from nst_jax.optimize import Progress, described
from nst_jax.partition import Placement
from nst_jax.terms import IMAGE, Field, Temporal, Tree

CUT = 0.5
"""Two frames that have less than this share of their colours in common belong to two shots."""

LEAST_FREE = 1 / 16
"""The steps of a frame that is held everywhere are as if this share of it were free."""

Pair: TypeAlias = tuple[Float[ArrayLike, "H W 2"], Float[ArrayLike, "H W 2"]]
"""(forward, backward): the flow from a frame to the next one, and from the next one back."""

Flows: TypeAlias = FindFlow | Iterable[Pair] | None
"""How frames move: a function that finds a flow, such as `nst_jax.flow.dis`; or the pair of each
frame after the first. None is no flow: what stands still is held, and all else is painted anew."""


class Earlier(NamedTuple):
    """A painted frame that another frame should agree with.

    Attributes:
      images: `[N, H, W, 3]`, the pictures of all outputs.
      flow: `[H, W, 2]`, from the frame to be painted to this one.
      reliable: `[H, W]` in [0, 1], where the flow can be trusted.
    """

    images: Float[ArrayLike, "N H W 3"]
    flow: Float[ArrayLike, "H W 2"]
    reliable: Float[ArrayLike, "H W"]


def next_steps(config: Config) -> int:
    """How many steps a frame after the first takes: those of a later scale, at most half of all."""
    return max(1, min(int(config.steps), sum(steps_at_scales(config)) // 2))


class Task(NamedTuple):
    """What `stylize` needs for one frame, beside parameters and styles.

    Attributes:
      frame: the content, at the size of the run.
      config: the settings, with a term `Temporal`.
      inputs: the data of that term.
      initial: a picture for each output to start from; None if the frame begins a shot.
    """

    frame: Float[Array, "H W 3"]
    config: Config
    inputs: dict[str, Tree]
    initial: list[jax.Array] | None


@sharding.undisturbed()
def frame_task(
    frame: Float[ArrayLike, "H W 3"],
    config: Config,
    *,
    earlier: Sequence[Earlier | None] = (),
    own: Float[ArrayLike, "N h w 3"] | None = None,
    steps: int | None = None,
) -> Task:
    """Returns what to paint for one frame. The programs are those of every frame of this shape.

    Args:
      frame: the content.
      config: as in `stylize`. If it has no term `Temporal`, it gets one.
      earlier: painted frames to agree with, as many as `Temporal.distances`, the nearest one first.
        None is a frame that does not exist. Without the nearest one the frame is painted as the
        first one of a film.
      own: earlier pictures of this frame. It then starts halfway between them and the nearest
        painted frame, as in the later passes of the paper, section 4.4.
      steps: how many steps a frame takes that starts from another one; None is `next_steps`.

    Raises:
      TypeError, ValueError: a frame that is no picture, or painted frames of another shape than it
        has in the run.
    """
    frame, config = _sized(frame, _with_temporal(config))
    shape = frame.shape[:2]
    temporal = _temporal(config)
    given = list(earlier)[: len(temporal.distances)]
    for index, one in enumerate(given):
        if one is not None and not (
            np.shape(one.images)[1:3] == np.shape(one.flow)[:2] == np.shape(one.reliable) == shape
        ):
            raise ValueError(
                f"earlier[{index}] must have the frame's {shape[0]} x {shape[1]} pixels, got "
                f"images {np.shape(one.images)}, flow {np.shape(one.flow)} and reliable "
                f"{np.shape(one.reliable)}"
            )
    nearest = given[0] if given else None
    if nearest is None:
        given = []
    warped = [None if one is None else _warped(one) for one in given]
    inputs = {temporal.name: _data(given, warped, len(temporal.distances), shape)}
    if nearest is None:
        return Task(frame, config, inputs, None)
    (moved, *_), trust = warped, jnp.asarray(nearest.reliable)[None, ..., None]
    assert moved is not None
    if own is None:
        # What appears starts as the frame shows it, in the colours of the painting.
        own = jnp.stack([match_colors(frame, image) for image in moved])
    else:
        trust = 0.5 * trust
    start = (1.0 - trust) * jnp.clip(jnp.asarray(own), 0.0, 1.0) + trust * moved
    steps = next_steps(config) if steps is None else steps
    config = config.replace(first_size=None, first_steps=None, steps=steps)
    if getattr(config.optimizer, "normalize_gradient", "none") != "none":
        # The gradient is divided by its root mean square over the picture. What is held has hardly
        # a gradient. So the steps of what is free would grow.
        free = 1.0 - float(jnp.mean(sum(one.reliable for one in given if one is not None)))
        config = config.replace(
            learning_rate=config.optimizer.learning_rate * max(free, LEAST_FREE) ** 0.5
        )
    return Task(frame, config, inputs, list(start))


def stylize_sequence(
    params: Any,
    frames: Iterable[Float[ArrayLike, "H W 3"]],
    styles: Sequence[Float[ArrayLike, "_ _ 3"]],
    config: Config,
    flows: Flows = None,
    *,
    cuts: Collection[int] | None = None,
    passes: int = 1,
    steps: int | None = None,
    key: PRNGKeyArray | None = None,
    combine: Combine = Combine(),
    callback: Callable[[Progress], object] | None = None,
    placement: Placement = Placement(),
) -> Iterator[Float[np.ndarray, "N h w 3"]]:
    """Paints the frames of a film in many styles, so that they do not flicker.

    Args:
      params, styles, config, key, combine, callback, placement: as in `stylize`. If `config` has no
        term `Temporal`, it gets one. Every frame starts from the same noise if it starts from
        noise. `callback` is called in every frame.
      frames: pictures of one shape, in order. With one pass they are read one by one.
      flows: how the frames move, see `Flows`. A flow has the size of its frames, or that of the
        run.
      cuts: the numbers of the frames, from 0, that begin a shot. None finds them by their colours.
      passes: how often the sequence is painted, forth and back in turn, see section 4.4 of the
        paper. With more than one, all frames are in memory, and the first picture comes late.
      steps: how many steps a frame takes that starts from another one; None is `next_steps`.

    Yields:
      The pictures of each frame, `[N, H, W, 3]`, in the order of the frames.

    Raises:
      TypeError, ValueError: as `stylize`; a frame of another shape than the first, or a flow of
        another shape than its frames, or too few flows. The message names the frame.
    """
    if not isinstance(config, Config):
        raise TypeError(f"config must be an nst_jax.Config, got {described(config)}")
    passes = optimize.checked_count("passes", passes)
    steps = None if steps is None else optimize.checked_count("steps", steps)
    config = _with_temporal(config)
    # Otherwise every frame would do it.
    with sharding.undisturbed(mesh=placement.mesh):
        prepared = prepared_on(placement, params, config)

    def paint(frame: ArrayLike, **options: Any) -> np.ndarray:
        task = frame_task(frame, config, steps=steps, **options)
        result = stylize(
            *(prepared, task.frame, styles, task.config),
            inputs=task.inputs,
            initial=task.initial,
            key=key,
            combine=combine,
            callback=callback,
            placement=placement,
        )
        return np.asarray(result.images)

    follower = Follower(config, flows, cuts=cuts)
    if passes == 1:
        return _first_pass(paint, frames, follower)
    return _several_passes(paint, frames, follower, passes)


Paint = Callable[..., np.ndarray]


def _first_pass(paint: Paint, frames: Iterable, follower: "Follower") -> Iterator[np.ndarray]:
    painted: collections.deque[np.ndarray] = collections.deque(maxlen=max(follower.distances))
    for frame in frames:
        follower.add(frame)
        earlier = follower.earlier(lambda distance: painted[distance - 1])
        painted.appendleft(paint(frame, earlier=earlier))
        yield painted[0]


def _several_passes(
    paint: Paint, frames: Iterable, follower: "Follower", passes: int
) -> Iterator[np.ndarray]:
    frames, painted, links = list(frames), [], []
    for frame in frames:
        follower.add(frame)
        earlier = follower.earlier(lambda distance: painted[-distance])
        painted.append(paint(frame, earlier=earlier))
        links.append(follower.link())
    for number in range(1, passes):
        back = number % 2 == 1
        for at in sorted(range(len(frames)), reverse=back):
            near = neighbour(at, links, painted.__getitem__, back=back)
            if near is not None:
                painted[at] = paint(frames[at], earlier=[near], own=painted[at])
    yield from painted


class Link(NamedTuple):
    """How a frame moved from the one before it: the two flows, and where each is reliable."""

    forward: Float[ArrayLike, "H W 2"]
    backward: Float[ArrayLike, "H W 2"]
    reliable_forward: Float[ArrayLike, "H W"]
    reliable_backward: Float[ArrayLike, "H W"]


def neighbour(
    at: int, links: Sequence[Link | None], painted: Callable[[int], Any], *, back: bool
) -> Earlier | None:
    """The painted frame that a frame of a later pass should agree with; None at the end of a shot.

    Args:
      at: number of the frame.
      links: of each frame to the one before; None for the first one of a shot.
      painted: returns the pictures of a frame by its number.
      back: whether the pass goes back, so that the next frame comes before this one.
    """
    if back:
        link = links[at + 1] if at + 1 < len(links) else None
        return link and Earlier(painted(at + 1), link.forward, link.reliable_forward)
    link = links[at]
    return link and Earlier(painted(at - 1), link.backward, link.reliable_backward)


class Follower:
    """Follows the frames of a film: finds cuts, and where each pixel was in earlier frames.

    Give it each frame with `add`. Then `earlier` says what the frame should agree with.

    Args:
      config: of the run, with a term `Temporal`.
      flows, cuts: as in `stylize_sequence`.
    """

    def __init__(self, config: Config, flows: Flows, *, cuts: Collection[int] | None = None):
        self._config = _with_temporal(config)
        self.distances = _temporal(self._config).distances
        if not (flows is None or callable(flows) or isinstance(flows, Iterable)):
            raise TypeError(
                "flows must be a function of two frames, a pair of flows for each frame after the "
                f"first, or None, got {described(flows)}"
            )
        self._find = flows if callable(flows) else None
        self._given = None if flows is None or callable(flows) else iter(flows)
        self._cuts = cuts
        self._shape: tuple[int, ...] | None = None
        self._number = -1
        # Of this shot, the newest first: each frame, and the flows from and to the one before.
        self._frames: collections.deque[jax.Array] = collections.deque(maxlen=self._most + 1)
        self._pairs: collections.deque[Pair] = collections.deque(maxlen=self._most)
        self._motions: dict[int, Pair] = {}  # of the last frame, by distance

    @property
    def _most(self) -> int:
        return max(self.distances)

    @property
    def is_first(self) -> bool:
        """Whether the last frame that was added begins a shot."""
        return len(self._frames) == 1

    @sharding.undisturbed()
    def add(self, frame: Float[ArrayLike, "H W 3"]) -> None:
        """Takes the next frame.

        Raises:
          TypeError, ValueError: a frame of another shape than the first, or no flow for it.
        """
        self._number += 1
        self._motions = {}
        name = f"frames[{self._number}]"
        frame = checked(name, frame)
        if self._shape not in (None, frame.shape):
            raise ValueError(
                f"{name} must have the shape of the first frame, {self._shape}, got {frame.shape}"
            )
        self._shape = frame.shape
        given = self._next_pair(name) if self._number else None
        sized, _ = _sized(frame, self._config)
        if self._frames and not self._is_cut(sized):
            if given is not None:
                self._pairs.appendleft(given)
        else:
            self._frames.clear()
            self._pairs.clear()
        self._frames.appendleft(sized)

    def _next_pair(self, name: str) -> Pair | None:
        """The given flows of the next frame, resized for the run."""
        if self._given is None:
            return None
        assert self._shape is not None
        try:
            pair = next(self._given)
        except StopIteration:
            raise ValueError(f"flows must have a pair for {name}, got {self._number - 1}") from None
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(
                f"flows must hold pairs (forward, backward), got {described(pair)} for {name}"
            )
        sized, _ = _sized(jnp.zeros(self._shape), self._config)
        shapes = {(*shape[:2], 2) for shape in (self._shape, sized.shape)}
        for flow in pair:
            if np.shape(flow) not in shapes:
                raise ValueError(
                    f"flows for {name} must have the shape {(*self._shape[:2], 2)}, got "
                    f"{np.shape(flow)}"
                )
            if not np.all(np.isfinite(flow)):
                raise ValueError(f"flows for {name} must be finite")
        forward, backward = (resize_flow(flow, *sized.shape[:2]) for flow in pair)
        return forward, backward

    def _is_cut(self, sized: jax.Array) -> bool:
        """Whether a frame begins a shot."""
        if self._cuts is not None:
            return self._number in self._cuts
        return flow_lib.histogram_intersection(sized, self._frames[0]) < CUT

    @sharding.undisturbed()
    def link(self) -> Link | None:
        """How the last frame moved from the one before; None for the first one of a shot."""
        if self.is_first:
            return None
        forward, backward = self._motion(1)
        trusted = self._trusted(forward, backward, 1), self._trusted(backward, forward, 1)
        return Link(forward, backward, *trusted)

    def _motion(self, distance: int) -> Pair:
        """The flows from and to the frame that lies `distance` before the last one."""
        if distance not in self._motions:
            self._motions[distance] = self._found(distance)
        return self._motions[distance]

    def _found(self, distance: int) -> Pair:
        """What `_motion` returns, found by the function, along the given flows, or 0."""
        if self._find is not None:
            last, before = (np.asarray(self._frames[n]) for n in (0, distance))
            return self._find(before, last), self._find(last, before)
        if self._given is None:
            zero = jnp.zeros((*self._frames[0].shape[:2], 2))
            return zero, zero
        forwards, backwards = zip(*itertools.islice(self._pairs, distance), strict=True)
        # From the older frame on, and from the newer frame back.
        return (
            functools.reduce(flow_lib.follow, forwards[::-1]),
            functools.reduce(flow_lib.follow, backwards),
        )

    def _trusted(self, flow: ArrayLike, back: ArrayLike, distance: int) -> jax.Array:
        """Where one of the two flows of `_motion` is reliable."""
        if self._find is None and self._given is None:
            return flow_lib.still(self._frames[0], self._frames[distance])
        return flow_lib.reliable(flow, back)

    @sharding.undisturbed()
    def earlier(self, painted: Callable[[int], Any]) -> list[Earlier | None]:
        """The painted frames that the last frame should agree with, for `frame_task`.

        Where a nearer one is reliable, a farther one does not count, see section 4.3 of the paper.

        Args:
          painted: returns the pictures `[N, H, W, 3]` of the frame that is so many frames before.
        """
        found: list[Earlier | None] = []
        covered: Any = 0.0
        for distance in self.distances:
            if distance >= len(self._frames):
                found.append(None)
                continue
            forward, backward = self._motion(distance)
            trust = self._trusted(backward, forward, distance)
            found.append(Earlier(painted(distance), backward, jnp.clip(trust - covered, 0.0, 1.0)))
            covered = covered + trust
        return found


def _with_temporal(config: Config) -> Config:
    """The settings with a term `Temporal`."""
    if any(isinstance(term, Temporal) for term in config.terms):
        return config
    return config.replace(temporal=Temporal())


def _temporal(config: Config) -> Temporal:
    return next(term for term in config.terms if isinstance(term, Temporal))


def _sized(frame: Float[ArrayLike, "H W 3"], config: Config) -> tuple[jax.Array, Config]:
    """A frame at the size of the run, and the settings with that size."""
    frame = checked("frame", frame)
    config = for_content(config, frame.shape)
    return jnp.clip(fit(frame, config), 0.0, 1.0), config


def _warped(earlier: Earlier) -> jax.Array:
    return jnp.clip(warp(earlier.images, earlier.flow), 0.0, 1.0)


def _data(
    given: Sequence[Earlier | None],
    warped: Sequence[Any],
    count: int,
    shape: tuple[int, ...],
) -> Tree:
    """The data of the term: `count` earlier frames. One that does not exist has no weight."""
    outputs = next((len(images) for images in warped if images is not None), 1)
    nothing = jnp.zeros((outputs, *shape, 3)), jnp.zeros(shape)
    each = [
        nothing if one is None else (images, jnp.asarray(one.reliable))
        for one, images in itertools.zip_longest(given, warped)
    ]
    each += [nothing] * (count - len(each))
    pictures, reliable = zip(*each, strict=True)
    pictures = jnp.stack(pictures, axis=-2)
    return {
        "warped": Field(pictures, IMAGE, "picture", per_output=True)
        if any(one is not None for one in given)
        else Field(pictures[0], IMAGE, "picture"),
        "reliable": Field(jnp.stack(reliable, axis=-1), IMAGE, "mask"),
    }
