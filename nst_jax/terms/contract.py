"""What a term of a loss is: the base class, and what the objective tells a term."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from nst_jax.settings import Number, Weights, is_settings, register_for_export

IMAGE = "image"
"""The name of the layer that is the picture itself, before a jitter moves it."""

Kind = Literal["features", "picture", "mask"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Tree: TypeAlias = Any
"""Any pytree of arrays."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values"],
    meta_fields=["layer", "kind", "per_output"],
)
@dataclasses.dataclass(frozen=True)
class Field:
    """An array with one value per position, which is cut, resized and sharded like its layer.

    Attributes:
      values: `[h, w, ...]`, for the whole picture at `layer`.
      layer: a layer of the network, or `IMAGE`.
      kind: how the array is resized. A "picture", `[h, w, ..., 3]` in [0, 1], is resized by
        `nst_jax.image.resize`. A "mask", `[h, w, ...]` in [0, 1], is resized by
        `nst_jax.image.resize_mask`. "features" are not resized.
      per_output: True if the array has a leading axis of outputs. Only data that are given to a run
        may have one.
    """

    values: jax.Array | np.ndarray
    layer: str
    kind: Kind = "features"
    per_output: bool = False


register_for_export(Field)


def is_field(value: Any) -> bool:
    """Says whether a value is a `Field`."""
    return isinstance(value, Field)


def map_fields(function: Callable[[Field], Any], tree: Tree) -> Tree:
    """Applies a function to each `Field` of a tree. Other leaves stay as they are."""
    return jax.tree.map(
        lambda leaf: function(leaf) if is_field(leaf) else leaf, tree, is_leaf=is_field
    )


def fields_of(tree: Tree) -> Tree:
    """Replaces each leaf that is not a `Field` by None."""
    return jax.tree.map(lambda leaf: leaf if is_field(leaf) else None, tree, is_leaf=is_field)


def without_fields(tree: Tree) -> Tree:
    """Replaces each `Field` of a tree by None."""
    return jax.tree.map(lambda leaf: None if is_field(leaf) else leaf, tree, is_leaf=is_field)


def with_fields(fields: Tree, others: Tree) -> Tree:
    """Joins the results of `fields_of` and `without_fields` to the tree that they came from."""
    return jax.tree.map(
        lambda field, other: other if field is None else field,
        fields,
        others,
        is_leaf=lambda leaf: leaf is None or is_field(leaf),
    )


@dataclasses.dataclass(frozen=True)
class At:
    """Facts about the picture that a term looks at.

    They describe the whole picture, even when `Term.sums` sees only a part of it.

    Attributes:
      shape: `(H, W)` of the picture in pixels.
      sides: `{layer: (rows, columns)}`.
      channels: `{layer: number of channels}`.
      origin: `{layer: [row, column]}`, where the part that `Term.sums` sees begins in the layer.
        They are 0 for a whole picture.
      key: the random key of this run and step, for terms that draw. It is the same in every part of
        a picture.
      wraps: whether the picture continues by its other side, as with circular padding.
    """

    shape: tuple[int, int]
    sides: Mapping[str, tuple[int, int]]
    channels: Mapping[str, int]
    origin: Mapping[str, Int[Array, "2"]]
    key: jax.Array | None = None
    wraps: bool = False

    @property
    def positions(self) -> dict[str, int]:
        """`{layer: number of positions}`."""
        return {layer: rows * columns for layer, (rows, columns) in self.sides.items()}


