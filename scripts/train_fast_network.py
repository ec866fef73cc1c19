"""Trains a small network that paints any photograph in one style, in one pass.

    python scripts/train_fast_network.py --photos=photos --style=painting.jpg --output_dir=fast
    python scripts/train_fast_network.py --paint=photo.jpg --output_dir=fast    # fast/photo.png

The network is after Justin Johnson, Alexandre Alahi, Li Fei-Fei: "Perceptual Losses for Real-Time
Style Transfer and Super-Resolution", 2016, https://arxiv.org/abs/1603.08155. It normalises each
picture on its own (Dmitry Ulyanov et al., 2016, https://arxiv.org/abs/1607.08022). It enlarges and
then convolves, against checkerboards (Augustus Odena et al., 2016,
https://distill.pub/2016/deconv-checkerboard).

The loss is `nst_jax.objective_value`: content, Gram matrices and total variation. Every step sees
crops of a batch of photos. All devices share the batch.

With --checkpoint_dir, type the same command again after an interruption. The training then
continues, and ends with the same network. docs/guide/training.md explains all of this.

Writes into --output_dir:
  network.msgpack  the network and its settings
  NAME.png         with --paint: the picture

Exits 0 on success, 1 on bad input, 130 on Ctrl-C.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import program
from absl import flags
from flax import serialization
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import nst_jax
from nst_jax import objective, vgg
from nst_jax.cli import console
from nst_jax.cli.compilation import keep_programs
from nst_jax.cli.flag_types import define_list, define_path
from nst_jax.cli.signals import Stopping
from nst_jax.files.atomic import FileError, check_folder, reason, replacing
from nst_jax.files.checkpoints import differences
from nst_jax.files.images import read_image, resize, suffixes, to_uint8, write_image
from nst_jax.terms import Content, GramStyle, TotalVariation

NETWORK = "network.msgpack"
LOGGED = 20  # steps from one line about the loss to the next
KEPT = 1000  # photos in memory

# ======================================== The network ========================================


class Convolution(nn.Module):
    """A convolution that reflects the picture at its border, and normalises each picture."""

    channels: int
    side: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        window, strides = (self.side, self.side), (self.stride, self.stride)
        x = nn.Conv(self.channels, window, strides, padding="REFLECT", use_bias=False)(x)
        return nn.InstanceNorm()(x)


class Painter(nn.Module):
    """Pictures `[N, H, W, 3]` in [0, 1] of any size, painted in the style of the weights.

    Attributes:
      width: channels at full resolution; 32 in the paper of Johnson et al.
      blocks: residual blocks at a quarter of the resolution; 5 in the paper.
    """

    width: int = 32
    blocks: int = 5

    @nn.compact
    def __call__(self, pictures):
        x = nn.relu(Convolution(self.width, 9)(2.0 * pictures - 1.0))
        sizes = []
        for channels in (2 * self.width, 4 * self.width):
            sizes.append(x.shape[1:3])
            x = nn.relu(Convolution(channels, 3, stride=2)(x))
        for _ in range(self.blocks):
            inner = nn.relu(Convolution(4 * self.width, 3)(x))
            x = x + Convolution(4 * self.width, 3)(inner)
        for channels in (2 * self.width, self.width):
            x = jax.image.resize(x, (len(x), *sizes.pop(), x.shape[-1]), "bilinear")
            x = nn.relu(Convolution(channels, 3)(x))
        return nn.sigmoid(nn.Conv(3, (9, 9), padding="REFLECT")(x))


# ========================================= The loss ==========================================


def loss_of(picture, content, params, targets, config):
    """The loss of one painted picture `[H, W, 3]`, and its terms.

    `targets` hold the style. They are those of any content of this size: this function replaces
    the targets of the content, because every step has other contents.
    """
    own = objective.content_targets(params, content, config)
    targets = dataclasses.replace(targets, terms=targets.terms | own)
    return nst_jax.objective_value(picture, params, targets, config)


class State(NamedTuple):
    """A training after `step` steps."""

    step: jax.Array
    weights: Any
    optimizer: optax.OptState


def make_step(painter: Painter, optimizer: optax.GradientTransformation, mesh: Mesh) -> Callable:
    """Returns the compiled step: state and contents to the next state and the mean terms.

    The mesh divides the contents. Every device holds the whole state.
    """

    @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    def step(state: State, contents, params, targets, config):
        def loss(weights):
            pictures = painter.apply(weights, contents)
            each = jax.vmap(loss_of, in_axes=(0, 0, None, None, None))
            values, terms = each(pictures, contents, params, targets, config)
            return jnp.mean(values), jax.tree.map(jnp.mean, terms)

        gradient, terms = jax.grad(loss, has_aux=True)(state.weights)
        update, moments = optimizer.update(gradient, state.optimizer, state.weights)
        return State(state.step + 1, optax.apply_updates(state.weights, update), moments), terms

    return step


# ========================================= The photos ========================================


class Photos:
    """Batches of crops of the photos in a folder.

    The batch of a step depends on the seed and on the step alone. So a training that continues sees
    the batches that it would have seen without the interruption.
    """

    def __init__(self, names: list[str], size: int, seed: int):
        self.names, self._size, self._seed = names, size, seed
        self._broken: set[str] = set()
        self._read = functools.lru_cache(KEPT)(self._read_small)

    def batch(self, step: int, count: int) -> np.ndarray:
        """The contents of a step, `[count, size, size, 3]` in [0, 1].

        Raises:
          ValueError: no photo can be read.
        """
        rng = np.random.default_rng((self._seed, step))
        crops = []
        while len(crops) < count:
            name = self.names[rng.integers(len(self.names))]
            draws = rng.random(4)  # as many for a broken photo as for a whole one
            if (photo := self._read(name)) is not None:
                crops.append(self._crop(photo, draws))
            elif len(self._broken) == len(self.names):
                raise ValueError("--photos: none of the pictures can be read")
        return np.stack(crops)

    def _read_small(self, name: str) -> np.ndarray | None:
        """A photo as bytes, its shorter side at most twice the size; None if it is broken."""
        if name in self._broken:
            return None
        try:
            photo = read_image(name)
        except FileError as error:
            self._broken.add(name)
            console.say(f"train_fast_network: skipped {error}")
            return None
        shorter = min(photo.shape[:2])
        wanted = min(shorter, 2 * self._size)
        sides = [max(1, round(side * wanted / shorter)) for side in photo.shape[:2]]
        return to_uint8(resize(photo, *sides))

    def _crop(self, photo: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """A square of the photo, mirrored or not, with the size of the training."""
        shorter = min(photo.shape[:2])
        least = min(self._size, shorter)
        side = least + int(draws[0] * (shorter - least + 1))
        top, left = (
            int(draw * (length - side + 1))
            for draw, length in zip(draws[1:3], photo.shape[:2], strict=True)
        )
        crop = photo[top : top + side, left : left + side].astype(np.float32) / 255
        return resize(crop, self._size, self._size)[:, :: 1 if draws[3] < 0.5 else -1]


# ======================================== Checkpoints ========================================


class Checkpoints:
    """The newest two states of a training in a folder, by orbax. None keeps nothing."""

    def __init__(self, folder: str | None, settings: Mapping[str, Any], every: int):
        self._settings, self._every, self._manager = dict(settings), every, None
        self.folder = folder
        if folder is not None:
            check_folder(Path(folder))
            options = ocp.CheckpointManagerOptions(max_to_keep=2)
            self._manager = ocp.CheckpointManager(Path(folder).resolve(), options=options)

    def latest(self, state: State) -> State:
        """The newest state in the folder. Without one, `state`, the first one.

        Raises:
          ValueError: the folder is of another training, or its newest state cannot be read.
        """
        if self._manager is None or (newest := self._manager.latest_step()) is None:
            return state
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        with self._told(f"the checkpoint of step {newest} cannot be read"):
            found = self._manager.restore(
                newest, args=ocp.args.Composite(settings=ocp.args.JsonRestore())
            )
            if different := differences(found["settings"], self._settings):
                raise FileError(f"{self.folder}: is of a training that differs in {different}")
            items = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
            return self._manager.restore(newest, args=items)["state"]

    def save(self, state: State, step: int, *, last: bool) -> None:
        """Saves a state, if its time has come."""
        if self._manager is None or not (last or step % self._every == 0):
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), settings=ocp.args.JsonSave(self._settings)
        )
        with self._told("cannot be written"):
            self._manager.save(step, args=items)

    def close(self) -> None:
        """Waits until the last state is in the folder."""
        if self._manager is not None:
            with self._told("cannot be written"):
                self._manager.close()

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turns any error of orbax into one line that names the folder."""
        try:
            yield
        except FileError:
            raise
        except Exception as error:
            raise FileError(f"{self.folder}: {what}: {reason(error)}") from error


