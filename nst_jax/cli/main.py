"""The `nst-jax` command: reads flags, runs a job, and returns an exit code.

    nst-jax --content=a.jpg --styles=b.jpg,c.jpg

`python -m nst_jax` takes the same flags.
"""

import importlib
import logging as python_logging
import os
import pathlib
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from nst_jax import examples, sharding, vgg
from nst_jax.cli import compilation, console, preflight
from nst_jax.cli.console import complain
from nst_jax.cli.dataset.pairs import PAIRINGS, expand, names_several, read_pairs
from nst_jax.cli.dataset.run import DataSetJob, run_data_set
from nst_jax.cli.devices import describe_devices, describe_version, no_devices
from nst_jax.cli.flag_types import BadValue
from nst_jax.cli.flags import (
    DEVICE_FLAGS,
    FLAGS,
    OTHER_FLAGS,
    config_from_flags,
    masks_from_flag,
    mixing_from_flag,
    settings_by_flag,
    style_masks_from_flag,
)
from nst_jax.cli.help import flags_by_group, list_layers, list_presets
from nst_jax.cli.inputs import style_mask
from nst_jax.cli.look.observers import ANIMATIONS, Look, Picture
from nst_jax.cli.run import Delivery, PictureJob, digest, run_pictures
from nst_jax.cli.sequence import Motion, run_sequence
from nst_jax.cli.shared_folder import made
from nst_jax.config import INITS, Config
from nst_jax.files.atomic import first_line, from_json, unique
from nst_jax.files.footage import Footage, natural, open_footage
from nst_jax.files.images import FORMATS, ImageError, read_image, read_text, read_with_alpha
from nst_jax.files.paths import check_local, is_pipe, is_remote, path_of
from nst_jax.partition import Placement
from nst_jax.presets import presets
from nst_jax.settings import check_choice, nearest
from nst_jax.weights.load import load_params, open_params, sha256

BAD_INPUT = 1


# ---------------------------------- The command ---------------------------------


def main() -> None:
    """Entry point of the `nst-jax` command."""
    console.show_names_as_they_are()
    try:
        app.run(_main, flags_parser=_parse)
    except BrokenPipeError:
        console.leave()


def _parse(argv: Sequence[str]) -> list[str]:
    """Reads the flags and returns the other arguments. `--help` and bad flags end the process."""
    # These replace absl's own help flags, which end with an error code while flags are parsed.
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
        complain(f"unknown flag --{error.flagname}{_hint(error.flagname)}")
    except (flags.Error, ValueError) as error:
        complain(_in_plain_words(error))
    sys.exit(BAD_INPUT)


def _hint(name: str) -> str:
    """What to use in place of a flag that there is not, to end a message with."""
    if name.casefold().replace("-", "_") in DEVICE_FLAGS:
        return (
            "; the variables JAX_PLATFORMS and CUDA_VISIBLE_DEVICES choose devices, and --devices "
            "shows them"
        )
    known = [*FLAGS, *(f"no{name}" for name in FLAGS if FLAGS[name].boolean)]
    return nearest(name, known, others=OTHER_FLAGS)


_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number"}


def _in_plain_words(error: Exception) -> str:
    """What absl found wrong with a flag, as one line in the style of the command."""
    # absl's text is "flag --name=value: " and the words of the error that it caught.
    text = str(error).removesuffix(f": {error.__context__}")
    name, equals, value = text.removeprefix("flag --").partition("=")
    if isinstance(error.__context__, BadValue):
        return f"--{name} {error.__context__}"
    kind = _KINDS.get(FLAGS[name].flag_type()) if equals and name in FLAGS else None
    if isinstance(error, flags.IllegalFlagValueError) and kind is not None:
        return f"--{name} must be {kind}, got {value!r}"
    return " ".join(str(error).split("\n"))


