"""What a job of the command line is asked for, and the pictures that it is to make."""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from nst_jax import files, results
from nst_jax.config import Config
from nst_jax.results import Output, Picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for.

    Attributes:
      contents, styles: the pictures; the outputs are contents x styles (or rows of `mixing`, or
        one of all styles where there are `masks`) x the combinations of `sweep`.
      config: the settings.
      sweep: numbers of the configuration with several values.
      mixing: `[rows, styles]` or None.
      masks: for each style its mask `[h, w]` over the contents, or None.
      style_masks: for each style its mask or None, or None.
      initial: a picture to start from, or None.
      seed: of the random key.
      tile: longest side of the windows in which larger pictures are looked at, or None.
      mesh: sizes of the mesh's axes; None is as `sharding.make_mesh` divides by itself.
    """

    contents: Sequence[Picture]
    styles: Sequence[Picture]
    config: Config
    sweep: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    mixing: np.ndarray | None = None
    masks: Sequence[np.ndarray] | None = None
    style_masks: Sequence[np.ndarray | None] | None = None
    initial: np.ndarray | None = None
    seed: int = 0
    tile: int | None = None
    mesh: Mapping[str, int] | None = None

    def rows(self) -> list[tuple[str, int]]:
        """(label, index of the style to show) of each row of styles."""
        names = [style.name for style in self.styles]
        if self.masks is not None:
            return [("+".join(names), 0)]
        if self.mixing is None:
            return [(name, index) for index, name in enumerate(names)]
        labels = [
            "+".join(f"{w:g}_{name}" for w, name in zip(row, names, strict=True) if w)
            for row in self.mixing
        ]
        return [
            (label, int(np.argmax(row)))
            for label, row in zip(files.unique(labels), self.mixing, strict=True)
        ]

    def outputs(self, contents: Sequence[Picture], *, taken: Sequence[str] = ()) -> list[Output]:
        """The outputs of `contents`, in the order in which `stylize` gives them; their files take
        none of the names that are `taken`."""
        combinations = [
            dict(zip(self.sweep, values, strict=True))
            for values in itertools.product(*self.sweep.values())
        ]
        outputs = [
            Output(
                content.name,
                "__".join([label, *(f"{name}={value:g}" for name, value in settings.items())]),
                thumbnail,
                row,
                settings,
            )
            for content in contents
            for row, (label, thumbnail) in enumerate(self.rows())
            for settings in combinations
        ]
        # Of the sheets and curves of any content, too, no output may take the name.
        sheets = itertools.chain(*results.sheet_names(self.contents).values())
        taken = files.unique([*taken, *(pathlib.PurePath(name).stem for name in sheets)])
        stems = [files.short(f"{output.content}__{output.label}") for output in outputs]
        stems = files.unique([*taken, *stems])[len(taken) :]
        return [output._replace(stem=stem) for output, stem in zip(outputs, stems, strict=True)]