# ======================================== The training =======================================


@dataclasses.dataclass(frozen=True)
class Settings:
    """What makes a network: the flags of these names explain each setting."""

    photos: str
    style: str
    vgg: str
    size: int
    style_size: int
    batch_size: int
    steps: int
    learning_rate: float
    content_weight: float
    style_weight: float
    tv_weight: float
    content_layers: tuple[str, ...]
    style_layers: tuple[str, ...]
    width: int
    blocks: int
    seed: int


def train(
    settings: Settings,
    *,
    checkpoint_dir: str | None = None,
    checkpoint_every: int = 100,
    devices: Any = None,
) -> tuple[State, list[float]]:
    """Trains a network.

    Args:
      settings: what makes the network.
      checkpoint_dir: folder of the checkpoints; None keeps none.
      checkpoint_every: steps from one checkpoint to the next.
      devices: those that share each batch; None is all.

    Returns:
      The state after the last step, and the loss at every step that this call took.

    Raises:
      ValueError: a setting, a file or a folder does not fit.
      KeyboardInterrupt: a signal stopped the training. The last state is saved.
    """
    # -------------------------------- Devices, photos and style --------------------------------
    devices = jax.devices() if devices is None else devices
    if settings.batch_size % len(devices):
        raise ValueError(
            f"--batch_size: must be a multiple of the {len(devices)} devices, "
            f"got {settings.batch_size}"
        )
    mesh = jax.make_mesh((len(devices),), ("batch",), axis_types=(AxisType.Auto,), devices=devices)
    whole = NamedSharding(mesh, PartitionSpec())
    divided = NamedSharding(mesh, PartitionSpec("batch"))
    photos = Photos(find_photos(settings.photos), settings.size, settings.seed)
    style = shrunk(read_image(settings.style), settings.style_size)

    # ------------------------------ The loss and the style's targets ---------------------------
    config = nst_jax.Config(
        terms=(
            Content(weight=settings.content_weight, layers=settings.content_layers),
            GramStyle(
                weight=settings.style_weight,
                layers=settings.style_layers,
                normalization="relative",  # the same weight suits every style
            ),
            TotalVariation(weight=settings.tv_weight, form="nine_point"),
        )
    )
    params, example = nst_jax.load_params(settings.vgg), photos.batch(0, 1)
    check_layers(params, example, settings.content_layers, "content_layers", "size")
    check_layers(params, example, settings.style_layers, "style_layers", "size")
    check_layers(params, style, settings.style_layers, "style_layers", "style_size")
    params = nst_jax.prepare(params, config, mesh=mesh if len(devices) > 1 else None)
    targets = nst_jax.compute_targets(params, example[0], [style], config)
    targets = jax.tree.map(lambda leaf: leaf[0], targets)  # of the only output
    params, targets = jax.device_put((params, targets), whole)

    # --------------------------------- The network and its state -------------------------------
    painter = Painter(settings.width, settings.blocks)
    optimizer = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.steps))
    weights = jax.jit(painter.init)(jax.random.key(settings.seed), example)
    state = jax.device_put(State(jnp.zeros((), int), weights, optimizer.init(weights)), whole)
    names = hashlib.sha256("\n".join(photos.names).encode()).hexdigest()
    record = json.dumps({**dataclasses.asdict(settings), "names": names})

    # ----------------------------------------- The steps ---------------------------------------
    step, losses = make_step(painter, optimizer, mesh), []
    kept = Checkpoints(checkpoint_dir, json.loads(record), checkpoint_every)
    with Stopping() as stopping, contextlib.closing(kept) as checkpoints:
        state = checkpoints.latest(state)
        if first := int(state.step):
            console.say(f"continuing from step {first} of {settings.steps}")
        began = time.perf_counter()
        for number in range(first, settings.steps):
            contents = jax.device_put(photos.batch(number, settings.batch_size), divided)
            state, terms = step(state, contents, params, targets, config)
            losses.append(terms["total"])
            done = number + 1
            if done % LOGGED == 0 or done == settings.steps:
                told = ", ".join(f"{name} {float(value):.4g}" for name, value in terms.items())
                pace = (time.perf_counter() - began) / (done - first)
                console.say(f"step {done} of {settings.steps}: {told}; {pace:.2f} s a step")
                if not np.isfinite(terms["total"]):
                    raise ValueError(f"--learning_rate: the loss of step {done} is not finite")
            stop = stopping.received is not None
            checkpoints.save(state, done, last=stop or done == settings.steps)
            if stop:
                raise KeyboardInterrupt
    return state, [float(loss) for loss in losses]