def _main(argv: Sequence[str]) -> int:
    """Does what the flags ask for and returns the exit code."""
    _set_up_messages()
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected argument {argv[1]!r}: pictures go into flags, see --help")
        try:
            if answer():
                return 0
        except BrokenPipeError:
            console.leave()
        with console.stdout_on_stderr():
            return run()
    except KeyboardInterrupt:
        complain("interrupted")
        return _failed(130)
    except BrokenPipeError:
        raise
    except (RuntimeError, AssertionError) as error:  # either, if no device starts
        told = no_devices()
        if told is None and isinstance(error, AssertionError):
            raise
        return _refused(error, told)
    except (ValueError, TypeError, ArithmeticError, OSError, MemoryError) as error:
        return _refused(error)


def _refused(error: Exception, told: str | None = None) -> int:
    """Shows an error on one line, in these words if there are any, and returns the exit code."""
    logging.debug("the error in full", exc_info=error)
    complain(told or first_line(error))
    return _failed(BAD_INPUT)


def _set_up_messages() -> None:
    """Chooses what is shown on stderr, by --quiet and --verbosity."""
    console.be_quiet(FLAGS.quiet)
    if FLAGS["verbosity"].present:
        return
    # Users do not need what JAX and matplotlib log about their set-up.
    logging.set_verbosity(logging.ERROR if FLAGS.quiet else logging.WARNING)
    # It warns at each request that it may not ask for the kind of a bucket, and goes on.
    python_logging.getLogger("gcsfs").setLevel(python_logging.ERROR)
    # Orbax logs failures that it also raises.
    logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
    # The package's own warnings are shown in the style of the command.
    python_logging.getLogger("nst_jax").handlers = [console.Warnings()]
    logging.get_absl_handler().addFilter(_is_foreign)


def _is_foreign(record: python_logging.LogRecord) -> bool:
    return not record.name.startswith("nst_jax.")


def _failed(code: int) -> int:
    """Returns the exit code, or ends this process at once if it is one of several.

    JAX would wait for the other processes, and they would wait for this one. Five seconds are
    enough for processes that fail together to leave together, so that each shows its message.
    """
    if jax.distributed.is_initialized():
        leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        leaving.start()
        leaving.join(timeout=5)
        os._exit(code)
    return code


# ------------------------ Questions, answered on stdout -------------------------


def answer() -> bool:
    """Answers a flag of `QUESTION_FLAGS`, and returns whether one was given."""
    if FLAGS.show_config is not None:
        if not FLAGS.show_config:
            raise ValueError("--show_config needs the file of a picture, got ''")
        show_config(FLAGS.show_config)
    elif FLAGS.version:
        print(describe_version(), flush=True)
    elif FLAGS.devices:
        config, _ = config_from_flags()
        for line in describe_devices(config, _mesh()):
            print(line, flush=True)
    elif FLAGS.list_layers:
        print(list_layers(network()), flush=True)
    elif FLAGS.list_presets:
        print(list_presets(), flush=True)
    else:
        return False
    return True


def show_config(path: str) -> None:
    """Prints the command that made a picture on stdout, and versions and devices on stderr.

    Args:
      path: the picture's file.

    Raises:
      ValueError: the file cannot be read, or its metadata has no settings.
    """
    try:
        found = from_json(read_text(path) or "")
        arguments, versions = found["flags"], found["versions"]
        line = console.shell_line(["nst-jax", *arguments])
        made = ", ".join(f"{name} {version}" for name, version in versions.items())
        made += f"; on {found['devices']} x {found['device']} ({found['platform']})"
        made += f"; weights' SHA-256 {found['weights_sha256']}"
    except ImageError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{path}: its metadata has no settings of nst-jax") from None
    print(line)
    console.say(f"made with {made}")


def network() -> vgg.Model:
    """The name of the network that the flags choose, "vgg16" or "vgg19"."""
    name = chosen_weights()
    if name in vgg.CONVOLUTIONS:
        return name
    with open_params(name) as params:
        return vgg.network_name(params)


