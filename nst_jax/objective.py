"""The loss that a style transfer minimises, for one picture: a weighted sum of terms.

    total = sum over terms of weight * sum over parts of the term's loss

Leon A. Gatys, Alexander S. Ecker, Matthias Bethge: "Image Style Transfer Using Convolutional
Neural Networks", CVPR 2016, equation 7, is that sum of a content and a style term.

This module knows no term and no network. `nst_jax.terms` has what is compared,
`nst_jax.extractor` the networks, and `nst_jax.partition` how a picture is looked at in parts.

Images are float32 sRGB, RGB order, range [0, 1], `[H, W, 3]`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import image as image_lib
from nst_jax import partition
from nst_jax.config import Config
from nst_jax.extractor import Network
from nst_jax.partition import Grid, Partition, Sums, Together, check_partition
from nst_jax.terms import (
    IMAGE,
    KINDS,
    At,
    Field,
    Term,
    Tree,
    check_terms,
    fields_of,
    is_field,
    without_fields,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Combine:
    """How styles and contents are combined to outputs. `Combine()` is each content in each style.

    Attributes:
      mixing: `[rows, styles]`, rows sum to 1: blends of styles, one output a row and content. A
        blend's target is that mixture of the styles'.
      masks: `[styles, H, W]` in [0, 1], over the content: one output, in which each style holds
        where its mask is; `[rows, styles, H, W]` for several. A region's style loss counts by
        its share of the picture. After Gatys et al.: "Controlling Perceptual Factors in Neural
        Style Transfer", CVPR 2017, https://arxiv.org/abs/1611.07865, section 4.
      style_masks: for each style `[h, w]` in [0, 1], the part of it to learn from, or None.
      paired: content n in style n alone, of as many contents as styles.
    """

    mixing: jax.Array | None = None
    masks: jax.Array | None = None
    style_masks: Sequence[jax.Array | None] | None = None
    paired: bool = False

    def replace(self, **changes) -> "Combine":
        """A copy with `changes`."""
        return dataclasses.replace(self, **changes)


def checked_combination(
    combine: Combine,
    terms: Sequence[Term],
    styles: int,
    *,
    jitter: int,
    contents: int = 1,
) -> Combine:
    """The same with arrays, masks with their axis of outputs, if so many styles and contents can be
    combined like that.

    Raises:
      ValueError: what `nst_jax.compute_targets` refuses of these, but for the masks' sizes.
    """
    mixing, masks, style_masks = combine.mixing, combine.masks, combine.style_masks
    if not styles:
        raise ValueError("styles must hold at least one picture, got none")
    if combine.paired:
        if not (mixing is None and masks is None and style_masks is None):
            raise ValueError("paired goes without mixing, masks and style_masks")
        if contents != styles:
            raise ValueError(
                f"paired needs as many contents as styles, got {contents} and {styles}"
            )
    if style_masks is not None and len(style_masks) != styles:
        raise ValueError(f"style_masks must hold one for each of {styles}, got {len(style_masks)}")
    of_styles = [term for term in terms if term.refers == "style"]
    if masks is not None:
        if mixing is not None:
            raise ValueError("give masks or mixing, not both")
        if jitter:
            raise ValueError("jitter would move the picture under its masks: use one or the other")
        for term in of_styles:
            if not term.regions:
                raise ValueError(
                    f"masks must go with terms that have regions; {term.name!r} has none"
                )
    if style_masks is not None:
        style_masks = [
            mask if mask is None else check_mask(f"style_masks[{index}]", mask)
            for index, mask in enumerate(style_masks)
        ]
        for term in of_styles:
            if not term.additive and any(mask is not None for mask in style_masks):
                raise ValueError(
                    f"style_masks must go with terms that add up; {term.name!r} does not"
                )
    if masks is not None:
        masks = check_masks(masks, styles)
    if mixing is not None:
        mixing = check_mixing(mixing, styles)
        for term in of_styles:
            term.check_mixing(mixing)
    return combine.replace(mixing=mixing, masks=masks, style_masks=style_masks)


def rows_of(combine: Combine, styles: int) -> int:
    """The outputs of a content, of a checked combination of so many styles."""
    if combine.masks is not None:
        return len(combine.masks)
    if combine.mixing is not None:
        return len(combine.mixing)
    return 1 if combine.paired else styles


def checked_pictures(
    objective: "Objective",
    content: jax.Array,
    styles: Sequence[jax.Array],
    combine: Combine,
    inputs: Mapping[str, Tree] | None,
) -> tuple[Combine, dict[str, Tree]]:
    """The combination and the data of a run, if they go with the pictures.

    Raises:
      TypeError, ValueError: what `compute_targets` refuses.
    """
    image_lib.check_image("content", content, single=True)
    combine = checked_combination(combine, objective.terms, len(styles), jitter=objective.jitter)
    for index, style in enumerate(styles):
        image_lib.check_image(f"styles[{index}]", style, single=True)
    if combine.masks is not None and combine.masks.shape[2:] != content.shape[:2]:
        height, width = content.shape[:2]
        raise ValueError(
            f"masks must be [{len(styles)} styles, {height}, {width}], the content's size, or that "
            f"with a leading axis of outputs, got {np.shape(combine.masks)}"
        )
    for index, (mask, style) in enumerate(zip(combine.style_masks or (), styles, strict=False)):
        if mask is not None and mask.shape != style.shape[:2]:
            raise ValueError(
                f"style_masks[{index}] must have its style's size {style.shape[:2]}, got "
                f"{mask.shape}"
            )
    return combine, check_inputs(objective, inputs, content.shape)


def check_mixing(mixing: jax.Array, styles: int) -> np.ndarray:
    """`mixing` as an array, if it is `[outputs, styles]` with rows that sum to 1."""
    mixing = np.asarray(mixing, np.float32)
    if mixing.ndim != 2 or mixing.shape[1] != styles or not mixing.shape[0]:
        raise ValueError(f"mixing must be [outputs, {styles} styles], got {mixing.shape}")
    sums = np.sum(mixing, axis=1)
    if not np.allclose(sums, 1.0, atol=1e-4):
        raise ValueError(f"each row of mixing must sum to 1, got sums {sums.tolist()}")
    return mixing


def check_mask(name: str, mask: jax.Array) -> np.ndarray:
    """`mask` as a float32 array, if it is in [0, 1] and not black all over."""
    try:
        mask = np.asarray(mask, np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of numbers, got {type(mask).__name__}") from None
    if not np.all((mask >= 0) & (mask <= 1)):  # nor NaN
        raise ValueError(
            f"{name} must be in [0, 1], got values from {np.min(mask):g} to {np.max(mask):g}"
        )
    if mask.size and not mask.any():
        raise ValueError(f"{name} must have some weight, got 0 everywhere")
    return mask


def check_masks(masks: jax.Array, styles: int) -> np.ndarray:
    """`masks` as `[outputs, styles, H, W]`, if it is that or one output's."""
    # Of one output each style has a place, of several each output has a style somewhere.
    masks = [check_mask(f"masks[{index}]", mask) for index, mask in enumerate(masks)]
    shapes = {mask.shape for mask in masks}
    if len(shapes) > 1:
        raise ValueError(f"masks must be of one size, got {sorted(shapes)}")
    masks = np.array(masks)
    found = masks.shape
    if masks.ndim == 3:
        masks = masks[None]
    if masks.ndim != 4 or not masks.size or masks.shape[1] != styles:
        raise ValueError(
            f"masks must be [{styles} styles, H, W], the content's size, or that with a leading "
            f"axis of outputs, got {found}"
        )
    return masks