def check_layers(params, picture, layers: tuple[str, ...], names: str, side: str) -> None:
    """Refuses layers that the network does not have, and a picture too small for them.

    Raises:
      ValueError: it begins with the flag `names` or the flag `side`.
    """
    try:
        vgg.check_layers(params, picture, layers, head=False)
    except vgg.TooSmall as error:
        raise ValueError(f"--{side}: {error}") from error
    except ValueError as error:
        raise ValueError(f"--{names}: {error}") from error


def find_photos(folder: str) -> list[str]:
    """The pictures in a folder and in its subfolders, sorted.

    Raises:
      ValueError: there is none.
    """
    known, below = suffixes(), Path(folder)
    names = sorted(str(path) for path in below.rglob("*") if path.suffix.lower() in known)
    if not names:
        raise ValueError(f"--photos: there are no pictures in the folder '{folder}'")
    return names


def shrunk(picture: np.ndarray, longest: int | None) -> np.ndarray:
    """A picture whose longer side is at most `longest`; None changes nothing."""
    if longest is None or longest >= max(picture.shape[:2]):
        return picture
    factor = longest / max(picture.shape[:2])
    return resize(picture, *(max(1, round(side * factor)) for side in picture.shape[:2]))


# =========================================== One pass ========================================


def write_network(path: Path, settings: Settings, weights: Mapping[str, Any]) -> None:
    """Writes the network and its settings as one file."""
    tree = {"settings": json.dumps(dataclasses.asdict(settings)), "weights": weights}
    with replacing(path) as file:
        file.write(serialization.to_bytes(tree))


