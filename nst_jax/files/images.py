"""Reads and writes image files. No other code knows their formats.

An image is a float array `[H, W, 3]` of sRGB values (gamma encoded, not linear light) in [0, 1],
in RGB order. Only `_levels` clips and rounds to integers.

Written files are tagged as sRGB. They may carry a text in the EXIF tag ImageDescription, the one
place that all formats have.

Paths may be remote, `gs://bucket/name` or `s3://bucket/name`: see `nst_jax.files.paths`.
"""

import contextlib
import functools
import io
import logging
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from jax.typing import ArrayLike
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from nst_jax.files import deep_color, host_memory, icc
from nst_jax.files.atomic import FileError, reason, replacing
from nst_jax.files.paths import open_bytes, path_of

if TYPE_CHECKING:
    import tifffile

__all__ = [
    "FORMATS",
    "HEIF_SUFFIXES",
    "MAX_PIXELS",
    "Bits",
    "Format",
    "ImageError",
    "count_frames",
    "opened",
    "read_animation",
    "read_image",
    "read_mask",
    "read_shape",
    "read_text",
    "read_with_alpha",
    "reads_heif",
    "resize",
    "resize_mask",
    "suffixes",
    "to_jpeg",
    "to_uint8",
    "write_animation",
    "write_image",
]

MAX_PIXELS = 300_000_000
"""The default limit of the pixels (height times width) of a file that is read."""

Bits = Literal[8, 16]
"""Bits of a channel in a written file."""

# An upper limit of the memory that reading takes, in bytes a pixel, with the result. Measured over
# all modes: 31, 38 and 47.
_BYTES = 35
_BYTES_OF_DEEP_GREY = 45
_BYTES_OF_TRANSPARENT = 50
# Not measured: four channels of float64, twice, and the result with its alpha.
_BYTES_OF_DEEP_TIFF = 80
# Pictures that take fewer bytes are read without a check of the free memory.
_LITTLE = 2**28

_READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "HEIF")
HEIF_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
"""The suffixes of the pictures of phones that need the package pillow-heif."""

# The first bytes of a HEIF file: what it is made for, at 8, and what else it may be read as.
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_GENERAL_BRANDS = (b"mif1", b"msf1")  # AVIF files have them, too

# Options of Pillow's `save`.
_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}
_TIFF = {"format": "TIFF", "compression": "tiff_adobe_deflate"}
_WRITABLE: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    # `exact` keeps the colours of transparent parts.
    ".webp": {"format": "WEBP", "lossless": True, "exact": True},
    ".tif": _TIFF,
    ".tiff": _TIFF,
}
_WITH_QUALITY = ("JPEG", "WEBP")
# What writes 16 bits a channel.
_DEEP = {"PNG": deep_color.write_png, "TIFF": deep_color.write_tiff}


class Format(NamedTuple):
    """A kind of picture file that the command writes, with its limits.

    Attributes:
      suffix: the end of the file's name, such as ".png".
      bits: bits of a channel.
      alpha: whether the file holds transparency.
      longest_side: the most pixels on a side.
      most_pixels: the most pixels, height times width.
      longest_text: the most bytes of text.
      has_quality: whether the file may lose some of the picture, by its quality.
    """

    suffix: str
    bits: Bits = 8
    alpha: bool = True
    longest_side: float = math.inf
    most_pixels: float = math.inf
    longest_text: float = math.inf
    has_quality: bool = False


FORMATS = {
    "png": Format(".png"),
    "png16": Format(".png", bits=16),
    # EXIF is one segment of a JPEG, and a segment's length is a number of 16 bits.
    "jpg": Format(".jpg", alpha=False, longest_side=65_500, longest_text=65_000, has_quality=True),
    "webp": Format(".webp", longest_side=16_383, has_quality=True),
    # A TIFF's offsets are numbers of 32 bits. A pixel takes up to 8 bytes if it does not compress.
    "tiff": Format(".tiff", bits=16, most_pixels=2**29 - 2**20),
}
"""The kinds of files that the command writes, by the names that its flag takes."""

_log = logging.getLogger(__name__)
_pillow_limit = threading.Lock()


