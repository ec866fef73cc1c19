"""Optimisers as settings, and the optax transformations that they are; rates are in grey levels."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nst_jax.image import laplacian_pyramid, laplacian_sum
from nst_jax.settings import number, numbers, option, settings


def normalize_by_band(*, weights: Sequence[Any] = (1.0, 1.0, 1.0)) -> optax.GradientTransformation:
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

    Such steps occur without a line search. Their negative curvature would lead upwards. So the
    pair before such a step is stored again in its own place, and the memory stays as it is.
    `torch.optim.LBFGS` skips such pairs, too.

    Before the first pair a step is the gradient over its root mean square, one grey level long: a
    gradient's own length depends on the loss's units.

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


@settings
class Optimizer:
    """What every optimiser has.

    Attributes:
      learning_rate: in grey levels (of a range of 255); with L-BFGS the share of its step, and a
        line search does not use it.
      schedule: of the learning rate: "constant", "exponential" (times decay_rate every
        decay_steps, smoothly) or "cosine" (to zero at the last step).
      decay_rate, decay_steps: of the exponential schedule.
      fixed_loss: whether it refuses terms that draw anew at each step.
      rate: what a learning rate of 1 is: a grey level, or a whole step of its own.
      idle: names of fields that change nothing as the others stand.
      searches: whether a step looks at the loss more than once.
      carries: whether its state is arrays of the picture's shape, which go over to another scale.
      of_one_array: whether it optimises a single array, and no tree of them.
      kept: how many arrays of the picture's shape its state has.
      passing: most pictures that a tiled run keeps in host memory beside that state: its start,
        gradients, the last pictures for the callback, and what a step needs meanwhile.
    """

    learning_rate: Any = number(
        1.0, above=0, unit="LEVELS", help="grey levels (of 255); with L-BFGS a share of its step"
    )
    schedule: str = option(
        "cosine", choices=("constant", "exponential", "cosine"), help="of the learning rate"
    )
    decay_rate: Any = number(0.96, above=0, help="factor of the exponential schedule")
    decay_steps: Any = number(
        100.0, above=0, unit="STEPS", help="steps for one factor of the exponential schedule"
    )
    rate: ClassVar[str] = "level"
    fixed_loss: ClassVar[bool] = False
    carries: ClassVar[bool] = True
    of_one_array: ClassVar[bool] = False
    passing: ClassVar[int] = 7

    @property
    def idle(self) -> frozenset[str]:
        exponential = self.schedule == "exponential"
        return frozenset() if exponential else frozenset({"decay_rate", "decay_steps"})

    @property
    def searches(self) -> bool:
        return False

    @property
    def kept(self) -> int:
        raise NotImplementedError

    def learning_rate_at(self, step: jax.Array, steps: Any) -> jax.Array:
        """The learning rate, in grey levels, of step number `step` (from 0) of so many `steps`."""
        if self.schedule == "exponential":
            return self.learning_rate * self.decay_rate ** (step / self.decay_steps)
        if self.schedule == "cosine":
            # On a scale of [0, 1], so that another number of steps compiles nothing.
            decay = optax.cosine_decay_schedule(init_value=1.0, decay_steps=1.0)
            return self.learning_rate * decay(step / steps)
        return jnp.asarray(self.learning_rate)

    def transformation(self, step: jax.Array, steps: Any) -> optax.GradientTransformation:
        """The optax transformation of one image in grey levels, at step number `step`.

        The numbers and `step` may be traced arrays. The learning rate is a function of `step`, not
        of a count in the optimiser's state, so that the state can go over to another scale.
        """
        raise NotImplementedError


@settings
class _Normalized(Optimizer):
    """An optimiser that may divide gradients by their root mean square.

    Attributes:
      normalize_gradient: divide each picture's gradient by its root mean square, so that the
        learning rate says how far pixels move, whatever the loss's units: "whole", or in "bands",
        from fine grain to coarse shapes, each by its own, see `normalize_by_band`. "none" takes
        the gradient as it is.
      band_weights: a weight for each band into which a gradient is divided, from fine to coarse.
    """

    normalize_gradient: str = option(
        "whole",
        choices=("none", "whole", "bands"),
        help="divide gradients by their root mean square",
    )
    band_weights: tuple = numbers(
        (1.0, 1.0, 1.0),
        low=0,
        help="how far each band of a normalised gradient moves, from fine to coarse, as shares of "
        "the learning rate",
    )

    def _normalizer(self) -> list[optax.GradientTransformation]:
        if self.normalize_gradient == "none":
            return []
        bands = self.band_weights if self.normalize_gradient == "bands" else (1.0,)
        return [normalize_by_band(weights=bands)]


@settings
class SGD(_Normalized):
    """Gradient descent with momentum. The loss need not be random.

    Attributes:
      momentum: 0 is none.
    """

    momentum: Any = number(0.9, low=0, high=1, help="of SGD; 0 is none")

    @property
    def kept(self):
        return 1

    def transformation(self, step, steps):
        descend = optax.scale(-self.learning_rate_at(step, steps))
        return optax.chain(*self._normalizer(), optax.trace(self.momentum), descend)


@settings
class Adam(_Normalized):
    """Diederik P. Kingma, Jimmy Ba: "Adam: A Method for Stochastic Optimization", ICLR 2015,
    https://arxiv.org/abs/1412.6980

    Attributes:
      beta1, beta2, epsilon: as of the paper; epsilon too is for gradients by grey levels.
    """

    beta1: Any = number(0.9, low=0, below=1, help="Adam's decay of the first moment")
    beta2: Any = number(0.999, low=0, below=1, help="Adam's decay of the second moment")
    epsilon: Any = number(1e-8, low=0, help="Adam's epsilon")

    @property
    def kept(self):
        return 2

    def transformation(self, step, steps):
        descend = optax.scale(-self.learning_rate_at(step, steps))
        moments = optax.scale_by_adam(self.beta1, self.beta2, self.epsilon)
        return optax.chain(*self._normalizer(), moments, descend)


@settings
class LBFGS(Optimizer):
    """Dong C. Liu, Jorge Nocedal: "On the limited memory BFGS method for large scale optimization",
    Mathematical Programming 45, 1989, https://doi.org/10.1007/BF01589116

    It takes the gradient as it is, since it reads curvature off gradients.

    Attributes:
      history_size: number of past steps that it keeps.
      linesearch: zoom line search instead of the learning rate.
    """

    rate = "step"
    history_size: int = option(
        100, low=1, whole=True, unit="STEPS", help="past steps that L-BFGS keeps"
    )
    linesearch: bool = option(False, help="line search of L-BFGS")
    fixed_loss = True
    carries = False
    of_one_array = True
    passing = 12

    @property
    def idle(self):
        searched = {"learning_rate", "schedule", "decay_rate", "decay_steps"}
        return frozenset(searched) if self.linesearch else super().idle

    @property
    def searches(self):
        return self.linesearch

    @property
    def kept(self):
        return 2 * self.history_size  # of each past step the step and the change of the gradient

    def transformation(self, step, steps):
        if self.linesearch:
            return optax.lbfgs(memory_size=self.history_size)
        descend = optax.scale(-self.learning_rate_at(step, steps))
        return limit_rise(optax.chain(scale_by_convex_lbfgs(self.history_size), descend))


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "lbfgs": LBFGS}
"""The optimisers that come with the package, by the names that flags give them."""
