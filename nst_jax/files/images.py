"""Reading and writing of image files: the only code that knows their formats.

An image is a float array of sRGB values (gamma encoded, not linear light) in [0, 1], RGB
order, `[H, W, 3]`. Rounding and clipping to integers happens in `_levels` and nowhere else.

What is written is tagged as sRGB, and may carry a text in the EXIF tag ImageDescription, the one
place that all formats have.
"""

import contextlib
import io
import logging
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from nst_jax.files import deep_color, host_memory, icc
from nst_jax.files.atomic import FileError, reason, replacing

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "MIN_SIDE",
    "Format",
    "ImageError",
    "read_image",
    "read_shape",
    "read_text",
    "read_with_alpha",
    "resize",
    "suffixes",
    "to_jpeg",
    "to_uint8",
    "write_animation",
    "write_image",
]

MIN_SIDE = 32
"""The shortest side that is read, in pixels: five halvings leave one position."""

MAX_PIXELS = 300_000_000
"""The most pixels, height times width, that are read unless told otherwise."""

# Bytes a pixel that reading takes at most, result included: measured on every mode (31, 38 and 47).
_BYTES = 35
_BYTES_OF_DEEP_GREY = 45
_BYTES_OF_TRANSPARENT = 50
# What takes less is read without asking what memory there is.
_LITTLE = 2**28

_READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")

_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}
_TIFF = {"format": "TIFF", "compression": "tiff_adobe_deflate"}
_WRITABLE = {
    ".png": {"format": "PNG"},
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    # Exact: the colours of transparent parts are kept too.
    ".webp": {"format": "WEBP", "lossless": True, "exact": True},
    ".tif": _TIFF,
    ".tiff": _TIFF,
}


class Format(NamedTuple):
    """A kind of picture file.

    Attributes:
      suffix: what its names end in.
      bits: of each channel.
      alpha: whether it holds transparency.
      longest_side: that it can have, in pixels.
      most_pixels: that it can have.
      longest_text: that it can carry, in bytes.
    """

    suffix: str
    bits: int = 8
    alpha: bool = True
    longest_side: float = math.inf
    most_pixels: float = math.inf
    longest_text: float = math.inf


FORMATS = {
    "png": Format(".png"),
    "png16": Format(".png", bits=16),
    # EXIF is one segment of a JPEG, whose length is of 16 bits.
    "jpg": Format(".jpg", alpha=False, longest_side=65_500, longest_text=65_000),
    "webp": Format(".webp", longest_side=16_383),
    # Its offsets are of 32 bits, and a pixel takes up to 8 bytes before it is compressed.
    "tiff": Format(".tiff", bits=16, most_pixels=2**29 - 2**20),
}
"""The kinds of files that the command writes."""

_log = logging.getLogger(__name__)
_pillow_limit = threading.Lock()


