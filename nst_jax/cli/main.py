"""The command line: absl flags -> a job.

`nst-jax --content=a.jpg --styles=b.jpg,c.jpg` or `python -m nst_jax` with the same flags.
"""

import logging as python_logging
import os
import pathlib
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import app, flags, logging

from nst_jax import examples, sharding, vgg
from nst_jax.cli import compilation, console
from nst_jax.cli import run as cli_run
from nst_jax.cli.console import complain
from nst_jax.cli.dataset import pairs
from nst_jax.cli.dataset import run as dataset_run
from nst_jax.cli.dataset.run import DataSetJob
from nst_jax.cli.flags import (
    FLAGS,
    config_from_flags,
    masks_from_flag,
    mixing_from_flag,
    settings_by_flag,
)
from nst_jax.cli.help import flags_by_group, list_layers, list_presets
from nst_jax.cli.look.observers import ANIMATIONS, Look, Picture
from nst_jax.cli.run import Delivery, PictureJob, digest
from nst_jax.config import INITS, Config
from nst_jax.files.atomic import from_json, unique
from nst_jax.files.images import FORMATS, ImageError, read_image, read_text, read_with_alpha
from nst_jax.partition import Placement
from nst_jax.presets import presets
from nst_jax.settings import check_choice, nearest
from nst_jax.weights.load import load_params, open_params, sha256

BAD_INPUT = 1


def read_inputs(config: Config) -> tuple[list[Picture], list[Picture]]:
    """Contents and styles, from files or built in."""
    needs_content = any(term.refers == "content" for term in config.terms)
    if FLAGS.demo:
        if FLAGS.content or FLAGS.styles:
            raise ValueError("--demo has its own pictures: leave out --content and --styles")
        butterfly, *styles = [
            Picture(name, examples.by_name[name](config.size))
            for name in ("butterfly", "rainbow", "triangles")
        ]
        contents = [butterfly] if needs_content else []
    else:
        if not FLAGS.styles or (needs_content and not FLAGS.content):
            raise ValueError("--content and --styles are needed (or --demo)")
        contents, styles = _read(FLAGS.content), _read(FLAGS.styles)
    # Texture synthesis: a picture of the first style's shape, of which nothing is kept.
    blank = Picture("texture", np.full_like(styles[0].image, 0.5))
    return contents or [blank], styles


def _read(paths: Sequence[str]) -> list[Picture]:
    names = unique([pathlib.Path(path).stem for path in paths])
    return [Picture(name, *read_with_alpha(path)) for name, path in zip(names, paths, strict=True)]


# What a picture depends on, besides the fields of its configuration.
RECIPE_FLAGS = ("content", "styles", "demo", "model", "weights", "preset", "mixing", "masks")
RECIPE_FLAGS += ("style_masks", "seed", "tile", "remat", "strips", "mesh", "format", "retries")


def recipe(config: Config, sweep: Mapping[str, Sequence[float]]) -> list[str]:
    """The arguments that make the same pictures again, with every setting spelled out."""
    arguments = []
    for name in RECIPE_FLAGS:
        value = FLAGS[name].value
        if value is not None and value is not False and value != []:
            arguments.append(FLAGS[name].serialize())
    for name, value in settings_by_flag(config).items():
        value = sweep.get(name, value)
        if name == "init" and FLAGS.init is not None:
            value = FLAGS.init  # which may be a file
        if isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no{name}")
        elif isinstance(value, tuple):
            arguments.append(f"--{name}={','.join(map(str, value))}")
        elif isinstance(value, Mapping):
            layers = ",".join(f"{layer}:{weight}" for layer, weight in value.items())
            arguments.append(f"--{name}={layers}")
        elif value is not None:
            arguments.append(f"--{name}={value}")
    return arguments


