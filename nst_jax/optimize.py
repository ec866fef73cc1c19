"""Gradient descent on images through optax: one state an image, many images at once.

`init`, `step` and `run` know no network and no style: a loss is any function
`loss(image, *shared, *each) -> (value, terms)` of one image `[H, W, 3]` in [0, 1].

The optimiser sees the image in grey levels, that is 255 times as large, with the gradient to
match. So a learning rate, and every other constant of an optax transformation, is in grey levels
as in the published experiments, whatever range the loss works in.

What is optimised is the image itself, or a tree of parameters that a `Parametrization` renders to
one.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nst_jax import image as image_lib
from nst_jax import sharding
from nst_jax.config import Config, check_sweep

LEVELS = 255.0

Loss = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


class Parametrization:
    """Describes an image by other parameters than its pixels: derive a class from this.

    `init` and `render` must be pure. The object must be hashable, and the same object finds the
    compiled program again. Learning rates are 1/255 of a parameter's unit. Leaves that are not
    `[H, W, C]` need `normalize_gradient="none"`, and L-BFGS takes a single array. Each scale begins
    with `init` of the resampled picture.
    """

    def init(self, image: jax.Array) -> Any:
        """The parameters, a tree of arrays, of an image `[H, W, 3]`."""
        raise NotImplementedError

    def render(self, tree: Any) -> jax.Array:
        """The image `[H, W, 3]` of parameters. Pure, and differentiated."""
        raise NotImplementedError

    def clipped(self, tree: Any, image: jax.Array) -> Any:
        """The parameters after a step, where `image` is what they render to, clipped to [0, 1].
        Unless a class says otherwise they stay, and only the picture that is returned is clipped.
        """
        del image
        return tree


@dataclasses.dataclass(frozen=True)
class Pixels(Parametrization):
    """The image itself."""

    def init(self, image):
        return image

    def render(self, tree):
        return tree

    def clipped(self, tree, image):
        return image


class State(NamedTuple):
    """Optimisation of one image; with a leading axis on every leaf, of many.

    Attributes:
      tree: what is optimised, the last one whose step was finite: the image `[H, W, 3]` in [0, 1],
        or other parameters of it.
      opt_state: of the optax transformation.
      step: number of steps taken.
      diverged: whether a step was not finite; from then on the image stays as it is.
      average: exponential moving average of the images, as optax keeps it.
      picture: what the run would return now, the average corrected for its bias: with a decay
        of 0 the image itself.
      start: `[H, W, 3]`, where the run began.
      start_value: the loss there, infinite before the first step. Several processes place the same
        value, and NaN does not equal itself.
      value: the loss of `picture`, infinite before the end of a run.
      kept_start: how many runs, at this scale and those before, returned their start, see
        `keep_better`.
    """

    tree: Any
    opt_state: Any
    step: jax.Array
    diverged: jax.Array
    average: optax.EmaState
    picture: jax.Array
    start: jax.Array
    start_value: jax.Array
    value: jax.Array
    kept_start: jax.Array


class Progress(NamedTuple):
    """What `run` reports after each dispatch.

    Attributes:
      step: steps taken so far.
      steps: steps of the whole run.
      terms: `{name: [steps of this dispatch, N]}`, NumPy.
      images: `[N, H, W, 3]`; valid during the call only: the next dispatch reuses the memory.
      diverged: `[N]`, NumPy.
      kept_start: `[N]`, NumPy: scales done that returned their start, see `keep_better`.
      states: of all images, the optimiser's memory with them; valid during the call only.
      layer_losses: in a run of `stylize`, a function that finds for each of these images what
        every layer adds to its loss, `[{term: {layer: loss}}, ...]`, as of
        `objective.layer_losses`. All processes have to call it.
    """

    step: int
    steps: int
    terms: dict[str, np.ndarray]
    images: jax.Array
    diverged: np.ndarray
    kept_start: np.ndarray
    states: State
    layer_losses: Callable[[], list[dict[str, dict[str, float]]]] | None = None


class Checkpoint(NamedTuple):
    """Where a run stood, to go on from there.

    Attributes:
      step: steps taken.
      states: of all images: the tree, or its leaves in a list.
      history: `{name: [step, N]}` of those steps.
    """

    step: int
    states: Any
    history: dict[str, np.ndarray]


def init(
    image: jax.Array,
    optimizer: optax.GradientTransformation,
    *,
    parametrization: Parametrization = Pixels(),
) -> State:
    """State before the first step on `image` `[H, W, 3]`."""
    tree = parametrization.init(image)
    image = parametrization.render(tree)
    return State(
        tree=tree,
        opt_state=optimizer.init(_in_levels(tree)),
        step=jnp.zeros((), jnp.int32),
        diverged=jnp.zeros((), bool),
        average=optax.ema(0.0).init(image),
        picture=image,
        start=image,
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
    average_decay: jax.Array | float = 0.0,
) -> tuple[State, dict[str, jax.Array]]:
    """One step on one image; pure.

    Args:
      state: from `init` or an earlier step.
      loss: `loss(image) -> (value, terms)`.
      optimizer: any optax transformation, with or without extra arguments.
      parametrization: of what is optimised.
      clip: keep the image inside [0, 1].
      average_decay: of the average of the images.

    Returns:
      The next state, and the terms of the loss before the step. A step with a value, gradient
      or image that is not finite is not applied, and marks the state as diverged.
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
    )
    return moved, terms