# ------------------------------------ A run -------------------------------------


def run() -> int:
    """Runs one job, from the flags to the files, and returns the exit code."""
    listed = FLAGS.pairing is not None or FLAGS.pairs is not None
    several = FLAGS.styles if FLAGS.sequence else FLAGS.content + FLAGS.styles
    data_set = listed or names_several(several)

    # --- Processes: they must meet before JAX is used. ---
    numbers = {
        name: FLAGS[name].value for name in ("coordinator_address", "num_processes", "process_id")
    }
    given = any(value is not None for value in numbers.values())
    # Processes of a data set need not meet. They share the work by their numbers alone.
    alone = data_set and FLAGS.coordinator_address is None
    if FLAGS.distributed or (given and not alone):
        sharding.connect(**numbers, apart=data_set or FLAGS.tile is not None)

    # --- Settings: all flags that need no file are checked first. ---
    config, sweep = config_from_flags()
    chosen_weights()
    check_local("--tensorboard_dir", FLAGS.tensorboard_dir)
    check_local("--profile_dir", FLAGS.profile_dir)
    check_choice("--format", FLAGS.format, FORMATS)
    if FLAGS.quality is not None:
        if not FORMATS[FLAGS.format].has_quality:
            raise ValueError(f"--quality needs --format=jpg or webp, got {FLAGS.format}")
        if not 1 <= FLAGS.quality <= 100:
            raise ValueError(f"--quality must be from 1 to 100, got {FLAGS.quality}")
    if FLAGS.retries and config.optimizer.searches:
        raise ValueError("--retries lowers the learning rate, but a line search does not use it")
    if FLAGS.checkpoint_dir is None and FLAGS["checkpoint_every"].present:
        raise ValueError("--checkpoint_every needs --checkpoint_dir")
    if FLAGS.retries < 0:
        raise ValueError(f"--retries must be at least 0, got {FLAGS.retries}")
    for name in ("log_every", "save_every", "checkpoint_every"):
        steps = FLAGS[name].value
        if steps is not None and steps < 1:
            raise ValueError(f"--{name} must be at least 1, got {steps}")
    if FLAGS.animate is not None:
        check_choice("--animate", FLAGS.animate, ANIMATIONS)
    if not 0 <= FLAGS.seed < 2**32:
        raise ValueError(f"--seed must be from 0 to 2**32 - 1, got {FLAGS.seed}")

    given = [f"--{name}" for name in SEQUENCE_FLAGS if FLAGS[name].present]
    if given and not FLAGS.sequence:
        raise ValueError(f"{given[0]} needs --sequence")
    if config.term("temporal") is not None and not FLAGS.sequence:
        raise ValueError("--temporal_weight needs --sequence")

    # --- The job. ---
    if FLAGS.sequence:
        return _run_sequence(config, sweep)
    return _run_data_set(config, sweep) if data_set else _run_pictures(config, sweep)


# --------------------------- A job over given pictures --------------------------