def show_config(path: str) -> None:
    """Prints the command that made a picture to stdout, and with what, to stderr."""
    try:
        found = from_json(read_text(path) or "")
        arguments, versions = found["flags"], found["versions"]
        line = shlex.join(["nst-jax", *arguments])
        made = ", ".join(f"{name} {version}" for name, version in versions.items())
        made += f"; on {found['devices']} x {found['device']} ({found['platform']})"
        made += f"; weights' SHA-256 {found['weights_sha256']}"
        # What another program made may be meant for the terminal.
        if not (line + made).isprintable():
            raise ValueError
    except ImageError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{path}: holds no settings of nst-jax in its metadata") from None
    print(line)
    console.say(f"made with {made}")


def chosen_weights() -> str:
    """A bundled network's name, or the path of a file of weights."""
    check_choice("--model", FLAGS.model, vgg.CONVOLUTIONS)
    return FLAGS.weights or FLAGS.model


def network() -> str:
    """The network that the flags choose."""
    name = chosen_weights()
    if name in vgg.CONVOLUTIONS:
        return name
    with open_params(name) as params:
        return vgg.network_name(params)


def answer() -> bool:
    """Prints what the flags in `QUESTION_FLAGS` ask for; whether there was such a question."""
    if FLAGS.show_config is not None:
        if not FLAGS.show_config:
            raise ValueError("--show_config needs the file of a picture, got ''")
        show_config(FLAGS.show_config)
    elif FLAGS.list_layers:
        print(list_layers(network()), flush=True)
    elif FLAGS.list_presets:
        print(list_presets(), flush=True)
    else:
        return False
    return True


def read_initial() -> np.ndarray | None:
    """The picture file that --init names, if it names one."""
    if FLAGS.init in (None, *INITS):
        return None
    if not pathlib.Path(FLAGS.init).is_file():
        check_choice("--init (or an existing file)", FLAGS.init, INITS)
    return read_image(FLAGS.init)


def read_params() -> Mapping:
    """The network, with what it compiles kept for the next run."""
    if FLAGS.compilation_cache:
        compilation.keep_programs(lambda line: console.say(f"nst-jax: {line}"))
    else:
        compilation.keep_nothing()
    return load_params(chosen_weights())


def run_data_set(config: Config, sweep: Mapping[str, Sequence[float]]) -> int:
    """A job over folders of pictures; returns the exit code."""
    of_others = ("demo", "mixing", "masks", "style_masks", "log_every", "format", "overwrite")
    of_others += ("report", "save_every", "animate", "tensorboard_dir", "profile_dir")
    of_others += ("checkpoint_dir", "checkpoint_every", "retries")
    unfit = [f"--{name}" for name in of_others if FLAGS[name].present]
    unfit += [f"--{name} with several values" for name in sweep]
    if unfit:
        raise ValueError(f"{unfit[0]} does not go with --pairing nor with folders or patterns")
    pairing = "all" if FLAGS.pairing is None else FLAGS.pairing
    check_choice("--pairing", pairing, pairs.PAIRINGS)
    if FLAGS.batch_size is not None and FLAGS.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {FLAGS.batch_size}")
    if not (FLAGS.content and FLAGS.styles):
        raise ValueError("a data set needs --content and --styles")
    process, processes = FLAGS.process_id, FLAGS.num_processes
    if process is None and processes is None:
        process, processes = jax.process_index(), jax.process_count()
    if process is None or processes is None:
        raise ValueError("--num_processes and --process_id go together")
    sharding.check_process_id(process, processes)
    job = DataSetJob(
        contents=pairs.expand(FLAGS.content, flag="--content", output_dir=FLAGS.output_dir),
        styles=pairs.expand(FLAGS.styles, flag="--styles", output_dir=FLAGS.output_dir),
        pairing=pairing,
        config=config,
        batch_size=FLAGS.batch_size,
        initial=read_initial(),
        seed=FLAGS.seed,
        placement=Placement(tile=FLAGS.tile, remat=FLAGS.remat, strips=FLAGS.strips),
        mesh=sharding.parse_mesh(FLAGS.mesh) if FLAGS.mesh is not None else None,
        process=process,
        processes=processes,
    )
    described = {
        "preset": FLAGS.preset,
        "weights": chosen_weights(),
        "weights_sha256": sha256(chosen_weights()),
        "content": FLAGS.content,
        "styles": FLAGS.styles,
        "initial": digest(job.initial),
    }
    return dataset_run.run(job, read_params(), pathlib.Path(FLAGS.output_dir), described=described)