class Made(NamedTuple):
    """What targets were made with. An objective of something else is refused.

    Attributes:
      network: the extractor.
      layers: `((term, its layers), ...)`.
      size: `(H, W)` of the content.
      moves: whether a jitter moves the content.
    """

    network: Network
    layers: tuple[tuple[str, tuple[str, ...]], ...]
    size: tuple[int, int]
    moves: bool


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["terms", "masks", "rows", "picture", "output"],
    meta_fields=["made"],
)
@dataclasses.dataclass(frozen=True)
class Targets:
    """What pictures are compared with. `compute_targets` gives every leaf a leading axis of
    outputs; `objective_value` takes the targets of one output.

    Attributes:
      terms: `{term: {layer: tree}}`, what each term keeps. An array with one value a position is in
        a `Field`.
      masks: share of each position in each region, `{layer: Field [h, w, regions]}`, or None: one
        region, the whole picture.
      rows: `[styles]`, weights of a blend, for terms that blend losses; or None.
      picture: the content picture, if a jitter will move it, else None.
      output: counts the outputs of one call of `compute_targets`.
      made: what these targets were made with.
    """

    terms: dict[str, dict[str, Tree]]
    masks: dict[str, Field] | None
    rows: jax.Array | None
    picture: Field | None
    output: jax.Array
    made: Made


