"""Which runs the reproduction makes, and what is measured on them: pictures in, JSON's types out.

Every function keeps what it makes in the setting's folder, and takes it from there the next time.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import nst_jax
from assignment import measures
from assignment.runs import Painted, paint
from nst_jax import objective, vgg
from nst_jax.config import Config
from nst_jax.files.atomic import replacing
from nst_jax.files.images import to_uint8

RATE = 100.0  # of the report
SIDE = 224  # pixels, of the report's pictures
STEPS = 3000  # of the report, over which the rate decays as in Keras' example
FACTORS = (0.01, 0.1, 1.0, 10.0)  # of the report's rate: 1, 10, 100, 1000
# Of the rate, every STEPS / 30 steps; as many as FACTORS, so that both are of one program.
DECAYS = (1.0, 0.96, 0.9, 0.8)
SEEDS = (0, 1, 2)
CHANNELS = 8  # that are looked at of a layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What is reproduced, of pictures that are already of their final size.

    Attributes:
      content: `[H, W, 3]`, float32, range [0, 1].
      styles: `{name: [h, w, 3]}`.
      judged_contents, judged_styles: of the comparison of the networks; the contents of one shape.
      steps: of each whole run.
      models: the networks; the last one is looked at more closely.
      folder: of what is kept between calls.
      drawn: content and styles are the package's own drawings.
      marks: number of steps at which a run's pictures are kept, and their losses by layer taken.
      measured: number of further ones, at which gradients and curvature are measured, too.
    """

    content: np.ndarray
    styles: Mapping[str, np.ndarray]
    judged_contents: Mapping[str, np.ndarray]
    judged_styles: Mapping[str, np.ndarray]
    steps: int
    models: tuple[str, ...]
    folder: Path
    drawn: bool = False
    marks: int = 25
    measured: int = 10

    @property
    def config(self) -> Config:
        """The report's method. A shorter run's rate decays as much."""
        preset = nst_jax.presets["assignment"]
        decay_steps = preset.optimizer.decay_steps * self.steps / STEPS
        return preset.replace(size=None, steps=self.steps, decay_steps=decay_steps)

    @property
    def rate(self) -> float:
        """The report's rate, as it acts at this size.

        By Keras' normaliser the style loss of a picture does not grow with it, so that the
        gradient of each pixel is in inverse proportion to their number; the rate makes up for it.
        """
        return RATE * self.content.shape[0] * self.content.shape[1] / SIDE**2

    @property
    def content_weighs(self) -> float:
        """How many times as much the content weighs at the report's size.

        Its loss is a plain sum over positions, while the style's does not grow with the picture.
        """
        return SIDE**2 / (self.content.shape[0] * self.content.shape[1])

    @property
    def short(self) -> int:
        """Steps of the runs that show the effect of one setting."""
        return max(self.steps // 15, 1)

    @property
    def half(self) -> int:
        """Steps at a constant rate, which are compared with as many of the whole run's."""
        return self.steps // 2

    @property
    def settled(self) -> int:
        """The step by which a run has left its start, from which it is looked at for bouncing."""
        return self.steps // 30

    @property
    def marks_at(self) -> list[int]:
        """About `marks` steps from the last one down to 1, evenly spaced by their logarithm."""
        return self._by_logarithm(self.marks)

    @property
    def measured_at(self) -> list[int]:
        """About `measured` steps: half of them as `marks_at`, half evenly over the whole run, so
        that its later half has its share."""
        evenly = self.measured // 2
        steps = [self.steps * (n + 1) // (evenly + 1) for n in range(evenly)]
        return sorted({*steps, *self._by_logarithm(self.measured - evenly)})

    def _by_logarithm(self, count: int) -> list[int]:
        return sorted({round(step) for step in np.geomspace(self.steps, 1, count)})


def once(
    path: Path, make: Callable[[], Any], *, remedy: str = "delete it to have it made anew"
) -> Any:
    """What `make` returns, of JSON's types; made once and then read from `path`.

    Raises:
      ValueError: what the file holds is not what was written; the message ends with the remedy.
    """
    if not path.exists():
        made = json.loads(json.dumps(make()))
        with replacing(path) as file:
            file.write(json.dumps({"sha256": _digest(made), "made": made}, indent=1).encode())
    try:
        kept = json.loads(path.read_text("utf-8"))
        if kept["sha256"] != _digest(kept["made"]):
            raise ValueError("its checksum is another")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged, {remedy}") from error
    return kept["made"]


def _digest(made: Any) -> str:
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()


@functools.cache
def params_of(model: str) -> Mapping:
    return nst_jax.load_params(model)


def targets_of(params, content, styles: Sequence[np.ndarray], config: Config) -> list:
    """The targets of each style."""
    targets = nst_jax.compute_targets(params, content, styles, config)
    return [jax.tree.map(lambda leaf, n=n: leaf[n], targets) for n in range(len(styles))]


loss_and_terms = jax.jit(nst_jax.objective_value)


def as_saved(picture: np.ndarray) -> np.ndarray:
    """The picture as a file of 8 bits holds it."""
    return to_uint8(picture).astype(np.float32) / 255


def losses_of(picture, params, targets, config: Config) -> dict[str, float]:
    """The terms of the loss of a picture, and of the picture as it is saved."""
    return {
        name + suffix: float(value)
        for suffix, image in (("", picture), ("_saved", as_saved(picture)))
        for name, value in loss_and_terms(image, params, targets, config)[1].items()
    }


def held_rates(setting: Setting, model: str) -> dict[str, Any]:
    """For each style the report's rate, or of its 1/10, 1/100, ... the largest that holds at first.

    Returns:
      `{"rates": [styles], "lost": [attempts, styles]}`, which style diverged at which attempt.
    """

    def probe():
        rates, tried = np.full(len(setting.styles), setting.rate), []
        while not tried or any(tried[-1]) and len(tried) < 5:
            begun = nst_jax.stylize(
                params_of(model),
                setting.content,
                list(setting.styles.values()),
                setting.config.replace(steps=min(setting.steps, 50)),
                sweep={"learning_rate": rates},
            )
            tried.append(lost_outputs(begun).tolist())
            rates = np.where(tried[-1], rates / 10, rates)
        return {"rates": rates.tolist(), "lost": tried}

    return once(setting.folder / f"rates_{model}.json", probe)


def lost_outputs(painted) -> np.ndarray:
    """Which outputs met a value that is not finite, or ended above where they began."""
    totals = painted.history["total"]
    return painted.diverged | ~(totals[-1] <= totals[0])


def as_reported(setting: Setting, model: str) -> tuple[Painted, dict[str, Any]]:
    """The report's experiment on one network, all styles in one program, and its measurements.

    A style that is lost later than in its first steps is painted again at a tenth of the rate.
    """
    held = held_rates(setting, model)
    rates, lost = np.array(held["rates"]), held["lost"]
    for attempt in range(3):
        if attempt:
            rates = np.where(lost[-1], rates / 10, rates)
        name = f"reported_{model}_{attempt}"
        painted = paint(
            setting.folder / name,
            params_of(model),
            setting.content,
            list(setting.styles.values()),
            setting.config,
            sweep={"learning_rate": rates},
            snapshots_at={*setting.marks_at, *setting.measured_at},
        )
        lost.append(lost_outputs(painted).tolist())
        if not any(lost[-1]):
            break
    found = once(
        setting.folder / f"{name}.json", lambda: _measure(setting, model, painted, rates.tolist())
    )
    return painted, {"rates": rates.tolist(), "lost": lost} | found


def _measure(setting: Setting, model: str, painted: Painted, rates) -> dict[str, Any]:
    """Losses by layer at each snapshot; gradients and curvature at some."""
    config = setting.config
    params = objective.prepare(params_of(model), config)
    styles = list(setting.styles.values())
    gatys = config.replace(style_normalization="gatys")
    steps = painted.snapshots.keys()
    closely = {0} | {min(s for s in steps if s >= mark) for mark in setting.measured_at}
    measured = []
    for n, targets in enumerate(targets_of(params, setting.content, styles, config)):
        pictures = {0: setting.content} | {s: images[n] for s, images in painted.snapshots.items()}
        rows = []
        for step, picture in pictures.items():
            row = {"step": step}
            row["losses"] = measures.layer_losses(picture, params, targets, config)
            if step in closely:
                row["gradients"] = measures.gradient_norms(picture, params, targets, config)
                row["eigenvalue"] = measures.largest_eigenvalue(picture, params, targets, config)
                row["rate"] = rates[n] * config["decay_rate"] ** (step / config["decay_steps"])
            rows.append(row)
        last = painted.images[n]
        measured.append(
            {
                "rows": rows,
                "final": losses_of(last, params, targets, config),
                "final_gatys": losses_of(last, params, targets, gatys),
                "losses_saved": measures.layer_losses(as_saved(last), params, targets, config),
            }
        )
    return {
        "styles": measured,
        "diverged": lost_outputs(painted).tolist(),
        "seconds": painted.seconds,
    }


def at_constant_rate(setting: Setting, model: str, reported: Mapping[str, Any]) -> Painted:
    """The experiment on one network again, half as long, at the rates it began with throughout."""
    return paint(
        setting.folder / f"constant_{model}",
        params_of(model),
        setting.content,
        list(setting.styles.values()),
        setting.config.replace(steps=setting.half, decay_rate=1.0),
        sweep={"learning_rate": np.array(reported["rates"])},
    )


def effects(setting: Setting) -> dict[str, dict[str, Any]]:
    """Short runs with other rates, decays and starts, on the last network.

    Returns:
      For "rates", "decays" and "seeds" `{"names", "style": [variants, styles, steps], "diverged":
      [variants, styles]}`.
    """
    model = setting.models[-1]
    rates = np.array(held_rates(setting, model)["rates"])
    base = setting.config.replace(
        steps=setting.short,
        decay_steps=setting.config["decay_steps"] * setting.short / setting.steps,
    )
    styles = list(setting.styles.values())

    def varied(name, variants, **sweep):
        """All variants of all styles in one program."""
        painted = paint(
            setting.folder / name,
            params_of(model),
            setting.content,
            styles * variants,
            base,
            sweep=sweep,
        )
        shape = (variants, len(styles))
        return painted.history["style"].T.reshape(*shape, -1), lost_outputs(painted).reshape(shape)

    found = {
        "rates": varied(
            "rates",
            len(FACTORS),
            learning_rate=np.repeat(np.array(FACTORS) * setting.rate, len(styles)),
            decay_rate=np.full(len(FACTORS) * len(styles), base["decay_rate"]),
        ),
        "decays": varied(
            "decays",
            len(DECAYS),
            learning_rate=np.tile(rates, len(DECAYS)),
            decay_rate=np.repeat(np.array(DECAYS), len(styles)),
        ),
    }
    starts = [
        paint(
            setting.folder / f"seed_{seed}",
            params_of(model),
            setting.content,
            styles,
            base.replace(init="noise"),
            sweep={"learning_rate": rates},
            key=jax.random.key(seed),
        )
        for seed in SEEDS
    ]
    found["seeds"] = (
        np.stack([start.history["style"].T for start in starts]),
        np.stack([lost_outputs(start) for start in starts]),
    )
    names = {
        "rates": [f"{factor * RATE:g}" for factor in FACTORS],
        "decays": [f"{decay:g}" for decay in DECAYS],
        "seeds": [str(seed) for seed in SEEDS],
    }
    return {
        name: {"names": names[name], "style": curves.tolist(), "diverged": lost.tolist()}
        for name, (curves, lost) in found.items()
    }


def feature_maps(setting: Setting, model: str) -> dict[str, np.ndarray]:
    """The first channels of each block's first convolution on the content, `{layer: [h, w, C]}`."""
    layers = tuple(f"block{block}_conv1" for block in range(1, 6))
    found = vgg.features(params_of(model), setting.content, layers=layers)
    return {layer: np.asarray(value[..., :CHANNELS]) for layer, value in found.items()}
