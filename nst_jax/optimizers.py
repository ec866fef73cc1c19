"""Optimisers as settings, and the optax transformations behind them. Rates are in grey levels."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nst_jax.image import laplacian_pyramid, laplacian_sum
from nst_jax.settings import number, numbers, option, settings

Schedule = Literal["constant", "exponential", "cosine"]
"""How a learning rate changes over the steps of a run."""

GradientNormalization = Literal["none", "whole", "bands"]
"""What is divided by its own root mean square: nothing, the whole gradient, or each band of it."""


def normalize_by_band(
    *, weights: Sequence[ArrayLike] = (1.0, 1.0, 1.0), wraps: bool = False
) -> optax.GradientTransformation:
    """Divides each band of an image's gradient by the band's own root mean square.

    The bands are those of a Laplacian pyramid, see `nst_jax.image.laplacian_pyramid`. Each divided
    band is multiplied by its weight, and the bands are summed. So the learning rate says how far
    pixels move, whatever the loss's units. Coarse shapes move as far as fine grain. With a single
    weight, the gradient as a whole is divided by its root mean square.

    A band below 1e-5 of the gradient's largest value holds only rounding errors, so it is not
    amplified further. A gradient of zero stays zero.

    Args:
      weights: the root mean square that each band gets, from fine to coarse. A picture that is too
        small for this number of bands has no coarsest ones.
      wraps: whether the picture is a tile, which continues by its other side.

    Returns:
      An optax transformation of one image `[H, W, C]`, or of a tree of images. For many, use
      `jax.vmap`.

    Raises:
      ValueError: there are no weights. The update raises it for an array that is not `[H, W, C]`.
    """
    weights = tuple(weights)
    if not weights:
        raise ValueError("weights must hold a number for each band, got none")

    def by_band(gradient: jax.Array) -> jax.Array:
        bands = laplacian_pyramid(gradient, len(weights))
        pairs = zip(bands, weights, strict=False)
        return laplacian_sum([jnp.multiply(weight, _normalized(band)) for band, weight in pairs])

    def update(gradient: ArrayLike, _: ArrayLike | None) -> jax.Array:
        gradient = jnp.asarray(gradient)
        if gradient.ndim != 3:
            raise ValueError(f"the gradient must be of one image [H, W, C], got {gradient.shape}")
        gradient = _in_unit_range(gradient)
        if not wraps or len(weights) == 1:
            return by_band(gradient)
        # Five taps of the coarsest level. So all bands inside are those of the repeated tile.
        edge = 4 * 2 ** len(weights)
        around = ((edge, edge), (edge, edge), (0, 0))
        return by_band(jnp.pad(gradient, around, mode="wrap"))[edge:-edge, edge:-edge]

    return optax.stateless_with_tree_map(update)


def _in_unit_range(array: jax.Array) -> jax.Array:
    """The array divided by its largest magnitude, so that squares stay in float32's range."""
    largest = jnp.max(jnp.abs(array))
    return array / jnp.where(largest > 0, largest, 1)


def _normalized(array: jax.Array) -> jax.Array:
    """The array divided by the sum of its root mean square and 1e-5."""
    return array / (jnp.sqrt(jnp.mean(jnp.square(array))) + 1e-5)