@dataclasses.dataclass(frozen=True)
class Objective:
    """Terms on a network.

    Attributes:
      terms: unique in their names.
      extractor: the network.
      jitter: pixels by which the network's picture moves, at most.
      partition: how a picture is divided, see `nst_jax.partition`.

    Raises:
      TypeError, ValueError: what is no term, two terms of one name, or a partition that is none,
        that the host has to run or that the extractor cannot have.
    """

    terms: tuple[Term, ...]
    extractor: Network
    jitter: int = 0
    partition: Partition = Together()

    def __post_init__(self):
        check_terms(self.terms)
        check_partition(self.partition, self.extractor)

    @classmethod
    def of(cls, config: Config, *, partition: Partition = Together()) -> "Objective":
        """What `config` describes."""
        return cls(config.terms, config.network, config.jitter, partition)

    def layers(self, *refers: str | None) -> tuple[str, ...]:
        """The layers of the network that terms look at, each once; of `refers`, where it is given,
        those terms alone that refer to one of these."""
        terms = [term for term in self.terms if not refers or term.refers in refers]
        return partition.network_layers(terms)

    def made(self, size: Sequence[int]) -> Made:
        """`Targets.made` of targets for a content of `size`."""
        layers = tuple(
            (term.name, tuple(term.layers)) for term in self.terms if term.refers is not None
        )
        return Made(self.extractor, layers, tuple(size[:2]), self.jitter > 0)

    def at(self, params: Tree, shape: Sequence[int], key: jax.Array | None = None) -> At:
        """The `At` of a whole picture of `shape`."""
        if not all(term.fixed for term in self.terms):
            key = jax.random.key(0) if key is None else jax.random.fold_in(key, 1)
        return partition.make_at(self.extractor, params, self.terms, shape, key=key)

    def grid(self, params: Tree, shape: Sequence[int], tile: int) -> Grid:
        """`partition.grid` of these terms.

        Raises:
          ValueError: as that, or a term that doesn't add up.
        """
        for term in self.terms:
            if not term.additive:
                raise ValueError(
                    f"the term {term.name!r} doesn't add up over parts: leave out tile"
                )
        return partition.grid(shape, tile, self.terms, self.extractor, params)

    def of_terms(self, keep: Callable[[Term], bool]) -> "Objective":
        """This, of those terms alone for which `keep` says so."""
        return dataclasses.replace(self, terms=tuple(filter(keep, self.terms)))

    # What terms say of targets.

    def style_targets(
        self,
        params: Tree,
        style: jax.Array,
        *,
        mask: jax.Array | None = None,
    ) -> dict[str, dict[str, Tree]]:
        """What terms keep of a style `[h, w, 3]`, at its own size; of the part of it that `mask`
        `[h, w]` names, if there is one."""
        own = self.of_terms(lambda term: term.refers == "style")
        at = own.at(params, style.shape)
        weights = None if mask is None else own.masks(params, mask, style.shape)
        return own.kept_of_style(own.measure(params, style, {}, at, own=weights), at)

    def kept_of_style(self, sums: Sums, at: At) -> dict[str, dict[str, Tree]]:
        """What terms keep of a style's sums."""
        return {
            term.name: {
                layer: term.target(layer, measured.sums, at)
                for layer, measured in sums[term.name].items()
            }
            for term in self.terms
            if term.refers == "style"
        }

    def content_targets(
        self, params: Tree, content: jax.Array, at: At | None = None
    ) -> dict[str, dict[str, Tree]]:
        """What terms keep of a content `[H, W, 3]`, or of a window of the one that `at` is of."""
        own = self.of_terms(lambda term: term.refers == "content")
        at = own.at(params, content.shape) if at is None else at
        layers = own.layers()
        features = partition.activations(
            own.extractor, params, content, layers, partition=own.partition
        )
        features = {**features, IMAGE: content}
        return {
            term.name: {
                layer: term.target(layer, Field(features[layer], layer), at)
                for layer in term.layers
            }
            for term in own.terms
        }

    def masks(self, params: Tree, mask: jax.Array, shape: Sequence[int]) -> dict[str, jax.Array]:
        """A mask `[..., H, W]` at each layer that masks apply to."""
        strides = partition.strides_of(self.terms, self.extractor, params, shape)
        looked_at = {layer for term in self.terms for layer in term.layers}
        return {layer: shrink(mask, strides[layer]) for layer in strides if layer in looked_at}

    # The loss.

    def beside(self, targets: Targets) -> dict[str, dict[str, Tree]]:
        """What `Term.sums` is given of the targets, of a whole picture."""
        of_styles = {term.name for term in self.terms if term.refers == "style"}
        return {
            name: fields_of(tree) if name in of_styles else tree
            for name, tree in targets.terms.items()
        }

    def measure(self, params, image, fields, at, **options) -> Sums:
        """`partition.measure` of these terms."""
        return partition.measure(
            *(self.terms, self.extractor, params, image, fields, at),
            partition=self.partition,
            **options,
        )

    def parts(self, sums: Sums, targets: Targets, at: At) -> dict[str, dict[str, jax.Array]]:
        """The loss of each term by part, `{term: {part: scalar}}`, of a picture's sums.

        With regions, each region's loss counts by its share of the picture.
        """
        return {term.name: self._parts_of(term, sums, targets, at) for term in self.terms}

    def _parts_of(self, term, sums, targets, at):
        found = sums[term.name]
        target = without_fields(targets.terms.get(term.name, {}))

        def loss(own, target):
            if term.refers == "style" and term.mix == "losses" and targets.rows is not None:
                each = jax.vmap(lambda target: term.loss(own, target, at))(target)
                return {part: jnp.vdot(targets.rows, values) for part, values in each.items()}
            return _checked_parts(term, term.loss(own, target, at))

        own = {layer: found[layer].sums for layer in term.layers}  # in the term's own order
        shares = {layer: measured.share for layer, measured in found.items()}
        if any(share is not None for share in shares.values()):
            # Of a style there is a target a region; of the content and the run one for all.
            parts = jax.vmap(loss, in_axes=(0, 0 if term.refers == "style" else None))(own, target)
            parts = {
                part: jnp.sum(_share_of(part, shares) / at.positions[part] * values)
                for part, values in parts.items()
            }
        else:
            parts = loss(own, target)
        return parts

    def total(self, parts: Mapping[str, Mapping[str, jax.Array]]):
        """The loss, and what the terms add to it: `{"total", term, ...}`."""
        terms = {
            term.name: term.weight * sum(parts[term.name].values(), jnp.zeros(()))
            for term in self.terms
        }
        total = sum(terms.values(), jnp.zeros(()))
        return total, {"total": total, **terms}

    def weighted(self, parts: Mapping[str, Mapping[str, jax.Array]]) -> dict:
        """What each part adds to the loss."""
        return {
            term.name: {part: term.weight * value for part, value in parts[term.name].items()}
            for term in self.terms
        }

    def shift(self, key: jax.Array | None) -> jax.Array | None:
        """Pixels `[2]` down and to the right by which the jitter moves the picture."""
        if key is None or not self.jitter:
            return None
        return jax.random.randint(key, (2,), -self.jitter, self.jitter + 1)


