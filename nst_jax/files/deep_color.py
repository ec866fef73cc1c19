"""Colour of 16 bits a channel as PNG and TIFF: Pillow has no mode for it, to read or to write.

Only the containers are written here; compression is zlib's, and the tags are laid out by Pillow.
"""

import functools
import struct
import zlib
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

PERCEPTUAL = b"\0"  # rendering intent: the one byte of the chunk sRGB of a PNG

_ROWS = 64  # that are compressed together


@functools.cache
def srgb_profile() -> bytes:
    """sRGB as an ICC profile, for the formats that have no shorter name for it."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Bytes 24 to 35 are the time of its making, which would make equal pictures' files differ.
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]


def write_png(file: BinaryIO, pixels: np.ndarray, exif: Image.Exif) -> None:
    """uint16 `[H, W, 3 or 4]` as PNG: https://www.w3.org/TR/png-3/."""
    height, width, channels = pixels.shape
    colour_type = {3: 2, 4: 6}[channels]
    file.write(b"\x89PNG\r\n\x1a\n")
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    PngImagePlugin.putchunk(file, b"IHDR", header)
    PngImagePlugin.putchunk(file, b"sRGB", PERCEPTUAL)
    if exif:
        PngImagePlugin.putchunk(file, b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    compressor = zlib.compressobj()
    above = np.zeros((1, 2 * width * channels), np.uint8)
    for start in range(0, height, _ROWS):
        part = pixels[start : start + _ROWS].astype(">u2", order="C")
        rows = part.view(np.uint8).reshape(len(part), -1)
        # Filter 2, "Up": each byte less the one above it, modulo 256.
        filtered = np.insert(np.diff(rows, axis=0, prepend=above), 0, 2, axis=1)
        above = rows[-1:]
        PngImagePlugin.putchunk(file, b"IDAT", compressor.compress(filtered.tobytes()))
    PngImagePlugin.putchunk(file, b"IDAT", compressor.flush())
    PngImagePlugin.putchunk(file, b"IEND")


def write_tiff(file: BinaryIO, pixels: np.ndarray, exif: Image.Exif) -> None:
    """uint16 `[H, W, 3 or 4]` as TIFF 6.0, in strips compressed by zlib."""
    height, width, channels = pixels.shape
    strips = [
        zlib.compress(pixels[start : start + _ROWS].astype("<u2").tobytes())
        for start in range(0, height, _ROWS)
    ]
    sizes = [len(strip) for strip in strips]
    tags = TiffImagePlugin.ImageFileDirectory_v2()  # little-endian
    for tag, value in exif.items():
        tags[tag] = value
    tags[TiffImagePlugin.IMAGEWIDTH] = width
    tags[TiffImagePlugin.IMAGELENGTH] = height
    tags[TiffImagePlugin.BITSPERSAMPLE] = (16,) * channels
    tags[TiffImagePlugin.COMPRESSION] = 8  # zlib
    tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 2  # RGB
    tags[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    tags[TiffImagePlugin.PLANAR_CONFIGURATION] = 1  # pixel by pixel
    if channels == 4:
        tags[TiffImagePlugin.EXTRASAMPLES] = 2  # alpha that no colour is multiplied by
    tags[TiffImagePlugin.ICCPROFILE] = srgb_profile()
    tags[TiffImagePlugin.ROWSPERSTRIP] = _ROWS
    # From the end of these tags on, where `save` leaves off.
    tags[TiffImagePlugin.STRIPOFFSETS] = tuple(np.cumsum([0, *sizes[:-1]]).tolist())
    tags[TiffImagePlugin.STRIPBYTECOUNTS] = tuple(sizes)
    tags.save(file)
    file.writelines(strips)
