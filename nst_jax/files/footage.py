"""Frames of a film, from numbered picture files, an animation or a film, and the film back again.

A film is read and written by PyAV, which comes with the extra `video`. Animations are read by
Pillow.
"""

import contextlib
import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nst_jax.files import images
from nst_jax.files.atomic import FileError, reading, reason, writing

if TYPE_CHECKING:
    import av.container

FILM_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".ogv")
"""The suffixes of films."""

# The encoder of each kind of film that is written. Others become Matroska, which takes any sound.
_ENCODERS = {
    **dict.fromkeys((".mp4", ".mov", ".m4v", ".mkv"), "libx264"),
    ".webm": "libvpx-vp9",
}

Kind = Literal["files", "animation", "film"]


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts names as people count: frame2 before frame10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part)) if re.fullmatch("[0-9]+", part) else (1, part) for part in parts if part]


@dataclasses.dataclass(frozen=True)
class Footage:
    """Frames in order. They are read one by one, and can be read again.

    Attributes:
      kind: "files" is a file for each frame.
      paths: the files: of each frame, or the one of an animation or a film.
      count: how many frames there are. For some films it is an estimate.
    """

    kind: Kind
    paths: tuple[Path, ...]
    count: int

    def frames(self) -> Iterator[np.ndarray]:
        """Yields each frame, float32 `[H, W, 3]`, sRGB in [0, 1].

        Raises:
          FileError: a frame cannot be read, or has another size than the first one. The message
            names the file and the frame.
        """
        shape = None
        for number, frame in enumerate(self._read()):
            if shape not in (None, frame.shape[:2]):
                raise FileError(
                    f"{self.name_of(number)}: all frames must have one size, {shape[1]} x "
                    f"{shape[0]} as the first, got {frame.shape[1]} x {frame.shape[0]}"
                )
            shape = frame.shape[:2]
            yield frame

    def name_of(self, number: int) -> str:
        """What a message calls a frame, by its number from 0."""
        if self.kind == "files":
            return str(self.paths[number])
        return f"{self.paths[0]}: frame {number + 1}"

    def _read(self) -> Iterator[np.ndarray]:
        if self.kind == "files":
            return map(images.read_image, self.paths)
        if self.kind == "animation":
            return (frame for frame, _ in images.read_animation(self.paths[0]))
        return _decoded(self.paths[0])


def open_footage(paths: Sequence[Path]) -> Footage:
    """Finds out what the frames are, without decoding them.

    Args:
      paths: one film or animation; or a picture file for each frame, in order.

    Raises:
      FileError: a file cannot be read, the films' package is missing, or there are too few frames.
    """
    if len(paths) > 1:
        return Footage("files", tuple(paths), len(paths))
    (path,) = paths
    if path.suffix.lower() in FILM_SUFFIXES:
        return Footage("film", (path,), _count(path))
    count = images.count_frames(path)
    if count < 2:
        raise FileError(f"{path}: a sequence needs several frames, got one picture")
    return Footage("animation", (path,), count)


# ------------------------------------ Films -------------------------------------