def scale_by_convex_lbfgs(memory_size: int) -> optax.GradientTransformation:
    """`optax.scale_by_lbfgs`, but it skips a step along which the gradient did not grow.

    Such steps occur without a line search. Their negative curvature would lead upwards. So the
    pair before such a step is stored again in its own place, and the memory stays as it is.
    `torch.optim.LBFGS` also skips such pairs.

    Before the first pair, a step is the gradient over its root mean square, one grey level long. A
    gradient's own length depends on the loss's units.

    Jorge Nocedal, Stephen J. Wright: "Numerical Optimization", 2nd edition, Springer 2006,
    section 18.3, on skipping updates; https://doi.org/10.1007/978-0-387-40065-5

    Args:
      memory_size: how many past steps are kept.

    Returns:
      An optax transformation of one array. Its update needs the current array.
    """
    inner = optax.scale_by_lbfgs(memory_size)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise TypeError("params must be the current array, got None")
        assert isinstance(state, optax.ScaleByLBFGSState)
        gradient, image = jnp.asarray(updates), jnp.asarray(params)
        count = jnp.asarray(state.count)
        last_image, last_gradient = jnp.asarray(state.params), jnp.asarray(state.updates)
        steps = jnp.asarray(state.diff_params_memory)
        changes = jnp.asarray(state.diff_updates_memory)

        step, change = image - last_image, gradient - last_gradient
        rounding = 1e-7 * jnp.linalg.norm(step) * jnp.linalg.norm(change)
        skipped = (count > 0) & (jnp.vdot(step, change) <= rounding)
        last = (count - 2) % memory_size  # where the pair before this step is stored
        state = state._replace(
            count=count - (skipped & (count > 1)).astype(count.dtype),
            params=jnp.where(skipped, image - steps[last], last_image),
            updates=jnp.where(skipped, gradient - changes[last], last_gradient),
        )
        direction, state = inner.update(gradient, state, image)
        assert isinstance(state, optax.ScaleByLBFGSState)
        known = jnp.any(jnp.asarray(state.weights_memory) != 0)
        first = _normalized(_in_unit_range(gradient))
        return jnp.where(known, jnp.asarray(direction), first), state

    return optax.GradientTransformation(inner.init, update)


class LimitRiseState(NamedTuple):
    """The state of `limit_rise`.

    Attributes:
      inner: state of the inner transformation.
      image: the last array whose loss was within the limit.
      gradient: the gradient at `image`.
      best: the lowest loss so far.
      length: the root mean square of the last step.
    """

    inner: Any
    image: Float[Array, "*shape"]
    gradient: Float[Array, "*shape"]
    best: Float[Array, ""]
    length: Float[Array, ""]


def limit_rise(
    inner: optax.GradientTransformation, *, rise: float = 1.2
) -> optax.GradientTransformationExtraArgs:
    """Keeps the loss below `rise` times the lowest one so far, by limiting the lengths of steps.

    No step is more than twice as long as the one before. If a step still raises the loss above the
    limit, it is undone and taken again a quarter as long, until the loss stays within the limit.
    The inner transformation then sees the place where the step began, so it learns nothing from
    the failed step. The first step has the inner transformation's length.

    Jorge Nocedal, Stephen J. Wright: "Numerical Optimization", 2nd edition, Springer 2006,
    section 4.1, on the radius of a trust region; https://doi.org/10.1007/978-0-387-40065-5

    Args:
      inner: an optax transformation whose result is added to the image.
      rise: at least 1.

    Returns:
      An optax transformation of one array. Its update needs the current array, and the loss as
      `value=`.
    """

    def init(params: optax.Params) -> LimitRiseState:
        image, unknown = jnp.asarray(params), jnp.float32(jnp.inf)
        return LimitRiseState(inner.init(image), image, jnp.zeros_like(image), unknown, unknown)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        value: ArrayLike | None = None,
        **_: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise TypeError("params must be the current array, got None")
        if value is None:
            raise TypeError("value must be the loss of the current array, got None")
        assert isinstance(state, LimitRiseState)
        image, gradient = jnp.asarray(params), jnp.asarray(updates)
        failed = value > state.best + (rise - 1) * jnp.abs(state.best)
        back = jnp.where(failed, state.image - image, 0)
        place = jnp.where(failed, state.image, image)
        gradient = jnp.where(failed, state.gradient, gradient)
        step, inner_state = inner.update(gradient, state.inner, place)
        step = jnp.asarray(step)
        whole = jnp.sqrt(jnp.mean(jnp.square(step)))
        length = jnp.minimum(whole, jnp.where(failed, 0.25, 2.0) * state.length)
        share = length / jnp.where(whole > 0, whole, 1)
        best = jnp.minimum(value, state.best)
        return back + share * step, LimitRiseState(inner_state, place, gradient, best, length)

    return optax.GradientTransformationExtraArgs(init, update)


