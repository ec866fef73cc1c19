"""What is compared: optimisers on the report's objective, and the networks' pictures.

As in `experiments`, what is made is kept in the setting's folder.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from assignment import measures
from assignment.experiments import (
    Setting,
    as_saved,
    loss_and_terms,
    losses_of,
    lost_outputs,
    once,
    params_of,
    targets_of,
)
from assignment.runs import Painted, paint
from nst_jax import objective
from nst_jax.config import Config
from nst_jax.extractor import VGGExtractor
from nst_jax.optimizers import LBFGS, SGD, Adam
from nst_jax.terms import Content, GramStyle

SGD_RATE, ADAM_RATE = 1.0, 5.0  # grey levels
LBFGS_MEMORY = 20  # steps
JUDGED_STEPS = 100


def method_configs(setting: Setting) -> dict[str, Config]:
    """Other ways to minimise the report's objective, all inside the range of pictures, so that
    nothing of what they gain is lost when their pictures are saved.

    The numbers stand here, whatever becomes of the presets.
    """
    base = setting.config.replace(clip=True)
    return {
        "sgd": base.replace(
            optimizer=SGD(
                learning_rate=SGD_RATE, schedule="cosine", momentum=0.9, normalize_gradient="whole"
            )
        ),
        "adam": base.replace(
            optimizer=Adam(learning_rate=ADAM_RATE, schedule="cosine", normalize_gradient="none")
        ),
        "lbfgs": base.replace(
            optimizer=LBFGS(learning_rate=1.0, schedule="constant", history_size=LBFGS_MEMORY)
        ),
    }


def methods(setting: Setting) -> dict[str, tuple[Painted, dict[str, Any]]]:
    """The same objective from the same start by other optimisers, as many gradients each."""
    model, base = setting.models[-1], setting.config
    params = objective.prepare(params_of(model), base)
    styles = list(setting.styles.values())
    targets = targets_of(params, setting.content, styles, base)
    found = {}
    for name, config in method_configs(setting).items():
        painted = paint(
            setting.folder / f"method_{name}", params_of(model), setting.content, styles, config
        )

        def measure(painted=painted):
            return {
                "styles": [
                    {
                        "final": losses_of(picture, params, own, base),
                        "losses_saved": measures.layer_losses(as_saved(picture), params, own, base),
                    }
                    for picture, own in zip(painted.images, targets, strict=True)
                ],
                "diverged": lost_outputs(painted).tolist(),
                "seconds": painted.seconds,
            }

        found[name] = painted, once(setting.folder / f"method_{name}.json", measure)
    return found


def judged_steps(setting: Setting) -> int:
    return min(JUDGED_STEPS, setting.steps)


def _judge(model: str, config: Config, contents, styles, pictures) -> dict[str, list[float]]:
    """What a network says of pictures of all contents in all styles, as they are saved.

    Returns:
      `{"style": [pairs], "content": [pairs]}`: the style loss as a share of the content picture's,
      and the content loss as a share of the content's activations, 1/2 sum(A^2).
    """
    params = objective.prepare(params_of(model), config)
    found = {"style": [], "content": []}
    pictures = iter(pictures)
    for content in contents:
        for own in targets_of(params, content, styles, config):
            saved = as_saved(next(pictures))
            now = loss_and_terms(saved, params, own, config)[1]
            before = loss_and_terms(content, params, own, config)[1]
            nothing = jax.tree.map(np.zeros_like, own.terms["content"])
            nothing = dataclasses.replace(own, terms=own.terms | {"content": nothing})
            against = loss_and_terms(content, params, nothing, config)[1]
            found["style"].append(float(now["style"] / before["style"]))
            found["content"].append(float(now["content"] / against["content"]))
    return found


def judge_config(setting: Setting) -> Config:
    """Gatys' layers and pastiche's terms, by L-BFGS at one scale."""
    return Config(
        terms=(Content(), GramStyle(weight=50.0)),
        network=VGGExtractor(),
        optimizer=LBFGS(learning_rate=1.0, schedule="constant", history_size=20),
        size=None,
        first_size=None,
        first_steps=None,
        steps=judged_steps(setting),
    )


def _verdicts(setting: Setting, name: str, contents, styles, pictures) -> dict[str, dict[str, Any]]:
    """What each network says of each network's pictures, `{painter: {judge: ...}}`."""
    config = judge_config(setting)
    return {
        painter: {
            judge: once(
                setting.folder / f"{name}_{painter}_by_{judge}.json",
                functools.partial(_judge, judge, config, contents, styles, pictures[painter]),
            )
            for judge in setting.models
        }
        for painter in setting.models
    }


def judged(setting: Setting) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Each network's pictures judged by itself and by the others.

    All pairs of a content and a style are painted by L-BFGS at one scale, for the
    report's plain descent may fail on one network and not on the other for reasons of its rate.

    Returns:
      The pictures of each network, `[pairs, H, W, 3]`, and by painter and judge `{"style",
      "content"}`: shares, `[pairs]` each.
    """
    contents = list(setting.judged_contents.values())
    styles = list(setting.judged_styles.values())
    pictures = {
        model: paint(
            setting.folder / f"judged_{model}",
            params_of(model),
            contents,
            styles,
            judge_config(setting),
        ).images
        for model in setting.models
    }
    return pictures, _verdicts(setting, "judged", contents, styles, pictures)


def judged_as_reported(setting: Setting, reported) -> dict[str, dict[str, Any]]:
    """The same judgement of the pictures of the report's own experiment."""
    pictures = {model: painted.images for model, (painted, _) in reported.items()}
    styles = list(setting.styles.values())
    return _verdicts(setting, "reported", [setting.content], styles, pictures)