class ImageError(FileError):
    """An image file that cannot be read or written; the message is one line naming it."""


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an image file as sRGB.

    The EXIF orientation is applied, an embedded colour profile is converted to sRGB (a broken
    one is ignored with a logged warning), transparent parts are laid on white, and of an
    animation or a file of several pages the first is read. CMYK without a profile becomes
    (1 - C)(1 - K) and so on.

    Grey of 16 bits keeps all of them. Colour of 16 bits a channel, and 16-bit grey with an
    alpha channel, come with their upper 8 bits only: Pillow holds no more. Floating-point
    files are taken as grey sRGB values in [0, 1].

    Args:
      path: a PNG, JPEG, WebP, TIFF, GIF, BMP, PPM/PGM/PFM, AVIF or JPEG 2000 file.
      max_pixels: the most pixels (height times width) to accept. The file's header is held
        against it, and against the memory that there is, before anything is decoded.

    Returns:
      float32 `[H, W, 3]`, values in [0, 1].

    Raises:
      ImageError: the file is missing, a folder, empty, not an image, broken, smaller than
        `MIN_SIDE` on a side, larger than `max_pixels` or than memory, or holds values out of
        range.
      ValueError: `max_pixels` is not positive.
    """
    return read_with_alpha(path, max_pixels=max_pixels)[0]


def read_with_alpha(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads an image file as `read_image` does, and its transparency beside it.

    Args and errors are those of `read_image`.

    Returns:
      The picture laid on white, float32 `[H, W, 3]` in [0, 1], and its alpha, float32 `[H, W]`,
      1 where it is opaque; None where all of it is.
    """
    if max_pixels < 1:
        raise ValueError(f"max_pixels: wanted a positive number, got {max_pixels}")
    path = Path(path)
    picture = _decode(path, max_pixels)
    profile = icc.embedded(picture, path)
    if _is_deep_grey(picture):
        values, opaque = _deep_grey(picture, path)
        # A profile of grey is a curve; reading between its 256 points keeps the precision.
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        curve = icc.srgb(ramp, profile, path)[0]
        grid = np.linspace(0, 1, 256)
        channels = [np.interp(values, grid, channel).astype(np.float32) for channel in curve.T]
        image = np.stack(channels, axis=-1)
        image[~opaque] = 1
        return image, None if opaque.all() else opaque.astype(np.float32)
    if not picture.has_transparency_data:
        return icc.srgb(picture, profile, path), None
    rgba = picture.convert("RGBA")
    alpha = np.asarray(rgba.getchannel("A"), np.float32)[..., None] / 255
    # The alpha channel of grey goes, but grey it stays: its profile may be a grey one.
    bare = rgba.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")
    image = icc.srgb(bare, profile, path) * alpha + (1 - alpha)
    return image, None if alpha.min() == 1 else alpha[..., 0]


def read_text(path: str | os.PathLike[str]) -> str | None:
    """The text that a picture carries in its EXIF tag ImageDescription, or None.

    Raises:
      ImageError: the file is missing or no image.
    """
    with _opened(Path(path), MAX_PIXELS) as picture:
        text = picture.getexif().get(ExifTags.Base.ImageDescription)
    return text if isinstance(text, str) else None


def read_shape(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The height and width that `read_image` would give, from the file's header; only PNG files,
    whose orientation may come last, are read whole.

    Args and errors are those of `read_image`; that what comes after the header is broken is found
    only there.
    """
    path = Path(path)
    with _opened(path, max_pixels) as picture:
        _check(picture, path)
        on_its_side = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        if on_its_side and picture.format != "TIFF":  # whose size Pillow gives upright
            return picture.size
        return picture.height, picture.width


def suffixes() -> frozenset[str]:
    """What the names of files end in that `read_image` knows, such as ".jpg"."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in _READABLE)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`image.resize` by Pillow, which computes the same, without a program for every shape.

    Args:
      image: float32 `[H, W, 3]`, sRGB in [0, 1].
      height, width: wanted, in pixels, at least 1.

    Returns:
      float32 `[height, width, 3]`, clipped to [0, 1]; the image untouched when it has that size.
    """
    if image.shape[:2] == (height, width):
        return image
    channels = [
        Image.fromarray(np.asarray(image[..., c], np.float32, order="C")).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for c in range(3)
    ]
    return np.clip(np.stack([np.asarray(channel) for channel in channels], -1), 0, 1)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Rounds an image to 8 bits: values outside [0, 1] are clipped, NaN becomes 0.

    Args:
      image: float `[..., H, W, 3]`, sRGB, nominally in [0, 1].

    Returns:
      uint8 `[..., H, W, 3]`: the nearest of the 256 levels.

    Raises:
      TypeError: `image` is not float16, float32 or float64.
      ValueError: `image` has another shape.
    """
    image = np.asarray(image)
    if image.ndim < 3 or image.shape[-1] != 3:
        raise ValueError(f"image: wanted the shape [..., H, W, 3], got {list(image.shape)}")
    return _levels(image, 8)


def _levels(image: np.ndarray, bits: int) -> np.ndarray:
    """The nearest of 2^bits levels, in unsigned integers."""
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"image: wanted float16, float32 or float64, got {image.dtype}")
    # In half precision the product would be rounded before np.rint sees it.
    clipped = np.clip(np.nan_to_num(image, nan=0.0), 0, 1).astype(np.float32)
    return np.rint(clipped * (2**bits - 1)).astype(f"uint{bits}")