def _checked_parts(term, parts):
    if not isinstance(parts, Mapping) or any(np.shape(value) for value in parts.values()):
        raise TypeError(
            f"the loss of the term {term.name!r} must be {{part: scalar}}, got {parts!r}"
        )
    return parts


def _share_of(part, shares):
    if part not in shares:
        raise ValueError(
            f"a loss that masks apply to must have layers as its parts, got the part {part!r}"
        )
    return shares[part]


def shrink(mask: jax.Array, stride: int) -> jax.Array:
    """A mask `[..., H, W]` of a picture, brought to a layer of that stride as pooling brings the
    features there."""
    if stride & (stride - 1):
        raise ValueError(f"masks need a stride that is a power of 2, got {stride}")
    return image_lib.shrink_mask(mask, times=stride.bit_length() - 1)


def prepare(params: Mapping, config: Config) -> Mapping:
    """`params` as suits many steps on this backend, if the network knows of such a form."""
    if not hasattr(config.network, "prepare"):
        return params
    return config.network.prepare(params, Objective.of(config).layers())


# Compiled once for each shape of picture; the configuration's numbers compile nothing.
@functools.partial(jax.jit, static_argnames="partition")
def content_targets(
    params: Mapping, content: jax.Array, config: Config, *, partition: Partition = Together()
) -> dict:
    """What the terms keep of `content` `[H, W, 3]`, `{term: {layer: tree}}`."""
    return Objective.of(config, partition=partition).content_targets(params, content)