def _run_pictures(config: Config, sweep: Mapping[str, Sequence[float]]) -> int:
    """Paints a few pictures and returns the exit code."""
    if FLAGS.batch_size is not None:
        raise ValueError("--batch_size needs --pairing, or folders or patterns for a data set")

    # --- Network and pictures. ---
    params = read_params()
    if FLAGS.demo and isinstance(config.size, int) and jax.device_count() == 1:
        # Drawing pictures that are too large would take minutes.
        shape = (config.size, config.size)
        plan = preflight.Plan(params=params, shape=shape, outputs=1, config=config)
        plan.replace(placement=_placement()).check_roughly()
    contents, styles = read_inputs(config)
    initial = read_initial()
    job = PictureJob(
        contents=contents,
        styles=styles,
        config=config,
        sweep=sweep,
        mixing=mixing_from_flag(len(styles)),
        masks=masks_from_flag(len(styles)),
        style_masks=_style_masks(styles, config),
        initial=initial,
        seed=FLAGS.seed,
        placement=_placement(),
        mesh=_mesh(),
    )

    # --- Files. ---
    described = {
        "flags": recipe_arguments(config, sweep),
        "preset": FLAGS.preset,
        "weights": chosen_weights(),
        "weights_sha256": sha256(chosen_weights()),
        "content": FLAGS.content or [content.name for content in contents],
        "styles": FLAGS.styles or [style.name for style in styles],
        "mixing": FLAGS.mixing,
        "masks": FLAGS.masks,
        "style_masks": FLAGS.style_masks,
        "regions": FLAGS.regions,
        "legend": FLAGS.legend,
        "initial": FLAGS.init if initial is not None else None,
    }
    delivery = Delivery(
        folder=path_of(FLAGS.output_dir),
        picture_format=FLAGS.format,
        quality=FLAGS.quality,
        overwrite=FLAGS.overwrite,
        log_every=FLAGS.log_every,
        profile_dir=FLAGS.profile_dir,
        look=Look(
            save_every=FLAGS.save_every,
            animate=FLAGS.animate,
            report=FLAGS.report,
            tensorboard_dir=FLAGS.tensorboard_dir,
        ),
        checkpoint_dir=None if FLAGS.checkpoint_dir is None else path_of(FLAGS.checkpoint_dir),
        checkpoint_every=FLAGS.checkpoint_every,
        retries=FLAGS.retries,
    )
    return run_pictures(job, params, delivery, described=described)


def read_inputs(config: Config) -> tuple[list[Picture], list[Picture]]:
    """Reads the contents and styles, or makes the built-in ones with --demo.

    If no term looks at the content, the content may be left out. A grey picture with the shape of
    the first style takes its place.

    Raises:
      ValueError: no pictures are given, or --demo with pictures, or a file cannot be read.
    """
    needs_content = any(term.refers_to("content") for term in config.terms)
    if FLAGS.demo:
        if FLAGS.content or FLAGS.styles:
            raise ValueError("--demo has its own pictures: leave out --content and --styles")
        if not isinstance(config.size, int):
            raise ValueError("--size must be a number with --demo, whose pictures have any size")
        butterfly, *styles = [
            Picture(name, examples.by_name[name](config.size))
            for name in ("butterfly", "rainbow", "triangles")
        ]
        contents = [butterfly] if needs_content else []
    else:
        if not FLAGS.styles or (needs_content and not FLAGS.content):
            missing = "--styles" if not FLAGS.styles else "--content"
            raise ValueError(f"{missing} is needed (or --demo)")
        contents, styles = _read(FLAGS.content), _read(FLAGS.styles)
    blank = Picture("texture", np.full_like(styles[0].image, 0.5), blank=True)
    return contents or [blank], styles


def _read(paths: Sequence[str]) -> list[Picture]:
    """Reads picture files. Their names are unique."""
    names = unique([path_of(path).stem for path in paths])
    return [
        Picture(name, *read_with_alpha(path), path) for name, path in zip(names, paths, strict=True)
    ]


def _style_masks(styles: Sequence[Picture], config: Config) -> list[np.ndarray | None] | None:
    """The part of each style to learn from: what is opaque and, with --style_masks, white there.

    Raises:
      ValueError: as `style_masks_from_flag`, or nothing is left of a style.
    """
    given = style_masks_from_flag(len(styles)) or [None] * len(styles)
    names = FLAGS.styles or [style.name for style in styles]
    found = []
    for name, style, mask in zip(names, styles, given, strict=True):
        part, line = style_mask(name, style.alpha, mask, config)
        found.append(part)
        if line:
            console.say(f"nst-jax: {line}")
    return None if all(mask is None for mask in found) else found


