"""The whole style transfer: arrays in, arrays out.

Leon A. Gatys, Alexander S. Ecker, Matthias Bethge: "Image Style Transfer Using Convolutional
Neural Networks", CVPR 2016.

Images are float32 sRGB, RGB order, range [0, 1], `[H, W, 3]` for one and `[N, H, W, 3]` for many.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nst_jax import color, objective, optimize, partition, sharding, vgg, windows
from nst_jax import image as image_lib
from nst_jax.config import Config, addresses
from nst_jax.extractor import VGGExtractor, is_circular
from nst_jax.objective import Combine
from nst_jax.optimize import Parametrization, Sweep, described
from nst_jax.partition import Placement
from nst_jax.terms import IMAGE, Tree, is_field, map_fields

P = ParamSpec("P")
R = TypeVar("R")


_MATCHING = {"match": color.match_colors, "histogram": color.match_histograms}


class Result(NamedTuple):
    """What `stylize` returns.

    Attributes:
      images: `[N, H, W, 3]`, one picture for each output. Without `config.clip` values may leave
        [0, 1].
      history: `{"total": ..., term: ...}` by the terms' names, NumPy `[steps, N]`: the weighted
        losses before each step. The steps of all scales follow one another. It ends early if all
        outputs have diverged.
      diverged: `[N]` of bool, NumPy: outputs that met a value that is not finite. Their picture is
        the last finite one.
      kept_start: `[N]`, NumPy: at how many scales an output returned the picture that the scale
        started from, because the last picture's loss was above the first one's.
      steps: `[N]`, NumPy: how many steps each output took, at all scales. It is less than that of
        the history for outputs that settled, see `Config.tolerance`, or diverged.
      loss: `[N]`, NumPy: the total of each final picture, in the form that was optimised. With
        jitter, it is the total of the picture before it is moved. It is not a number if nothing was
        optimised.
      states: the state of each output at the last scale, for `previous` of another run. None if
        nothing was optimised.
    """

    images: Float[Array, "N H W 3"]
    history: dict[str, Float[np.ndarray, "steps N"]]
    diverged: Bool[np.ndarray, " N"]
    kept_start: Int[np.ndarray, " N"]
    steps: Int[np.ndarray, " N"]
    loss: Float[np.ndarray, " N"]
    states: optimize.State | None


def _placed(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a function where its argument `placement` says, see `sharding.undisturbed`.

    With a tile, pictures and the optimiser's state stay in the host's memory.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        placement = kwargs.get("placement", Placement())
        if not isinstance(placement, Placement):
            raise TypeError(f"placement must be an nst_jax.Placement, got {described(placement)}")
        host = contextlib.nullcontext() if placement.tile is None else partition.on_host()
        with host, sharding.undisturbed(mesh=placement.mesh):
            return function(*args, **kwargs)

    return wrapped


@_placed
def stylize(
    params: Mapping,
    content: Float[ArrayLike, "*M H W 3"] | Sequence[Float[ArrayLike, "H W 3"]],
    styles: Float[ArrayLike, "S _ _ 3"] | Sequence[Float[ArrayLike, "_ _ 3"]],
    config: Config,
    *,
    key: PRNGKeyArray | None = None,
    sweep: Sweep | None = None,
    combine: Combine = Combine(),
    inputs: Mapping[str, Tree] | None = None,
    initial: Float[ArrayLike, "*N _ _ 3"] | Sequence[Float[ArrayLike, "_ _ 3"]] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    parametrization: Parametrization | None = None,
    resume: optimize.Checkpoint | None = None,
    previous: optimize.State | None = None,
    callback: Callable[[optimize.Progress], object] | None = None,
    placement: Placement = Placement(),
    on_window: partition.OnWindow | None = None,
) -> Result:
    """Paints pictures in many styles, with one compiled program for each scale.

    The outputs are all contents in all styles, those of the first content first. `combine` can say
    otherwise.

    Args:
      params: parameters of `config.network`. For VGG16 and VGG19 they are the tree of
        `load_params`.
      content: a picture `[H, W, 3]`, or several of one shape, as a sequence or as `[M, H, W, 3]`.
      styles: a sequence of pictures `[h, w, 3]`, each of its own shape; or `[S, h, w, 3]`.
      config: what to do. Pictures are resized to `config.size` and keep their proportions.
      key: random key (`jax.random.key`) of the noise to start from, of the jitter and of terms that
        draw. None is key 0. Every output starts from the same noise.
      sweep: `{address: [N]}`, a number for each of the N outputs, which replaces the config's one,
        such as `{"style_weight": [10.0, 30.0]}`. If there is only one output, it is painted once
        for each number. Steps, layers and bands cannot be swept.
      combine: how styles and contents make outputs.
      inputs: `{term: tree}`, data for terms of `config.terms` that refer to the run. A `Field` of
        the picture has the content's size. It is resized to `config.size` as the content is.
      initial: a picture `[h, w, 3]` to start from, instead of `config.init`; or a sequence of them,
        one for each output before a sweep.
      optimizer: an optax transformation that replaces the configured one. It works in grey levels.
      parametrization: what is optimised, in place of what `config.pyramid` says.
      resume: where a run of the same arguments stopped, counted in steps of all scales. The run
        ends with the same picture, bit by bit, as if it had never stopped. A `Progress` holds what
        a `Checkpoint` needs.
      previous: `states` of an earlier result on the same pictures, with other settings if you like.
        The run goes on from its pictures, at the last scale alone, and SGD and Adam keep their
        moments. Then `config.init` and `initial` do not count.
      callback: called with a `Progress` after each dispatch of the compiled program. If it returns
        True, the run ends and keeps its pictures.
      placement: where pictures are evaluated, and in which parts: tiles, strips, rematerialisation,
        a mesh of devices. It changes each step by rounding only.
      on_window: called after each window with two numbers: how many windows of the step are done,
        and how many it has.

    Returns:
      A `Result`.

    Raises:
      TypeError: an argument of a wrong type, pictures that are not floating point, or a sweep of a
        field that is not a number. The message names the argument.
      ValueError: pictures of a wrong shape or range, or too small for the deepest layer; an unknown
        layer; styles that cannot be combined as `combine` says; a sweep of another length than the
        outputs; a tile that is too small for the layers, or together with a line search or a term
        that does not add up; L-BFGS with a term that draws; a mesh with other axes; or a checkpoint
        of another run.
    """
    _check_arguments(params, content, styles, config, combine, inputs, on_window)
    if not isinstance(previous, optimize.State | None):
        raise TypeError(
            f"previous must be the states of a Result, or None, got {optimize.described(previous)}"
        )
    optimize.check_arguments(
        config=config,
        optimizer=optimizer,
        parametrization=parametrization,
        sweep=sweep,
        resume=resume,
        key=key,
        callback=callback,
    )
    sharding.check_mesh(placement.mesh)
    config = config.on(placement.platform)
    contents, styles = _several("content", content), _checked_each("styles", styles)
    _check_one_shape("content", contents)
    config = for_content(config, contents[0].shape)
    initial = None if initial is None else _several("initial", initial)
    terms = objective.Objective.of(config)
    drawing = [term.name for term in terms.terms if not term.fixed]
    if drawing and optimizer is None and config.optimizer.fixed_loss:
        kind = type(config.optimizer).__name__
        raise ValueError(
            f"{kind} needs a loss that stays the same; {drawing[0]!r} draws anew at each step"
        )
    combine = objective.checked_combination(
        combine, terms.terms, len(styles), jitter=config.jitter, contents=len(contents)
    )
    pictures = len(contents) * objective.rows_of(combine, len(styles))
    outputs = _swept(sweep, pictures)
    for address in sweep or {} if optimizer is not None else ():
        if address in addresses(config) and addresses(config)[address].owner == "optimizer":
            raise ValueError(
                f"sweep[{address!r}] has no effect: optimizer= replaces the configured optimiser"
            )
    optimize.batch_numbers(config, outputs, sweep=sweep)
    _check_fits(
        *(params, contents[0].shape, config),
        styles=[style.shape for style in styles],
        combine=combine,
        tile=placement.tile,
        searches=optimizer is None and config.optimizer.searches,
    )
    inputs = objective.check_inputs(terms, inputs, contents[0].shape)
    _check_outputs_of(inputs, pictures)
    if initial is not None and len(initial) not in (1, pictures):
        raise ValueError(
            f"initial must be one picture, or one for each of the {pictures} outputs before a "
            f"sweep, got {len(initial)}"
        )
    if previous is not None:
        if len(previous.picture) != outputs:
            raise ValueError(
                f"previous must hold each of the {outputs} outputs, got {len(previous.picture)}"
            )
        last = steps_at_scales(config)[-1]
        config = config.replace(first_size=None, steps=last, first_steps=None)
    steps = steps_at_scales(config)
    if resume is not None and not 0 < resume.step <= sum(steps):
        raise ValueError(f"resume must be after step 1 to {sum(steps)}, got {resume.step}")
    names = {"total", *(term.name for term in terms.terms)}
    if resume is not None and resume.history.keys() != names:
        raise ValueError(
            f"resume must be of the terms {', '.join(sorted(names))}, got "
            f"{', '.join(sorted(resume.history))}"
        )
    run = _Run(
        params=params,
        contents=contents,
        styles=styles,
        config=config,
        outputs=outputs,
        sweep=sweep,
        combine=combine,
        inputs=inputs,
        initial=initial,
        key=jax.random.key(0) if key is None else key,
        optimizer=optimizer,
        parametrization=parametrization,
        callback=None if callback is None else _Followed(callback),
        placement=placement,
        on_window=on_window,
        goes_on=previous is not None,
    )
    if config.color == "transfer":
        nothing = np.zeros((0, outputs), np.float32)
        return Result(
            images=_each_output(_recolored(run, run.sized(scales(config)[-1])), outputs=outputs),
            history=dict.fromkeys(names, nothing),
            diverged=np.zeros(outputs, bool),
            kept_start=np.zeros(outputs, int),
            steps=np.zeros(outputs, int),
            loss=np.full(outputs, np.nan, np.float32),
            states=None,
        )
    run = dataclasses.replace(run, params=prepared_on(placement, params, config))
    states, histories = previous, []
    for number in range(len(steps)):
        done = sum(steps[:number])
        if resume is not None and resume.step > done + steps[number]:
            continue
        here = resume and _at_this_scale(resume, done)
        states, history = _paint_scale(run, number, states, here)
        if resume is not None:
            histories.append({name: rows[:done] for name, rows in resume.history.items()})
            resume = None
        histories.append(history)
        ended = run.callback is not None and run.callback.ended
        if ended or optimize.all_diverged(states):
            break
    assert states is not None  # there is at least one scale, and `resume` is not past the last
    pictures, shape = states.picture, fit_shape(contents[0].shape, config)
    if pictures.shape[1:3] != shape:  # an earlier scale was the last
        pictures = image_lib.resize(pictures, *shape)
    return Result(
        images=jnp.asarray(_finish(run, scales(config)[-1])(pictures)),
        history=jax.tree.map(lambda *parts: np.concatenate(parts), *histories),
        diverged=np.asarray(states.diverged),
        kept_start=np.asarray(states.kept_start),
        steps=np.asarray(states.taken),
        loss=np.asarray(states.value),
        states=states,
    )


def prepared_on(placement: Placement, params: Mapping, config: Config) -> Mapping:
    """The parameters as the steps of a run take them, see `nst_jax.prepare`.

    Args:
      placement: where the run evaluates its pictures.
      params: of `config.network`. What is prepared already stays as it is.
      config: of the run.
    """
    return objective.prepare(
        params,
        config.on(placement.platform),
        partition=placement.partition_of(config.network),
        mesh=placement.mesh,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """The checked arguments of `stylize`."""

    params: Mapping
    contents: Sequence[jax.Array]
    styles: Sequence[jax.Array]
    config: Config
    outputs: int
    sweep: Sweep | None
    combine: Combine
    inputs: Mapping[str, Tree]
    initial: Sequence[jax.Array] | None
    key: jax.Array
    optimizer: optax.GradientTransformation | None
    parametrization: Parametrization | None
    callback: "_Followed | None"
    placement: Placement
    on_window: partition.OnWindow | None
    goes_on: bool

    def at(self, size: int | None) -> Config:
        """The settings of a single scale."""
        return at_scale(self.config, size).replace(first_steps=None)

    def sized(self, size: int | None) -> list[jax.Array]:
        """The contents, resized for a scale."""
        return [fit(content, self.at(size)) for content in self.contents]

    def is_tiled(self, size: int | None) -> bool:
        """Whether a picture is larger than a tile at this size."""
        here = self.at(size)
        sides = [max(fit_shape(content.shape, here)) for content in self.contents]
        sides += [max(fit_style_shape(style.shape, here)) for style in self.styles]
        return self.placement.tile is not None and max(sides) > self.placement.tile


def _paint_scale(
    run: _Run, number: int, states: optimize.State | None, resume: optimize.Checkpoint | None
) -> tuple[optimize.State, dict[str, np.ndarray]]:
    """Takes all steps of one scale; returns its states and its history.

    Args:
      run: what to do.
      number: of the scale, from 0.
      states: of the scale before; None is none.
      resume: where to continue in this scale; None is its start.
    """
    size, steps = scales(run.config)[number], steps_at_scales(run.config)
    here, sized = run.at(size).replace(steps=steps[number]), run.sized(size)
    tile = run.placement.tile if run.is_tiled(size) else None
    whole_after_tiles = run.placement.tile is not None and tile is None
    within = run.placement.partition_of(run.config.network, height=sized[0].shape[0])
    with partition.on_device() if whole_after_tiles else contextlib.nullcontext():
        targets = _repeated(_targets(run, here, sized, tile), run.outputs)
        images = _images(run, here, sized, number, states)
        # These settings are already applied. Equal values let all runs share the compiled step.
        here = resized(here).replace(size_of="longer", init="content", color="style")
        numbers = optimize.batch_numbers(here, run.outputs, sweep=run.sweep)
        following = len(steps) - 1 - number
        numbers = _content_times(numbers, run.config.coarse_content**following)
        options = {
            "optimizer": run.optimizer,
            "sweep": run.sweep,
            "parametrization": run.parametrization,
            "previous": states,
            "resume": resume,
            "key": run.key,
            "callback": run.callback
            and _shifted(
                run.callback,
                sum(steps[:number]),
                sum(steps),
                _finish(run, size),
                functools.partial(
                    _layer_losses, run.params, targets, numbers, tile=tile, within=within
                ),
            ),
        }
        if tile is None:
            return optimize.run(
                objective.value_by(within),
                images,
                here,
                shared=(run.params,),
                each=(targets, numbers),
                mesh=run.placement.mesh,
                lean=run.placement.remat,
                in_turn=partition.is_packed(within),
                chunk=_steps_per_dispatch(run, here.steps),
                **options,
            )
        return optimize.run_given_gradients(
            functools.partial(
                windows.value_and_grad, tile=tile, within=within, on_window=run.on_window
            ),
            images,
            here,
            each=[
                (run.params, own, _item(jax.tree.map(np.asarray, numbers), n))
                for n, own in enumerate(targets)
            ],
            **options,
        )


def _content_times(numbers, factor):
    """Multiplies the weights of the terms that refer to the content."""
    weights = {
        f".terms[{index}].weight"
        for index, term in enumerate(numbers.terms)
        if term.refers == "content"
    }

    def times(path, number):
        if jax.tree_util.keystr(path) not in weights:
            return number
        return jax.device_put(np.asarray(number) * factor)  # this compiles nothing

    factor = np.float32(factor)
    return numbers if factor == 1 else jax.tree.map_with_path(times, numbers)


UNWATCHED = 4
"""Steps of a dispatch on a CPU; docs/guide/scale.md says how much time they save."""


def _steps_per_dispatch(run: _Run, steps: int) -> int | None:
    """How many steps a dispatch takes at a scale of `steps`; None is what suits the platform."""
    asked = run.placement.steps_per_dispatch
    # XLA:CPU runs a direct convolution inside a loop 2.5-3 times slower than outside.
    loops = run.placement.platform == "cpu" and vgg.is_prepared(run.params)
    if asked is not None or run.callback is not None or not loops:
        return asked
    # Only if no step is left over, which would need a second program.
    return UNWATCHED if steps >= 10 * UNWATCHED and steps % UNWATCHED == 0 else None


def _images(run, config, sized, number, states):
    """The pictures that a scale starts from.

    An output that an earlier scale changed starts from the last scale's picture, resized. The
    others start where the run begins.
    """
    if states is None:
        return _start(run, config, sized)
    moved = np.asarray(states.kept_start) < number
    if not (run.goes_on or moved.any()):
        return _start(run, config, sized)
    shape, wraps = sized[0].shape[:2], is_circular(config.network)
    images = image_lib.resize(states.picture, *shape, wraps=wraps)
    if run.goes_on or moved.all():
        return images
    first = _start(run, config, sized)
    return jnp.where(moved[:, None, None, None], images, first)


def checked(name: str, image: Float[ArrayLike, "H W 3"]) -> Float[Array, "H W 3"]:
    """`image` as a float32 array.

    Args:
      name: what an error message calls the image.
      image: `[H, W, 3]` in [0, 1].

    Raises:
      TypeError: `image` is not an array of floating point.
      ValueError: `image` is not `[H, W, 3]`, or a value is not in [0, 1].
    """
    image_lib.check_image(name, image, single=True)
    values = np.asarray(image, np.float32)  # NumPy compiles nothing
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{name} must be in [0, 1], got values that are not finite")
    low, high = values.min(), values.max()
    if low < 0.0 or high > 1.0:
        raise ValueError(f"{name} must be in [0, 1], got values from {low:g} to {high:g}")
    return jnp.asarray(image, jnp.float32)


def check_content(
    params: Mapping,
    shape: Sequence[int],
    config: Config,
    *,
    styles: Sequence[Sequence[int]] = (),
    combine: Combine = Combine(),
    tile: int | None = None,
) -> None:
    """Refuses what a run with a content of `shape` would refuse. It computes nothing.

    Args:
      params, config, combine: as in `stylize`.
      shape, styles: shapes of the content and of the styles, `[H, W, ...]`.
      tile: as in `Placement`.

    Raises:
      vgg.TooSmall: a picture is too small for the deepest layer at some scale.
      ValueError: there is no layer, or one that is unknown or has no positions; the tile is too
        small for the layers; or a mask has other proportions than its picture, leaves [0, 1] or is
        0 everywhere.
    """
    given: dict[str, Any] = {"masks": combine.masks, "style_masks": combine.style_masks}
    for kind, masks in given.items():
        for index, mask in enumerate(() if masks is None else masks):
            if mask is not None:
                objective.check_mask(f"{kind}[{index}]", mask)
    _check_fits(
        *(params, shape, for_content(config, shape)),
        styles=styles,
        combine=combine,
        tile=tile,
        searches=config.optimizer.searches,
    )


def _check_fits(params, shape, config, *, styles, combine, tile, searches):
    """Refuses pictures, masks and tiles that are too small, or do not fit together, at a scale."""
    terms = objective.Objective.of(config)
    of_styles = terms.of_terms(lambda term: term.refers_to("style"))
    if not terms.layers():
        raise ValueError("config must have a term that looks at a layer of the network")
    masks = [] if combine.masks is None else combine.masks
    if np.ndim(masks) == 4:
        masks = np.reshape(masks, (-1, *np.shape(masks)[2:]))
    over = {f"masks[{index}]": mask for index, mask in enumerate(masks)}
    pictures = [("content", shape, fit_shape, terms, over)]
    for index, style in enumerate(styles):
        mask = None if combine.style_masks is None else combine.style_masks[index]
        over = {} if mask is None else {f"style_masks[{index}]": mask}
        pictures.append((f"styles[{index}]", style, fit_style_shape, of_styles, over))
    for size in scales(config):
        here = at_scale(config, size)
        for name, picture, fitted, asked, over in pictures:
            height, width = fitted(picture, here)
            try:
                asked.at(params, (height, width))
            except vgg.TooSmall as error:
                raise vgg.TooSmall(f"{name}: {error}") from error
            for mask_name, mask in over.items():
                _check_mask_shape(mask_name, mask, height, width)
            if tile is not None:
                asked.grid(params, (height, width), tile)
                if max(height, width) > tile and searches:
                    raise ValueError(
                        "linesearch needs a loss that can be compiled as one program: leave out "
                        "tile"
                    )


def for_content(config: Config, shape: Sequence[int]) -> Config:
    """The settings for a content of `shape` `[H, W, ...]`, whose size is in pixels.

    They differ only if `config.size` is "original".
    """
    return config.replace(size=side_of(shape, config)) if config.size == "original" else config


def side_of(shape: Sequence[int], config: Config) -> int:
    """The side that `config.size` means, of a picture of `shape` `[H, W, ...]`."""
    return shape[0] if config.size_of == "height" else max(shape[:2])


def fit_shape(shape: Sequence[int], config: Config) -> tuple[int, int]:
    """Height and width of a picture of `shape` `[H, W, ...]`, resized to the configured size.

    A size of "original" is that of the picture itself.
    """
    height, width = shape[:2]
    if not isinstance(config.size, int):
        return height, width
    if config.size_of == "height":
        return image_lib.fit_height(height, width, config.size)
    return image_lib.fit_size(height, width, config.size)


def fit_style_shape(shape: Sequence[int], config: Config) -> tuple[int, int]:
    """Height and width of a style of `shape` `[H, W, ...]`, resized as configured."""
    if config.style_size is not None:
        return fit_shape(shape, config.replace(size=config.style_size, style_size=None))
    height, width = fit_shape(shape, config)
    return max(1, round(config.style_scale * height)), max(1, round(config.style_scale * width))


def at_scale(config: Config, size: int | None) -> Config:
    """The settings of one scale of a run, as of a run with that scale alone.

    The styles keep their proportion to the pictures.
    """
    if config.style_size is not None and isinstance(config.size, int) and size is not None:
        factor = config.style_size / config.size
        config = config.replace(style_size=max(1, round(factor * size)))
    return config.replace(size=size, first_size=None)


def resized(config: Config) -> Config:
    """The settings for pictures and styles that already have the sizes of one scale."""
    return config.replace(size=None, first_size=None, style_scale=1.0, style_size=None)


def fit(image: Float[ArrayLike, "H W 3"], config: Config) -> Float[Array, "height width 3"]:
    """Resizes `image` `[H, W, 3]` to the configured size; it keeps its proportions."""
    return image_lib.resize(image, *fit_shape(np.shape(image), config))


def fit_style(style: Float[ArrayLike, "H W 3"], config: Config) -> Float[Array, "height width 3"]:
    """Resizes a style `[H, W, 3]` as configured; it keeps its proportions."""
    return image_lib.resize(style, *fit_style_shape(np.shape(style), config))


def scales(config: Config) -> tuple[int | None, ...]:
    """The sizes of a run in pixels, from coarse to fine. The last is `config.size`.

    A size of "original" must have become a number, by `for_content`.
    """
    size = config.size
    assert size != "original"
    if config.first_size is None or config.color == "transfer":
        return (size,)
    assert size is not None  # `Config` refuses `first_size` without it
    return image_lib.pyramid_sizes(size, first=config.first_size, factor=config.scale_factor)


def steps_at_scales(config: Config) -> list[int]:
    """How many steps a run takes at each of the `scales`."""
    if config.color == "transfer":
        return [0]
    steps = [config.steps] * len(scales(config))
    if config.first_steps is not None:
        steps[0] = config.first_steps
    return steps


def pixels_at_steps(config: Config, shape: Sequence[int]) -> list[int]:
    """How many pixels each step of a run evaluates, for a content of `shape` `[H, W, ...]`.

    The time of a step grows with them.
    """
    sizes, steps = scales(config), steps_at_scales(config)
    found = []
    for size, count in zip(sizes, steps, strict=True):
        found += [math.prod(fit_shape(shape, at_scale(config, size)))] * count
    return found


def _checked_each(name: str, pictures: Any) -> list[jax.Array]:
    """The pictures of a sequence, or of an array with a leading axis, as of `checked`."""
    return [checked(f"{name}[{index}]", picture) for index, picture in enumerate(pictures)]


def _several(name: str, pictures: Any) -> list[jax.Array]:
    """A picture, or each of several, as of `checked`, in a list."""
    if getattr(pictures, "ndim", 4) != 4:
        return [checked(name, pictures)]
    found = _checked_each(name, pictures)
    if not found:
        raise ValueError(f"{name} must hold at least one picture, got none")
    return found


def _check_one_shape(name: str, pictures: Sequence[jax.Array]) -> None:
    """Refuses pictures of several shapes."""
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise ValueError(f"{name} must hold pictures of one shape, got {sorted(shapes)}")


def _targets(run, config, sized, tile):
    """The targets of all outputs, with the colours of contents and styles as configured.

    With a tile, they are a list of each output's targets.
    """
    within = run.placement.partition_of(run.config.network)
    find = functools.partial(objective.find_targets, partition=within)
    if tile is not None:
        find = functools.partial(windows.find_targets, tile=tile, within=within)
    height, width = sized[0].shape[:2]
    styles, combine = [fit_style(style, config) for style in run.styles], run.combine
    if combine.masks is not None:
        combine = combine.replace(masks=image_lib.resize_mask(combine.masks, height, width))
    if combine.style_masks is not None:
        own = [
            mask if mask is None else image_lib.resize_mask(mask, *style.shape[:2])
            for mask, style in zip(combine.style_masks, styles, strict=True)
        ]
        combine = combine.replace(style_masks=own)
    masks = combine.style_masks or [None] * len(styles)
    parts, inputs = [], _fit_inputs(run.inputs, height, width)
    for number, content in enumerate(sized):
        here = slice(number, number + 1) if combine.paired else slice(None)
        coloured, masked = styles[here], masks[here]
        if config.color == "luminance":
            coloured = [
                color.grey(color.match_luminance(style, content, mask=mask))
                for style, mask in zip(coloured, masked, strict=True)
            ]
            content = color.grey(content)
        elif config.color in _MATCHING:
            coloured = [
                _MATCHING[config.color](style, content, mask=mask)
                for style, mask in zip(coloured, masked, strict=True)
            ]
        combined = combine.replace(style_masks=masked)
        own = _of_content(inputs, number, len(sized))
        if config.color == "luminance":
            own = map_fields(_grey, own)
        parts.append(find(run.params, content, coloured, config, combine=combined, inputs=own))
    if tile is not None:
        return [targets for part in parts for targets in part]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _fit_inputs(inputs, height, width):
    """Data of a run, with each `Field` of the picture resized."""

    def fitted(field):
        if field.layer != IMAGE or field.kind == "features":
            raise ValueError(
                f"inputs must hold fields of the layer {IMAGE!r}, of kind 'picture' or 'mask', got "
                f"one of the layer {field.layer!r}, of kind {field.kind!r}"
            )
        values = jnp.asarray(field.values, jnp.float32)
        first = int(field.per_output)
        # Axes between the sides and the colours move before the sides, and back afterwards.
        colours = (3,) if field.kind == "picture" else ()
        between = values.shape[first + 2 : values.ndim - len(colours)]
        flat = values.reshape(*values.shape[: first + 2], math.prod(between), *colours)
        flat = jnp.moveaxis(flat, first + 2, first)
        resize = image_lib.resize if colours else image_lib.resize_mask
        flat = jnp.moveaxis(resize(flat, height, width), first, first + 2)
        values = flat.reshape(*values.shape[:first], height, width, *between, *colours)
        return dataclasses.replace(field, values=values)

    return map_fields(fitted, inputs)


def _check_outputs_of(inputs, outputs):
    """Refuses data for another number of outputs than there are before a sweep."""
    for name, tree in inputs.items():
        for field in filter(is_field, jax.tree.leaves(tree, is_leaf=is_field)):
            if field.per_output and len(field.values) != outputs:
                raise ValueError(
                    f"inputs[{name!r}] must have a value for each of the {outputs} outputs (all "
                    f"numbers of a sweep share it), got {len(field.values)}"
                )


def _grey(field):
    if field.kind != "picture":
        return field
    return dataclasses.replace(field, values=color.grey(field.values))


def _of_content(inputs, number, contents):
    """The part of a run's data for the outputs of content `number`, of so many `contents`."""

    def own(field):
        if not field.per_output:
            return field
        count = len(field.values) // contents
        return dataclasses.replace(field, values=field.values[number * count :][:count])

    return map_fields(own, inputs)