class ImageError(FileError):
    """An image file cannot be read or written. The message is one line that names the file."""


class _Unidentified(ImageError):
    """Pillow does not know what a file is."""


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an image file as sRGB.

    - The EXIF orientation is applied.
    - An embedded colour profile is converted to sRGB. A broken one is ignored, with a logged
      warning.
    - Transparent parts are laid on white.
    - From an animation, or a file with several pages, the first picture is read. A logged warning
      says so.
    - CMYK without a profile becomes (1 - C)(1 - K) for red, and so on.
    - 16-bit grey keeps its 16 bits. 16-bit colour, and 16-bit grey with alpha, keep only the upper
      8 bits: Pillow holds no more.
    - Floating-point files hold sRGB values in [0, 1]. They are grey or, as TIFF, colour.

    Args:
      path: a PNG, JPEG, WebP, TIFF, GIF, BMP, PPM/PGM/PFM, AVIF or JPEG 2000 file; with
        pillow-heif also a HEIC file.
      max_pixels: the most pixels (height times width) to accept. The size in the file's header is
        compared with it, and with the free memory, before anything is decoded.

    Returns:
      float32 `[H, W, 3]`, values in [0, 1].

    Raises:
      ImageError: the file is missing, a folder, empty, not an image or broken; it is larger than
        `max_pixels`, or too large for the free memory; or it holds values out of range.
      ValueError: `max_pixels` is not positive.
    """
    return read_with_alpha(path, max_pixels=max_pixels)[0]


def read_with_alpha(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads an image file as `read_image` does, together with its transparency.

    Arguments and errors are those of `read_image`.

    Returns:
      (image, alpha). The image is laid on white, float32 `[H, W, 3]` in [0, 1]. The alpha is
      float32 `[H, W]` in [0, 1], 1 where the picture is opaque; it is None if all of it is opaque.
    """
    if max_pixels < 1:
        raise ValueError(f"max_pixels: wanted a positive number, got {max_pixels}")
    path = path_of(path, error=ImageError)
    try:
        picture = _decode(path, max_pixels)
    except _Unidentified as error:
        with _opened_tiff(path, max_pixels, error) as page:
            colours, alpha = deep_color.pixels(page)
            if page.iccprofile is not None:
                _log.warning("%s: the colour profile of a deep TIFF is ignored", path)
        if alpha is None or alpha.min() == 1:
            return colours, None
        return colours * alpha[..., None] + (1 - alpha[..., None]), alpha
    profile = icc.embedded(picture, path)
    if _is_deep_grey(picture):
        values, opaque = _deep_grey(picture, path)
        # A grey profile is a curve. Interpolation between its 256 points keeps the precision.
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        curve = icc.srgb(ramp, profile, path)[0]
        grid = np.linspace(0, 1, 256)
        channels = [np.interp(values, grid, channel).astype(np.float32) for channel in curve.T]
        image = np.stack(channels, axis=-1)
        image[~opaque] = 1
        return image, None if opaque.all() else opaque.astype(np.float32)
    return _on_white(picture, profile, path)