# The flags that decide what a picture looks like, besides the settings of its configuration.
RECIPE_FLAGS = ("content", "styles", "demo", "model", "weights", "preset", "mixing", "masks")
RECIPE_FLAGS += ("style_masks", "seed", "tile", "remat", "strips", "steps_per_dispatch", "mesh")
RECIPE_FLAGS += ("regions", "legend", "format", "quality", "retries")

# Flags that only a sequence takes.
SEQUENCE_FLAGS = ("flow", "cuts", "passes", "next_steps", "frame_rate")


def recipe_arguments(config: Config, sweep: Mapping[str, Sequence[float]]) -> list[str]:
    """The arguments that reproduce the pictures. They state every setting."""
    arguments = []
    of_sequence = ("sequence", *SEQUENCE_FLAGS) if FLAGS.sequence else ()
    for name in RECIPE_FLAGS + of_sequence:
        value = FLAGS[name].value
        if value is not None and value is not False and value != []:
            arguments.append(FLAGS[name].serialize())
    for name, value in settings_by_flag(config).items():
        value = sweep.get(name, value)
        if name == "init" and FLAGS.init is not None:
            value = FLAGS.init  # it may be a file, which the configuration does not have
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


# ---------------------------------- A sequence ----------------------------------

# Flags that a sequence does not take.
NOT_IN_SEQUENCES = ("pairing", "pairs", "batch_size", "demo", "masks", "regions", "legend")
NOT_IN_SEQUENCES += ("checkpoint_dir", "checkpoint_every", "retries", "log_every", "report")
NOT_IN_SEQUENCES += ("save_every", "animate", "tensorboard_dir", "profile_dir", "distributed")
NOT_IN_SEQUENCES += ("coordinator_address", "num_processes", "process_id")


def _run_sequence(config: Config, sweep: Mapping[str, Sequence[float]]) -> int:
    """Paints the frames of a film and returns the exit code."""

    # --- Flags. ---
    # A default may stand in the command that a picture's metadata holds.
    unfit = [f"--{n}" for n in NOT_IN_SEQUENCES if FLAGS[n].value != FLAGS[n].default]
    unfit += [f"--{name} with several values" for name in sweep]
    if unfit:
        raise ValueError(f"{unfit[0]} cannot be combined with --sequence")
    if config.term("temporal") is None:
        raise ValueError("--temporal_weight must be above 0 with --sequence, got 0")
    if not (FLAGS.content and FLAGS.styles):
        raise ValueError("--sequence needs --content and --styles")
    for name in ("passes", "next_steps"):
        value = FLAGS[name].value
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    if not 0.1 <= FLAGS.frame_rate <= 1000:
        raise ValueError(f"--frame_rate must be from 0.1 to 1000, got {FLAGS.frame_rate:g}")
    check_local("--output_dir", FLAGS.output_dir)
    if FORMATS[FLAGS.format].bits != 8:
        raise ValueError(f"--format must be png, jpg or webp with --sequence, got {FLAGS.format}")
    if FLAGS.flow not in ("dis", "still") and not pathlib.Path(FLAGS.flow).is_dir():
        raise ValueError(
            f"--flow must be dis, still, or a folder of .flo files, got {FLAGS.flow!r}"
        )
    if FLAGS.flow == "dis":
        try:
            importlib.import_module("cv2")
        except ImportError:
            raise ValueError(
                "--flow=dis needs OpenCV: give --flow=still, or pip install opencv-python-headless"
            ) from None
    motion = Motion(flow=FLAGS.flow, cuts=_cuts(), passes=FLAGS.passes, steps=FLAGS.next_steps)

    # --- Network and pictures. ---
    footage = _footage()
    params = read_params()
    if FLAGS["frame_rate"].present and footage.kind != "files":
        raise ValueError(f"--frame_rate is for numbered files, got {footage.paths[0]}")
    first = next(footage.frames(), None)
    if first is None:
        raise ValueError(f"{footage.paths[0]}: has no frames")
    styles = _read(FLAGS.styles)
    job = PictureJob(
        contents=[Picture(_name_of(footage), first)],
        styles=styles,
        config=config,
        mixing=mixing_from_flag(len(styles)),
        style_masks=_style_masks(styles, config),
        initial=read_initial(),
        seed=FLAGS.seed,
        placement=_placement(),
        mesh=_mesh(),
    )

    # --- Files. ---
    delivery = Delivery(
        folder=path_of(FLAGS.output_dir),
        picture_format=FLAGS.format,
        quality=FLAGS.quality,
        overwrite=FLAGS.overwrite,
    )
    described = {
        "flags": recipe_arguments(job.config, sweep),
        "preset": FLAGS.preset,
        "weights": chosen_weights(),
        "weights_sha256": sha256(chosen_weights()),
        "content": FLAGS.content,
        "styles": FLAGS.styles,
        "mixing": FLAGS.mixing,
        "style_masks": FLAGS.style_masks,
        "initial": digest(job.initial),
    }
    return run_sequence(
        job, footage, motion, params, delivery, frame_rate=FLAGS.frame_rate, described=described
    )


