"""Gradient descent on images through optax: one state per image, many images at once.

`init`, `step` and `run` work with any network and any style. A loss is any function
`loss(image, *shared, *each) -> (value, terms)` of one image `[H, W, 3]` in [0, 1].

The optimiser sees the image in grey levels: the image times 255, with the gradient to match. So a
learning rate is in grey levels, as in the published experiments, whatever range the loss works in.
So is every other constant of an optax transformation.

What is optimised is the image itself, or a tree of parameters that a `Parametrization` renders to
an image.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nst_jax import compiler, sharding
from nst_jax import image as image_lib
from nst_jax.config import Config, check_sweep
from nst_jax.extractor import is_circular
from nst_jax.optimizers import Optimizer
from nst_jax.settings import checked_count

P = ParamSpec("P")
R = TypeVar("R")

LEVELS = 255.0

PATIENCE = 10
"""Over how many steps `Config.tolerance` compares losses."""

Loss = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
"""`loss(image, *shared, *each) -> (value, terms)`."""

ValueAndGrad = Callable[..., tuple[tuple[ArrayLike, Mapping[str, ArrayLike]], ArrayLike]]
"""`value_and_grad(image, *arguments) -> ((value, terms), gradient)`."""

Sweep = Mapping[str, ArrayLike | Sequence[float]]
"""`{address: [N]}`: for fields of a config, one number for each image."""


class Parametrization:
    """Describes an image by parameters other than its pixels. Derive a class from this one.

    `init` and `render` must be pure. The object must be hashable, and passing the same object again
    reuses the compiled program. A learning rate of 1 is 1/255 of a parameter's unit. Leaves that
    are not `[H, W, C]` need `normalize_gradient="none"`, and L-BFGS takes a single array. Each
    scale begins with `init` of the resampled picture.
    """

    def init(self, image: Float[Array, "H W 3"]) -> Any:
        """The parameters of an image `[H, W, 3]`, as a tree of arrays."""
        raise NotImplementedError

    def render(self, tree: Any) -> Float[Array, "H W 3"]:
        """The image `[H, W, 3]` of the parameters. It must be pure and differentiable."""
        raise NotImplementedError

    def clipped(self, tree: Any, image: Float[Array, "H W 3"]) -> Any:
        """The parameters after a step.

        By default the parameters stay the same, and only the returned picture is clipped.

        Args:
          tree: the parameters that the step gave.
          image: `[H, W, 3]`, what they render to, clipped to [0, 1].
        """
        del image
        return tree


@dataclasses.dataclass(frozen=True)
class Pixels(Parametrization):
    """Optimises the image itself."""

    def init(self, image: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
        return image

    def render(self, tree: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
        return tree

    def clipped(
        self, tree: Float[Array, "H W 3"], image: Float[Array, "H W 3"]
    ) -> Float[Array, "H W 3"]:
        return image


@dataclasses.dataclass(frozen=True)
class Pyramid(Parametrization):
    """Optimises the coefficients of a Laplacian pyramid, whose sum is the image.

    A step of a coarse level moves large areas at once. Nicholas Kolkin, Jason Salavon, Gregory
    Shakhnarovich: "Style Transfer by Relaxed Optimal Transport and Self-Similarity", CVPR 2019,
    https://arxiv.org/abs/1904.12785, section 2.4.

    Attributes:
      levels: the number of levels; fewer if a level is a single row or column.
    """

    levels: int

    def init(self, image: Float[Array, "H W 3"]) -> tuple[Float[Array, "_ _ 3"], ...]:
        return tuple(image_lib.laplacian_pyramid(image, self.levels))

    def render(self, tree: tuple[Float[Array, "_ _ 3"], ...]) -> Float[Array, "H W 3"]:
        return image_lib.laplacian_sum(list(tree))


def _chosen(parametrization: Parametrization | None, config: Config) -> Parametrization:
    """What a run optimises: what it is given, or what its settings say."""
    if parametrization is not None:
        return parametrization
    return Pixels() if config.pyramid == 1 else Pyramid(config.pyramid)


class State(NamedTuple):
    """The optimisation of one image. With a leading axis on every leaf, it is of many images.

    Attributes:
      tree: what is optimised, after the last finite step: the image `[H, W, 3]` in [0, 1], or other
        parameters of it.
      opt_state: state of the optax transformation.
      step: number of steps taken.
      diverged: whether a step was not finite. From then on the image stays as it is.
      settled: whether the loss fell by less than the tolerance. Until the next scale, the image
        then stays as it is.
      mark: the loss that the next comparison refers to, see `PATIENCE`.
      taken: number of steps taken at this scale and earlier ones.
      average: exponential moving average of the images, as optax keeps it.
      picture: `[H, W, 3]`, what the run would return now: the average, corrected for its bias. With
        a decay of 0 it is the image itself.
      start: `[H, W, 3]`, where the run began.
      start_value: the loss of `start`, infinite before the first step. It is not NaN there: several
        processes must place equal values, and NaN does not equal itself.
      value: the loss of `picture`, infinite before the end of a run.
      kept_start: how many runs returned their start, at this scale and earlier ones, see
        `keep_better`.
    """

    tree: Any
    opt_state: Any
    step: Int[Array, "*N"]
    diverged: Bool[Array, "*N"]
    settled: Bool[Array, "*N"]
    mark: Float[Array, "*N"]
    taken: Int[Array, "*N"]
    average: optax.EmaState
    picture: Float[Array, "*N H W 3"]
    start: Float[Array, "*N H W 3"]
    start_value: Float[Array, "*N"]
    value: Float[Array, "*N"]
    kept_start: Int[Array, "*N"]


class Progress(NamedTuple):
    """What `run` passes to its callback after each dispatch of the compiled program.

    Attributes:
      step: steps taken so far.
      steps: steps of the whole run.
      terms: `{name: [steps of this dispatch, N]}`, NumPy.
      images: `[N, H, W, 3]`. They are valid during the call only: the next dispatch reuses their
        memory.
      diverged: `[N]` of bool, NumPy: which images have diverged, see `State`.
      kept_start: `[N]`, NumPy: how many finished scales returned their start, see `keep_better`.
      states: states of all images, with the optimiser's memory. They are valid during the call
        only.
      layer_losses: a function, in a run of `stylize`. It returns what every layer adds to the loss
        of each of these images, `[{term: {layer: loss}}, ...]`, see `objective.layer_losses`. All
        processes have to call it.
    """

    step: int
    steps: int
    terms: dict[str, Float[np.ndarray, "steps N"]]
    images: Float[Array, "N H W 3"]
    diverged: Bool[np.ndarray, " N"]
    kept_start: Int[np.ndarray, " N"]
    states: State
    layer_losses: Callable[[], list[dict[str, dict[str, float]]]] | None = None


class Checkpoint(NamedTuple):
    """Where a run stopped, so that another one can continue from there.

    Attributes:
      step: steps taken.
      states: states of all images: the tree, or a list of its leaves.
      history: `{name: [step, N]}` of those steps.
    """

    step: int
    states: Any
    history: dict[str, Float[np.ndarray, "step N"]]


def init(
    image: Float[ArrayLike, "H W 3"],
    optimizer: optax.GradientTransformation,
    *,
    parametrization: Parametrization = Pixels(),
) -> State:
    """The state before the first step on `image` `[H, W, 3]`."""
    tree = parametrization.init(jnp.asarray(image))
    picture = parametrization.render(tree)
    average = optax.ema(0.0).init(picture)
    assert isinstance(average, optax.EmaState)
    return State(
        tree=tree,
        opt_state=optimizer.init(_in_levels(tree)),
        step=jnp.zeros((), jnp.int32),
        diverged=jnp.zeros((), bool),
        settled=jnp.zeros((), bool),
        mark=jnp.float32(jnp.inf),
        taken=jnp.zeros((), jnp.int32),
        average=average,
        picture=picture,
        start=picture,
        start_value=jnp.float32(jnp.inf),
        value=jnp.float32(jnp.inf),
        kept_start=jnp.zeros((), jnp.int32),
    )


def step(
    state: State,
    loss: Callable[[jax.Array], tuple[jax.Array, dict[str, jax.Array]]],
    optimizer: optax.GradientTransformation,
    *,
    parametrization: Parametrization = Pixels(),
    clip: bool = False,
    average_decay: ArrayLike = 0.0,
    tolerance: ArrayLike = 0.0,
) -> tuple[State, dict[str, jax.Array]]:
    """Takes one step on one image. It is pure.

    Args:
      state: from `init` or an earlier step.
      loss: `loss(image) -> (value, terms)` of an image `[H, W, 3]`.
      optimizer: any optax transformation, with or without extra arguments.
      parametrization: how the image is described.
      clip: whether to keep the image inside [0, 1].
      average_decay: decay of the average of the images, at least 0 and below 1.
      tolerance: as in `Config`; 0 never settles.

    Returns:
      The next state, and the terms of the loss before the step. A step is not applied if its value,
      its gradient or its update is not finite; the state is then marked as diverged.
    """
    image = parametrization.render(state.tree)
    (value, terms), gradient = jax.value_and_grad(loss, has_aux=True)(image)
    moved = descend(
        state,
        value,
        gradient,
        optimizer,
        value_fn=lambda image: loss(image)[0],
        parametrization=parametrization,
        clip=clip,
        average_decay=average_decay,
        tolerance=tolerance,
    )
    return moved, terms


def descend(
    state: State,
    value: Float[ArrayLike, ""],
    gradient: Float[ArrayLike, "H W 3"],
    optimizer: optax.GradientTransformation,
    *,
    value_fn: Callable[[jax.Array], jax.Array] | None = None,
    parametrization: Parametrization = Pixels(),
    clip: bool = False,
    average_decay: ArrayLike = 0.0,
    tolerance: ArrayLike = 0.0,
) -> State:
    """Takes one step on one image, given the loss's value and gradient there. It is pure.

    Args:
      state: from `init` or an earlier step.
      value: the loss of the image.
      gradient: `[H, W, 3]`, the gradient of the loss with respect to the image.
      value_fn: the loss as a function of the image, for optimisers with a line search.
      optimizer, parametrization, clip, average_decay, tolerance: as in `step`.

    Returns:
      The next state, as in `step`.
    """
    value = jnp.asarray(value, jnp.float32)  # of a network in float64, too
    _, pull_back = jax.vjp(parametrization.render, state.tree)
    (slope,) = pull_back(gradient)
    slope = jax.tree.map(lambda leaf: leaf / LEVELS, slope)

    def value_of(levels):
        assert value_fn is not None
        return value_fn(parametrization.render(_in_unit(levels)))

    update, opt_state = optax.with_extra_args_support(optimizer).update(
        slope,
        state.opt_state,
        _in_levels(state.tree),
        value=value,
        grad=slope,
        value_fn=None if value_fn is None else value_of,
    )
    tree = jax.tree.map(lambda leaf, moved: leaf + moved / LEVELS, state.tree, update)
    image = parametrization.render(tree)
    if clip:
        image = jnp.clip(image, 0.0, 1.0)
        tree = parametrization.clipped(tree, image)
    # The update is checked, not the image: clipping may turn NaN into a number.
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
    for leaf in jax.tree.leaves(update):
        finite &= jnp.all(jnp.isfinite(leaf))
    diverged = state.diverged | ~finite
    compares = state.step % PATIENCE == 0
    slow = state.mark - value <= tolerance * jnp.abs(state.mark)
    asked = (jnp.asarray(tolerance) > 0.0) & jnp.isfinite(state.mark)
    settled = state.settled | (compares & asked & slow)
    picture, average = _averaged(image, state.average, jnp.asarray(average_decay))
    # Such an image stays as it is. Its optimiser's state does not matter any more. To keep that
    # state as well would copy the whole history of L-BFGS at each step.
    tree, step, taken, average, picture = jax.tree.map(
        functools.partial(jnp.where, diverged | settled),
        (state.tree, state.step, state.taken, state.average, state.picture),
        (tree, state.step + 1, state.taken + 1, average, picture),
    )
    return state._replace(
        tree=tree,
        opt_state=opt_state,
        step=step,
        diverged=diverged,
        settled=settled,
        mark=jnp.where(compares, value, state.mark),
        taken=taken,
        average=average,
        picture=picture,
        start_value=jnp.where(state.step == 0, value, state.start_value),
    )


def _averaged(
    image: jax.Array, average: optax.EmaState, decay: jax.Array
) -> tuple[jax.Array, optax.EmaState]:
    """`optax.ema(decay).update`, but strict promotion of types does not refuse it."""
    count = optax.safe_increment(average.count)
    mean = decay * jnp.asarray(average.ema) + (1.0 - decay) * image
    corrected = mean / (1.0 - decay ** jnp.asarray(count, jnp.float32))
    return corrected, optax.EmaState(count=count, ema=mean)


def scan(
    loss: Loss,
    state: State | Float[ArrayLike, "H W 3"],
    config: Config,
    *,
    length: int,
    optimizer: optax.GradientTransformation | None = None,
    parametrization: Parametrization = Pixels(),
    key: PRNGKeyArray | None = None,
) -> tuple[State, dict[str, Float[Array, " length"]]]:
    """Takes several steps on one image by `jax.lax.scan`, inside a program of your own.

    It is pure: use it with `jax.jit`, `jax.vmap` and `jax.grad`. The gradient goes through all
    steps, and through all arrays that `loss` closes over. `run` calls the same scan several times.
    Two scans in sequence give the result of one scan of both lengths, up to rounding.

    Args:
      loss: `loss(image) -> (value, terms)`. If `config.draws()`, it also takes a random `key=`.
      state: the state from an earlier call, or the image `[H, W, 3]` in [0, 1] to start from.
      config: the optimiser and its numbers. The numbers may be traced. `config.steps` is the length
        of the whole run: schedules end there.
      length: how many steps to take. It is static under `jax.jit`.
      optimizer: an optax transformation that replaces the configured one.
      parametrization: how the image is described.
      key: random key for what each step draws. None is key 0.

    Returns:
      The state after the last step, and the terms `{term: [length]}`, each taken before its step.
      The image is `picture` of the state. It is the last image, even if the start had a lower loss.
    """
    length = checked_count("length", length)
    if not isinstance(state, State):
        image = jnp.asarray(state)
        if image.ndim != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(
                "state must be a State or an image [H, W, 3] of floating point, got "
                f"{described(state)} of {image.dtype}"
            )
        begun = _transformation(optimizer, config, 0)
        state = init(jnp.asarray(state), begun, parametrization=parametrization)
    key = jax.random.key(0) if key is None else key

    def one(state: State, _: None) -> tuple[State, dict[str, jax.Array]]:
        drawn = {"key": jax.random.fold_in(key, state.step)} if config.draws() else {}
        return step(
            state,
            functools.partial(loss, **drawn),
            _transformation(optimizer, config, state.step),
            parametrization=parametrization,
            clip=config.clip,
            average_decay=config.average_decay,
            tolerance=config.tolerance,
        )

    if length == 1:  # XLA runs convolutions on a CPU slower inside a loop
        state, terms = one(state, None)
        return state, jax.tree.map(lambda term: term[None], terms)
    return jax.lax.scan(one, state, length=length)


def keep_better(
    state: State,
    value: Float[ArrayLike, ""],
    *,
    parametrization: Parametrization = Pixels(),
    average_decay: ArrayLike = 0.0,
) -> State:
    """Ends a run on one image: the start becomes the picture if its loss is lower.

    Args:
      state: after the last step.
      value: the loss of `state.picture`.
      parametrization: how the image is described.
      average_decay: decay of the average of the images. With an average, the picture stays,
        whatever its loss.

    Returns:
      The state with its `value`. If `value` is above the loss of the start, or not finite, tree and
      picture are the start, and `kept_start` is one more. A diverged image keeps its last finite
      picture.
    """
    worse = ~state.diverged & ~(value <= state.start_value) & (average_decay == 0.0)
    tree = parametrization.init(state.start)
    return state._replace(
        tree=jax.tree.map(functools.partial(jnp.where, worse), tree, state.tree),
        picture=jnp.where(worse, state.start, state.picture),
        value=jnp.where(worse, state.start_value, value),
        kept_start=state.kept_start + worse.astype(jnp.int32),
    )


def _in_levels(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: LEVELS * leaf, tree)


def _in_unit(levels: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf / LEVELS, levels)


def steps_per_dispatch(*, platform: str | None = None) -> int:
    """How many steps one call of the compiled program takes on a platform, such as "tpu".

    None is the default backend. On a CPU it is one step: XLA:CPU runs a convolution inside a loop
    2.5-3 times slower than outside. On an accelerator it is several: with single steps, the device
    would wait for the host.
    """
    return 1 if (platform or jax.default_backend()) == "cpu" else 25


@functools.partial(jax.jit, static_argnames=("optimizer", "parametrization"))
def _init_all(images, config, *, optimizer, parametrization):
    def one(image, config):
        return init(image, _transformation(optimizer, config, 0), parametrization=parametrization)

    return jax.vmap(one)(images, config)


_OPTIONS = {
    "static_argnames": ("loss", "optimizer", "length", "mesh", "parametrization", "in_turn"),
    "donate_argnames": "states",
}


@functools.partial(jax.jit, **_OPTIONS)
def _advance(
    states,
    shared,
    each,
    config,
    key,
    *,
    loss,
    optimizer,
    length,
    mesh=None,
    parametrization=Pixels(),
    in_turn=False,
):
    """Takes `length` steps on every image in one program. Terms are `[length, N]`."""

    def one(state, each, config):
        return scan(
            lambda image, **drawn: loss(image, *shared, *each, **drawn),
            state,
            config,
            length=length,
            optimizer=optimizer,
            parametrization=parametrization,
            key=key,
        )

    picture = states.picture.shape[1:]
    states = sharding.constrain(mesh, states, picture=picture)
    states, terms = sharding.over_outputs(mesh, one, states, each, config, in_turn=in_turn)
    states = sharding.constrain_evenly(mesh, states, picture=picture)
    terms = jax.tree.map(lambda term: jnp.moveaxis(term, 1, 0), terms)
    return states, sharding.constrain_whole(mesh, terms)


def _with_value(state: State, value: jax.Array, config: Config, parametrization) -> State:
    """The state at the end of a run."""
    if config.draws():  # each step has another loss, so the start's does not compare
        return state._replace(value=value)
    return keep_better(
        state, value, parametrization=parametrization, average_decay=config.average_decay
    )


_OPTIONS_OF_END = {
    "static_argnames": ("loss", "mesh", "parametrization", "in_turn"),
    "donate_argnames": "states",
}


@functools.partial(jax.jit, **_OPTIONS_OF_END)
def _end(states, shared, each, config, *, loss, mesh, parametrization, in_turn):
    """The states at the end of a run, each with the loss of its picture."""

    def one(state, each, config):
        value, _ = loss(state.picture, *shared, *each)
        return _with_value(state, value, config, parametrization)

    picture = states.picture.shape[1:]
    states = sharding.constrain(mesh, states, picture=picture)
    states = sharding.over_outputs(mesh, one, states, each, config, in_turn=in_turn)
    return sharding.constrain_evenly(mesh, states, picture=picture)


@functools.partial(jax.jit, static_argnames="parametrization", donate_argnames="states")
def _end_given_values(states, values, config, *, parametrization):
    return jax.vmap(functools.partial(_with_value, parametrization=parametrization))(
        states, values, config
    )


@functools.partial(jax.jit, static_argnames="parametrization")
def _render_all(trees, *, parametrization):
    return jax.vmap(parametrization.render)(trees)


def _program(lean, mesh=None):
    """`_advance`; `lean` asks for an order that keeps few results at a time."""
    if lean and sharding.platform_of(mesh) == "cpu":
        return compiler.compiled(_advance, tuple(compiler.LEAN.items()), **_OPTIONS)
    return _advance


@functools.partial(
    jax.jit, static_argnames=("optimizer", "parametrization"), donate_argnames="states"
)
def _descend_all(states, values, gradients, config, *, optimizer, parametrization):
    """Takes a step on every image, given values `[N]` and gradients `[N, H, W, 3]`."""

    def one(state, value, gradient, config):
        return descend(
            state,
            value,
            gradient,
            _transformation(optimizer, config, state.step),
            parametrization=parametrization,
            clip=config.clip,
            average_decay=config.average_decay,
            tolerance=config.tolerance,
        )

    return jax.vmap(one)(states, values, gradients, config)


def _transformation(optimizer, config: Config, step) -> optax.GradientTransformation:
    if optimizer is not None:
        return optimizer
    wraps = is_circular(config.network)
    return config.optimizer.transformation(step, config.steps, wraps=wraps)


def batch_numbers(config: Config, count: int, *, sweep: Sweep | None = None) -> Config:
    """`config` with every number as a float32 array `[count]`, one for each image.

    Args:
      config: the settings.
      count: how many images there are.
      sweep: `{address: [count]}`, numbers that replace the config's own.

    Raises:
      TypeError: a swept address is unknown or is not a number.
      ValueError: a number is out of its range, or a sweep does not have `count` numbers.
    """
    checked = {}
    for address, values in (sweep or {}).items():
        values = np.asarray(values)
        check_sweep(config, address, values=values.ravel())
        if values.shape != (count,):
            raise ValueError(
                f"sweep[{address!r}] must have a number for each of the {count} outputs, got an "
                f"array of shape {values.shape}"
            )
        checked[address] = values

    def batch(path, number):
        number = np.asarray(number, np.float32)  # this and device_put compile nothing
        if number.shape not in ((), (count,)):
            raise ValueError(
                f"config{jax.tree_util.keystr(path)} must be a number, got an array of shape "
                f"{number.shape}; pass several numbers as sweep="
            )
        return jax.device_put(np.broadcast_to(number, (count,)))

    return jax.tree.map_with_path(batch, config.with_sweep(checked))


def start(
    images: Float[ArrayLike, "N H W 3"],
    config: Config,
    *,
    optimizer: optax.GradientTransformation | None = None,
    sweep: Sweep | None = None,
    parametrization: Parametrization | None = None,
    previous: State | None = None,
) -> State:
    """The states before the first step on `images` `[N, H, W, 3]`.

    With `previous`, the states of a run at another scale, some of their contents carry over:

    - Diverged images stay diverged. The counts of returned starts and of steps continue.
    - The moments of SGD and Adam are resampled: they are arrays of the images' shape. An image that
      returned its start has fresh moments, because its old ones belong to steps that were undone.
    - L-BFGS starts afresh: its memory holds steps and gradients of another size.

    Args:
      images: `[N, H, W, 3]` in [0, 1], where to start.
      config, optimizer, sweep, parametrization, previous: as in `run`.

    Raises:
      ValueError: the images are not `[N, H, W, 3]`, a sweep does not have N numbers, or the
        optimiser takes one array and the parametrization has several.
    """
    shape = np.shape(images)
    if len(shape) != 4:
        raise ValueError(f"images must be [N, H, W, 3], got an array of shape {list(shape)}")
    parametrization = _chosen(parametrization, config)
    numbers = batch_numbers(config, shape[0], sweep=sweep)
    tree = jax.eval_shape(jax.vmap(parametrization.init), images)
    if optimizer is None and config.optimizer.of_one_array and not jax.tree_util.all_leaves([tree]):
        raise ValueError(
            f"{type(config.optimizer).__name__} optimises one array, and "
            f"{type(parametrization).__name__} has a tree of them"
        )
    states = _init_all(images, numbers, optimizer=optimizer, parametrization=parametrization)
    if previous is None:
        return states

    def taken_over(old):
        if old.shape == previous.picture.shape:
            old = image_lib.resample(old, *shape[1:3])
        return jnp.copy(old)  # the first step donates the copy; `previous` is the caller's

    states = states._replace(
        diverged=taken_over(previous.diverged),
        kept_start=taken_over(previous.kept_start),
        taken=taken_over(previous.taken),
    )
    carries = config.optimizer.carries and isinstance(parametrization, Pixels)
    if optimizer is not None or not carries:
        return states
    kept = jnp.all(previous.picture == previous.start, axis=(1, 2, 3))

    def moments(old, fresh):
        of_each = kept.reshape(-1, *[1] * (fresh.ndim - 1))
        return jnp.where(of_each, fresh, taken_over(old))

    return states._replace(opt_state=jax.tree.map(moments, previous.opt_state, states.opt_state))


def _undisturbed(function: Callable[P, R]) -> Callable[P, R]:
    """`sharding.undisturbed`, on the mesh that the function is given."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        mesh: Any = kwargs.get("mesh")
        with sharding.undisturbed(mesh=mesh):
            return function(*args, **kwargs)

    return wrapped