@contextlib.contextmanager
def _film(path: Path) -> Iterator["av.container.InputContainer"]:
    """Opens a film. Errors of PyAV become one line."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise FileError(f"{path}: a film needs PyAV: pip install av") from None
    with reading(path):
        path.open("rb").close()
    try:
        with av.open(os.fspath(path)) as film:
            if not film.streams.video:
                raise FileError(f"{path}: has no pictures, only sound")
            yield film
    except FileError:
        raise
    except (FFmpegError, OSError, ValueError) as error:
        raise FileError(f"{path}: cannot be read: {reason(error)}") from error


def _count(path: Path) -> int:
    """How many frames a film has, by its header or by its packets."""
    with _film(path) as film:
        video = film.streams.video[0]
        return video.frames or sum(packet.pts is not None for packet in film.demux(video))


def _times(path: Path) -> list[int]:
    """When each frame is shown, in units of its stream.

    The frames are decoded: a trimmed film has packets that give none.
    """
    with _film(path) as film:
        return [frame.pts or 0 for frame in film.decode(video=0)]


def _decoded(path: Path) -> Iterator[np.ndarray]:
    from av.error import FFmpegError

    with _film(path) as film:
        film.streams.video[0].thread_type = "AUTO"
        done = 0
        try:
            for frame in film.decode(video=0):
                levels = frame.to_ndarray(format="rgb24")
                # Phones write films as their sensors lie, and say how to turn them.
                levels = np.rot90(levels, round(getattr(frame, "rotation", 0) / 90))
                yield np.asarray(levels, np.float32) / 255
                done += 1
        except (FFmpegError, OSError, ValueError) as error:
            raise FileError(f"{path}: frame {done + 1} cannot be read: {reason(error)}") from error


def film_suffix(source: Path) -> str:
    """The suffix of a film that is made of `source`."""
    suffix = source.suffix.lower()
    return suffix if suffix in _ENCODERS else ".mkv"


def write_film(path: Path, frames: Iterable[np.ndarray], source: Path) -> None:
    """Writes frames as a film with the times and the sound of `source`.

    The file appears whole or not at all. Sides become even by a repeated row or column, because
    players expect it.

    Args:
      path: ends in a suffix that `film_suffix` returns.
      frames: uint8 `[h, w, 3]`, of one shape.
      source: the film whose times and sound are taken.

    Raises:
      FileError: a film cannot be read or written.
    """
    import av
    from av.error import FFmpegError
    from av.video.reformatter import Colorspace

    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    times = _times(source)
    # Otherwise Matroska would write random numbers.
    exact = {"fflags": "+bitexact"}
    try:
        with (
            _film(source) as film,
            writing(path),
            av.open(os.fspath(temporary), "w", options=exact) as made,
        ):
            pictures = iter(frames)
            first = next(pictures)
            video = film.streams.video[0]
            stream = _video_stream(made, video, first.shape, path.suffix.lower())
            sounds = {
                sound.index: made.add_stream_from_template(sound) for sound in film.streams.audio
            }
            packets = _Sound(film, sounds, made)
            written = 0
            for picture, time in zip(itertools.chain([first], pictures), times, strict=False):
                packets.until(time * (video.time_base or 0))
                padding = ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0))
                levels = np.ascontiguousarray(np.pad(picture, padding, mode="edge"))
                frame = av.VideoFrame.from_ndarray(levels, format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
                frame.pts, frame.time_base = time, video.time_base
                made.mux(stream.encode(frame))
                written += 1
            made.mux(stream.encode(None))
            packets.until(None)
            if written < len(times):
                raise FileError(
                    f"{path}: cannot be written: {source} has {len(times)} frames, got {written}"
                )
        with writing(path):
            os.replace(temporary, path)
    except FFmpegError as error:
        raise FileError(f"{path}: cannot be written: {reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _video_stream(made: Any, video: Any, shape: Sequence[int], suffix: str) -> Any:
    """Adds a stream for frames of a shape, with the rate and the pixels' proportions of `video`."""
    encoder = _ENCODERS[suffix]
    stream = made.add_stream(encoder, rate=video.average_rate or 25)
    stream.height, stream.width = (side + side % 2 for side in shape[:2])
    stream.pix_fmt = "yuv420p"
    stream.options = {"crf": "17"} if encoder == "libx264" else {"crf": "24", "b": "0"}
    context = stream.codec_context
    context.time_base = video.time_base
    # Without tags, players guess by the size.
    context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
    context.color_range = 1  # from 16 to 235
    proportion = video.sample_aspect_ratio
    if proportion:
        upright = (video.height < video.width) == (shape[0] < shape[1])
        context.sample_aspect_ratio = proportion if upright else 1 / proportion
    return stream


class _Sound:
    """Copies the packets of all sound, up to a time, so that they lie beside their pictures."""

    def __init__(self, film: Any, sounds: dict[int, Any], made: Any):
        self._packets = iter(film.demux(film.streams.audio)) if sounds else iter(())
        self._sounds, self._made = sounds, made
        self._next: Any = None

    def until(self, time: Any) -> None:
        """Copies the packets up to a time in seconds; None copies the rest."""
        while True:
            packet = self._next or next(self._packets, None)
            self._next = None
            if packet is None:
                return
            if packet.dts is None:
                continue
            if time is not None and packet.dts * packet.time_base > time:
                self._next = packet
                return
            packet.stream = self._sounds[packet.stream.index]
            self._made.mux(packet)


# ------------------------------------ Flows -------------------------------------

_MAGIC = np.float32(202021.25)


def read_flow(path: Path) -> np.ndarray:
    """Reads an optical flow from a .flo file of the Middlebury benchmark.

    Simon Baker et al.: "A Database and Evaluation Methodology for Optical Flow", International
    Journal of Computer Vision 92, 2011. The format: https://vision.middlebury.edu/flow/code/

    Returns:
      float32 `[H, W, 2]`, see `nst_jax.flow`.

    Raises:
      FileError: the file cannot be read or is no such file.
    """
    with reading(path):
        data = path.read_bytes()
    if len(data) < 12 or np.frombuffer(data[:4], "<f4")[0] != _MAGIC:
        raise FileError(f"{path}: is not a .flo file")
    width, height = np.frombuffer(data[4:12], "<i4").tolist()
    if width < 1 or height < 1 or len(data) != 12 + 8 * width * height:
        raise FileError(
            f"{path}: must hold {width} x {height} vectors, got {(len(data) - 12) / 8:g}"
        )
    return np.frombuffer(data[12:], "<f4").reshape(height, width, 2).astype(np.float32)


def write_flow(path: Path, flow: np.ndarray) -> None:
    """Writes an optical flow `[H, W, 2]` as a .flo file.

    Raises:
      FileError: it cannot be written.
      ValueError: `flow` has another shape.
    """
    if np.ndim(flow) != 3 or np.shape(flow)[2] != 2:
        raise ValueError(f"flow must be [H, W, 2], got {np.shape(flow)}")
    height, width = np.shape(flow)[:2]
    data = np.asarray(_MAGIC, "<f4").tobytes() + np.array([width, height], "<i4").tobytes()
    with writing(path):
        path.write_bytes(data + np.asarray(flow, "<f4").tobytes())


class FlowFolder:
    """The flows of a folder: `forward_1_2.flo` and `backward_2_1.flo`, and so on.

    These are the names that the program of Ruder et al. has. Frames count from 1.

    Args:
      folder: of the files.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        number = 1
        while True:
            names = f"forward_{number}_{number + 1}.flo", f"backward_{number + 1}_{number}.flo"
            forward, backward = (read_flow(self._folder / name) for name in names)
            yield forward, backward
            number += 1