def descend(
    state: State,
    value: jax.Array,
    gradient: jax.Array,
    optimizer: optax.GradientTransformation,
    *,
    value_fn: Callable[[jax.Array], jax.Array] | None = None,
    parametrization: Parametrization = Pixels(),
    clip: bool = False,
    average_decay: jax.Array | float = 0.0,
) -> State:
    """The next state, given the loss's value and gradient `[H, W, 3]` at the image; the rest as of
    `step`.

    `value_fn` is the loss as a function of the image, for optimisers that search along a line.
    """
    _, pull_back = jax.vjp(parametrization.render, state.tree)
    (slope,) = pull_back(gradient)
    slope = jax.tree.map(lambda leaf: leaf / LEVELS, slope)

    def value_of(levels):
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
    # Of the update rather than the image: clipping may turn NaN into a number.
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
    for leaf in jax.tree.leaves(update):
        finite &= jnp.all(jnp.isfinite(leaf))
    diverged = state.diverged | ~finite
    picture, average = optax.ema(average_decay).update(image, state.average)
    # An image that has diverged stays as it is. Its optimiser does not matter any more: to keep
    # that would copy the whole history of L-BFGS at each step.
    tree, step, average, picture = jax.tree.map(
        functools.partial(jnp.where, diverged),
        (state.tree, state.step, state.average, state.picture),
        (tree, state.step + 1, average, picture),
    )
    return state._replace(
        tree=tree,
        opt_state=opt_state,
        step=step,
        diverged=diverged,
        average=average,
        picture=picture,
        start_value=jnp.where(state.step == 0, value, state.start_value),
    )


def keep_better(
    state: State,
    value: jax.Array,
    *,
    parametrization: Parametrization = Pixels(),
    average_decay: jax.Array | float = 0.0,
) -> State:
    """The end of a run: the state, with its start as its picture where that is better.

    Args:
      state: after the last step.
      value: the loss of `state.picture`.
      parametrization: of what is optimised.
      average_decay: of the average of the images. An average stays the picture, whatever its loss.

    Returns:
      The state with its `value`. Where that is above the loss of the start, or not finite, tree
      and picture are the start, and `kept_start` is one more. An image that has diverged stays the
      last finite one.
    """
    worse = ~state.diverged & ~(value <= state.start_value) & (average_decay == 0.0)
    tree = parametrization.init(state.start)
    return state._replace(
        tree=jax.tree.map(functools.partial(jnp.where, worse), tree, state.tree),
        picture=jnp.where(worse, state.start, state.picture),
        value=jnp.where(worse, state.start_value, value),
        kept_start=state.kept_start + worse,
    )


