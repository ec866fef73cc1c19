"""The optax transformations that a configuration describes; rates are in grey levels."""

import jax
import jax.numpy as jnp
import optax

from nst_jax.config import Config


def learning_rate_at(config: Config, step: jax.Array) -> jax.Array:
    """The learning rate, in grey levels, of step number `step` (from 0)."""
    if config.schedule == "exponential":
        return config.learning_rate * config.decay_rate ** (step / config.decay_steps)
    if config.schedule == "cosine":
        # On a scale of [0, 1], so that another number of steps compiles nothing.
        decay = optax.cosine_decay_schedule(init_value=1.0, decay_steps=1.0)
        return config.learning_rate * decay(step / config.steps)
    return jnp.asarray(config.learning_rate)


def normalize_by_rms(*, epsilon: float = 1e-12) -> optax.GradientTransformation:
    """Divides an image's gradient by its root mean square."""
    return optax.stateless_with_tree_map(
        lambda update, _: update / jnp.sqrt(jnp.mean(jnp.square(update)) + epsilon**2)
    )


def scale_by_convex_lbfgs(memory_size: int) -> optax.GradientTransformation:
    """`optax.scale_by_lbfgs`, where a step along which the gradient did not grow is passed over.

    Without a line search there are such steps, and their negative curvature would lead upwards.
    In their place the pair of step and change before is given again, to the place in the memory
    that it has already, so that the memory stays as it is. So does `torch.optim.LBFGS`'s. While
    there is no pair yet, steps are along the gradient itself.

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
        return inner.update(gradient, state, image)

    return optax.GradientTransformation(inner.init, update)


def make_optimizer(config: Config, step: jax.Array) -> optax.GradientTransformation:
    """The optax transformation that `config` describes, at step number `step`.

    The numbers of `config` and `step` may be traced arrays. The learning rate is a function of
    `step`, not of a count in the optimiser's state, so that the state can go over to another
    scale.
    """
    descend = optax.scale(-learning_rate_at(config, step))
    # Differences of gradients scaled each by itself would tell L-BFGS no curvature.
    normalize = config.normalize_gradient and config.optimizer != "lbfgs"
    chain = [normalize_by_rms()] if normalize else []
    if config.optimizer == "sgd":
        chain += [optax.trace(config.momentum), descend]
    elif config.optimizer == "adam":
        chain += [optax.scale_by_adam(config.beta1, config.beta2, config.epsilon), descend]
    elif config.linesearch:
        chain += [optax.lbfgs(memory_size=config.memory)]
    else:
        chain += [scale_by_convex_lbfgs(config.memory), descend]
    return optax.chain(*chain)