@settings
class Optimizer:
    """What all optimisers share. Derive an optimiser from this class, decorated by `settings`.

    Attributes:
      learning_rate: in grey levels (of a range of 255). With L-BFGS it is the share of the step
        that is taken. A line search does not use it.
      schedule: how the learning rate changes: "constant", "exponential" (times `decay_rate` every
        `decay_steps`, smoothly) or "cosine" (to zero at the last step).
      decay_rate, decay_steps: of the exponential schedule.
      fixed_loss: whether the optimiser refuses terms that draw anew at each step.
      rate: the unit of the learning rate: a grey "level", or a whole "step" of the optimiser.
      idle: names of fields that have no effect with the present values of the others.
      searches: whether a step evaluates the loss more than once.
      carries: whether the state consists of arrays of the picture's shape, which are resampled for
        the next scale.
      of_one_array: whether it optimises a single array only, and no tree of arrays.
      kept: how many arrays of the picture's shape the state has.
      passing: the most pictures that a tiled run keeps in host memory beside that state. They are
        the start, the gradients, the last pictures for the callback, and intermediates of a step.
    """

    learning_rate: Any = number(
        1.0, above=0, unit="LEVELS", help="grey levels (of 255); with L-BFGS a share of its step"
    )
    schedule: Schedule = option(
        "cosine", choices=get_args(Schedule), help="how the learning rate changes over the steps"
    )
    decay_rate: Any = number(0.96, above=0, help="factor of the exponential schedule")
    decay_steps: Any = number(
        100.0, above=0, unit="STEPS", help="steps for one factor of the exponential schedule"
    )
    rate: ClassVar[Literal["level", "step"]] = "level"
    fixed_loss: ClassVar[bool] = False
    carries: ClassVar[bool] = True
    of_one_array: ClassVar[bool] = False
    passing: ClassVar[int] = 7

    @property
    def idle(self) -> frozenset[str]:
        """Names of fields that have no effect with the present values of the others."""
        exponential = self.schedule == "exponential"
        return frozenset() if exponential else frozenset({"decay_rate", "decay_steps"})

    @property
    def searches(self) -> bool:
        """Whether a step evaluates the loss more than once."""
        return False

    @property
    def kept(self) -> int:
        """How many arrays of the picture's shape the state has."""
        raise NotImplementedError

    def learning_rate_at(self, step: ArrayLike, steps: ArrayLike) -> jax.Array:
        """The learning rate in grey levels.

        Args:
          step: number of the step, from 0.
          steps: number of steps in the run.
        """
        step, steps = (jnp.asarray(number, jnp.float32) for number in (step, steps))
        if self.schedule == "exponential":
            return self.learning_rate * self.decay_rate ** (step / self.decay_steps)
        if self.schedule == "cosine":
            # The schedule runs over [0, 1], so that another number of steps compiles nothing.
            decay = optax.cosine_decay_schedule(init_value=1.0, decay_steps=1)
            return self.learning_rate * decay(step / steps)
        return jnp.asarray(self.learning_rate)

    def transformation(
        self, step: ArrayLike, steps: ArrayLike, *, wraps: bool = False
    ) -> optax.GradientTransformation:
        """The optax transformation of one image in grey levels, for one step.

        The learning rate is a function of `step`, not of a count in the optimiser's state. So the
        next scale can take over the state.

        Args:
          step: number of the step, from 0; may be a traced array, as the settings' numbers may.
          steps: number of steps in the run.
          wraps: whether the picture is a tile, which continues by its other side.
        """
        raise NotImplementedError


@settings
class _Normalized(Optimizer):
    """An optimiser that can divide gradients by their root mean square.

    Attributes:
      normalize_gradient: divide each picture's gradient by its root mean square. The learning rate
        then says how far pixels move, whatever the loss's units. "whole" divides the gradient as a
        whole. "bands" divides each band, from fine grain to coarse shapes, by its own root mean
        square, see `normalize_by_band`. "none" keeps the gradient as it is.
      band_weights: a weight for each band of the gradient, from fine to coarse.
    """

    normalize_gradient: GradientNormalization = option(
        "whole",
        choices=get_args(GradientNormalization),
        help="divide gradients by their root mean square",
    )
    band_weights: tuple[Any, ...] = numbers(
        (1.0, 1.0, 1.0),
        low=0,
        help="how far each band of a normalised gradient moves, from fine to coarse, as shares of "
        "the learning rate",
    )

    def _normalizer(self, wraps: bool) -> list[optax.GradientTransformation]:
        if self.normalize_gradient == "none":
            return []
        bands = self.band_weights if self.normalize_gradient == "bands" else (1.0,)
        return [normalize_by_band(weights=bands, wraps=wraps)]