def write_image(
    path: str | os.PathLike[str],
    image: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    bits: int = 8,
    text: str | None = None,
) -> None:
    """Writes one image, in the format that the extension names, tagged as sRGB.

    PNG, WebP and TIFF hold the integers exactly; JPEG is written at quality 95 with full
    colour resolution. Missing folders are made. The file appears whole or not at all: an
    existing one stays as it was until the new one is complete.

    Args:
      path: ends in .png, .jpg, .jpeg, .webp, .tif or .tiff.
      image: float `[H, W, 3]`, sRGB in [0, 1], rounded and clipped as by `to_uint8`.
      alpha: float `[H, W]` in [0, 1], 1 where the picture is opaque; left out of a JPEG, which
        has no place for it.
      bits: of each channel, 8, or 16 in PNG and TIFF.
      text: ASCII for the EXIF tag ImageDescription, up to 65,000 bytes in a JPEG.

    Raises:
      ImageError: the extension is unknown or has no 16 bits, or the file cannot be written.
      TypeError: `image` is not float16, float32 or float64.
      ValueError: `image` is not `[H, W, 3]` or has no pixels, or `alpha` is of another size.
    """
    path = Path(path)
    options = _WRITABLE.get(path.suffix.lower())
    if options is None:
        known = ", ".join(_WRITABLE)
        raise ImageError(f"{path}: wanted one of {known}, got {path.suffix or 'no extension'}")
    deep = {"PNG": deep_color.write_png, "TIFF": deep_color.write_tiff}.get(options["format"])
    if bits not in (8, 16) or (bits == 16 and deep is None):
        raise ImageError(f"{path}: wanted 8 bits a channel, or 16 in PNG and TIFF, got {bits}")
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or image.size == 0:
        raise ValueError(f"image: wanted the shape [H, W, 3], got {list(image.shape)}")
    if alpha is not None and np.shape(alpha) != image.shape[:2]:
        raise ValueError(
            f"alpha: wanted the shape {list(image.shape[:2])}, got {list(np.shape(alpha))}"
        )
    if alpha is not None and options["format"] != "JPEG":
        image = np.concatenate([image, np.asarray(alpha, image.dtype)[..., None]], axis=-1)
    pixels = _levels(image, bits)
    exif = Image.Exif()
    if text is not None:
        exif[ExifTags.Base.ImageDescription] = text
    with replacing(path, error=ImageError) as file:
        if bits == 16:
            deep(file, pixels, exif)
        elif options["format"] == "PNG":
            tag = PngImagePlugin.PngInfo()
            tag.add(b"sRGB", deep_color.PERCEPTUAL)
            Image.fromarray(pixels).save(file, exif=exif, pnginfo=tag, **options)
        else:
            profile = deep_color.srgb_profile()
            Image.fromarray(pixels).save(file, exif=exif, icc_profile=profile, **options)


_ANIMATED = {
    ".gif": {"format": "GIF"},
    ".webp": {"format": "WEBP", "quality": 85, "method": 3},
}


def write_animation(
    path: str | os.PathLike[str],
    frames: Sequence[np.ndarray],
    *,
    milliseconds: int = 80,
    hold: int = 2000,
) -> None:
    """Writes pictures as an animation that plays for ever, atomically as `write_image`.

    Args:
      path: ends in .gif (256 colours a frame) or .webp (lossy).
      frames: uint8 `[h, w, 3]` each; they are brought to the size of the last one.
      milliseconds: that each is shown.
      hold: milliseconds that the last one is shown.

    Raises:
      ImageError: the extension is unknown, or the file cannot be written.
      ValueError: there is no frame.
    """
    path = Path(path)
    options = _ANIMATED.get(path.suffix.lower())
    if options is None:
        known = ", ".join(_ANIMATED)
        raise ImageError(f"{path}: wanted one of {known}, got {path.suffix or 'no extension'}")
    if not len(frames):
        raise ValueError("frames must hold at least one picture, got none")
    size = frames[-1].shape[1::-1]

    def sized(frame):
        picture = Image.fromarray(frame)
        return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)

    with replacing(path, error=ImageError) as file:
        sized(frames[0]).save(
            file,
            save_all=True,
            append_images=(sized(frame) for frame in frames[1:]),  # one at a time in memory
            duration=[milliseconds] * (len(frames) - 1) + [hold],
            loop=0,
            **options,
        )


