"""Writes colour pictures of 16 bits a channel as PNG and TIFF. Reads TIFFs that Pillow does not.

Pillow has no mode for such pictures, neither for reading nor for writing. tifffile writes and reads
the TIFF. No dependency writes the PNG, so its chunks are laid out here.
"""

import contextlib
import functools
import struct
import zlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

if TYPE_CHECKING:
    import tifffile

PERCEPTUAL = b"\0"
"""The rendering intent "perceptual": the one byte of the chunk sRGB in a PNG file."""

_ROWS = 64  # of a PNG, compressed together


@functools.cache
def srgb_profile() -> bytes:
    """Returns sRGB as an ICC profile, for the formats that have no shorter tag for it."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Bytes 24 to 35 hold the current time. A fixed time makes the files of equal pictures equal.
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]


def write_png(file: BinaryIO, pixels: np.ndarray, *, text: str | None = None) -> None:
    """Writes a picture of 16 bits a channel as PNG.

    Source: https://www.w3.org/TR/png-3/.

    Args:
      file: open for writing bytes.
      pixels: uint16 `[H, W, 3]`, or `[H, W, 4]` with alpha.
      text: ASCII for the EXIF tag ImageDescription.
    """
    # Pillow refuses arrays of uint16 [H, W, 3]. `test_pillow_still_has_no_16_bit_colour` fails as
    # soon as a Pillow accepts them: then Pillow can write this file.
    height, width, channels = pixels.shape
    colour_type = {3: 2, 4: 6}[channels]
    file.write(b"\x89PNG\r\n\x1a\n")
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    PngImagePlugin.putchunk(file, b"IHDR", header)
    PngImagePlugin.putchunk(file, b"sRGB", PERCEPTUAL)
    if text is not None:
        PngImagePlugin.putchunk(file, b"eXIf", exif(text).tobytes().removeprefix(b"Exif\0\0"))
    compressor = zlib.compressobj()
    above = np.zeros((1, 2 * width * channels), np.uint8)
    for start in range(0, height, _ROWS):
        part = pixels[start : start + _ROWS].astype(">u2", order="C")
        rows = part.view(np.uint8).reshape(len(part), -1)
        # Filter 2, "Up": each byte minus the byte above it, modulo 256.
        filtered = np.insert(np.diff(rows, axis=0, prepend=above), 0, 2, axis=1)
        above = rows[-1:]
        PngImagePlugin.putchunk(file, b"IDAT", compressor.compress(filtered.tobytes()))
    PngImagePlugin.putchunk(file, b"IDAT", compressor.flush())
    PngImagePlugin.putchunk(file, b"IEND")


def write_tiff(file: BinaryIO, pixels: np.ndarray, *, text: str | None = None) -> None:
    """Writes a picture of 16 bits a channel as TIFF, compressed by zlib.

    The file holds no date and no name of a program, so equal pictures give equal bytes.

    Args:
      file: open for writing bytes.
      pixels: uint16 `[H, W, 3]`, or `[H, W, 4]` with alpha that no colour is multiplied by.
      text: ASCII for the tag ImageDescription.
    """
    import tifffile  # only runs that write such files need it

    tifffile.imwrite(
        file,
        pixels,
        byteorder="<",
        photometric="rgb",
        compression="adobe_deflate",
        extrasamples=["unassalpha"] if pixels.shape[-1] == 4 else None,
        iccprofile=srgb_profile(),
        description=None if text is None else text.encode("ascii", "replace"),
        metadata=None,  # or tifffile would describe the array's shape
        software=False,
    )


@contextlib.contextmanager
def opened_tiff(file: IO[bytes]) -> Iterator["tifffile.TiffPage | None"]:
    """Gives the first page of a TIFF, of which only the header is read. Other files give None.

    Raises:
      ValueError: the page is not in grey or RGB, or its samples are neither floating point nor
        unsigned integers.
    """
    if file.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        yield None
        return
    import tifffile  # only runs that read such files need it

    file.seek(0)
    with tifffile.TiffFile(file) as found:
        page = found.pages.first
        colours = tifffile.PHOTOMETRIC(page.photometric).name
        samples = "no known samples" if page.dtype is None else page.dtype.name
        if (
            colours not in ("RGB", "MINISBLACK")
            or page.dtype is None
            or page.dtype.kind not in "fu"
        ):
            raise ValueError(
                "wanted a TIFF in grey or RGB of floating point or unsigned integers, got "
                f"{colours} of {samples}"
            )
        yield page


def turned(page: "tifffile.TiffPage") -> int:
    """Returns the orientation of a page, 1 to 8, as in EXIF."""
    tag = page.tags.get("Orientation")
    return int(tag.value) if tag is not None and 1 <= int(tag.value) <= 8 else 1


def pixels(page: "tifffile.TiffPage") -> tuple[np.ndarray, np.ndarray | None]:
    """Decodes a page of a TIFF and turns it upright.

    Integers are divided by their largest value.

    Returns:
      (colours, alpha). The colours are float32 `[H, W, 3]`, which no alpha is multiplied by. The
      alpha is `[H, W]`, or None.

    Raises:
      ValueError: a value is not in [0, 1].
    """
    samples = page.asarray()
    if samples.ndim == 2:
        samples = samples[..., None]
    elif page.planarconfig == 2:  # one plane for each channel
        samples = np.moveaxis(samples, 0, -1)
    if samples.dtype.kind == "u":
        samples = samples / np.float64(np.iinfo(samples.dtype).max)
    colours = 3 if samples.shape[-1] >= 3 and page.photometric == 2 else 1
    extra = [int(kind) for kind in page.extrasamples]
    alpha = samples[..., colours] if extra[:1] in ([1], [2]) else None
    used = samples[..., : colours + (alpha is not None)]
    if not (used.min() >= 0 and used.max() <= 1):  # so that NaN is refused too
        raise ValueError(f"wanted values in [0, 1], got values from {used.min()} to {used.max()}")
    image = samples[..., :colours].astype(np.float32)
    if alpha is not None and extra[0] == 1:  # the colours are multiplied by it
        image = np.clip(image / np.maximum(alpha, 1e-6)[..., None], 0, 1).astype(np.float32)
    image = np.broadcast_to(image, (*image.shape[:2], 3))
    orientation = turned(page)
    alpha = None if alpha is None else _upright(alpha.astype(np.float32), orientation)
    return np.ascontiguousarray(_upright(image, orientation)), alpha


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an array `[H, W, ...]` as EXIF's orientation says."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    rows = -1 if orientation in (3, 4) else 1
    columns = -1 if orientation in (2, 3) else 1
    return array[::rows, ::columns]


def exif(text: str | None) -> Image.Exif:
    """Returns EXIF data with `text` as its ImageDescription; empty data for None."""
    found = Image.Exif()
    if text is not None:
        found[ExifTags.Base.ImageDescription] = text
    return found