def _on_white(
    picture: Image.Image, profile: ImageCms.ImageCmsProfile | None, path: Path
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns a decoded picture laid on white, and its alpha, as `read_with_alpha` does."""
    if not picture.has_transparency_data:
        return icc.srgb(picture, profile, path), None
    rgba = picture.convert("RGBA")
    alpha = np.asarray(rgba.getchannel("A"), np.float32)[..., None] / 255
    # Grey without its alpha channel stays grey, because its profile may be for grey.
    bare = rgba.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")
    image = icc.srgb(bare, profile, path) * alpha + (1 - alpha)
    return image, None if alpha.min() == 1 else alpha[..., 0]


def read_animation(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[np.ndarray, int]]:
    """Reads the frames of an animation one by one, each as `read_image` reads a picture.

    Args:
      path: a GIF, WebP, PNG or AVIF file. A file with one picture has one frame.
      max_pixels: as in `read_image`.

    Yields:
      (image, milliseconds): the frame, float32 `[H, W, 3]` in [0, 1], and how long it is shown.

    Raises:
      ImageError: as `read_image`. For a broken frame, the message has its number, from 1.
    """
    path = path_of(path, error=ImageError)
    with opened(path, max_pixels) as picture:
        _check(picture.size, _bytes_a_pixel(picture), path)
        kind, count = str(picture.format), getattr(picture, "n_frames", 1)
    with contextlib.ExitStack() as stack:
        for number in range(count):
            # Between frames, others read files: Pillow's limit must not be held then.
            try:
                with _pixel_limit(max_pixels), _warnings_logged(path):
                    if not number:
                        file = stack.enter_context(open_bytes(path))
                        picture = stack.enter_context(Image.open(file, formats=[kind]))
                    picture.seek(number)
                    picture.load()
                    image, _ = _on_white(picture, icc.embedded(picture, path), path)
            except Exception as error:  # on broken bytes, decoders raise errors of many classes
                raise ImageError(
                    f"{path}: frame {number + 1} cannot be read: {reason(error)}"
                ) from error
            # Some files say it as a fraction, and a GIF may leave it out.
            yield image, round(picture.info.get("duration") or 0)


def count_frames(path: str | os.PathLike[str]) -> int:
    """Returns how many frames an animation has; 1 for a picture.

    Raises:
      ImageError: as `read_image`.
    """
    with opened(path_of(path, error=ImageError), MAX_PIXELS) as picture:
        return getattr(picture, "n_frames", 1)


def read_mask(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an image file as a mask: its luminance times its opacity.

    So white on black and white on transparent give the same mask.

    Arguments and errors are those of `read_image`.

    Returns:
      float32 `[H, W]`, values in [0, 1].
    """
    image, alpha = read_with_alpha(path, max_pixels=max_pixels)
    red, green, blue = np.moveaxis(image, -1, 0)
    # As `nst_jax.color.luminance`, which would compile a program for each shape.
    luminance = red + np.float32(0.587) * (green - red) + np.float32(0.114) * (blue - red)
    if alpha is not None:
        luminance += alpha - 1  # the picture was laid on white, which added 1 - alpha
    return np.clip(luminance, 0, 1)


def read_text(path: str | os.PathLike[str]) -> str | None:
    """Returns the text in a picture's EXIF tag ImageDescription; None if there is none.

    Raises:
      ImageError: the file is missing or is not an image.
    """
    with opened(path_of(path, error=ImageError), MAX_PIXELS) as picture:
        text = picture.getexif().get(ExifTags.Base.ImageDescription)
    return text if isinstance(text, str) else None


def read_shape(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns the height and width of the image that `read_image` would give.

    Only the file's header is read. A PNG is read whole, because its orientation may come last.

    Arguments and errors are those of `read_image`. Damage after the header is not found here.
    """
    path = path_of(path, error=ImageError)
    try:
        return _shape(path, max_pixels)
    except _Unidentified as error:
        with _opened_tiff(path, max_pixels, error) as page:
            height, width = page.imagelength, page.imagewidth
            return (height, width) if deep_color.turned(page) < 5 else (width, height)


def _shape(path: Path, max_pixels: int) -> tuple[int, int]:
    """Returns what `read_shape` does, for a file that Pillow reads."""
    with opened(path, max_pixels) as picture:
        _check(picture.size, _bytes_a_pixel(picture), path)
        on_its_side = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        if on_its_side and picture.format != "TIFF":  # of a TIFF, Pillow gives the upright size
            return picture.size
        return picture.height, picture.width


@functools.cache
def reads_heif() -> bool:
    """Returns whether HEIC files are read: whether pillow-heif is installed."""
    try:
        import pillow_heif  # only runs that read such files need it
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def suffixes() -> frozenset[str]:
    """Returns the suffixes of the files that `read_image` reads, such as ".jpg"."""
    reads_heif()
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in _READABLE)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image as `nst_jax.image.resize` does, by Pillow.

    Pillow computes the same values. It compiles no program for each pair of shapes.

    Args:
      image: float32 `[H, W, 3]`, sRGB in [0, 1].
      height: of the result, in pixels, at least 1.
      width: of the result, in pixels, at least 1.

    Returns:
      float32 `[height, width, 3]`, clipped to [0, 1]. An image of that size is returned as it is.
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


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a mask as `nst_jax.image.resize_mask` does, by Pillow.

    Args:
      mask: `[H, W]`, values in [0, 1].
      height: of the result, in pixels, at least 1.
      width: of the result, in pixels, at least 1.

    Returns:
      float32 `[height, width]`, clipped to [0, 1]. A mask of that size is returned as it is.
    """
    if mask.shape == (height, width):
        return mask
    picture = Image.fromarray(np.asarray(mask, np.float32, order="C"))
    return np.clip(np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)), 0, 1)