def run() -> int:
    """One job, from the flags to the files; returns the exit code."""
    data_set = FLAGS.pairing is not None or pairs.names_several(FLAGS.content + FLAGS.styles)
    processes = {
        name: FLAGS[name].value for name in ("coordinator_address", "num_processes", "process_id")
    }
    alone = data_set and FLAGS.coordinator_address is None  # its processes need not meet
    if FLAGS.distributed or (any(v is not None for v in processes.values()) and not alone):
        sharding.connect(**processes, apart=data_set or FLAGS.tile is not None)
    config, sweep = config_from_flags()
    chosen_weights()
    check_choice("--format", FLAGS.format, FORMATS)
    if FLAGS.retries and config.optimizer.searches:
        raise ValueError("--retries lowers the learning rate, which a line search doesn't use")
    if FLAGS.checkpoint_dir is None and FLAGS["checkpoint_every"].present:
        raise ValueError("--checkpoint_every goes with --checkpoint_dir")
    if FLAGS.retries < 0:
        raise ValueError(f"--retries must be at least 0, got {FLAGS.retries}")
    for name in ("log_every", "save_every", "checkpoint_every"):
        if FLAGS[name].value is not None and FLAGS[name].value < 1:
            raise ValueError(f"--{name} must be at least 1, got {FLAGS[name].value}")
    if FLAGS.animate is not None:
        check_choice("--animate", FLAGS.animate, ANIMATIONS)
    if not 0 <= FLAGS.seed < 2**32:
        raise ValueError(f"--seed must be from 0 to 2**32 - 1, got {FLAGS.seed}")
    if data_set:
        return run_data_set(config, sweep)
    if FLAGS.batch_size is not None:
        raise ValueError("--batch_size goes with --pairing, or with folders or patterns")
    contents, styles = read_inputs(config)
    initial = read_initial()
    job = PictureJob(
        contents=contents,
        styles=styles,
        config=config,
        sweep=sweep,
        mixing=mixing_from_flag(len(styles)),
        masks=masks_from_flag("masks", len(styles)),
        style_masks=masks_from_flag("style_masks", len(styles)),
        initial=initial,
        seed=FLAGS.seed,
        placement=Placement(tile=FLAGS.tile, remat=FLAGS.remat, strips=FLAGS.strips),
        mesh=sharding.parse_mesh(FLAGS.mesh) if FLAGS.mesh is not None else None,
    )
    params = read_params()
    described = {
        "flags": recipe(config, sweep),
        "preset": FLAGS.preset,
        "weights": chosen_weights(),
        "weights_sha256": sha256(chosen_weights()),
        "content": FLAGS.content or [content.name for content in contents],
        "styles": FLAGS.styles or [style.name for style in styles],
        "mixing": FLAGS.mixing,
        "masks": FLAGS.masks,
        "style_masks": FLAGS.style_masks,
        "initial": FLAGS.init if initial is not None else None,
    }
    delivery = Delivery(
        folder=pathlib.Path(FLAGS.output_dir),
        picture_format=FLAGS.format,
        overwrite=FLAGS.overwrite,
        log_every=FLAGS.log_every,
        profile_dir=FLAGS.profile_dir,
        look=Look(
            save_every=FLAGS.save_every,
            animate=FLAGS.animate,
            report=FLAGS.report,
            tensorboard_dir=FLAGS.tensorboard_dir,
        ),
        checkpoint_dir=None if FLAGS.checkpoint_dir is None else pathlib.Path(FLAGS.checkpoint_dir),
        checkpoint_every=FLAGS.checkpoint_every,
        retries=FLAGS.retries,
    )
    return cli_run.run(job, params, delivery, described=described)