def _cuts() -> tuple[int, ...] | None:
    """The frames of --cuts, from 0; None finds them."""
    if not FLAGS.cuts:
        return None
    if FLAGS.cuts == ["none"]:
        return ()
    try:
        numbers = tuple(int(text) - 1 for text in FLAGS.cuts)
    except ValueError:
        numbers = (-1,)
    if min(numbers) < 0:
        raise ValueError(
            f"--cuts must be numbers of frames, from 1, or none, got {','.join(FLAGS.cuts)!r}"
        )
    return numbers


def _name_of(footage: Footage) -> str:
    """The name of a sequence: of its film, or of the folder of its files."""
    path = footage.paths[0]
    if footage.kind == "files":
        return path.resolve().parent.name or "frames"
    return path.stem


def _footage() -> Footage:
    """The frames that --content names."""
    found = {"output_dir": FLAGS.output_dir, "made": made(path_of(FLAGS.output_dir))}
    for item in FLAGS.content:
        check_local("--content", item)
    sources = expand(FLAGS.content, flag="--content", **found)
    # In a folder or a pattern, the names decide. Files that are named one by one keep their order.
    if names_several(FLAGS.content):
        sources = sorted(sources, key=lambda source: natural(source.name))
    return open_footage([path_of(source.path) for source in sources])


# ------------------------------ A job over a data set ---------------------------

# Flags that only a job over given pictures takes.
PICTURE_FLAGS = ("demo", "mixing", "masks", "style_masks", "regions", "legend", "log_every")
PICTURE_FLAGS += ("overwrite",)
PICTURE_FLAGS += ("report", "save_every", "animate", "tensorboard_dir", "profile_dir")
PICTURE_FLAGS += ("checkpoint_dir", "checkpoint_every", "retries")