def _in_levels(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: LEVELS * leaf, tree)


def _in_unit(levels: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf / LEVELS, levels)


def steps_per_dispatch() -> int:
    """How many steps one call of the compiled program takes on this backend.

    XLA:CPU runs a convolution inside a loop 2.5-3 times slower than outside; an accelerator
    would wait for the host between single steps.
    """
    return 1 if jax.default_backend() == "cpu" else 25


@functools.partial(jax.jit, static_argnames=("optimizer", "parametrization"))
def _init_all(images, config, *, optimizer, parametrization):
    def one(image, config):
        return init(image, _transformation(optimizer, config, 0), parametrization=parametrization)

    return jax.vmap(one)(images, config)


_OPTIONS = {
    "static_argnames": ("loss", "optimizer", "length", "mesh", "parametrization"),
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
):
    """`length` steps on every image in one program; terms are `[length, N]`."""

    def one(state, each, config):
        def value(image):
            if not config.draws():
                return loss(image, *shared, *each)
            return loss(image, *shared, *each, key=jax.random.fold_in(key, state.step))

        return step(
            state,
            value,
            _transformation(optimizer, config, state.step),
            parametrization=parametrization,
            clip=config.clip,
            average_decay=config.average_decay,
        )

    picture = states.picture.shape[1:]

    def all_images(states, _):
        states = sharding.constrain(mesh, states, picture=picture)
        states, terms = jax.vmap(one)(states, each, config)
        states = sharding.constrain_evenly(mesh, states, picture=picture)
        return states, sharding.constrain_evenly(mesh, terms, picture=())

    if length == 1:
        states, terms = all_images(states, None)
        return states, jax.tree.map(lambda term: term[None], terms)
    return jax.lax.scan(all_images, states, length=length)


def _with_value(state: State, value: jax.Array, config: Config, parametrization) -> State:
    """The state at the end of a run. Where losses are drawn, each step has one of its own: the
    picture stays what it is."""
    if config.draws():
        return state._replace(value=value)
    return keep_better(
        state, value, parametrization=parametrization, average_decay=config.average_decay
    )


@functools.partial(
    jax.jit, static_argnames=("loss", "mesh", "parametrization"), donate_argnames="states"
)
def _end(states, shared, each, config, *, loss, mesh, parametrization):
    """The states after the last step, each with its picture's value."""

    def one(state, each, config):
        value, _ = loss(state.picture, *shared, *each)
        return _with_value(state, value, config, parametrization)

    picture = states.picture.shape[1:]
    states = jax.vmap(one)(sharding.constrain(mesh, states, picture=picture), each, config)
    return sharding.constrain_evenly(mesh, states, picture=picture)


@functools.partial(jax.jit, static_argnames="parametrization", donate_argnames="states")
def _end_given_values(states, values, config, *, parametrization):
    return jax.vmap(functools.partial(_with_value, parametrization=parametrization))(
        states, values, config
    )


@functools.partial(jax.jit, static_argnames="parametrization")
def _render_all(trees, *, parametrization):
    return jax.vmap(parametrization.render)(trees)