def read_network(path: Path) -> tuple[Painter, Mapping[str, Any]]:
    """Reads the network that `write_network` has written.

    Raises:
      FileError: the file is missing, or is no such network.
    """
    if not path.exists():
        raise FileError(f"{path}: no such file: train a network with this --output_dir first")
    try:
        tree: Any = serialization.msgpack_restore(path.read_bytes())
        settings = json.loads(tree["settings"])
        painter = Painter(settings["width"], settings["blocks"])
        wanted = jax.eval_shape(painter.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        return painter, serialization.from_state_dict(wanted, tree["weights"])
    except Exception as error:
        raise FileError(f"{path}: cannot be read as a network: {reason(error)}") from error


def paint(folder: Path, name: str, longest: int | None) -> Path:
    """Paints a photo in one pass of the network in the folder, and writes it there as PNG."""
    painter, weights = read_network(folder / NETWORK)
    photo = shrunk(read_image(name), longest)
    path = folder / f"{Path(name).stem}.png"
    if path.exists() and path.samefile(name):
        raise FileError(f"{path}: is the photo itself: choose another --output_dir")
    began = time.perf_counter()
    (picture,) = np.asarray(jax.jit(painter.apply)(weights, photo[None]))
    seconds = time.perf_counter() - began
    write_image(path, picture)
    height, width = photo.shape[:2]
    console.say(f"{path}: {width}x{height} pixels in {seconds:.1f} s, with compiling")
    return path


# ========================================== The flags ========================================


def define_flags() -> None:
    define_path("output_dir", "fast", "Folder of the network and of the pictures.")
    define_path("photos", None, "Train: folder of photos. Its subfolders count, too.")
    define_path("style", None, "Train: the painting.")
    define_path("paint", None, "Paint this photo with the network in output_dir. Train nothing.")
    flags.DEFINE_integer(
        "paint_size",
        None,
        "Longer side of the painted picture, in pixels. By default the photo's own.",
        lower_bound=1,
    )
    define_path("vgg", "vgg19", "Network of the loss: vgg16, vgg19 or an HDF5 file.")
    flags.DEFINE_integer("size", 128, "Side of the crops, in pixels.", lower_bound=1)
    flags.DEFINE_integer("style_size", 320, "Longer side of the style, pixels.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 2, "Crops in each step.", lower_bound=1)
    flags.DEFINE_integer("steps", 600, "Steps of the training.", lower_bound=1)
    flags.DEFINE_float("learning_rate", 2e-3, "First learning rate of Adam.", lower_bound=0)
    flags.DEFINE_float("content_weight", 1.0, "Weight of the content loss.", lower_bound=0)
    flags.DEFINE_float("style_weight", 6.0, "Weight of the style loss.", lower_bound=0)
    flags.DEFINE_float("tv_weight", 5.0, "Weight of the total variation.", lower_bound=0)
    define_list("content_layers", ["block3_conv3"], "Layers to compare with the content.")
    define_list(
        "style_layers",
        ["block1_conv2", "block2_conv2", "block3_conv3", "block4_conv1"],
        "Layers whose Gram matrices to compare with the style.",
    )
    flags.DEFINE_integer("width", 16, "Channels at full resolution.", lower_bound=1)
    flags.DEFINE_integer("blocks", 3, "Residual blocks.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Seed of the weights and of the crops.", lower_bound=0)
    define_path("checkpoint_dir", None, "Folder of checkpoints. By default, none are kept.")
    flags.DEFINE_integer("checkpoint_every", 100, "Steps between checkpoints.", lower_bound=1)


def run() -> None:
    """Trains a network, or paints a photo."""
    values = flags.FLAGS
    keep_programs(console.say)
    folder = Path(values.output_dir)
    if values.paint is not None:
        print(paint(folder, values.paint, values.paint_size))
        return
    for name in ("photos", "style"):
        if values[name].value is None:
            raise ValueError(f"--{name}: is needed to train a network; --paint paints a photo")
    names = [field.name for field in dataclasses.fields(Settings)]
    given: dict[str, Any] = {name: values[name].value for name in names}
    layers = {name: tuple(given[name]) for name in ("content_layers", "style_layers")}
    settings = Settings(**{**given, **layers})
    check_folder(folder)
    state, _ = train(
        settings,
        checkpoint_dir=values.checkpoint_dir,
        checkpoint_every=values.checkpoint_every,
    )
    write_network(folder / NETWORK, settings, jax.device_get(state.weights))
    print(folder / NETWORK)


if __name__ == "__main__":
    define_flags()
    again = "; with --checkpoint_dir, the same command continues"
    program.start(run, arguments="give --photos and --style, or --paint", again=again)