@functools.partial(jax.jit, static_argnames="partition")
def style_targets(
    params: Mapping,
    style: jax.Array,
    config: Config,
    *,
    mask: jax.Array | None = None,
    partition: Partition = Together(),
) -> dict:
    """What the terms keep of `style` `[h, w, 3]`, at its own size, `{term: {layer: tree}}`; of the
    part of it that `mask` `[h, w]` names, if there is one."""
    return Objective.of(config, partition=partition).style_targets(params, style, mask=mask)


def compute_targets(
    params: Mapping,
    content: jax.Array,
    styles: Sequence[jax.Array],
    config: Config,
    *,
    combine: Combine = Combine(),
    inputs: Mapping[str, Tree] | None = None,
    partition: Partition = Together(),
) -> Targets:
    """Targets of every output: what the terms keep of the content and of the styles.

    Args:
      params: of `config.network`; for VGG16 and VGG19 the tree of `load_params`.
      content: `[H, W, 3]`.
      styles: pictures `[h, w, 3]`, each of its own size.
      config: terms and network.
      combine: how styles are combined; None of it is one output a style.
      inputs: data of the run, `{term: tree}`, of the terms that refer to it. An array with one
        value a position is in a `Field`, of the content's size; where it has an axis of outputs,
        the `Field` says so.
      partition: how each picture is divided, as of `objective_value`. Targets are the same, up to
        rounding.

    Returns:
      `Targets` with a leading axis of outputs on every leaf, ready for `jax.vmap`.

    Raises:
      TypeError: a picture that is not floating point.
      ValueError: a picture of another shape, no style, a layer that the network doesn't have or
        that has no positions, a picture too small for the deepest layer, a bad mixing, a mask of
        another size than its picture, out of [0, 1] or without any weight, or masks together with
        mixing or jitter, or inputs of other terms or of another size.
    """
    objective = Objective.of(config, partition=partition)
    combine, inputs = checked_pictures(objective, content, styles, combine, inputs)
    return find_targets(
        *(params, content, styles, config), combine=combine, inputs=inputs, partition=partition
    )


