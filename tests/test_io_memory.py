"""What reading a picture takes, against the memory that there is."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from nst_jax.files import host_memory
from nst_jax.files.images import ImageError, _bytes_a_pixel, read_image, read_shape

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def promise(path, side, *, bits=8, colour_type=2):
    """A small PNG file whose header promises so many pixels."""
    header = struct.pack(">IIBBBBB", side, side, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
    )


@pytest.mark.parametrize(
    ("kind", "need"),
    [
        ({}, "1.17"),
        ({"colour_type": 6}, "1.68"),
        ({"bits": 16, "colour_type": 0}, "1.51"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_decoded(tmp_path, monkeypatch, kind, need):
    path = tmp_path / "a.png"
    promise(path, 6000, **kind)
    monkeypatch.setattr(host_memory, "host_bytes", lambda: 2**30)
    for read in (read_image, read_shape):
        with pytest.raises(ImageError) as caught:
            read(path)
        assert str(caught.value) == (
            f"{path}: reading its 6000 x 6000 pixels would take {need} GiB of memory, "
            "and there are 1.00 GiB"
        )
    for there_are in (int((float(need) + 0.01) * 2**30), None):
        monkeypatch.setattr(host_memory, "host_bytes", lambda there_are=there_are: there_are)
        with pytest.raises(ImageError, match="cannot be read"):  # it gets to the pixels
            read_image(path)


def test_a_small_picture_is_read_whatever_there_is(tmp_path, monkeypatch):
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    monkeypatch.setattr(host_memory, "host_bytes", lambda: 0)
    assert read_image(tmp_path / "a.png").shape == (200, 300, 3)


PEAK = """
import pathlib, re, sys
from PIL import Image
from nst_jax.files import images as io

def status(field):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\\s+(\\d+) kB", text)[1]) * 1024

small = pathlib.Path(sys.argv[1]).with_stem("small")
with Image.open(sys.argv[1]) as picture:
    picture.crop((0, 0, 32, 32)).save(small, icc_profile=picture.info.get("icc_profile"))
io.read_image(small)  # what is loaded once
pathlib.Path("/proc/self/clear_refs").write_text("5")  # man proc_pid_clear_refs
before = status("VmRSS")
io.read_image(sys.argv[1])
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets an earlier peak")
@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [
        ("RGB", "jpg", {"icc_profile": SRGB}),
        ("RGBA", "tif", {}),
        ("I;16", "tif", {}),
        ("F", "tif", {}),
    ],
)
def test_reading_takes_no_more_than_is_held_against_it(tmp_path, mode, suffix, options):
    side = 2500
    if mode in ("I;16", "F"):
        picture = Image.fromarray(np.zeros((side, side), {"F": np.float32}.get(mode, np.uint16)))
    else:
        picture = Image.new(mode, (side, side))
    path = tmp_path / f"a.{suffix}"
    picture.save(path, **options)
    with Image.open(path) as opened:
        need = side * side * _bytes_a_pixel(opened)
    del picture
    # In a process of its own: in one that has worked, what is read finds room that was there.
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0.6 * need < int(done.stdout) < need + 2**23
