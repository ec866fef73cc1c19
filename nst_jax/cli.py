"""The command line: absl flags -> a job.

`nst-jax --content=a.jpg --styles=b.jpg,c.jpg` or `python -m nst_jax` with the same flags.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import app, flags, logging

from nst_jax import compilation, examples, io, jobs, sharding
from nst_jax.config import CHOICES, Config, check_choice, nearest
from nst_jax.presets import presets
from nst_jax.weights import load_params

BAD_INPUT = 1

# What `--demo` uses where no flag says otherwise: small enough for a laptop's processor.
DEMO = {"size": 256, "steps": 80}

RUN_FLAGS = {
    "content": (flags.DEFINE_list, [], "content pictures, separated by commas"),
    "styles": (flags.DEFINE_list, [], "style pictures, separated by commas"),
    "output_dir": (flags.DEFINE_string, "out", "folder that the pictures go to"),
    "demo": (flags.DEFINE_boolean, False, "use the built-in pictures; needs no input"),
    "model": (flags.DEFINE_string, "vgg19", "bundled network, vgg16 or vgg19"),
    "weights": (flags.DEFINE_string, None, "weights file (HDF5, Keras' layout) in its place"),
    "preset": (flags.DEFINE_string, "default", f"settings: {', '.join(presets)}"),
    "mixing": (
        flags.DEFINE_string,
        None,
        "blends of the styles, a row of weights for each: --mixing='0.7,0.3;0.5,0.5'",
    ),
    "masks": (
        flags.DEFINE_list,
        [],
        "for each style a picture, white where in the content it applies: one output of all",
    ),
    "style_masks": (
        flags.DEFINE_list,
        [],
        "for each style a picture, white where to learn from it; nothing between commas is all",
    ),
    "seed": (flags.DEFINE_integer, 0, "of the noise to start from and of the jitter"),
    "tile": (
        flags.DEFINE_integer,
        None,
        "longest side of the windows in which larger pictures are looked at, pixels: the same "
        "result in less memory",
    ),
    "mesh": (
        flags.DEFINE_string,
        None,
        "devices along which the outputs and the pictures' heights are divided: "
        "--mesh=style:4,space:2 (default: all devices, the outputs first)",
    ),
    "distributed": (
        flags.DEFINE_boolean,
        False,
        "join the processes that the cluster's environment names (TPU pods, Slurm, Open MPI)",
    ),
    "coordinator_address": (
        flags.DEFINE_string,
        None,
        "host:port of the first of several processes, where no cluster says so",
    ),
    "num_processes": (flags.DEFINE_integer, None, "number of the processes"),
    "process_id": (flags.DEFINE_integer, None, "which of the processes this is, from 0"),
    "log_every": (flags.DEFINE_integer, 10, "steps between lines of metrics.jsonl"),
    "profile_dir": (flags.DEFINE_string, None, "folder for a profiler trace of a few steps"),
    "compilation_cache": (
        flags.DEFINE_boolean,
        True,
        "keep compiled programs for the next run, in nst_jax/compiled of the user's cache folder",
    ),
}


def _choices(name: str) -> str:
    return ", ".join(CHOICES[name])


# One flag for each field of the configuration; None leaves what the preset says.
CONFIG_FLAGS = {
    "size": (flags.DEFINE_integer, "side of the pictures, pixels"),
    "size_of": (flags.DEFINE_string, f"the side meant: {_choices('size_of')}"),
    "first_size": (
        flags.DEFINE_integer,
        "coarse to fine: start at the smallest scale not below this side, pixels",
    ),
    "scale_factor": (flags.DEFINE_float, "how much larger each scale is than the one before"),
    "content_layers": (flags.DEFINE_list, "layers compared with the content"),
    "style_layers": (flags.DEFINE_list, "layers whose statistics are compared with the style"),
    "content_layer_weights": (flags.DEFINE_list, "a weight for each content layer"),
    "style_layer_weights": (flags.DEFINE_list, "a weight for each style layer"),
    "content_reduction": (
        flags.DEFINE_string,
        f"of squared differences: {_choices('content_reduction')}",
    ),
    "style_loss": (flags.DEFINE_string, _choices("style_loss")),
    "style_normalization": (
        flags.DEFINE_string,
        f"divisor of squared Gram differences: {_choices('style_normalization')}",
    ),
    "tv_form": (flags.DEFINE_string, f"form of the total variation: {_choices('tv_form')}"),
    "pooling": (flags.DEFINE_string, f"pooling of the network: {_choices('pooling')}"),
    "pooling_correction": (
        flags.DEFINE_boolean,
        "scale average and l2 pooling to the magnitude of max pooling",
    ),
    "padding": (flags.DEFINE_string, f"of the first convolution: {_choices('padding')}"),
    "precision": (flags.DEFINE_string, f"of the network: {_choices('precision')}"),
    "remat": (
        flags.DEFINE_boolean,
        "keep little of the network for the gradient and compute the rest again: less memory",
    ),
    "optimizer": (flags.DEFINE_string, _choices("optimizer")),
    "linesearch": (flags.DEFINE_boolean, "line search of L-BFGS"),
    "memory": (flags.DEFINE_integer, "past steps that L-BFGS keeps"),
    "normalize_gradient": (flags.DEFINE_boolean, "divide gradients by their root mean square"),
    "schedule": (flags.DEFINE_string, f"of the learning rate: {_choices('schedule')}"),
    "clip": (flags.DEFINE_boolean, "keep the picture in its range at each step"),
    "jitter": (flags.DEFINE_integer, "pixels to move the picture by, at random each step"),
    "init": (flags.DEFINE_string, f"start from {_choices('init')}, or a picture file"),
    "color": (
        flags.DEFINE_string,
        "style: its colours; luminance: keep the content's chroma; match: first give the style "
        "the content's colours",
    ),
    "steps": (flags.DEFINE_integer, "optimisation steps, at each scale"),
    "first_steps": (flags.DEFINE_integer, "steps at the first scale of several"),
}

# Numbers that take several values, separated by commas: an output for each combination.
SWEEP_FLAGS = {
    "content_weight": "weight of the content loss",
    "style_weight": "weight of the style loss",
    "tv_weight": "weight of the total variation",
    "learning_rate": "grey levels (of 255)",
    "momentum": "of SGD; 0 is none",
    "decay_rate": "factor of the exponential schedule",
    "decay_steps": "steps for one factor of the exponential schedule",
    "beta1": "of Adam, of the first moment",
    "beta2": "of Adam, of the second moment",
    "epsilon": "of Adam",
    "average_decay": "of the average of the iterates that is the result; 0 is the last one",
}

for _name, (_define, _default, _help) in RUN_FLAGS.items():
    _define(_name, _default, _help)
for _name, (_define, _help) in CONFIG_FLAGS.items():
    _define(_name, None, f"{_help} (default: the preset's)")
for _name, _help in SWEEP_FLAGS.items():
    flags.DEFINE_list(_name, None, f"{_help}; several explore them (default: the preset's)")

FLAGS = flags.FLAGS


def config_from_flags() -> tuple[Config, dict[str, tuple[float, ...]]]:
    """The preset with every field that a flag gives, and the numbers given several values."""
    check_choice("--preset", FLAGS.preset, presets)
    given = {
        name: FLAGS[name].value
        for name in (*CONFIG_FLAGS, *SWEEP_FLAGS)
        if FLAGS[name].value is not None
    }
    if FLAGS.demo:
        given = DEMO | given
    if "steps" in given:
        given.setdefault("first_steps", None)  # the preset's would outlast them
    if given.get("init") not in (None, *CHOICES["init"]):
        del given["init"]  # a file, which `run` reads
    sweep = {}
    for name, value in given.items():
        if name.endswith("_layers"):
            given[name] = tuple(value)
        elif name.endswith("_layer_weights"):
            given[name] = _floats(name, value)
        elif name in SWEEP_FLAGS:
            numbers = _floats(name, value)
            given[name] = numbers[0]
            if len(numbers) > 1:
                sweep[name] = numbers
    config = presets[FLAGS.preset].replace(**given)
    for name, numbers in sweep.items():
        for number in numbers:
            config.replace(**{name: number})  # each must be valid
    return config, sweep


def _floats(name: str, texts: Sequence[str]) -> tuple[float, ...]:
    try:
        return tuple(float(text) for text in texts)
    except ValueError:
        raise ValueError(f"--{name} must be numbers, got {','.join(texts)!r}") from None


def mixing_from_flag(styles: int) -> np.ndarray | None:
    """--mixing as `[rows, styles]`."""
    if FLAGS.mixing is None:
        return None
    rows = [_floats("mixing", row.split(",")) for row in FLAGS.mixing.split(";")]
    for row in rows:
        if len(row) != styles:
            raise ValueError(
                f"--mixing needs a weight for each of the {styles} styles in every row, "
                f"got {len(row)}"
            )
        if abs(sum(row) - 1) > 1e-4:
            raise ValueError(f"--mixing: each row must sum to 1, got {sum(row):g}")
    return np.asarray(rows, np.float32)


def masks_from_flag(name: str, styles: int) -> list[np.ndarray | None] | None:
    """Each mask picture's brightness `[H, W]`; None for an empty name."""
    paths = FLAGS[name].value
    if not paths:
        return None
    if len(paths) != styles:
        raise ValueError(f"--{name} needs one for each of the {styles} styles, got {len(paths)}")
    if name == "masks" and not all(paths):
        raise ValueError("--masks needs a file for each of the styles")
    return [io.read_image(path).mean(axis=-1) if path else None for path in paths]