@_undisturbed
def run(
    loss: Loss,
    images: Float[ArrayLike, "N H W 3"],
    config: Config,
    *,
    shared: Sequence[Any] = (),
    each: Sequence[Any] = (),
    optimizer: optax.GradientTransformation | None = None,
    sweep: Sweep | None = None,
    parametrization: Parametrization | None = None,
    previous: State | None = None,
    resume: Checkpoint | None = None,
    key: PRNGKeyArray | None = None,
    callback: Callable[[Progress], object] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    lean: bool = False,
    in_turn: bool = False,
    chunk: int | None = None,
) -> tuple[State, dict[str, Float[np.ndarray, "steps N"]]]:
    """Minimises `loss` over every image at once.

    The program is compiled once for a loss, the structure of `config`, and the shapes. A call with
    other numbers, or with another number of steps, compiles nothing.

    Args:
      loss: `loss(image, *shared, *each) -> (value, terms)`. Pass the same function object in each
        call: it identifies the compiled program. If `config.draws()`, each step also passes a
        random `key=`. The evaluation after the last step passes no key.
      images: `[N, H, W, 3]` in [0, 1], where to start.
      config: steps, optimiser and its numbers.
      shared: further arguments, the same for every image.
      each: further arguments with a leading axis N, one item for each image.
      optimizer: an optax transformation that replaces the configured one. Pass the same object
        again to reuse the compiled program.
      sweep: `{address: [N]}`, numbers that replace the config's own, one for each image.
      parametrization: how the images are described. None is by the pyramid that `config` asks for,
        or else by their pixels.
      previous: states of a run on the same pictures at another scale, see `start`.
      resume: where to continue, in place of `images`; of these only the shape matters then.
      key: random key of what each step draws. None is key 0.
      callback: called with a `Progress` after each dispatch. If it returns True, the run ends.
      mesh: devices to divide the images among, from `sharding.make_mesh`. None is one device.
      lean: whether the program keeps few results at a time, even if that takes longer.
      in_turn: whether a device takes a step on one of its images after the other, and not on all at
        once. It suits a loss that fills the device with one image.
      chunk: how many steps a dispatch takes, which is a `scan`. None is `steps_per_dispatch()`.
        Steps that are left over are taken one by one.

    Returns:
      The final states, batched, and the history `{name: [steps, N]}` of the terms, each taken
      before its step. If the callback ends the run, or all images have diverged, the history is
      shorter. If all
      have settled, it ends, too, and the last losses fill the history. After
      the last step each picture's loss is evaluated once more. A picture gives way to the start if
      the start's loss is lower, see `keep_better`. With jitter, a term that draws, or an average,
      the last picture is returned in any case.

    Raises:
      TypeError: an argument of a wrong type; the message names it.
      ValueError: the images are not `[N, H, W, 3]`, a sweep does not have N numbers, the mesh has
        other axes, or the checkpoint belongs to another run.
    """
    _check_run(
        *("loss", loss, images, previous),
        config=config,
        optimizer=optimizer,
        parametrization=parametrization,
        sweep=sweep,
        resume=resume,
        key=key,
        callback=callback,
    )
    sharding.check_mesh(mesh)
    parametrization = _chosen(parametrization, config)
    begun = {"optimizer": optimizer, "sweep": sweep, "parametrization": parametrization}
    states = _begin(images, config, previous, resume, begun)
    key = jax.random.key(0) if key is None else key
    numbers = batch_numbers(config, states.picture.shape[0], sweep=sweep)
    states, *rest = _placed(mesh, states, numbers, shared, each, key)

    steps = int(config.steps)
    if chunk is None:
        chunk = steps_per_dispatch(platform=sharding.platform_of(mesh))
    else:
        chunk = min(checked_count("chunk", chunk), max(steps, 1))

    def advance(states, left):
        length = chunk
        if length > left:
            length = 1  # or the rest would need a program of its own
        options = {"loss": loss, "optimizer": optimizer, "length": length, "mesh": mesh}
        options["in_turn"] = in_turn
        return _program(lean, mesh)(states, *rest, **options, parametrization=parametrization)

    def end(states):
        shared, each, numbers, _ = rest
        options = {"loss": loss, "mesh": mesh, "in_turn": in_turn}
        options["parametrization"] = parametrization
        program = compiler.run_once(_end, mesh=mesh, **_OPTIONS_OF_END)
        return program(states, shared, each, numbers, **options)

    states, history = _loop(advance, end, states, steps, callback, resume)
    return sharding.gather(mesh, states), history