def to_uint8(image: ArrayLike) -> np.ndarray:
    """Rounds an image to 8 bits a channel.

    Values outside [0, 1] are clipped, and NaN becomes 0.

    Args:
      image: float `[..., H, W, 3]`, sRGB, nominally in [0, 1].

    Returns:
      uint8 `[..., H, W, 3]`, the nearest of the 256 levels.

    Raises:
      TypeError: `image` is not float16, float32 or float64.
      ValueError: `image` has another shape.
    """
    image = np.asarray(image)
    if image.ndim < 3 or image.shape[-1] != 3:
        raise ValueError(f"image: wanted the shape [..., H, W, 3], got {list(image.shape)}")
    return _levels(image, 8)


def _levels(image: np.ndarray, bits: Bits) -> np.ndarray:
    """Returns the nearest of 2^bits levels as unsigned integers."""
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"image: wanted float16, float32 or float64, got {image.dtype}")
    # In half precision the product itself would be rounded, before `np.rint`.
    clipped = np.clip(np.nan_to_num(image, nan=0.0), 0, 1).astype(np.float32)
    return np.rint(clipped * (2**bits - 1)).astype(f"uint{bits}")


def write_image(
    path: str | os.PathLike[str],
    image: ArrayLike,
    *,
    alpha: ArrayLike | None = None,
    bits: Bits = 8,
    text: str | None = None,
    quality: int | None = None,
) -> None:
    """Writes one image in the format that the file's extension names, tagged as sRGB.

    PNG and TIFF hold the integers exactly, and so does WebP without a `quality`. JPEG has full
    colour resolution.
    Missing folders are made. The file appears whole or not at all: an existing file stays as it
    was until the new one is complete.

    Args:
      path: ends in .png, .jpg, .jpeg, .webp, .tif or .tiff.
      image: float `[H, W, 3]`, sRGB in [0, 1], clipped and rounded as by `to_uint8`.
      alpha: float `[H, W]` in [0, 1], 1 where the picture is opaque. A JPEG has no place for it
        and is written without it.
      bits: bits of a channel: 8, or in PNG and TIFF also 16.
      text: ASCII for the EXIF tag ImageDescription, at most 65,000 bytes in a JPEG.
      quality: of a JPEG or WebP, 1 to 100. None is 95 for a JPEG, and a WebP without loss.

    Raises:
      ImageError: the extension is unknown, its format has no 16 bits or no quality, or the file
        cannot be written.
      TypeError: `image` is not float16, float32 or float64.
      ValueError: `image` is not `[H, W, 3]` or has no pixels, or `alpha` has another height or
        width.
    """
    path = path_of(path, error=ImageError)
    options = _WRITABLE.get(path.suffix.lower())
    if options is None:
        known = ", ".join(_WRITABLE)
        raise ImageError(f"{path}: wanted one of {known}, got {path.suffix or 'no extension'}")
    write_deep = _DEEP.get(options["format"])
    if bits not in get_args(Bits) or (bits == 16 and write_deep is None):
        raise ImageError(f"{path}: wanted 8 bits a channel, or 16 in PNG and TIFF, got {bits}")
    if quality is not None:
        if options["format"] not in _WITH_QUALITY or not 1 <= quality <= 100:
            raise ImageError(
                f"{path}: wanted a quality from 1 to 100 of JPEG or WebP, got {quality}"
            )
        options = options | {"quality": quality, "lossless": False}
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
    exif = deep_color.exif(text)
    with replacing(path, error=ImageError) as file:
        if bits == 16:
            assert write_deep is not None
            write_deep(file, pixels, text=text)
        elif options["format"] == "PNG":
            tag = PngImagePlugin.PngInfo()
            tag.add(b"sRGB", deep_color.PERCEPTUAL)
            Image.fromarray(pixels).save(file, exif=exif, pnginfo=tag, **options)
        else:
            profile = deep_color.srgb_profile()
            Image.fromarray(pixels).save(file, exif=exif, icc_profile=profile, **options)