def to_jpeg(image: np.ndarray, *, longest: int) -> bytes:
    """`image` `[H, W, 3]` in [0, 1] as a JPEG to look at, no side above `longest` pixels."""
    picture = Image.fromarray(to_uint8(image))
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=88, subsampling=0)
    return file.getvalue()


def _decode(path: Path, max_pixels: int) -> Image.Image:
    """Reads a file's first picture, upright, in whatever mode it has."""
    with _opened(path, max_pixels) as picture:
        _check(picture, path)
        picture.load()
        return ImageOps.exif_transpose(picture)


def _check(picture: Image.Image, path: Path) -> None:
    """Refuses by its header a picture that is too small for a network, or that would take more
    memory than there is: a file of a megabyte may promise hundreds of megapixels."""
    width, height = picture.size
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{path}: wanted at least {MIN_SIDE} pixels on each side, "
            f"got {width} x {height} (width x height)"
        )
    need = width * height * _bytes_a_pixel(picture)
    if need < _LITTLE:
        return
    available = host_memory.host_bytes()
    if available is not None and need > available:
        raise ImageError(
            f"{path}: reading its {width} x {height} pixels would take "
            f"{need / host_memory.GIB:.2f} GiB of memory, and there are "
            f"{available / host_memory.GIB:.2f} GiB"
        )


def _bytes_a_pixel(picture: Image.Image) -> int:
    if _is_deep_grey(picture):
        return _BYTES_OF_DEEP_GREY
    return _BYTES_OF_TRANSPARENT if picture.has_transparency_data else _BYTES


def _is_deep_grey(picture: Image.Image) -> bool:
    return picture.mode == "F" or picture.mode.startswith("I")


@contextlib.contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """A file's first picture, known by its header; what decoding it raises is an `ImageError`."""
    Image.init()  # an optional format that this Pillow was built without must not be named
    formats = [name for name in _READABLE if name in Image.OPEN]
    try:
        with path.open("rb") as file, _pixel_limit(max_pixels), _warnings_logged(path):
            if os.fstat(file.fileno()).st_size == 0:
                raise ImageError(f"{path}: the file is empty")
            with Image.open(file, formats=formats) as picture:
                yield picture
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{path}: has more than max_pixels = {max_pixels:,} pixels") from None
    except UnidentifiedImageError:
        known = ", ".join(formats)
        raise ImageError(f"{path}: not an image in a known format ({known})") from None
    except Exception as error:  # broken bytes make decoders raise nearly anything
        raise ImageError(f"{path}: cannot be read: {reason(error)}") from error


@contextlib.contextmanager
def _warnings_logged(path: Path) -> Iterator[None]:
    """Logs what Pillow warns of, such as damaged EXIF data, once and by the file's name."""
    with warnings.catch_warnings(record=True) as found:
        yield
    for message in dict.fromkeys(str(warning.message) for warning in found):
        _log.warning("%s: %s", path, " ".join(message.split()))


@contextlib.contextmanager
def _pixel_limit(max_pixels: int) -> Iterator[None]:
    """Makes `max_pixels` Pillow's own limit, with an error at it in place of a warning.

    Pillow checks the header of a file against a global, when opening it and for some formats
    once more when decoding. So the global is set for the time of one reading, under a lock.
    """
    with _pillow_limit, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _deep_grey(picture: Image.Image, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Grey of more than 8 bits: values in [0, 1] and which are opaque, both `[H, W]`."""
    samples = np.asarray(picture)
    top = 1 if picture.mode == "F" else 65535
    # Negated, so that NaN is refused too.
    if not (samples.min() >= 0 and samples.max() <= top):
        raise ImageError(
            f"{path}: wanted grey values in [0, {top}], "
            f"got values from {samples.min()} to {samples.max()}"
        )
    return samples / np.float64(top), samples != picture.info.get("transparency")