def find_targets(
    params: Mapping,
    content: jax.Array,
    styles: Sequence[jax.Array],
    config: Config,
    *,
    combine: Combine,
    inputs: Mapping[str, Tree],
    partition: Partition = Together(),
) -> Targets:
    """`compute_targets` of what is checked."""
    return assembled(
        params,
        content,
        styles,
        config,
        combine=combine,
        inputs=inputs,
        of_style=lambda style, mask: style_targets(
            params, jnp.asarray(style), config, mask=mask, partition=partition
        ),
        of_content=lambda content: content_targets(params, content, config, partition=partition),
    )


def assembled(
    params: Mapping,
    content: jax.Array,
    styles: Sequence[jax.Array],
    config: Config,
    *,
    combine: Combine,
    inputs: Mapping[str, Tree],
    of_style: Callable[[jax.Array, jax.Array | None], dict],
    of_content: Callable[[jax.Array], dict],
) -> Targets:
    """Targets of every output, of what is found of a style and its mask and of a content.

    Args:
      params, content, styles, config, combine, inputs: as of `compute_targets`, checked.
      of_style, of_content: give `{term: {layer: tree}}`.
    """
    Objective.of(config).at(params, content.shape)
    masks = combine.style_masks or [None] * len(styles)
    each = [of_style(style, mask) for style, mask in zip(styles, masks, strict=True)]
    content = jnp.asarray(content)
    return _each_output(
        params,
        each,
        of_content(content),
        Field(content, IMAGE, "picture") if config.jitter else None,
        combine.mixing,
        combine.masks,
        inputs,
        config,
        shape=content.shape[:2],
    )


def check_inputs(
    objective: Objective, inputs: Mapping[str, Tree] | None, shape: Sequence[int]
) -> dict[str, Tree]:
    """The data of a run, if it is that of the terms that want some, for a picture of `shape`.

    Raises:
      ValueError: it is not.
    """
    inputs = dict(inputs or {})
    wanted = [term.name for term in objective.terms if term.refers == "run"]
    if sorted(inputs) != sorted(wanted):
        raise ValueError(
            f"inputs must be of the terms {', '.join(wanted) or 'none'}, got "
            f"{', '.join(inputs) or 'none'}"
        )
    for name, tree in inputs.items():
        if not jax.tree.leaves(tree):
            raise ValueError(f"inputs[{name!r}] must hold arrays, got none")
        for field in filter(is_field, jax.tree.leaves(tree, is_leaf=is_field)):
            whole = np.shape(field.values)
            found, wanted = whole[field.per_output :][:2], tuple(shape[:2])
            if field.kind not in KINDS:
                raise ValueError(
                    f"inputs[{name!r}] must be of a kind of {', '.join(KINDS)}, got {field.kind!r}"
                )
            if field.kind == "picture" and (len(whole) < 3 + field.per_output or whole[-1] != 3):
                raise ValueError(f"inputs[{name!r}] must be a picture [H, W, ..., 3], got {whole}")
            if field.kind != "features" and not isinstance(field.values, jax.core.Tracer):
                values = np.asarray(field.values)
                if not np.all((values >= 0) & (values <= 1)):  # nor NaN
                    raise ValueError(
                        f"inputs[{name!r}] must be in [0, 1], got values from {np.min(values):g} "
                        f"to {np.max(values):g}"
                    )
            if field.layer == IMAGE and found != wanted:
                raise ValueError(
                    f"inputs[{name!r}] must be of the content's size {wanted}, got {found}"
                )
    return inputs


