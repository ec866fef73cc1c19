"""Reproduces, explains and improves on the experiment that this project grew out of.

    python scripts/reproduce_assignment.py [--size=224] [--steps=3000] [--models=vgg16,vgg19]
        [--content=FILE] [--styles=FILE,FILE] [--judged_contents=FILES] [--judged_styles=FILES]
        [--output_dir=assignment] [--quick]

The experiment: a butterfly in the styles of a rainbow and of triangles, by VGG16 and VGG19, plain
SGD from a rate of 100 for 3000 steps. Without pictures of your own the built-in ones are taken.

Writes into --output_dir the report, `report.html` (one file, nothing else needed) and `report.md`,
with its figures as JPEG files, and all numbers in it as `results.json`. What took long is kept in
the folder `work` there: the same command goes on where an earlier one was ended, by whatever.
Needs the extra `plots`. Exits 0 on success, 1 on bad input, 130 when it is interrupted.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import program
from absl import flags
from assignment import contests, document, experiments, sections

import nst_jax
from nst_jax import examples, image, vgg
from nst_jax.cli import console
from nst_jax.cli.compilation import keep_programs
from nst_jax.cli.run import digest
from nst_jax.coarse_to_fine import fit
from nst_jax.files.atomic import replacing, unique
from nst_jax.files.images import read_image
from nst_jax.settings import check_choice
from nst_jax.weights.load import sha256

QUICK = {"size": 32, "steps": 30, "marks": 4, "measured": 2}  # seconds, and no conclusions


def define_flags() -> None:
    flags.DEFINE_string("content", None, "Picture to paint. By default the built-in butterfly.")
    flags.DEFINE_list(
        "styles", None, "Pictures of styles. By default the built-in rainbow and triangles."
    )
    flags.DEFINE_list(
        "judged_contents",
        None,
        "Contents, all of one shape, by which the networks are compared; `photographs` stands for "
        "three that come with scikit-image (pip install scikit-image). By default three "
        "butterflies.",
    )
    flags.DEFINE_list(
        "judged_styles", None, "Styles for the same. By default two rainbows and two triangles."
    )
    flags.DEFINE_integer("size", 224, "Longer side of the pictures, pixels.", lower_bound=32)
    flags.DEFINE_integer("steps", 3000, "Steps of each whole run.", lower_bound=30)
    flags.DEFINE_list("models", ["vgg16", "vgg19"], "Networks; the last one is looked at closely.")
    flags.DEFINE_string("output_dir", "assignment", "Folder for the report.")
    flags.DEFINE_bool(
        "quick",
        False,
        f"A run of a minute or so, {QUICK['steps']} steps at {QUICK['size']} pixels, that shows "
        "that everything works; --size and --steps are left aside.",
    )


def read(paths: list[str], size: int) -> dict[str, np.ndarray]:
    """Pictures by the names of their files, brought to the size."""
    names = unique([Path(path).stem for path in paths])
    return {
        name: np.asarray(fit(read_image(path), nst_jax.Config(size=size)))
        for name, path in zip(names, paths, strict=True)
    }


def photographs(size: int) -> dict[str, np.ndarray]:
    """Three photographs of scikit-image, the middle of each.

    Raises:
      ValueError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError:
        raise ValueError("--judged_contents=photographs needs scikit-image") from None
    names = ("astronaut", "chelsea", "coffee")
    return {
        name: np.asarray(image.cover(np.float32(getattr(data, name)()) / 255, size, size))
        for name in names
    }