def _is_foreign(record: python_logging.LogRecord) -> bool:
    return not record.name.startswith("nst_jax.")


def _say_own_warnings() -> None:
    """Of what is logged, the package's own comes in the form of the command's lines."""
    python_logging.getLogger("nst_jax").handlers = [console.Warnings()]
    logging.get_absl_handler().addFilter(_is_foreign)


def _main(argv: Sequence[str]) -> int:
    if not FLAGS["verbosity"].present:
        # What JAX and matplotlib note of their set-up is no news to whoever runs this.
        logging.set_verbosity(logging.ERROR if FLAGS.quiet else logging.WARNING)
        # What goes wrong in orbax is told by an exception, too.
        logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
        _say_own_warnings()
    console.be_quiet(FLAGS.quiet)
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected argument {argv[1]!r}: pictures go into flags, see --help")
        if answer():
            return 0
        with console.stdout_on_stderr():
            return run()
    except KeyboardInterrupt:
        complain("interrupted")
        return _failed(130)
    except BrokenPipeError:
        raise
    # A backend that doesn't start is no more than a RuntimeError.
    except (ValueError, TypeError, ArithmeticError, OSError, RuntimeError, MemoryError) as error:
        logging.debug("the error in full", exc_info=True)
        first, *_ = str(error).splitlines() or [type(error).__name__]
        complain(first)
        return _failed(BAD_INPUT)


def _failed(code: int) -> int:
    """The exit code; but of several processes one that fails leaves without waiting for the others,
    as JAX would have it: they would wait for this one. Only those that fail alike leave together,
    so that each has its say."""
    if jax.distributed.is_initialized():
        leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        leaving.start()
        leaving.join(timeout=5)
        os._exit(code)
    return code


_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number"}


def _in_plain_words(error: Exception) -> str:
    """What absl finds wrong with a flag, in one line, in the words of all others."""
    # "flag --name=value: " and what Python's int, or another, says of the value.
    text = str(error).removesuffix(f": {error.__context__}")
    name, equals, value = text.removeprefix("flag --").partition("=")
    kind = _KINDS.get(FLAGS[name].flag_type()) if equals and name in FLAGS else None
    if isinstance(error, flags.IllegalFlagValueError) and kind is not None:
        return f"--{name} must be {kind}, got {value!r}"
    return " ".join(str(error).split())


def _parse(argv: Sequence[str]) -> list[str]:
    """The arguments that are no flags; `--help` and bad flags end the process."""
    # In place of absl's own, which end with an error's code as soon as they are met.
    for name, short in (("help", "h"), ("helpshort", "?"), ("helpfull", None)):
        flags.DEFINE_boolean(name, False, "print this", short_name=short, allow_override=True)
    try:
        remaining = FLAGS(argv)
        if FLAGS.helpfull:
            print(FLAGS.get_help(), flush=True)
            sys.exit(0)
        if FLAGS.help or FLAGS.helpshort:
            check_choice("--preset", FLAGS.preset, presets)
            print(flags_by_group(FLAGS, presets[FLAGS.preset]), flush=True)
            sys.exit(0)
        return remaining
    except flags.UnrecognizedFlagError as error:
        known = [*FLAGS, *(f"no{name}" for name in FLAGS if FLAGS[name].boolean)]
        complain(f"unknown flag --{error.flagname}{nearest(error.flagname, known)}")
    except (flags.Error, ValueError) as error:
        complain(_in_plain_words(error))
    sys.exit(BAD_INPUT)


def main() -> None:
    """Entry point of the `nst-jax` command."""
    try:
        app.run(_main, flags_parser=_parse)
    except BrokenPipeError:  # whoever read stdout, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