class Term:
    """The base class of terms. The facts below have defaults; a term states those that differ.

    A term is a class that derives from this one and that `nst_jax.settings.settings` decorates.

    Attributes:
      name: unique in a loss. It is the key of the term's history and the prefix of its addresses
        in a `Config`, such as `style_weight`.
      weight: a factor of the loss. The objective applies it, so `loss` must not.
      layers: `{layer: weight}`, the layers that the term looks at. `loss` applies these weights.
      refers: what `target` is made of: a "style", the "content", "both", data of the "run", or None
        for a term without a target.
      reach: how many positions beyond a position its part of `sums` reads, on each side.
      additive: True if the sums of parts add up to the sum of the whole. If False, `sums` is called
        once, on the whole layer. Such a term cannot be tiled.
      placed: True if the sums are arrays of the whole layer, in which each part fills its own
        positions. They add up, but strips and rematerialisation join the layer first, because that
        takes less memory.
      linear: True if `loss` is linear in the sums. Tiling then needs one pass fewer.
      regions: True if the term works with masks. `sums` and `loss` are then taken once per region.
      mix: how styles are blended: by a weighted sum of their "targets", or of their "losses".
      fixed: True if the loss depends on the picture alone. It must be False if the term uses
        `at.key`.
      unordered: True if `sums` treats all positions alike. Without weights, it must then take a
        picture in strips, `[S, h, w, C]`, and two columns side by side in the channels,
        `[S, h, w / 2, 2 C]`: a TPU has block 1 in this form.
    """

    name: str
    weight: Number
    layers: Weights
    refers: ClassVar[Literal["style", "content", "both", "run"] | None] = None
    reach: ClassVar[int] = 0
    additive: ClassVar[bool] = True
    placed: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    regions: ClassVar[bool] = False
    mix: ClassVar[Literal["targets", "losses"]] = "targets"
    fixed: ClassVar[bool] = True
    unordered: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        # Sums of a class's own need not take strips or packed columns, as the inherited ones do.
        if "sums" in cls.__dict__ and "unordered" not in cls.__dict__:
            cls.unordered = False

    def target(self, layer: str, measured: Tree, at: At) -> Tree:
        """Returns what the loss keeps of a style, of the content or of the run's data.

        The default keeps everything. The targets of several styles are stacked. So the shapes must
        not depend on the size of the style. The values must not depend on numbers of the term.

        Args:
          layer: the name of the layer.
          measured: depends on `refers`. For "style" it is the result of `sums` on the style at its
            own size. For "content" it is a `Field` with the content's activations. For "both" it is
            first the one and then the other, and the target is
            `{"style": first result, "content": second result}`. For "run" it is the tree in
            `inputs[name]`.
          at: the picture that was measured.

        Returns:
          A tree of arrays. Arrays with one value per position must be `Field`s.
        """
        return measured

    def sums(
        self,
        layer: str,
        x: Float[Array, "h w C"],
        weights: Float[Array, "h w"] | None,
        target: Tree,
        at: At,
    ) -> Tree:
        """Returns sums over the positions of a picture, or of a part of it.

        Args:
          layer: the name of the layer.
          x: `[h, w, C]`, the layer's activations in a part that lies inside the picture. Their type
            is the network's. At `IMAGE` it is the picture itself, in [0, 1].
          weights: `[h, w]`, at least 0. None means 1 everywhere. A position of weight 0 must add
            exactly nothing: it belongs to another part, or it lies beyond the border.
          target: the target at this layer. Its `Field`s are cut to the part. It is None while a
            style is measured. A style's target comes without its other arrays, because a blend or
            a mask has several targets but takes the sums once.
          at: the whole picture.

        Returns:
          A tree of float32 arrays. The trees of all parts are added.
        """
        raise NotImplementedError

    def loss(
        self, sums: Mapping[str, Tree], target: Mapping[str, Tree], at: At
    ) -> Mapping[str, Float[Array, ""]]:
        """Returns the loss in parts, `{part: scalar}`. The parts are layers where possible.

        Args:
          sums: `{layer: tree}`, the sums of the whole picture.
          target: `{layer: tree}`, without its `Field`s.
          at: the picture.

        Returns:
          The parts, which the objective adds up and multiplies by `weight`.
        """
        raise NotImplementedError

    @classmethod
    def refers_to(cls, what: Literal["style", "content"]) -> bool:
        """Says whether the target is made of a style, or of the content."""
        return cls.refers in (what, "both")

    def check_mixing(self, mixing: np.ndarray) -> None:
        """Refuses blends that the term cannot have. The default accepts every blend.

        Args:
          mixing: `[rows, styles]`, the weights of the styles; each row is a blend.

        Raises:
          ValueError: the term cannot have one of the rows.
        """


def check_term(term: Any) -> None:
    """Refuses a value that is not a complete term.

    Raises:
      TypeError: the value is not a term, or a member is missing.
      ValueError: a member has a value that it must not have.
    """
    kind = type(term).__name__
    if not (isinstance(term, Term) and is_settings(term)):
        raise TypeError(
            "a term must be an object of a class derived from nst_jax.terms.Term and decorated "
            f"with nst_jax.settings.settings, got {term!r}"
        )
    missing = [name for name in ("name", "weight", "layers") if not hasattr(term, name)]
    missing += [
        name for name in ("sums", "loss") if getattr(type(term), name) is getattr(Term, name)
    ]
    if missing:
        raise TypeError(f"a term must have {missing[0]!r}, but {kind} has none")
    if not isinstance(term.name, str) or not term.name.isidentifier():
        raise ValueError(
            f"the name of a term must be an identifier such as 'style', got {term.name!r}"
        )
    if term.name == "total":
        raise ValueError(
            "a term must not be named 'total', which is the key of the sum of all terms"
        )
    if term.refers not in ("style", "content", "both", "run", None):
        raise ValueError(
            f"{kind}.refers must be 'style', 'content', 'both', 'run' or None, got {term.refers!r}"
        )
    if term.mix not in ("targets", "losses"):
        raise ValueError(f"{kind}.mix must be 'targets' or 'losses', got {term.mix!r}")
    if not isinstance(term.reach, int) or term.reach < 0:
        raise ValueError(f"{kind}.reach must be a whole number, at least 0, got {term.reach!r}")


def check_terms(terms: Any) -> None:
    """Refuses a value that is not a tuple or list of terms with different names.

    Raises:
      TypeError: the value is not such a sequence, or one of the terms is not complete.
      ValueError: a member of a term has a wrong value, or two terms have the same name.
    """
    if not isinstance(terms, tuple | list):
        raise TypeError(f"terms must be a tuple of terms, got {terms!r}")
    for term in terms:
        check_term(term)
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"terms must differ in their names, got {name!r} twice")