@functools.cache
def _lean_advance():
    """`_advance` in an order that keeps few results at a time; of itself XLA:CPU seeks none."""
    options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    try:
        jax.jit(jnp.sin, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # not a version of XLA that knows it
        options = None
    return jax.jit(_advance.__wrapped__, compiler_options=options, **_OPTIONS)


def _program(lean):
    return _lean_advance() if lean and jax.default_backend() == "cpu" else _advance


@functools.partial(
    jax.jit, static_argnames=("optimizer", "parametrization"), donate_argnames="states"
)
def _descend_all(states, values, gradients, config, *, optimizer, parametrization):
    """A step on every image, given values `[N]` and gradients `[N, H, W, 3]`."""

    def one(state, value, gradient, config):
        return descend(
            state,
            value,
            gradient,
            _transformation(optimizer, config, state.step),
            parametrization=parametrization,
            clip=config.clip,
            average_decay=config.average_decay,
        )

    return jax.vmap(one)(states, values, gradients, config)


def _transformation(optimizer, config: Config, step) -> optax.GradientTransformation:
    if optimizer is not None:
        return optimizer
    return config.optimizer.transformation(step, config.steps)


def batch_numbers(config: Config, count: int, *, sweep: Mapping[str, Any] | None = None) -> Config:
    """`config` with every number as a float32 array `[count]`, one an image.

    Args:
      sweep: `{address: [count]}`, numbers to take in place of the config's own.

    Raises:
      TypeError, ValueError: a sweep of what is no number, of one that the config may not have, or
        of another length.
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
                f"{number.shape}; several are a sweep="
            )
        return jax.device_put(np.broadcast_to(number, (count,)))

    return jax.tree.map_with_path(batch, config.with_sweep(checked))


def start(
    images: jax.Array,
    config: Config,
    *,
    optimizer: optax.GradientTransformation | None = None,
    sweep: Mapping[str, Any] | None = None,
    parametrization: Parametrization = Pixels(),
    previous: State | None = None,
) -> State:
    """States before the first step on `images` `[N, H, W, 3]`.

    With the states of a run at another scale as `previous`, what diverged there stays so, the count
    of returned starts goes on, and the moments of SGD and Adam, arrays of the images' shape, go
    along, resampled. An image that returned its start has fresh ones: its own are of a path that it
    did not take. L-BFGS starts afresh: its memory is of steps and gradients of a problem of another
    size.

    Raises:
      ValueError: images that are not `[N, H, W, 3]`, or a sweep of another length than N.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be [N, H, W, 3], got {images.shape}")
    numbers = batch_numbers(config, len(images), sweep=sweep)
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
            old = image_lib.resample(old, *images.shape[1:3])
        return jnp.copy(old)  # the first step donates it, and `previous` is the caller's

    states = states._replace(
        diverged=taken_over(previous.diverged), kept_start=taken_over(previous.kept_start)
    )
    carries = config.optimizer.carries and isinstance(parametrization, Pixels)
    if optimizer is not None or not carries:
        return states
    kept = jnp.all(previous.picture == previous.start, axis=(1, 2, 3))

    def moments(old, fresh):
        of_each = kept.reshape(-1, *[1] * (fresh.ndim - 1))
        return jnp.where(of_each, fresh, taken_over(old))

    return states._replace(opt_state=jax.tree.map(moments, previous.opt_state, states.opt_state))


def run(
    loss: Loss,
    images: jax.Array,
    config: Config,
    *,
    shared: Sequence = (),
    each: Sequence = (),
    optimizer: optax.GradientTransformation | None = None,
    sweep: Mapping[str, Any] | None = None,
    parametrization: Parametrization = Pixels(),
    previous: State | None = None,
    resume: Checkpoint | None = None,
    key: jax.Array | None = None,
    callback: Callable[[Progress], None] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    lean: bool = False,
) -> tuple[State, dict[str, np.ndarray]]:
    """Minimises `loss` over every image at once.

    The program is compiled once for a loss, the structure of `config`, and the shapes: another
    call with other numbers, or another number of steps, compiles nothing.

    Args:
      loss: `loss(image, *shared, *each) -> (value, terms)`. Pass the same function object in each
        call: the compiled program is found by it. If `config.draws()`, each step also passes a
        random `key=`; the last look passes none.
      images: `[N, H, W, 3]` in [0, 1], where to start.
      config: steps, optimiser and its numbers.
      sweep: `{address: [N]}`, numbers of the config, one an image in place of one for all.
      parametrization: of what is optimised.
      shared: further arguments, the same for every image.
      each: further arguments with a leading axis N, one item an image.
      optimizer: an optax transformation in place of the configured one; pass the same object
        again to find the compiled program again.
      previous: states of a run on the same pictures at another scale, see `start`.
      resume: where to go on from in place of `images`, of which then only the shape matters.
      key: random key of what is drawn at each step; None is key 0.
      callback: called with a `Progress` after each dispatch.
      mesh: devices to divide the images among, from `sharding.make_mesh`; None is one device.
      lean: whether the program is to keep few results at a time, also where that takes longer.

    Returns:
      The final states, batched, and the history `{name: [steps, N]}` of the terms, each taken
      before its step. After the last step each picture's loss is found once more, and the picture
      gives way to the start where that is better, see `keep_better`. With jitter, a term that
      draws, or an average, the last picture is returned as it is.

    Raises:
      ValueError: images that are not `[N, H, W, 3]`, numbers of another length than N, or a
        checkpoint of another run.
    """
    begun = {"optimizer": optimizer, "sweep": sweep, "parametrization": parametrization}
    states = _begin(images, config, previous, resume, begun)
    states, *rest = _placed(mesh, states, config, sweep, shared, each, key)

    def advance(states, left):
        length = steps_per_dispatch()
        if length > left:
            length = 1  # rather than compile a program for the rest
        options = {"loss": loss, "optimizer": optimizer, "length": length, "mesh": mesh}
        return _program(lean)(states, *rest, **options, parametrization=parametrization)

    def end(states):
        shared, each, numbers, _ = rest
        options = {"loss": loss, "mesh": mesh, "parametrization": parametrization}
        return _end(states, shared, each, numbers, **options)

    states, history = _loop(advance, end, states, int(config.steps), callback, resume)
    return sharding.gather(mesh, states), history


def _placed(mesh, states, config, sweep, shared, each, key):
    """The arguments of `_advance`, where the mesh has them."""
    key = jax.random.key(0) if key is None else key
    numbers = batch_numbers(config, states.picture.shape[0], sweep=sweep)
    states = sharding.place(mesh, states, picture=states.picture.shape[1:])
    each, numbers = sharding.place(mesh, (tuple(each), numbers))
    shared, key = sharding.place(mesh, (tuple(shared), key), whole=True)
    return states, shared, each, numbers, key


def run_given_gradients(
    value_and_grad: Callable,
    images: jax.Array,
    config: Config,
    *,
    each: Sequence[Sequence] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    sweep: Mapping[str, Any] | None = None,
    parametrization: Parametrization = Pixels(),
    previous: State | None = None,
    resume: Checkpoint | None = None,
    key: jax.Array | None = None,
    callback: Callable[[Progress], None] | None = None,
) -> tuple[State, dict[str, np.ndarray]]:
    """As `run`, of a loss that comes with its gradient and cannot be compiled as one program.

    Args:
      value_and_grad: `value_and_grad(image, *arguments) -> ((value, terms), gradient)` of one
        NumPy image and the arguments that `each` holds for it; NumPy arrays or JAX's. With
        `config.draws()` it is also given `key=`, a random key of each step, or none for the last
        look.
      each: a sequence of arguments for each image.
      images, config, optimizer, sweep, parametrization, previous, resume, key, callback: as of
        `run`.

    Raises:
      ValueError: as `run`, or an optimiser with a line search: it would need the loss itself.
    """
    if optimizer is None and config.optimizer.searches:
        raise ValueError("linesearch needs a loss that can be compiled as one program")
    begun = {"optimizer": optimizer, "sweep": sweep, "parametrization": parametrization}
    states = _begin(images, config, previous, resume, begun)
    numbers = batch_numbers(config, len(images), sweep=sweep)
    key = jax.random.key(0) if key is None else key
    each = [()] * len(images) if each is None else each

    def look(images, keys=None):
        values, terms, gradients = [], [], np.empty(images.shape, np.float32)
        for n, arguments in enumerate(each):
            moved = {} if keys is None else {"key": keys[n]}
            image = np.asarray(images)[n]
            (value, found), gradients[n] = value_and_grad(image, *arguments, **moved)
            values.append(value)
            terms.append(found)
            del image  # or its memory could not be donated
        return np.stack(values), terms, gradients

    def advance(states, _):
        keys = [jax.random.fold_in(key, step) for step in states.step] if config.draws() else None
        images = _render_all(states.tree, parametrization=parametrization)
        values, terms, gradients = look(images, keys)
        del images  # or its memory could not be donated
        options = {"optimizer": optimizer, "parametrization": parametrization}
        states = _descend_all(states, values, gradients, numbers, **options)
        return states, jax.tree.map(lambda *rows: np.stack(rows)[None], *terms)

    def end(states):
        values, *_ = look(states.picture)
        return _end_given_values(states, values, numbers, parametrization=parametrization)

    return _loop(advance, end, states, int(config.steps), callback, resume)


def _begin(images, config, previous, resume, options):
    """States to take the next step from."""
    if resume is None:
        return start(images, config, **options, previous=previous)
    options = options | {"sweep": None}
    wanted = jax.eval_shape(lambda images: start(images, config, **options), images)
    leaves, structure = jax.tree.flatten(wanted)
    found = jax.tree.leaves(resume.states)
    shapes, own = [[(x.shape, x.dtype) for x in tree] for tree in (leaves, found)]
    if shapes != own:
        raise ValueError("resume must hold states of the same run, got others' shapes")
    return jax.tree.unflatten(structure, [jnp.array(leaf) for leaf in found])


def _loop(advance, end, states, steps, callback, resume):
    """Calls `advance(states, steps left) -> (states, terms [steps taken, N])` until none is left,
    then `end(states) -> states`; the states and the history."""
    history, done = ([], 0) if resume is None else ([resume.history], resume.step)
    while done < steps:
        states, terms = advance(states, steps - done)
        history.append(jax.tree.map(np.asarray, terms))
        done += len(jax.tree.leaves(history[-1])[0])
        if done == steps:  # not again in a run that goes on from its end
            states = end(states)
        if callback is not None:
            known = [np.asarray(each) for each in (states.diverged, states.kept_start)]
            callback(Progress(done, steps, history[-1], states.picture, *known, states))
    return states, jax.tree.map(lambda *parts: np.concatenate(parts), *history)


def lower(
    loss: Loss,
    images: jax.Array,
    config: Config,
    *,
    shared: Sequence = (),
    each: Sequence = (),
    optimizer: optax.GradientTransformation | None = None,
    sweep: Mapping[str, Any] | None = None,
    length: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    lean: bool = False,
) -> jax.stages.Lowered:
    """The program that a dispatch of `run` executes, ahead of time and without running it.

    Its `cost_analysis()`, and `compiled_bytes` of its `compile()`, tell what a run takes; on a
    mesh, of each device.

    Args:
      loss, images, config, shared, each, optimizer, sweep, mesh, lean: as `run` takes them; of the
        images only the shape matters, and all arrays may be `jax.ShapeDtypeStruct`.
      length: steps in the program; None is `steps_per_dispatch()`.
    """
    states = jax.eval_shape(lambda images: start(images, config, optimizer=optimizer), images)
    return _program(lean).lower(
        *_placed(mesh, states, config, sweep, shared, each, None),
        loss=loss,
        optimizer=optimizer,
        length=steps_per_dispatch() if length is None else length,
        mesh=mesh,
    )


def compiled_bytes(compiled: jax.stages.Compiled) -> int | None:
    """What arguments, results and intermediates of a program take together, by XLA's analysis;
    None where the backend has none."""
    memory = compiled.memory_analysis()
    return memory and (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