def _check_mask_shape(name: str, mask: ArrayLike, height: int, width: int) -> None:
    """Refuses a mask with other proportions than its picture."""
    shape = np.shape(mask)
    own = shape[-1] / shape[-2] if len(shape) >= 2 and math.prod(shape) else 0.0
    # Sides are rounded to pixels.
    if abs(own * height / width - 1) > 1.5 / min(height, width):
        raise ValueError(
            f"{name} must have the shape of its picture, {height}x{width} or in proportion, "
            f"got {shape}"
        )


def _swept(sweep: Sweep | None, outputs: int) -> int:
    """How many outputs there are with a sweep: it repeats a single output for each number."""
    for address, values in (sweep or {}).items():
        if not np.size(values):
            raise ValueError(f"sweep[{address!r}] must hold numbers, got none")
    if outputs > 1 or not sweep:
        return outputs
    first, *_ = sweep.values()
    return np.size(first)


def _check_arguments(
    params: Any,
    content: Any,
    styles: Any,
    config: Any,
    combine: Any,
    inputs: Any,
    on_window: Any,
) -> None:
    """Refuses arguments of a wrong type, except what `optimize.check_arguments` refuses."""
    order = "the order is stylize(params, content, styles, config)"
    network = config.network if isinstance(config, Config) else None
    if isinstance(network, VGGExtractor) and not isinstance(params, Mapping):
        raise TypeError(
            "params must be parameters of the network, as nst_jax.load_params returns, got "
            f"{described(params)}; {order}"
        )
    wanted = {
        "content": (content, "a picture [H, W, 3] or a sequence of pictures"),
        "styles": (styles, "a sequence of pictures [h, w, 3]"),
    }
    for name, (value, what) in wanted.items():
        several = isinstance(value, Iterable) and not isinstance(value, Mapping | str | bytes)
        if not several or getattr(value, "ndim", 1) == 0:
            raise TypeError(f"{name} must be {what}, got {described(value)}; {order}")
    if getattr(styles, "ndim", None) == 3:
        raise ValueError(
            f"styles must be a sequence of pictures [h, w, 3], got {described(styles)}; put a "
            "single style into a list"
        )
    if not isinstance(combine, Combine):
        raise TypeError(f"combine must be an nst_jax.Combine, got {described(combine)}")
    if not isinstance(inputs, Mapping | None):
        raise TypeError(f"inputs must be {{term: tree}}, got {described(inputs)}")
    if on_window is not None and not callable(on_window):
        raise TypeError(
            f"on_window must be a function of two numbers, or None, got {described(on_window)}"
        )