def read_inputs(
    config: Config, sweep: Mapping[str, Sequence[float]]
) -> tuple[list[jobs.Picture], list[jobs.Picture]]:
    """Contents and styles, from files or built in."""
    weights = sweep.get("content_weight", (config.content_weight,))
    needs_content = bool(config.content_layers) and any(weights)
    if FLAGS.demo:
        if FLAGS.content or FLAGS.styles:
            raise ValueError("--demo has its own pictures: leave out --content and --styles")
        butterfly, *styles = [
            jobs.Picture(name, examples.by_name[name](config.size))
            for name in ("butterfly", "rainbow", "triangles")
        ]
        contents = [butterfly] if needs_content else []
    else:
        if not FLAGS.styles or (needs_content and not FLAGS.content):
            raise ValueError("--content and --styles are needed (or --demo)")
        contents, styles = _read(FLAGS.content), _read(FLAGS.styles)
    # Texture synthesis: a picture of the first style's shape, of which nothing is kept.
    blank = jobs.Picture("texture", np.full_like(styles[0].image, 0.5))
    return contents or [blank], styles


def _read(paths: Sequence[str]) -> list[jobs.Picture]:
    names = jobs.unique([pathlib.Path(path).stem for path in paths])
    return [
        jobs.Picture(name, io.read_image(path)) for name, path in zip(names, paths, strict=True)
    ]


