"""Writes colour pictures of 16 bits a channel as PNG and TIFF.

Pillow has no mode for such pictures, neither for reading nor for writing. tifffile writes the TIFF.
No dependency writes the PNG, so its chunks are laid out here.
"""

import functools
import struct
import zlib
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

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


def exif(text: str | None) -> Image.Exif:
    """Returns EXIF data with `text` as its ImageDescription; empty data for None."""
    found = Image.Exif()
    if text is not None:
        found[ExifTags.Base.ImageDescription] = text
    return found