# Its many small operations would else be compiled one by one.
@functools.partial(jax.jit, static_argnames="shape")
def _each_output(
    params, styles, contents, picture, mixing, masks, inputs, config, *, shape
) -> Targets:
    """Gives every leaf its leading axis of outputs."""
    objective = Objective.of(config)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *styles)
    outputs, regions, rows = len(styles), None, None
    if masks is not None:
        outputs = len(masks)
        regional = objective.of_terms(lambda term: term.regions)
        regions = {
            layer: Field(jnp.moveaxis(values, 1, -1), layer, "mask")
            for layer, values in regional.masks(params, masks, shape).items()
        }
        stacked = _repeated(stacked, outputs)
    elif mixing is not None:
        outputs = len(mixing)
        by_losses = {t.name for t in objective.terms if t.refers == "style" and t.mix == "losses"}
        rows = mixing if by_losses else None

        def mixed(leaf):
            return jnp.tensordot(mixing, leaf, axes=1, precision="highest")

        stacked = {
            name: _repeated(tree, outputs) if name in by_losses else jax.tree.map(mixed, tree)
            for name, tree in stacked.items()
        }
    return Targets(
        terms=stacked
        | _repeated(contents, outputs)
        | _of_the_run(objective, params, inputs, outputs, shape),
        masks=regions,
        rows=rows,
        picture=_repeated(picture, outputs),
        output=jnp.arange(outputs),
        made=objective.made(shape),
    )


def _of_the_run(objective, params, inputs, outputs, shape):
    """What terms keep of the run's data, for each output."""
    at = objective.at(params, shape)

    def each(leaf):
        if not is_field(leaf):
            return _repeated(leaf, outputs)
        values = leaf.values if leaf.per_output else _repeated(leaf.values, outputs)
        return dataclasses.replace(leaf, values=values, per_output=False)

    found = {}
    for term in objective.terms:
        if term.refers == "run":
            own = jax.tree.map(each, inputs[term.name], is_leaf=is_field)
            found[term.name] = {
                layer: jax.vmap(lambda data, term=term, layer=layer: term.target(layer, data, at))(
                    own
                )
                for layer in term.layers
            }
    return found


def _repeated(tree, outputs):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (outputs, *leaf.shape)), tree)