ANIMATED: dict[str, dict[str, Any]] = {
    ".gif": {"format": "GIF"},
    ".webp": {"format": "WEBP", "quality": 85, "method": 3},
    ".png": {"format": "PNG"},
}
"""The suffixes of the animations that are written, with options of Pillow's `save`."""


def write_animation(
    path: str | os.PathLike[str],
    frames: Sequence[np.ndarray],
    *,
    milliseconds: int | Sequence[int] = 80,
    hold: int | None = 2000,
) -> None:
    """Writes pictures as an animation that repeats for ever.

    As with `write_image`, the file appears whole or not at all.

    Args:
      path: ends in .gif (256 colours a frame), .webp (lossy) or .png.
      frames: uint8 `[h, w, 3]` each. All are resized to the size of the last one.
      milliseconds: how long each frame is shown, or one number for all.
      hold: how long the last frame is shown, in milliseconds; None is as `milliseconds` says.

    Raises:
      ImageError: the extension is unknown, or the file cannot be written.
      ValueError: there is no frame.
    """
    path = path_of(path, error=ImageError)
    options = ANIMATED.get(path.suffix.lower())
    if options is None:
        known = ", ".join(ANIMATED)
        raise ImageError(f"{path}: wanted one of {known}, got {path.suffix or 'no extension'}")
    if not len(frames):
        raise ValueError("frames must hold at least one picture, got none")
    shown = np.broadcast_to(np.asarray(milliseconds, int), len(frames)).tolist()
    if hold is not None:
        shown[-1] = hold
    size = frames[-1].shape[1::-1]

    def sized(frame):
        picture = Image.fromarray(frame)
        return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)

    following = map(sized, frames[1:])  # one at a time in memory
    with replacing(path, error=ImageError) as file:
        sized(frames[0]).save(
            file,
            save_all=True,
            # Pillow looks at the frames of a PNG twice.
            append_images=list(following) if options["format"] == "PNG" else following,
            duration=shown,
            loop=0,
            **options,
        )


def to_jpeg(image: ArrayLike, *, longest: int) -> bytes:
    """Returns an image `[H, W, 3]` in [0, 1] as a JPEG for a preview.

    A larger image is reduced until no side is longer than `longest` pixels.
    """
    picture = Image.fromarray(to_uint8(image))
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=88, subsampling=0)
    return file.getvalue()


def _decode(path: Path, max_pixels: int) -> Image.Image:
    """Decodes a file's first picture and turns it upright. Its mode is kept."""
    with opened(path, max_pixels) as picture:
        _check(picture.size, _bytes_a_pixel(picture), path)
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        _tell_of_frames(picture, path)
        return upright


def _tell_of_frames(picture: Image.Image, path: Path) -> None:
    """Logs a warning if the file has more pictures than the first, which alone is read."""
    kind = {"GIF": "frames", "PNG": "frames", "WEBP": "frames", "AVIF": "frames", "TIFF": "pages"}
    if picture.format not in kind:  # elsewhere they are previews and the like
        return
    try:
        count = getattr(picture, "n_frames", 1)
    except Exception:  # the first picture is whole, so what comes after it may be broken
        return
    if count > 1:
        _log.warning(
            "%s: only the first of %d %s is read; --sequence paints all frames of an animation",
            *(path, count, kind[picture.format]),
        )


def _check(size: tuple[int, int], bytes_a_pixel: int, path: Path) -> None:
    """Refuses a picture that is too large for the free memory.

    The header is enough for that. A file of one megabyte may hold hundreds of megapixels.

    Args:
      size: width and height.
      bytes_a_pixel: the most memory that reading the picture takes.
      path: of the file, for the message.
    """
    width, height = size
    need = width * height * bytes_a_pixel
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
    """Returns the most memory that reading the picture takes, in bytes a pixel."""
    if _is_deep_grey(picture):
        return _BYTES_OF_DEEP_GREY
    return _BYTES_OF_TRANSPARENT if picture.has_transparency_data else _BYTES


