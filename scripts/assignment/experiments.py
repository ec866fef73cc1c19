"""The runs of the reproduction, and what is measured of them.

Every run and every measurement is kept in the setting's folder, and read from there the next time.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

import nst_jax
from assignment import findings, measures
from nst_jax import examples, image, objective
from nst_jax.config import Config
from nst_jax.extractor import VGGExtractor
from nst_jax.files.atomic import replacing
from nst_jax.optimizers import LBFGS, SGD, Adam
from nst_jax.terms import Content, GramStyle

MODELS = ("vgg16", "vgg19")
CLOSE = MODELS[-1]  # the network on which settings and optimisers are varied
STYLES = {"rainbow": examples.rainbow, "triangles": examples.triangles}
RATE = 100.0  # the report's
SIDE = 224  # pixels, of the report's pictures
STEPS = 3000  # the report's; its rate decays as in Keras' example
PROBED = 50  # steps that show whether a rate holds
FACTORS = (0.01, 0.1, 1.0, 10.0)  # of the report's rate: 1, 10, 100, 1000
# As many as FACTORS, so that both take the same compiled program.
DECAYS = (1.0, 0.96, 0.9, 0.8)
SEEDS = (0, 1, 2)
JUDGED_STEPS = 100
CHANNELS = 8  # shown of a layer
PATHS_FROM = 10  # the step from which paths are drawn; the first steps go far


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What is reproduced.

    Attributes:
      size: side of the pictures, pixels.
      steps: of each whole run.
      folder: where runs and measurements are kept.
      photographs: whether the networks are compared by photographs of scikit-image in place of
        drawings.
      marks: number of steps at which losses by layer are taken.
      measured: number of further steps at which gradients and curvature are measured too.
    """

    size: int = SIDE
    steps: int = STEPS
    folder: Path = Path("assignment", "work")
    photographs: bool = False
    marks: int = 25
    measured: int = 10

    @functools.cached_property
    def content(self) -> np.ndarray:
        return examples.butterfly(self.size)

    @functools.cached_property
    def styles(self) -> list[np.ndarray]:
        return [draw(self.size) for draw in STYLES.values()]

    @functools.cached_property
    def judged_contents(self) -> dict[str, np.ndarray]:
        """The contents by which the networks are compared.

        Raises:
          ValueError: scikit-image is needed and not installed.
        """
        if not self.photographs:
            return {f"butterfly_{n}": examples.butterfly(self.size, seed=n) for n in range(3)}
        try:
            from skimage import data
        except ImportError:
            raise ValueError("--judged_contents=photographs needs scikit-image") from None
        photographs = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee")}
        return {
            name: np.asarray(image.cover(np.float32(pixels) / 255, self.size, self.size))
            for name, pixels in photographs.items()
        }

    @functools.cached_property
    def judged_styles(self) -> dict[str, np.ndarray]:
        return {
            f"{name}_{seed}": draw(self.size, seed=seed)
            for name, draw in STYLES.items()
            for seed in (0, 1)
        }

    @property
    def config(self) -> Config:
        """The report's method. The rate of a shorter run decays as much in all."""
        preset = nst_jax.presets["assignment"]
        decay_steps = preset["decay_steps"] * self.steps / STEPS
        return preset.replace(size=None, steps=self.steps, decay_steps=decay_steps)

    @property
    def content_weighs(self) -> float:
        """How many times as much the content weighs at the report's size.

        The content loss is a plain sum over positions. With Keras' normaliser the style loss does
        not grow with the picture.
        """
        return SIDE**2 / self.size**2

    @property
    def rate(self) -> float:
        """The rate that acts at this size as the report's does at its own.

        The gradient of one pixel is inversely proportional to the number of pixels, because the
        style loss does not grow with the picture. The rate makes up for it.
        """
        return RATE * self.size**2 / SIDE**2

    @property
    def falls(self) -> float:
        """How many times the rate falls over the run."""
        return self.steps / self.config["decay_steps"]

    @property
    def short(self) -> int:
        """Steps of the runs that show the effect of one setting."""
        return max(self.steps // 15, 1)

    @property
    def half(self) -> int:
        """Steps at a constant rate, compared with the first half of the whole run."""
        return self.steps // 2

    @property
    def settled(self) -> int:
        """The step from which bouncing is looked for, when the run has left its start."""
        return self.steps // 30

    def by_logarithm(self, count: int) -> set[int]:
        """About `count` steps from 1 to the last, evenly spaced by their logarithm."""
        return {round(step) for step in np.geomspace(self.steps, 1, count)}

    @property
    def measured_at(self) -> set[int]:
        """About `measured` steps: half of them by their logarithm, half evenly over the run."""
        evenly = self.measured // 2
        steps = {self.steps * (n + 1) // (evenly + 1) for n in range(evenly)}
        return steps | self.by_logarithm(self.measured - evenly)


def once(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns, of JSON's types, made once and then read from `path`."""
    if not path.exists():
        text = json.dumps(make(), indent=1, allow_nan=False)
        with replacing(path) as file:
            file.write(text.encode())
    return json.loads(path.read_text("utf-8"))


class Painted(NamedTuple):
    """The result of a run.

    Attributes:
      images: `[N, H, W, 3]`; without `config.clip` values may leave [0, 1].
      history: `{term: [steps, N]}`, before each step.
      lost: `[N]`; the run met a value that is not finite, or ended above where it began.
      snapshots: `{step: [N, H, W, 3]}`, the pictures after these steps.
    """

    images: np.ndarray
    history: dict[str, np.ndarray]
    lost: np.ndarray
    snapshots: dict[int, np.ndarray]


@functools.cache
def params_of(model: str) -> Mapping:
    return nst_jax.load_params(model)


def paint(
    setting: Setting,
    name: str,
    model: str,
    config: Config,
    *,
    contents: np.ndarray | Sequence[np.ndarray] | None = None,
    styles: Sequence[np.ndarray] | None = None,
    sweep: Mapping[str, np.ndarray] | None = None,
    snapshots_at: Collection[int] = (),
    key: jax.Array | None = None,
) -> Painted:
    """`nst_jax.stylize` on the setting's pictures or on others, kept under `name`.

    If a dispatch takes several steps, a snapshot is taken after the dispatch with its step.
    """
    path = setting.folder / f"{name}.npz"
    if not path.exists():
        snapshots = {}
        with tqdm.tqdm(desc=name, total=config.steps, unit="step", disable=None) as bar:

            def follow(progress):
                before = progress.step - len(progress.terms["total"])
                bar.update(progress.step - before)
                if any(before < step <= progress.step for step in snapshots_at):
                    snapshots[progress.step] = np.array(progress.images)

            painted = nst_jax.stylize(
                params_of(model),
                setting.content if contents is None else contents,
                setting.styles if styles is None else styles,
                config,
                sweep=sweep,
                key=key,
                callback=follow,
            )
        totals = painted.history["total"]
        lost = painted.diverged | ~(totals[-1] <= totals[0])
        kept = {"steps": list(snapshots), "snapshots": list(snapshots.values())}
        with replacing(path) as file:
            np.savez_compressed(file, images=painted.images, lost=lost, **kept, **painted.history)
    with np.load(path) as found:
        arrays = dict(found)
    images, lost, steps, snapshots = map(arrays.pop, ("images", "lost", "steps", "snapshots"))
    return Painted(images, arrays, lost, dict(zip(steps.tolist(), snapshots, strict=True)))


def as_reported(setting: Setting, model: str) -> tuple[Painted, dict[str, Any]]:
    """The report's experiment on one network, both styles in one program, and its measurements.

    A style that diverges is painted again at a tenth of the rate; a few steps find most of these.

    Raises:
      ValueError: a style diverges at every rate.
    """
    rates, lost = np.full(len(STYLES), setting.rate), []
    steps, marks = min(PROBED, setting.steps), setting.by_logarithm(setting.marks)
    marks |= setting.measured_at
    while len(lost) < 8:
        painted = paint(
            setting,
            f"reported_{model}_{len(lost)}",
            model,
            setting.config.replace(steps=steps),
            sweep={"learning_rate": rates},
            snapshots_at=marks if steps == setting.steps else (),
        )
        lost.append(painted.lost.tolist())
        if any(lost[-1]):
            rates = np.where(painted.lost, rates / 10, rates)
        elif steps < setting.steps:
            steps = setting.steps
        else:
            break
    else:
        raise ValueError(f"{model} diverges at every rate down to {min(rates):.1g}")
    styles = once(
        setting.folder / f"reported_{model}.json", lambda: _measure(setting, model, painted, rates)
    )
    return painted, {"rates": rates.tolist(), "lost": lost, "styles": styles}


def _measure(setting: Setting, model: str, painted: Painted, rates) -> list[dict[str, Any]]:
    """For each style the course of the loss, losses by layer, gradients and curvature."""
    config = setting.config
    gatys = config.replace(style_normalization="gatys")
    params = objective.prepare(params_of(model), config)
    closely = {0} | {min(s for s in painted.snapshots if s >= mark) for mark in setting.measured_at}
    measured = []
    for n, targets in enumerate(
        measures.targets_of(params, setting.content, setting.styles, config)
    ):
        pictures = {0: setting.content} | {s: images[n] for s, images in painted.snapshots.items()}
        rows = []
        for step, picture in pictures.items():
            arguments = (picture, params, targets, config)
            row = {"step": step, "losses": measures.layer_losses(*arguments)}
            if step in closely:
                row["gradients"] = measures.gradient_norms(*arguments)
                row["eigenvalue"] = measures.largest_eigenvalue(*arguments)
                row["rate"] = rates[n] * config["decay_rate"] ** (step / config["decay_steps"])
            rows.append(row)
        last = painted.images[n]
        measured.append(
            {
                "rows": rows,
                "final": measures.losses_of(last, params, targets, config),
                "final_gatys": measures.losses_of(last, params, targets, gatys),
                "losses_saved": measures.layer_losses(
                    measures.as_saved(last), params, targets, config
                ),
                "course": _course(setting, painted.history["total"][:, n].tolist()),
            }
        )
    return measured


def _course(setting: Setting, totals: Sequence[float]) -> dict[str, float]:
    """How the loss of a run falls, and which share of the steps raises it."""
    early = totals[: setting.half]
    return {
        "late_gain": findings.late_gain(totals),
        "stalls_after": findings.stalls_after(totals),
        "rises_early": findings.rises(early[setting.settled :]),
        "rises_in_last_third": findings.rises(findings.last_third(early)),
        "rises_late": findings.rises(totals[setting.half :]),
        "loss_at_half": findings.loss_at_end(early),
    }


def at_constant_rate(setting: Setting, model: str, rates) -> tuple[Painted, dict[str, list]]:
    """The experiment on one network again, half as long, at the rates it began with throughout."""
    painted = paint(
        setting,
        f"constant_{model}",
        model,
        setting.config.replace(steps=setting.half, decay_rate=1.0),
        sweep={"learning_rate": np.array(rates)},
    )
    found = {"rises_in_last_third": [], "loss_at_end": []}
    for totals, lost in zip(painted.history["total"].T.tolist(), painted.lost, strict=True):
        rises = findings.rises(findings.last_third(totals))
        found["rises_in_last_third"].append(None if lost else rises)
        found["loss_at_end"].append(None if lost else findings.loss_at_end(totals))
    return painted, found


def effects(setting: Setting, rates) -> tuple[dict[str, np.ndarray], dict[str, dict[str, list]]]:
    """Short runs with other rates, decays and starts, on the last network.

    Args:
      setting: what is reproduced.
      rates: `[styles]`, at which decays and starts are varied.

    Returns:
      For "rates", "decays" and "seeds" the style losses, `[variants, styles, steps]`; and for the
      report `{"names": [variants], "last": [variants, styles]}`, with None for a run that diverged.
    """
    decay_steps = setting.config["decay_steps"] * setting.short / setting.steps
    base = setting.config.replace(steps=setting.short, decay_steps=decay_steps)
    count = len(STYLES)
    sweeps = {
        "rates": {
            "learning_rate": np.repeat(np.array(FACTORS) * setting.rate, count),
            "decay_rate": np.full(len(FACTORS) * count, base["decay_rate"]),
        },
        "decays": {
            "learning_rate": np.tile(rates, len(DECAYS)),
            "decay_rate": np.repeat(np.array(DECAYS), count),
        },
    }
    runs = {
        name: [paint(setting, name, CLOSE, base, styles=setting.styles * len(FACTORS), sweep=sweep)]
        for name, sweep in sweeps.items()
    }
    noise, sweep = base.replace(init="noise"), {"learning_rate": np.array(rates)}
    runs["seeds"] = [
        paint(setting, f"seed_{seed}", CLOSE, noise, sweep=sweep, key=jax.random.key(seed))
        for seed in SEEDS
    ]
    variants = {"rates": [RATE * factor for factor in FACTORS], "decays": DECAYS, "seeds": SEEDS}
    curves, found = {}, {}
    for name, painted in runs.items():
        style = np.concatenate([run.history["style"] for run in painted], axis=1)
        lost = np.concatenate([run.lost for run in painted])
        curves[name] = style.T.reshape(-1, count, len(style))
        last = np.where(lost, None, style[-1].astype(object)).reshape(-1, count).tolist()
        found[name] = {"names": [f"{value:g}" for value in variants[name]], "last": last}
    return curves, found


def method_configs(setting: Setting) -> dict[str, Config]:
    """Other ways to minimise the report's objective.

    All keep the picture in its range, so that saving it loses nothing. The numbers stand here, so
    that no change of the presets changes them.
    """
    optimizers = {
        "sgd": SGD(learning_rate=1.0, schedule="cosine", momentum=0.9, normalize_gradient="whole"),
        "adam": Adam(learning_rate=5.0, schedule="cosine", normalize_gradient="none"),
        "lbfgs": LBFGS(learning_rate=1.0, schedule="constant", history_size=20),
    }
    return {
        name: setting.config.replace(clip=True, optimizer=optimizer)
        for name, optimizer in optimizers.items()
    }


def methods(
    setting: Setting, goals: Sequence[float]
) -> tuple[dict[str, Painted], dict[str, list[dict[str, Any]]]]:
    """The same objective from the same start by other optimisers, as many gradients each.

    Args:
      setting: what is reproduced.
      goals: `[styles]`, the style losses to reach.

    Returns:
      The runs, and for each style its final losses, its losses by layer as saved, and the first
      step at the goal, None if there is none.
    """
    base = setting.config
    params = objective.prepare(params_of(CLOSE), base)
    targets = measures.targets_of(params, setting.content, setting.styles, base)
    runs = {
        name: paint(setting, f"method_{name}", CLOSE, config)
        for name, config in method_configs(setting).items()
    }

    def measured(painted, n):
        picture, reached = painted.images[n], painted.history["style"][:, n] <= goals[n]
        saved = measures.as_saved(picture)
        return {
            "final": measures.losses_of(picture, params, targets[n], base),
            "losses_saved": measures.layer_losses(saved, params, targets[n], base),
            "first_at_goal": int(reached.argmax()) if reached.any() else None,
        }

    found = {
        name: [measured(painted, n) for n in range(len(STYLES))] for name, painted in runs.items()
    }
    return runs, found


def judge_config(setting: Setting) -> Config:
    """Gatys' layers and pastiche's terms, by L-BFGS at one scale."""
    return Config(
        terms=(Content(), GramStyle(weight=50.0)),
        network=VGGExtractor(),
        optimizer=LBFGS(learning_rate=1.0, schedule="constant", history_size=20),
        size=None,
        first_size=None,
        first_steps=None,
        steps=min(JUDGED_STEPS, setting.steps),
    )


def judged(
    setting: Setting, reported: Mapping[str, Painted]
) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """Each network's pictures, judged by itself and by the other.

    All pairs of a content and a style are painted by L-BFGS at one scale: with the report's plain
    descent one network might fail because of its rate alone. The pictures of the report's own
    experiment are judged too.

    Returns:
      The pictures of each network, `[pairs, H, W, 3]`; and `{"judged": {painter: {judge: _judge}},
      "judged_as_reported": ...}`.
    """
    contents, styles = list(setting.judged_contents.values()), list(setting.judged_styles.values())
    config = judge_config(setting)
    own = {
        model: paint(setting, f"judged_{model}", model, config, contents=contents, styles=styles)
        for model in MODELS
    }

    def verdicts(contents, styles, painted):
        return {
            painter: {
                judge: _judge(judge, config, contents, styles, painted[painter].images)
                for judge in MODELS
            }
            for painter in MODELS
        }

    found = once(
        setting.folder / "judged.json",
        lambda: {
            "judged": verdicts(contents, styles, own),
            "judged_as_reported": verdicts([setting.content], setting.styles, reported),
        },
    )
    return {model: painted.images for model, painted in own.items()}, found


def _judge(model: str, config: Config, contents, styles, pictures) -> dict[str, list[float]]:
    """What a network finds in pictures of all contents in all styles, as they are saved.

    Returns:
      `{"style": [pairs], "content": [pairs]}`: the style loss as a share of the content picture's,
      and the content loss as a share of the content's activations, 1/2 sum(A^2).
    """
    params = objective.prepare(params_of(model), config)

    def terms(picture, targets):
        return measures.loss_and_terms(picture, params, targets, config)[1]

    found = {"style": [], "content": []}
    pictures = iter(pictures)
    for content in contents:
        for own in measures.targets_of(params, content, styles, config):
            nothing = jax.tree.map(np.zeros_like, own.terms["content"])
            nothing = dataclasses.replace(own, terms=own.terms | {"content": nothing})
            now = terms(measures.as_saved(next(pictures)), own)
            found["style"].append(float(now["style"] / terms(content, own)["style"]))
            found["content"].append(float(now["content"] / terms(content, nothing)["content"]))
    return found