def objective_value(
    image: jax.Array,
    params: Mapping,
    targets: Targets,
    config: Config,
    *,
    key: jax.Array | None = None,
    partition: Partition = Together(),
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of one picture. Pure: `jax.grad`, `jax.jit` and `jax.vmap` it.

    For a batch, `jax.vmap(objective_value, in_axes=(0, None, 0, None))`. `config` is a pytree
    whose leaves are its numbers: a jitted call compiles anew only when its structure changes, and
    a vmapped one takes as its axes a tree of that kind, `jax.tree.map(axis_of, config)`.

    Args:
      image: `[H, W, 3]` in [0, 1], of the content's shape.
      params: of `config.network`; for VGG16 and VGG19 the tree of `load_params`.
      targets: one output's, from `compute_targets`; those of a single output may be passed
        with their leading axis of one.
      config: terms and network, those that the targets were made with.
      key: random key of the run and step. With `config.jitter` it moves image and content before
        the network sees them; None moves nothing. Terms that draw take key 0 for None.
      partition: how the picture is divided, `partition.Together` or `partition.Windows` with
        `loop="scan"`. Static under `jax.jit`. It changes results only by rounding, and targets of
        any partition will do.

    Returns:
      The total, and `{"total": ..., term: ...}`, scalars of which those of the terms, weighted, sum
      to the first.

    Raises:
      ValueError: an image that is not `[H, W, 3]`, targets of several outputs, another size,
        another network or other layers, or a partition that only the host can run or that the
        network cannot have.
    """
    objective = Objective.of(config, partition=partition)
    return objective.total(_parts(objective, image, params, targets, key))


@functools.cache
def value_by(partition: Partition) -> Callable:
    """`objective_value` with that partition. The same function each time, so that the program that
    was compiled for it is found again."""
    if partition == Together():
        return objective_value
    return functools.partial(objective_value, partition=partition)


def layer_losses(
    image: jax.Array,
    params: Mapping,
    targets: Targets,
    config: Config,
    *,
    partition: Partition = Together(),
) -> dict[str, dict[str, jax.Array]]:
    """What each part of each term adds to the loss of one picture.

    Args:
      image, params, targets, config, partition: as of `objective_value`.

    Returns:
      `{term: {layer: loss}}`, weighted scalars: those of each term sum to its value of
      `objective_value`.
    """
    objective = Objective.of(config, partition=partition)
    return objective.weighted(_parts(objective, image, params, targets, None))


def _parts(objective, image, params, targets, key):
    if image.ndim != 3:
        raise ValueError(
            f"image must be one picture [H, W, 3], got {image.shape}; for several use "
            "jax.vmap(objective_value, in_axes=(0, None, 0, None))"
        )
    targets = one_output(targets)
    check_made(targets, objective, image.shape)
    at = objective.at(params, image.shape, key)
    shift, moved, fields = objective.shift(key), None, objective.beside(targets)
    if shift is not None:
        moved = jnp.roll(image, shift, axis=(0, 1))
        content = jnp.roll(targets.picture.values, shift, axis=(0, 1))
        content = objective.content_targets(params, jax.lax.stop_gradient(content), at)
        fields = moved_fields(fields, content)
    sums = objective.measure(params, image, fields, at, masks=targets.masks, moved=moved)
    return objective.parts(sums, targets, at)


def moved_fields(fields, content):
    """The targets' `Field`s, with those of the content's layers as of `content`. What is of the
    picture itself stays, for it is compared before a jitter moves it."""

    def own(name, layer, tree):
        return fields[name][layer] if layer == IMAGE else tree

    return fields | {
        name: {layer: own(name, layer, tree) for layer, tree in layers.items()}
        for name, layers in content.items()
    }


def check_made(targets: Targets, objective: Objective, shape: Sequence[int]) -> None:
    """Refuses targets that were made with something else.

    Raises:
      ValueError: they were.
    """
    made, wanted = targets.made, objective.made(shape)
    if made.size != wanted.size:
        raise ValueError(
            f"image and content must be of one size, got {wanted.size} against {made.size}"
        )
    if made.network != wanted.network:
        raise ValueError(
            f"targets must be of the objective's network, {wanted.network}, got those of "
            f"{made.network}"
        )
    if made.moves < wanted.moves:
        raise ValueError("targets must be made with a jitter, as the objective has one; got none")
    if made.layers != wanted.layers:
        raise ValueError(
            f"targets must be of the objective's terms and layers, {_listed(wanted.layers)}, got "
            f"those of {_listed(made.layers)}"
        )


def _listed(layers):
    return "; ".join(f"{name}: {', '.join(own) or 'none'}" for name, own in layers) or "none"


def target_shapes(
    params: Mapping,
    shape: Sequence[int],
    config: Config,
    *,
    regions: int = 0,
    inputs: Mapping[str, Tree] | None = None,
) -> Targets:
    """The shapes of one output's targets, for a picture of `shape` `(H, W)`; with so many regions
    of masks, if any, and `inputs` of that size, arrays or `jax.ShapeDtypeStruct`s."""

    def targets(params, content, inputs):
        style = Objective.of(config).style_targets(params, content)
        contents = Objective.of(config).content_targets(params, content)
        masks = jnp.zeros((1, regions, *shape)) if regions else None
        picture = Field(content, IMAGE, "picture") if config.jitter else None
        styles = [style] * max(regions, 1)
        found = _each_output(
            params, styles, contents, picture, None, masks, inputs, config, shape=shape
        )
        return jax.tree.map(lambda leaf: leaf[0], found)

    image = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
    return jax.eval_shape(targets, params, image, dict(inputs or {}))


def one_output(targets: Targets) -> Targets:
    """Drops the leading axis of `compute_targets` when it is one.

    Raises:
      ValueError: targets of several outputs.
    """
    if not targets.output.shape:
        return targets
    if targets.output.shape == (1,):
        return jax.tree.map(lambda leaf: leaf[0], targets)
    raise ValueError(
        f"targets must be of one output, got {targets.output.shape[0]}; use "
        "jax.vmap(objective_value, in_axes=(0, None, 0, None)) for several"
    )