def _placed(mesh, states, numbers, shared, each, key):
    """The arguments of `_advance`, placed on the mesh."""
    states = sharding.place(mesh, states, picture=states.picture.shape[1:])
    each, numbers = sharding.place(mesh, (tuple(each), numbers))
    shared, key = sharding.place(mesh, (tuple(shared), key), whole=True)
    return states, shared, each, numbers, key


@_undisturbed
def run_given_gradients(
    value_and_grad: ValueAndGrad,
    images: Float[ArrayLike, "N H W 3"],
    config: Config,
    *,
    each: Sequence[Sequence[Any]] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    sweep: Sweep | None = None,
    parametrization: Parametrization | None = None,
    previous: State | None = None,
    resume: Checkpoint | None = None,
    key: PRNGKeyArray | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> tuple[State, dict[str, Float[np.ndarray, "steps N"]]]:
    """Minimises a loss that comes with its gradient and cannot be compiled as one program.

    Args:
      value_and_grad: `value_and_grad(image, *arguments) -> ((value, terms), gradient)` of one
        NumPy image and of its arguments in `each`. It returns NumPy or JAX arrays. If
        `config.draws()`, each step also passes a random `key=`. The evaluation after the last step
        passes no key.
      each: a sequence of arguments for each image; None is no arguments.
      images, config, optimizer, sweep, parametrization, previous, resume, key, callback: as in
        `run`.

    Returns:
      The final states and the history, as `run`.

    Raises:
      TypeError: as `run`.
      ValueError: as `run`; `each` does not have N items; or the optimiser has a line search, which
        would need the loss itself.
    """
    _check_run(
        *("value_and_grad", value_and_grad, images, previous),
        config=config,
        optimizer=optimizer,
        parametrization=parametrization,
        sweep=sweep,
        resume=resume,
        key=key,
        callback=callback,
    )
    count = np.shape(images)[0]
    if each is not None and len(each) != count:
        raise ValueError(f"each must hold arguments for each of {count} images, got {len(each)}")
    if optimizer is None and config.optimizer.searches:
        raise ValueError("linesearch needs a loss that can be compiled as one program")
    parametrization = _chosen(parametrization, config)
    begun = {"optimizer": optimizer, "sweep": sweep, "parametrization": parametrization}
    states = _begin(images, config, previous, resume, begun)
    numbers = batch_numbers(config, count, sweep=sweep)
    key = jax.random.key(0) if key is None else key
    arguments_of = [()] * count if each is None else each

    def look(images, keys=None):
        values, terms, gradients = [], [], np.empty(images.shape, np.float32)
        for n, arguments in enumerate(arguments_of):
            moved = {} if keys is None else {"key": keys[n]}
            image = np.asarray(images)[n]
            (value, found), gradients[n] = value_and_grad(image, *arguments, **moved)
            values.append(value)
            terms.append(found)
            del image  # a second reference would keep its memory from being donated
        return np.stack(values), terms, gradients

    def advance(states, _):
        keys = [jax.random.fold_in(key, step) for step in states.step] if config.draws() else None
        images = _render_all(states.tree, parametrization=parametrization)
        values, terms, gradients = look(images, keys)
        del images  # a second reference would keep its memory from being donated
        options = {"optimizer": optimizer, "parametrization": parametrization}
        states = _descend_all(states, values, gradients, numbers, **options)
        return states, jax.tree.map(lambda *rows: np.stack(rows)[None], *terms)

    def end(states):
        values, *_ = look(states.picture)
        return _end_given_values(states, values, numbers, parametrization=parametrization)

    return _loop(advance, end, states, int(config.steps), callback, resume)


def described(value: Any) -> str:
    """A few words on one line that tell what a value is, for error messages."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {list(np.shape(value))}"
    items = [value]
    if isinstance(value, list | tuple | set | frozenset | dict):
        items = [*value, *(value.values() if isinstance(value, dict) else ())]
    plain = all(isinstance(item, str | bytes | int | float | complex | None) for item in items)
    text = repr(value) if plain else ""
    if 0 < len(text) <= 60:
        return text
    return f"an object of type {type(value).__name__}"


def check_arguments(
    *,
    config: object,
    optimizer: object,
    parametrization: object,
    sweep: object,
    resume: object,
    key: object,
    callback: object,
) -> None:
    """Refuses arguments of `run` that have a wrong type. It compiles nothing.

    Raises:
      TypeError: an argument has a wrong type.
      ValueError: `key` is several keys.
    """
    if not isinstance(config, Config):
        hint = "; presets are in nst_jax.presets" if isinstance(config, str) else ""
        raise TypeError(f"config must be an nst_jax.Config, got {described(config)}{hint}")
    if optimizer is not None and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        kind = optimizer if isinstance(optimizer, type) else type(optimizer)
        hint = "; settings of an optimiser go to config.replace(optimizer=)"
        raise TypeError(
            "optimizer must be an optax transformation such as optax.adam(...), got "
            f"{described(optimizer)}{hint if issubclass(kind, Optimizer) else ''}"
        )
    if not isinstance(parametrization, Parametrization | None):
        raise TypeError(
            "parametrization must be of a class derived from nst_jax.optimize.Parametrization, got "
            f"{described(parametrization)}"
        )
    try:
        hash(parametrization)
    except TypeError:
        raise TypeError(
            "parametrization must be hashable, such as a frozen dataclass, got "
            f"{described(parametrization)}"
        ) from None
    if not isinstance(sweep, Mapping | None):
        raise TypeError(f"sweep must be {{address: numbers}}, got {described(sweep)}")
    if not isinstance(resume, Checkpoint | None):
        raise TypeError(
            f"resume must be an nst_jax.optimize.Checkpoint or None, got {described(resume)}"
        )
    if callback is not None and not callable(callback):
        raise TypeError(
            f"callback must be a function of a Progress, or None, got {described(callback)}"
        )
    if key is not None:
        _check_key(key)


def _check_key(key):
    wanted = f"key must be one random key such as jax.random.key(0), got {described(key)}"
    dtype = getattr(key, "dtype", None)
    if dtype is None:
        raise TypeError(wanted)
    is_new = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not is_new and dtype != np.uint32:  # the dtype of jax.random.PRNGKey
        raise TypeError(f"{wanted} and type {dtype}")
    if np.ndim(key) != (0 if is_new else 1):
        raise ValueError(wanted)


def _check_run(name, function, images, previous, **arguments):
    """Refuses what `check_arguments` refuses, a loss that is no function, and what is no images."""
    if not callable(function):
        raise TypeError(f"{name} must be a function, got {described(function)}")
    if not (hasattr(images, "shape") and hasattr(images, "dtype")):
        raise TypeError(f"images must be an array [N, H, W, 3], got {described(images)}")
    if len(images.shape) != 4:
        raise ValueError(f"images must be [N, H, W, 3], got {described(images)}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images must be floating point in [0, 1], got {images.dtype}")
    if not isinstance(previous, State | None):
        raise TypeError(
            f"previous must be an nst_jax.optimize.State or None, got {described(previous)}"
        )
    check_arguments(**arguments)


def _begin(images, config, previous, resume, options):
    """The states to take the next step from."""
    if resume is None:
        return start(images, config, **options, previous=previous)
    options = options | {"sweep": None}
    wanted = jax.eval_shape(lambda images: start(images, config, **options), images)
    leaves, structure = jax.tree.flatten(wanted)
    found = jax.tree.leaves(resume.states)
    shapes, own = [[(x.shape, x.dtype) for x in tree] for tree in (leaves, found)]
    if shapes != own:
        raise ValueError("resume must hold states of the same run, got arrays of other shapes")
    return jax.tree.unflatten(structure, [jnp.array(leaf) for leaf in found])


def _loop(advance, end, states, steps, callback, resume):
    """Takes all steps of a run; returns the states and the history.

    It calls `advance(states, steps left) -> (states, terms [steps taken, N])` until no step is
    left or every image has diverged, then `end(states) -> states`.
    """
    history, done = ([], 0) if resume is None else ([resume.history], resume.step)
    stopped = False
    while done < steps and not stopped:
        states, terms = advance(states, steps - done)
        history.append(jax.tree.map(np.asarray, terms))
        done += len(jax.tree.leaves(history[-1])[0])
        stopped = all_diverged(states)
        if not stopped and done < steps and all_held(states):
            # The rest of the steps would change nothing, neither pictures nor losses.
            rest = {"pad_width": ((0, steps - done), (0, 0)), "mode": "edge"}
            history[-1] = jax.tree.map(functools.partial(np.pad, **rest), history[-1])
            done = steps
        if done == steps or stopped:  # a run that continues from its end does not come here again
            states = end(states)
        if callback is not None:
            asked = callback(
                Progress(
                    step=done,
                    steps=steps,
                    terms=history[-1],
                    images=states.picture,
                    diverged=np.asarray(states.diverged),
                    kept_start=np.asarray(states.kept_start),
                    states=states,
                )
            )
            if ends(asked) and done < steps and not stopped:
                states, stopped = end(states), True
    return states, jax.tree.map(lambda *parts: np.concatenate(parts), *history)


def ends(answer: object) -> bool:
    """Whether the answer of a callback ends the run."""
    return isinstance(answer, bool | np.bool_) and bool(answer)


def all_held(states: State) -> bool:
    """Whether no image moves any more: each has diverged or settled. Else as `all_diverged`."""
    return _all_of(states.diverged, states.settled)


def all_diverged(states: State) -> bool:
    """Whether every image has diverged; False if the images are divided among processes."""
    return _all_of(states.diverged)


def _all_of(*flags: ArrayLike) -> bool:
    """Whether every image has one of the flags `[N]`; False if they are divided among processes."""
    # Then each process would have to collect the others' at each dispatch.
    if any(isinstance(of, jax.Array) and not of.is_fully_addressable for of in flags):
        return False
    return bool(np.any([np.asarray(of) for of in flags], axis=0).all())


def lower(
    loss: Loss,
    images: Float[ArrayLike, "N H W 3"] | jax.ShapeDtypeStruct,
    config: Config,
    *,
    shared: Sequence[Any] = (),
    each: Sequence[Any] = (),
    optimizer: optax.GradientTransformation | None = None,
    sweep: Sweep | None = None,
    length: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    lean: bool = False,
    in_turn: bool = False,
) -> jax.stages.Lowered:
    """Lowers the program that a dispatch of `run` executes, without running it.

    `cost_analysis()` of the result, and `compiled_bytes` of its `compile()`, estimate what a
    dispatch takes. On a mesh, they are for each device.

    Args:
      loss, config, shared, each, optimizer, sweep, mesh, lean, in_turn: as in `run`. All arrays
        may be `jax.ShapeDtypeStruct`. The devices of the mesh may be descriptions of devices.
      images: as in `run`. Only their shape matters.
      length: steps in the program; None is `steps_per_dispatch()`.
    """
    states = jax.eval_shape(lambda images: start(images, config, optimizer=optimizer), images)
    count = states.picture.shape[0]
    key, numbers = jax.eval_shape(
        lambda: (jax.random.key(0), batch_numbers(config, count, sweep=sweep))
    )
    shared, each = jax.eval_shape(lambda *trees: trees, tuple(shared), tuple(each))
    return _program(lean, mesh).lower(
        *_placed(mesh, states, numbers, shared, each, key),
        loss=loss,
        optimizer=optimizer,
        length=steps_per_dispatch() if length is None else length,
        mesh=mesh,
        in_turn=in_turn,
    )


def compiled_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Bytes that a program's arguments, results and intermediates take together.

    XLA's analysis says how many. The result is None if the backend has no such analysis.
    """
    memory = compiled.memory_analysis()
    return memory and (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
