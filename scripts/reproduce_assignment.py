"""Reproduces, explains and improves on the experiment that this project grew out of.

    python scripts/reproduce_assignment.py [--size=224] [--judged_contents=photographs]
        [--output_dir=assignment] [--quick]

The experiment: a butterfly in the styles of a rainbow and of triangles, by VGG16 and VGG19, with
plain SGD from a rate of 100 for 3000 steps.

Writes into --output_dir the report as `report.md`, its figures as JPEG files, and all its numbers
as `results.json`. Finished runs are kept in the folder `work` there: if the script is interrupted,
the same command goes on after the last finished run. Needs the extra `plots`. Exits 0 on success,
1 on bad input, 130 on Ctrl-C.
"""

import json
import time
from pathlib import Path
from typing import Any

import program
from absl import flags
from assignment import architecture, experiments, figures, findings, report
from assignment.experiments import CLOSE, MODELS, Setting

from nst_jax.cli import console
from nst_jax.cli.compilation import keep_programs
from nst_jax.cli.flag_types import define_path
from nst_jax.cli.run import environment
from nst_jax.files.atomic import replacing
from nst_jax.weights.load import sha256

QUICK = {"size": 32, "steps": 30, "marks": 4, "measured": 2}


def define_flags() -> None:
    flags.DEFINE_integer("size", experiments.SIDE, "Side of the pictures, pixels.", lower_bound=32)
    flags.DEFINE_enum(
        "judged_contents",
        "drawings",
        ["drawings", "photographs"],
        "Contents by which the networks are compared: three drawn butterflies, or three "
        "photographs of scikit-image (extra `benchmarks`).",
    )
    define_path("output_dir", "assignment", "Folder for the report.")
    flags.DEFINE_bool(
        "quick",
        False,
        f"Show in a minute or two that everything works: {QUICK['steps']} steps at "
        f"{QUICK['size']} pixels. Replaces --size.",
    )


def settings_of(setting: Setting) -> dict[str, Any]:
    """The settings that reproduce the results, kept in the folder of the runs.

    Raises:
      ValueError: the folder holds runs of other settings, or cannot be written.
    """
    configs = {
        "report": setting.config,
        **experiments.method_configs(setting),
        "judged": experiments.judge_config(setting),
    }
    now = {
        "size": setting.size,
        "steps": setting.steps,
        "models": list(MODELS),
        "styles": list(experiments.STYLES),
        "judged_contents": list(setting.judged_contents),
        "judged_styles": list(setting.judged_styles),
        "configs": {name: config.to_dict() for name, config in configs.items()},
        "environment": environment(),
        "weights": {model: sha256(model) for model in MODELS},
    }
    found = experiments.once(setting.folder / "settings.json", lambda: now)
    others = [name for name in found if found[name] != json.loads(json.dumps(now[name]))]
    if others:
        raise ValueError(
            f"{setting.folder}: holds runs with other {', '.join(others)}; "
            "--output_dir takes another folder"
        )
    return found


def reproduce(setting: Setting) -> tuple[dict[str, Any], figures.Runs]:
    """Makes all runs that are not kept yet.

    Returns:
      The results, of JSON's types, and what the figures show.

    Raises:
      ValueError: see `settings_of`.
    """
    results = settings_of(setting) | {"reported": {}, "constant": {}}
    reported, constant = {}, {}
    for model in MODELS:
        reported[model], found = experiments.as_reported(setting, model)
        results["reported"][model] = found
        constant[model], found = experiments.at_constant_rate(setting, model, found["rates"])
        results["constant"][model] = found
    close = results["reported"][CLOSE]
    effects, results["effects"] = experiments.effects(setting, close["rates"])
    goals = [style["final"]["style"] / findings.TIMES for style in close["styles"]]
    methods, results["methods"] = experiments.methods(setting, goals)
    pictures, judged = experiments.judged(setting, reported)
    results |= judged
    results["architecture"] = {model: architecture.layers(model) for model in MODELS}
    return results, figures.Runs(reported, constant, methods, effects, pictures)


def run() -> None:
    begun = time.perf_counter()
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError("needs matplotlib: pip install '.[plots]'") from None
    values = flags.FLAGS
    keep_programs(console.say)
    folder = Path(values.output_dir)
    setting = Setting(
        folder=folder / "work",
        photographs=values.judged_contents == "photographs",
        **(QUICK if values.quick else {"size": values.size}),
    )
    fresh = not setting.folder.exists()
    results, runs = reproduce(setting)
    figures.draw(folder, setting, runs, results)
    # Only a run that was never interrupted knows how long everything took.
    results["seconds"] = experiments.once(
        setting.folder / "seconds.json", lambda: time.perf_counter() - begun if fresh else None
    )
    texts = {"results.json": json.dumps(results, indent=1, allow_nan=False) + "\n"}
    texts["report.md"] = report.write(results)
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(text.encode())
    print(folder / "report.md")


if __name__ == "__main__":
    define_flags()
    program.start(run, arguments="see --help", again="; the same command goes on")
