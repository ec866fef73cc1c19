"""The optax transformations that a configuration describes; rates are in grey levels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nst_jax.config import Config, Number
from nst_jax.image import laplacian_pyramid, laplacian_sum


def learning_rate_at(config: Config, step: jax.Array) -> jax.Array:
    """The learning rate, in grey levels, of step number `step` (from 0)."""
    if config.schedule == "exponential":
        return config.learning_rate * config.decay_rate ** (step / config.decay_steps)
    if config.schedule == "cosine":
        # On a scale of [0, 1], so that another number of steps compiles nothing.
        decay = optax.cosine_decay_schedule(init_value=1.0, decay_steps=1.0)
        return config.learning_rate * decay(step / config.steps)
    return jnp.asarray(config.learning_rate)


def normalize_by_band(
    *, weights: Sequence[Number] = (1.0, 1.0, 1.0)
) -> optax.GradientTransformation:
    """Divides each band of an image's gradient by the band's own root mean square.

    The bands are those of a Laplacian pyramid, see `nst_jax.image.laplacian_pyramid`. Each divided
    band is multiplied by its weight, and the bands are summed. So the learning rate says how far
    pixels move, whatever the loss's units, and coarse shapes move as far as fine grain. A single
    weight is a single band: the gradient as a whole over its root mean square.

    Where a band is below 1e-5 of the gradient's largest value, which is where rounding begins, it
    is not brought up any further. A gradient of zero stays zero.

    Args:
      weights: the root mean square that each band gets, from fine to coarse; a picture that is
        too small for so many bands goes without the coarsest ones.

    Returns:
      An optax transformation of one image `[H, W, C]`, or of a tree of them; for many, `jax.vmap`.

    Raises:
      ValueError: no weight, or, when it is used, an array that is not `[H, W, C]`.
    """
    weights = tuple(weights)
    if not weights:
        raise ValueError("weights must hold a number for each band, got none")

    def update(gradient, _):
        if gradient.ndim != 3:
            raise ValueError(f"the gradient must be of one image [H, W, C], got {gradient.shape}")
        bands = laplacian_pyramid(_in_unit_range(gradient), len(weights))
        pairs = zip(bands, weights, strict=False)
        return laplacian_sum([weight * _normalized(band) for band, weight in pairs])

    return optax.stateless_with_tree_map(update)


def _in_unit_range(array: jax.Array) -> jax.Array:
    """An array over its largest value, so that squares are numbers of float32."""
    largest = jnp.max(jnp.abs(array))
    return array / jnp.where(largest > 0, largest, 1)


def _normalized(array: jax.Array) -> jax.Array:
    """An array over the sum of its root mean square and 1e-5."""
    return array / (jnp.sqrt(jnp.mean(jnp.square(array))) + 1e-5)


def scale_by_convex_lbfgs(memory_size: int) -> optax.GradientTransformation:
    """`optax.scale_by_lbfgs`, where a step along which the gradient did not grow is passed over.

    Without a line search there are such steps, and their negative curvature would lead upwards.
    In their place the pair of step and change before is given again, to the place in the memory
    that it has already, so that the memory stays as it is. So does `torch.optim.LBFGS`'s.

    While there is no pair yet, as at the first step, the step is the gradient over its root mean
    square, a grey level far: a gradient's own length depends on the loss's units and says nothing
    of how far to go.

    Jorge Nocedal, Stephen J. Wright: "Numerical Optimization", 2nd edition, Springer 2006,
    section 18.3, on skipping updates; https://doi.org/10.1007/978-0-387-40065-5
    """
    inner = optax.scale_by_lbfgs(memory_size)

    def update(gradient, state, image):
        step, change = image - state.params, gradient - state.updates
        rounding = 1e-7 * jnp.linalg.norm(step) * jnp.linalg.norm(change)
        skipped = (state.count > 0) & (jnp.vdot(step, change) <= rounding)
        last = (state.count - 2) % memory_size  # its place in the memory
        state = state._replace(
            count=state.count - (skipped & (state.count > 1)),
            params=jnp.where(skipped, image - state.diff_params_memory[last], state.params),
            updates=jnp.where(skipped, gradient - state.diff_updates_memory[last], state.updates),
        )
        direction, state = inner.update(gradient, state, image)
        known = jnp.any(state.weights_memory != 0)
        return jnp.where(known, direction, _normalized(_in_unit_range(gradient))), state

    return optax.GradientTransformation(inner.init, update)


class LimitRiseState(NamedTuple):
    """The state of `limit_rise`.

    Attributes:
      inner: state of the inner transformation.
      image: the last one whose loss was within the limit.
      gradient: there.
      best: the lowest loss so far.
      length: of the last step, its root mean square.
    """

    inner: Any
    image: jax.Array
    gradient: jax.Array
    best: jax.Array
    length: jax.Array


def limit_rise(
    inner: optax.GradientTransformation, *, rise: float = 1.2
) -> optax.GradientTransformationExtraArgs:
    """Keeps the loss below `rise` times the lowest one so far, by the lengths of steps.

    No step is more than twice as long as the one before. A step that raises the loss above the
    limit all the same is taken back, and taken again a quarter as long, until it stays within. The
    inner transformation is then shown the place where the step began, so that it learns nothing
    from where it failed. The first step has the inner transformation's length.

    Jorge Nocedal, Stephen J. Wright: "Numerical Optimization", 2nd edition, Springer 2006,
    section 4.1, on the radius of a trust region; https://doi.org/10.1007/978-0-387-40065-5

    Args:
      inner: an optax transformation that ends in the update to add to the image.
      rise: at least 1.

    Returns:
      An optax transformation of one array; its update wants the loss as `value=`.
    """

    def init(image):
        unknown = jnp.float32(jnp.inf)
        return LimitRiseState(inner.init(image), image, jnp.zeros_like(image), unknown, unknown)

    def update(gradient, state, image, *, value, **_):
        failed = value > state.best + (rise - 1) * jnp.abs(state.best)
        back = jnp.where(failed, state.image - image, 0)
        place = jnp.where(failed, state.image, image)
        gradient = jnp.where(failed, state.gradient, gradient)
        step, inner_state = inner.update(gradient, state.inner, place)
        whole = jnp.sqrt(jnp.mean(jnp.square(step)))
        length = jnp.minimum(whole, jnp.where(failed, 0.25, 2.0) * state.length)
        share = length / jnp.where(whole > 0, whole, 1)
        best = jnp.minimum(value, state.best)
        return back + share * step, LimitRiseState(inner_state, place, gradient, best, length)

    return optax.GradientTransformationExtraArgs(init, update)


def make_optimizer(config: Config, step: jax.Array) -> optax.GradientTransformation:
    """The optax transformation that `config` describes, at step number `step`.

    The numbers of `config` and `step` may be traced arrays. The learning rate is a function of
    `step`, not of a count in the optimiser's state, so that the state can go over to another
    scale.
    """
    descend = optax.scale(-learning_rate_at(config, step))
    chain = []
    # Differences of gradients scaled each by itself would tell L-BFGS no curvature.
    if config.normalize_gradient != "none" and config.optimizer != "lbfgs":
        bands = config.band_weights if config.normalize_gradient == "bands" else (1.0,)
        chain += [normalize_by_band(weights=bands)]
    if config.optimizer == "sgd":
        chain += [optax.trace(config.momentum), descend]
    elif config.optimizer == "adam":
        chain += [optax.scale_by_adam(config.beta1, config.beta2, config.epsilon), descend]
    elif config.linesearch:
        chain += [optax.lbfgs(memory_size=config.memory)]
    else:
        lbfgs = optax.chain(scale_by_convex_lbfgs(config.memory), descend)
        chain += [limit_rise(lbfgs)]
    return optax.chain(*chain)