def setting_of(values: flags.FlagValues) -> experiments.Setting:
    """What the flags ask for.

    Raises:
      ValueError: a picture that cannot be read, an unknown network, or judged contents of several
        shapes.
    """
    for model in values.models:
        check_choice("--models", model, tuple(vgg.CONVOLUTIONS))
    if len(set(values.models)) != len(values.models) or not values.models:
        raise ValueError(
            f"--models must name at least one of {', '.join(vgg.CONVOLUTIONS)}, each once, got "
            f"{','.join(values.models)!r}"
        )
    options = dict(QUICK) if values.quick else {"size": values.size, "steps": values.steps}
    size = options.pop("size")
    content = (
        next(iter(read([values.content], size).values()))
        if values.content
        else examples.butterfly(size)
    )
    if values.judged_contents == ["photographs"]:
        judged_contents = photographs(size)
    elif values.judged_contents:
        judged_contents = read(values.judged_contents, size)
    else:
        judged_contents = {f"butterfly_{n}": examples.butterfly(size, seed=n) for n in range(3)}
    shapes = sorted({picture.shape[:2] for picture in judged_contents.values()})
    if len(shapes) > 1:
        raise ValueError(f"--judged_contents must be of one shape, got {shapes}")
    drawn = {"rainbow": examples.rainbow, "triangles": examples.triangles}
    return experiments.Setting(
        content=content,
        styles=read(values.styles, size)
        if values.styles
        else {name: draw(size) for name, draw in drawn.items()},
        judged_contents=judged_contents,
        judged_styles=read(values.judged_styles, size)
        if values.judged_styles
        else {f"{n}_{seed}": draw(size, seed=seed) for n, draw in drawn.items() for seed in (0, 1)},
        models=tuple(values.models),
        folder=Path(values.output_dir, "work"),
        drawn=not (values.content or values.styles),
        **options,
    )


def described(setting: experiments.Setting) -> dict:
    """What makes the results what they are, of JSON's types."""
    pictures = {
        "content": {"content": setting.content},
        **{name: getattr(setting, name) for name in ("styles", "judged_contents", "judged_styles")},
    }
    numbers = {name: getattr(setting, name) for name in ("steps", "marks", "measured")}
    numbers |= {
        "rates": [factor * experiments.RATE for factor in experiments.FACTORS],
        "decays": list(experiments.DECAYS),
        "seeds": list(experiments.SEEDS),
        "judged_steps": contests.judged_steps(setting),
    }
    configs = {
        "report": setting.config,
        **contests.method_configs(setting),
        "judged": contests.judge_config(setting),
    }
    described = {
        "size": max(setting.content.shape),
        **numbers,
        "models": list(setting.models),
        "configs": {name: config.to_dict() for name, config in configs.items()},
        "versions": {"nst_jax": nst_jax.__version__, "jax": jax.__version__},
        "weights": {model: sha256(model) for model in setting.models},
    } | {
        kind: [[name, digest(picture)] for name, picture in named.items()]
        for kind, named in pictures.items()
    }
    return json.loads(json.dumps(described))


def check_folder(setting: experiments.Setting) -> None:
    """Refuses a folder with the work of another experiment.

    Raises:
      ValueError: the folder holds other settings, or cannot be written.
    """
    remedy = "--output_dir takes another folder"
    now = described(setting)
    found = experiments.once(setting.folder / "settings.json", lambda: now, remedy=remedy)
    differences = console.differences(_flat(found), _flat(now))
    if differences:
        raise ValueError(
            f"{setting.folder}: holds an experiment that differs in {differences}; {remedy}"
        )


def _flat(settings: Mapping) -> dict:
    """Settings within settings by names such as "configs.adam.learning_rate"."""
    flat = {}
    for name, value in settings.items():
        inner = _flat(value) if isinstance(value, Mapping) else None
        flat |= {name: value} if inner is None else {f"{name}.{k}": v for k, v in inner.items()}
    return flat


def _finite(value):
    """JSON has no numbers that are not finite: None in their place."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_report(
    folder: Path, blocks: list[document.Block], results: Mapping, *, title: str
) -> None:
    contents = {
        "results.json": json.dumps(_finite(results), indent=1, allow_nan=False) + "\n",
        "report.md": document.to_markdown(blocks),
        "report.html": document.to_html(blocks, folder, title=title),
    }
    for name, text in contents.items():
        with replacing(folder / name) as file:
            file.write(text.encode())


def run() -> None:
    """Makes all runs that are not there yet, and writes the report."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError("needs matplotlib: pip install '.[plots]'") from None
    values = flags.FLAGS
    keep_programs(console.say)
    setting = setting_of(values)
    check_folder(setting)
    folder = Path(values.output_dir)
    blocks, results = sections.write(setting, folder)
    write_report(folder, blocks, described(setting) | results, title=sections.TITLE)
    if results["seconds"] is not None:
        console.say(f"the whole took {results['seconds'] / 60:.3g} minutes")
    print(folder / "report.html")


if __name__ == "__main__":
    define_flags()
    program.start(
        run,
        arguments="pictures go into --content, --styles",
        again="; the same command goes on",
    )