def run() -> int:
    """One job, from the flags to the files; returns the exit code."""
    processes = {
        name: FLAGS[name].value for name in ("coordinator_address", "num_processes", "process_id")
    }
    if FLAGS.distributed or any(value is not None for value in processes.values()):
        sharding.connect(**processes)
    config, sweep = config_from_flags()
    if FLAGS.log_every < 1:
        raise ValueError(f"--log_every must be at least 1, got {FLAGS.log_every}")
    if not 0 <= FLAGS.seed < 2**32:
        raise ValueError(f"--seed must be from 0 to 2**32 - 1, got {FLAGS.seed}")
    contents, styles = read_inputs(config, sweep)
    initial = None
    if FLAGS.init not in (None, *CHOICES["init"]):
        if not pathlib.Path(FLAGS.init).exists():
            check_choice("--init (or an existing file)", FLAGS.init, CHOICES["init"])
        initial = io.read_image(FLAGS.init)
    job = jobs.Job(
        contents=contents,
        styles=styles,
        config=config,
        sweep=sweep,
        mixing=mixing_from_flag(len(styles)),
        masks=masks_from_flag("masks", len(styles)),
        style_masks=masks_from_flag("style_masks", len(styles)),
        initial=initial,
        seed=FLAGS.seed,
        tile=FLAGS.tile,
        mesh=sharding.parse_mesh(FLAGS.mesh) if FLAGS.mesh is not None else None,
    )
    if FLAGS.compilation_cache:
        compilation.keep_programs(lambda line: jobs.say(f"nst-jax: {line}"))
    params = load_params(FLAGS.weights or FLAGS.model)
    described = {
        "preset": FLAGS.preset,
        "weights": FLAGS.weights or FLAGS.model,
        "content": FLAGS.content or [content.name for content in contents],
        "styles": FLAGS.styles or [style.name for style in styles],
        "mixing": FLAGS.mixing,
        "masks": FLAGS.masks,
        "style_masks": FLAGS.style_masks,
        "initial": FLAGS.init if initial is not None else None,
    }
    folder = pathlib.Path(FLAGS.output_dir)
    return jobs.run(
        job,
        params,
        folder,
        described=described,
        log_every=FLAGS.log_every,
        profile_dir=FLAGS.profile_dir,
    )


def _main(argv: Sequence[str]) -> int:
    if not FLAGS["verbosity"].present:
        # What JAX and matplotlib note of their set-up is no news to whoever runs this.
        logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected argument {argv[1]!r}: pictures go into flags, see --help")
        return run()
    except KeyboardInterrupt:
        jobs.say("nst-jax: interrupted")
        return 130
    except (ValueError, TypeError, OSError, jax.errors.JaxRuntimeError) as error:
        logging.debug("the error in full", exc_info=True)
        first, *_ = str(error).splitlines() or [type(error).__name__]
        jobs.say(f"nst-jax: {first}")
        return BAD_INPUT


def _parse(argv: Sequence[str]) -> list[str]:
    """The arguments that are no flags; a bad flag ends the process with one line."""
    try:
        return FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        jobs.say(f"nst-jax: unknown flag --{error.flagname}{nearest(error.flagname, FLAGS)}")
    except flags.Error as error:
        jobs.say(f"nst-jax: {' '.join(str(error).split())}")
    sys.exit(BAD_INPUT)


def main() -> None:
    """Entry point of the `nst-jax` command."""
    for name in (*RUN_FLAGS, *CONFIG_FLAGS, *SWEEP_FLAGS):
        # `--help` shows the flags of the main module: make ours its own, however it is started.
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])
    app.run(_main, flags_parser=_parse)