def _run_data_set(config: Config, sweep: Mapping[str, Sequence[float]]) -> int:
    """Paints this process's share of a data set and returns the exit code."""

    # --- Flags. ---
    unfit = [f"--{name}" for name in PICTURE_FLAGS if FLAGS[name].present]
    unfit += [f"--{name} with several values" for name in sweep]
    if unfit:
        raise ValueError(
            f"{unfit[0]} cannot be combined with --pairing, --pairs, folders or patterns"
        )
    if FLAGS.pairs is None:
        pairing = "all" if FLAGS.pairing is None else FLAGS.pairing
        check_choice("--pairing", pairing, PAIRINGS)
        if not (FLAGS.content and FLAGS.styles):
            raise ValueError("a data set needs --content and --styles")
    else:
        pairing = None
        more = [f"--{name}" for name in ("content", "styles", "pairing") if FLAGS[name].present]
        if more:
            raise ValueError(f"--pairs names the contents and styles: leave out {more[0]}")
    if FLAGS.batch_size is not None and FLAGS.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {FLAGS.batch_size}")
    process, processes = FLAGS.process_id, FLAGS.num_processes
    if process is None and processes is None:
        process, processes = jax.process_index(), jax.process_count()
    if process is None or processes is None:
        raise ValueError("--num_processes and --process_id must be given together")
    sharding.check_process_id(process, processes)

    # --- Files. ---
    pairs = None
    if FLAGS.pairs is not None:
        contents, styles, pairs = read_pairs(FLAGS.pairs, suffix=FORMATS[FLAGS.format].suffix)
    else:
        found = {"output_dir": FLAGS.output_dir, "made": made(path_of(FLAGS.output_dir))}
        contents = expand(FLAGS.content, flag="--content", **found)
        styles = expand(FLAGS.styles, flag="--styles", **found)
    job = DataSetJob(
        contents=contents,
        styles=styles,
        pairing=pairing,
        pairs=pairs,
        picture_format=FLAGS.format,
        quality=FLAGS.quality,
        config=config,
        batch_size=FLAGS.batch_size,
        initial=read_initial(),
        seed=FLAGS.seed,
        placement=_placement(),
        mesh=_mesh(),
        process=process,
        processes=processes,
    )
    described = {
        "preset": FLAGS.preset,
        "weights": chosen_weights(),
        "weights_sha256": sha256(chosen_weights()),
        "content": FLAGS.content,
        "styles": FLAGS.styles,
        "pairs": FLAGS.pairs,
        "initial": digest(job.initial),
    }

    # --- Network. ---
    params = read_params()
    return run_data_set(job, params, path_of(FLAGS.output_dir), described=described)


# ----------------------------- What both jobs need ------------------------------


def chosen_weights() -> str:
    """A bundled network's name, or the path of a weights file.

    Raises:
      ValueError: no bundled network has the name, or the path is remote.
    """
    if FLAGS.model not in vgg.CONVOLUTIONS and _looks_like_a_file(FLAGS.model):
        raise ValueError(
            f"--model must be one of {', '.join(vgg.CONVOLUTIONS)}, got {FLAGS.model!r}; "
            "--weights takes a file"
        )
    check_choice("--model", FLAGS.model, vgg.CONVOLUTIONS)
    check_local("--weights", FLAGS.weights)
    return FLAGS.weights or FLAGS.model


def read_params() -> Mapping[str, Any]:
    """Sets up the compilation cache and returns the network's parameters."""
    if FLAGS.compilation_cache:
        compilation.keep_programs(lambda line: console.say(f"nst-jax: {line}"))
    else:
        compilation.keep_nothing()
    return load_params(chosen_weights())


def read_initial() -> np.ndarray | None:
    """The picture file that --init names, or None if it names a way to start.

    Raises:
      ValueError: it names neither, or the file cannot be read.
    """
    if FLAGS.init in (None, *INITS):
        return None
    path = path_of(FLAGS.init)
    if not is_remote(path) and not (path.is_file() or is_pipe(path)):
        if _looks_like_a_file(FLAGS.init):
            raise ValueError(
                f"--init (or an existing file) must be one of {', '.join(INITS)}, got "
                f"{FLAGS.init!r}: there is no such file"
            )
        check_choice("--init (or an existing file)", FLAGS.init, INITS)
    return read_image(FLAGS.init)


def _looks_like_a_file(text: str) -> bool:
    """Whether a text that could be a name is rather meant to be a file."""
    return pathlib.Path(text).name != text or bool(pathlib.Path(text).suffix)


def _placement() -> Placement:
    """The parts in which pictures are evaluated, and how many steps a dispatch takes."""
    return Placement(
        tile=FLAGS.tile,
        remat=FLAGS.remat,
        strips=FLAGS.strips,
        steps_per_dispatch=FLAGS.steps_per_dispatch,
    )


def _mesh() -> dict[str, int] | None:
    """Sizes of the axes of --mesh; None without the flag."""
    return None if FLAGS.mesh is None else sharding.parse_mesh(FLAGS.mesh)