@settings
class SGD(_Normalized):
    """Gradient descent with momentum. The name is the usual one; the loss need not be random.

    Attributes:
      momentum: the share of the last step's direction that is kept, in [0, 1]; 0 keeps nothing.
    """

    momentum: Any = number(0.9, low=0, high=1, help="momentum of SGD; 0 turns it off")

    @property
    def kept(self) -> int:
        return 1

    def transformation(
        self, step: ArrayLike, steps: ArrayLike, *, wraps: bool = False
    ) -> optax.GradientTransformation:
        descend = optax.scale(-self.learning_rate_at(step, steps))
        return optax.chain(*self._normalizer(wraps), optax.trace(self.momentum), descend)


@settings
class Adam(_Normalized):
    """Adam, which divides each pixel's mean gradient by its root mean square over the steps.

    Diederik P. Kingma, Jimmy Ba: "Adam: A Method for Stochastic Optimization", ICLR 2015,
    https://arxiv.org/abs/1412.6980

    Attributes:
      beta1, beta2: decay of the first and of the second moment, as in the paper.
      epsilon: as in the paper, for gradients with respect to grey levels.
    """

    beta1: Any = number(0.9, low=0, below=1, help="Adam's decay of the first moment")
    beta2: Any = number(0.999, low=0, below=1, help="Adam's decay of the second moment")
    epsilon: Any = number(1e-8, low=0, help="Adam's epsilon")

    @property
    def kept(self) -> int:
        return 2

    def transformation(
        self, step: ArrayLike, steps: ArrayLike, *, wraps: bool = False
    ) -> optax.GradientTransformation:
        descend = optax.scale(-self.learning_rate_at(step, steps))
        moments = optax.scale_by_adam(self.beta1, self.beta2, self.epsilon)
        return optax.chain(*self._normalizer(wraps), moments, descend)


@settings
class LBFGS(Optimizer):
    """L-BFGS, a quasi-Newton method.

    It keeps the gradient as it is, because it estimates curvature from gradients.

    Dong C. Liu, Jorge Nocedal: "On the limited memory BFGS method for large scale optimization",
    Mathematical Programming 45, 1989, https://doi.org/10.1007/BF01589116

    Attributes:
      history_size: number of past steps that it keeps.
      linesearch: use a zoom line search instead of the learning rate.
    """

    rate = "step"
    history_size: int = option(
        100, low=1, whole=True, unit="STEPS", help="past steps that L-BFGS keeps"
    )
    linesearch: bool = option(False, help="use a line search with L-BFGS")
    fixed_loss = True
    carries = False
    of_one_array = True
    passing = 12

    @property
    def idle(self) -> frozenset[str]:
        searched = {"learning_rate", "schedule", "decay_rate", "decay_steps"}
        return frozenset(searched) if self.linesearch else super().idle

    @property
    def searches(self) -> bool:
        return self.linesearch

    @property
    def kept(self) -> int:
        return 2 * self.history_size  # the step and the gradient's change, for each past step

    def transformation(
        self, step: ArrayLike, steps: ArrayLike, *, wraps: bool = False
    ) -> optax.GradientTransformation:
        del wraps  # it looks at each pixel by itself
        if self.linesearch:
            return optax.lbfgs(memory_size=self.history_size)
        descend = optax.scale(-self.learning_rate_at(step, steps))
        return limit_rise(optax.chain(scale_by_convex_lbfgs(self.history_size), descend))


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "lbfgs": LBFGS}
"""The package's optimisers by name, as `--optimizer` takes them."""