def _is_deep_grey(picture: Image.Image) -> bool:
    """Returns whether the picture is grey of more than 8 bits, integers or floating point."""
    return picture.mode == "F" or picture.mode.startswith("I")


@contextlib.contextmanager
def opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """Opens a file's first picture, of which only the header is read.

    Whatever the block raises, for example while it decodes the picture, becomes an `ImageError`.
    """
    Image.init()  # `Image.open` must not be given a format that this Pillow was built without
    formats = [name for name in _READABLE if name in Image.OPEN]
    try:
        with open_bytes(path) as file, _pixel_limit(max_pixels), _warnings_logged(path):
            head = file.read(64)
            if not head:
                raise ImageError(f"{path}: the file is empty")
            if _is_heif(head):
                if not reads_heif():
                    raise ImageError(
                        f"{path}: a HEIC picture needs pillow-heif: pip install pillow-heif"
                    )
                formats = ["HEIF"]
            file.seek(0)
            with Image.open(file, formats=formats) as picture:
                yield picture
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many(path, max_pixels) from None
    except UnidentifiedImageError:
        known = ", ".join(formats)
        raise _Unidentified(f"{path}: not an image in a known format ({known})") from None
    except Exception as error:  # on broken bytes, decoders raise errors of many classes
        raise ImageError(f"{path}: cannot be read: {reason(error)}") from error


def _is_heif(head: bytes) -> bool:
    """Returns whether a file with these first bytes is a HEIF picture, and no AVIF picture."""
    if head[4:8] != b"ftyp":
        return False
    others = head[16 : int.from_bytes(head[:4])]
    is_avif = b"avif" in others or b"avis" in others
    return head[8:12] in _HEIF_BRANDS or (head[8:12] in _GENERAL_BRANDS and not is_avif)


def _too_many(path: Path, max_pixels: int) -> ImageError:
    return ImageError(f"{path}: has more than max_pixels = {max_pixels:,} pixels")


@contextlib.contextmanager
def _opened_tiff(
    path: Path, max_pixels: int, unidentified: _Unidentified
) -> Iterator["tifffile.TiffPage"]:
    """Opens the first page of a TIFF that Pillow does not know, as `opened` does.

    Raises:
      ImageError: `unidentified` if the file is no TIFF, or the page cannot be read.
    """
    try:
        with open_bytes(path) as file, deep_color.opened_tiff(file) as page:
            if page is None:
                raise unidentified
            if page.imagelength * page.imagewidth > max_pixels:
                raise _too_many(path, max_pixels)
            _check((page.imagewidth, page.imagelength), _BYTES_OF_DEEP_TIFF, path)
            yield page
    except ImageError:
        raise
    except Exception as error:  # on broken bytes, decoders raise errors of many classes
        raise ImageError(f"{path}: cannot be read: {reason(error)}") from error


@contextlib.contextmanager
def _warnings_logged(path: Path) -> Iterator[None]:
    """Logs each of Pillow's warnings once, with the file's name; for example of damaged EXIF."""
    with warnings.catch_warnings(record=True) as found:
        yield
    for message in dict.fromkeys(str(warning.message) for warning in found):
        _log.warning("%s: %s", path, " ".join(message.split()))


@contextlib.contextmanager
def _pixel_limit(max_pixels: int) -> Iterator[None]:
    """Makes `max_pixels` Pillow's own limit. A larger picture is an error, not a warning.

    Pillow compares a file's header with a global variable: when it opens the file and, for some
    formats, again when it decodes. So a lock is held while the variable is changed for one file.
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
    """Returns grey of more than 8 bits as (values in [0, 1], mask of opaque pixels), `[H, W]`."""
    samples = np.asarray(picture)
    top = 1 if picture.mode == "F" else 65535
    # `not (...)`, so that NaN is refused too.
    if not (samples.min() >= 0 and samples.max() <= top):
        raise ImageError(
            f"{path}: wanted grey values in [0, {top}], "
            f"got values from {samples.min()} to {samples.max()}"
        )
    return samples / np.float64(top), samples != picture.info.get("transparency")