def _repeated(targets, outputs: int):
    """The targets, repeated as a sweep repeats a single output."""
    if isinstance(targets, list):
        return targets * (outputs // len(targets))
    times = outputs // len(jax.tree.leaves(targets)[0])
    if times == 1:
        return targets
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, times, axis=0), targets)


@functools.partial(jax.jit, static_argnames="outputs")
def _each_output(pictures, *, outputs):
    """`[outputs, H, W, 3]`: each content repeated for its outputs."""
    return jnp.repeat(jnp.stack(pictures), outputs // len(pictures), axis=0)


def _start(run, config, sized):
    """The pictures that a run starts from, `[outputs, H, W, 3]`."""
    height, width = sized[0].shape[:2]
    if run.initial is not None:
        pictures = [image_lib.cover(picture, height, width) for picture in run.initial]
    elif config.init == "noise":
        pictures = [image_lib.noise(run.key, height, width)]
    elif config.init == "grey":
        pictures = [jnp.full((height, width, 3), 0.5)]
    elif config.init == "pixels":
        pictures = [
            image_lib.drawn_pixels(run.key, _pixels_of(run, index), height, width)
            for index in _leading_styles(run)
        ]
    elif config.init == "style":
        covered = [image_lib.cover(style, height, width) for style in run.styles]
        pictures = [covered[index] for index in _leading_styles(run)]
    elif config.init == "recolored":
        pictures = _recolored(run, sized)
    else:
        pictures = sized
    if config.color == "luminance":
        pictures = [color.grey(picture) for picture in pictures]
    return _each_output(pictures, outputs=run.outputs)


def _leading_styles(run):
    """The index of the style that each output starts from.

    A blend starts from its heaviest style, masked styles from the first one.
    """
    mixing, masks = run.combine.mixing, run.combine.masks
    rows = np.eye(1 if masks is not None else len(run.styles)) if mixing is None else mixing
    return np.resize(np.argmax(np.asarray(rows), axis=1), run.outputs)


def _recolored(run, sized):
    """Each output's content with the colours of the style that it starts from."""
    each = run.outputs // len(sized)
    return [
        color.match_colors(sized[number // each], _pixels_of(run, index))
        for number, index in enumerate(_leading_styles(run))
    ]


def _pixels_of(run, index):
    """The pixels of a style that its mask covers, `[1, n, 3]`."""
    style, masks = run.styles[index], run.combine.style_masks
    if masks is None or masks[index] is None:
        return style.reshape(1, -1, 3)
    mask = np.asarray(image_lib.resize_mask(masks[index], *style.shape[:2]))
    return style[mask >= 0.5 * mask.max()][None]


def _at_this_scale(resume, done):
    """`resume` without the `done` steps of earlier scales."""
    history = {name: rows[done:] for name, rows in resume.history.items()}
    return optimize.Checkpoint(resume.step - done, resume.states, history)


def _finish(run, size):
    """A function from the optimised pictures of this size to the pictures to show."""
    if run.config.color != "luminance":
        return lambda images: images
    # JAX moves a NumPy array to wherever the pictures are.
    chroma = np.asarray(_each_output(run.sized(size), outputs=run.outputs))
    return functools.partial(_with_luminance_of, chroma)


_with_luminance_of = jax.jit(color.with_luminance_of)


def _layer_losses(params, targets, numbers, images, *, tile, within):
    """What `Progress.layer_losses` returns for `images` `[N, H, W, 3]`."""
    images = sharding.to_host(images)
    if tile is None:
        look = functools.partial(_layer_losses_of, within=within)
        found = [look(n, images, params, targets, numbers) for n in range(len(images))]
    else:
        numbers = jax.tree.map(np.asarray, numbers)
        found = [
            windows.layer_losses(image, params, own, _item(numbers, n), tile=tile, within=within)
            for n, (image, own) in enumerate(zip(images, targets, strict=True))
        ]
    return jax.tree.map(float, found)


@functools.partial(jax.jit, static_argnames="within")
def _layer_losses_of(n, images, params, targets, numbers, *, within):
    return objective.layer_losses(
        images[n], params, _item(targets, n), _item(numbers, n), partition=within
    )


def _item(tree, n):
    """The tree of output `n`: every leaf has a leading axis of outputs."""
    return jax.tree.map(lambda leaf: leaf[n], tree)


class _Followed:
    """A callback that remembers whether it ended the run."""

    def __init__(self, callback: Callable[[optimize.Progress], object]):
        self._callback, self.ended = callback, False

    def __call__(self, progress: optimize.Progress) -> bool:
        self.ended = optimize.ends(self._callback(progress))
        return self.ended


def _shifted(callback, done, total, finish, measure):
    """A callback for one scale that calls `callback` as if the run had a single scale.

    It counts the steps of all scales, and adds the pictures to show and the losses of the layers.
    """
    return lambda progress: callback(
        progress._replace(
            step=done + progress.step,
            steps=total,
            images=finish(progress.images),
            layer_losses=functools.partial(measure, progress.images),
        )
    )
