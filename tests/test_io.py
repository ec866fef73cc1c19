"""Image files: each mode against its formula, each refusal, each format written."""

import logging
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from nst_jax.files.images import ImageError, read_image, to_uint8, write_image

HEIGHT, WIDTH = 36, 44


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def levels(rng, channels=None):
    return rng.integers(0, 256, (HEIGHT, WIDTH, channels)[: 3 if channels else 2], dtype=np.uint8)


def grey(values):
    return np.repeat(np.asarray(values)[..., None], 3, axis=-1)


def check(path, expected, atol=1e-6):
    image = read_image(path)
    assert image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
    np.testing.assert_allclose(image, expected, rtol=0, atol=atol)


def refused(path, words, **options):
    """The file is refused by one line that starts with its name and says `words`."""
    with pytest.raises(ImageError, match=words) as caught:
        read_image(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def chunk(name, data):
    check_sum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + check_sum


def png(samples, colour_type, *extra):
    """A PNG file of 16-bit samples, `[H, W, channels]`, which Pillow itself cannot write."""
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = samples.astype(">u2").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(data))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def icc_profile(space, tags):
    """An ICC profile, version 2, of a display in the colour space `space`."""
    tags = {**tags, b"wtpt": xyz(0.9642, 1.0, 0.8249)}  # D50
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    size = offset + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02400000, b"mntr", space, b"XYZ ")
    header += b"\0" * 12 + b"acsp" + b"\0" * 28
    header += struct.pack(">iii", *(round(65536 * v) for v in (0.9642, 1.0, 0.8249)))
    header += b"\0" * (128 - len(header))
    return header + struct.pack(">I", len(tags)) + table + body


def xyz(*values):
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(65536 * v) for v in values))


LINEAR = b"curv\0\0\0\0" + struct.pack(">I", 0)
PRIMARIES = {  # of sRGB, adapted to D50: only the tone curve will differ from sRGB
    b"rXYZ": xyz(0.43607, 0.22249, 0.01392),
    b"gXYZ": xyz(0.38515, 0.71687, 0.09708),
    b"bXYZ": xyz(0.14307, 0.06061, 0.71410),
}
LINEAR_RGB = icc_profile(b"RGB ", PRIMARIES | dict.fromkeys([b"rTRC", b"gTRC", b"bTRC"], LINEAR))
LINEAR_GREY = icc_profile(b"GRAY", {b"kTRC": LINEAR})


def srgb_encode(linear):
    """IEC 61966-2-1."""
    linear = np.asarray(linear, np.float64)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.ppm", "a.tif", "a.gif", "a.JP2"])
def test_rgb(tmp_path, rng, name):
    pixels = levels(rng, 3)
    if name == "a.gif":  # no more than 256 colours
        pixels = pixels[:4].repeat(9, axis=0)
    path = tmp_path / name
    options = {"irreversible": False} if name == "a.JP2" else {}
    Image.fromarray(pixels).save(path, **options)
    check(path, pixels / 255)
    check(str(path), pixels / 255)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey(tmp_path, rng, mode):
    pixels = levels(rng) if mode == "L" else (levels(rng) > 127) * np.uint8(255)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    check(tmp_path / "a.png", grey(pixels / 255))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_laid_on_white(tmp_path, rng, mode):
    pixels = levels(rng, len(mode))
    Image.fromarray(pixels, mode).save(tmp_path / "a.png")
    colour, alpha = pixels[..., :-1] / 255, pixels[..., -1:] / 255
    check(tmp_path / "a.png", np.broadcast_to(colour * alpha + 1 - alpha, (HEIGHT, WIDTH, 3)))


def test_premultiplied_alpha(tmp_path, rng):
    colour, alpha = levels(rng, 3) / 255, levels(rng, 1) / 255
    multiplied = np.rint(255 * np.concatenate([colour * alpha, alpha], axis=-1))
    picture = Image.fromarray(multiplied.astype(np.uint8), "RGBA")
    picture.save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    plain, associated = (struct.pack("<HHII", 338, 3, 1, kind) for kind in (2, 1))
    assert data.count(plain) == 1
    (tmp_path / "a.tif").write_bytes(data.replace(plain, associated))
    check(tmp_path / "a.tif", colour * alpha + 1 - alpha, atol=1.51 / 255)


@pytest.mark.parametrize("kind", ["opaque", "one index", "alpha per index", "PA"])
def test_palette(tmp_path, rng, kind):
    indices = rng.integers(0, 16, (HEIGHT, WIDTH), dtype=np.uint8)
    palette = rng.integers(0, 256, (16, 3), dtype=np.uint8)
    picture = Image.fromarray(indices, "P")
    picture.putpalette(palette.tobytes())
    alpha, options, path = np.full(16, 255), {}, tmp_path / "a.png"
    if kind == "one index":
        alpha[3] = 0
        options["transparency"] = 3
    if kind == "alpha per index":
        alpha = rng.integers(0, 256, 16)
        options["transparency"] = bytes(alpha.tolist())
    alpha = alpha[indices][..., None] / 255
    if kind == "PA":
        picture = picture.convert("PA")
        channel = levels(rng)
        picture.putalpha(Image.fromarray(channel))
        alpha, path = channel[..., None] / 255, tmp_path / "a.tif"
    picture.save(path, **options)
    with Image.open(path) as saved:
        assert saved.mode == ("PA" if kind == "PA" else "P")
    check(path, palette[indices] / 255 * alpha + 1 - alpha)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_transparent_colour(tmp_path, rng, mode):
    pixels = levels(rng, 3) if mode == "RGB" else levels(rng)
    pixels = (pixels > 127) * np.uint8(255)
    key = (255, 0, 255) if mode == "RGB" else 0
    picture = Image.fromarray(pixels).convert(mode)
    picture.save(tmp_path / "a.png", transparency=key)
    colour = pixels / 255 if mode == "RGB" else grey(pixels / 255)
    hidden = (pixels == key).all(axis=-1) if mode == "RGB" else pixels == key
    assert 0 < hidden.sum() < hidden.size
    check(tmp_path / "a.png", np.where(hidden[..., None], 1, colour))


def test_cmyk(tmp_path, rng):
    pixels = levels(rng, 4)
    Image.fromarray(pixels, "CMYK").save(tmp_path / "a.tif")
    ink = pixels / 255
    check(tmp_path / "a.tif", (1 - ink[..., :3]) * (1 - ink[..., 3:]), atol=1.01 / 255)


def test_adobe_cmyk_jpeg(tmp_path):
    """Adobe stores its CMYK JPEGs inverted, under a marker of its own."""
    ink = np.empty((HEIGHT, WIDTH, 4), np.uint8)
    ink[:] = (51, 102, 204, 25)
    Image.fromarray(ink, "CMYK").save(tmp_path / "a.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    expected = np.array([(255 - 51), (255 - 102), (255 - 204)]) / 255 * (1 - 25 / 255)
    check(tmp_path / "a.jpg", np.broadcast_to(expected, (HEIGHT, WIDTH, 3)), atol=3 / 255)


def test_lab(tmp_path):
    lightness = np.linspace(0, 255, HEIGHT * WIDTH).round().astype(np.uint8)
    # TIFF stores a* and b* as signed bytes.
    pixels = np.stack([lightness, *[np.zeros_like(lightness)] * 2], axis=-1)
    picture = Image.frombytes("LAB", (WIDTH, HEIGHT), pixels.tobytes())
    picture.save(tmp_path / "a.tif")
    star = lightness.reshape(HEIGHT, WIDTH) * (100 / 255)
    # CIE 1976: with a* = b* = 0 the colour is grey, of this luminance.
    luminance = np.where(star > 8, ((star + 16) / 116) ** 3, star * 27 / 24389)
    check(tmp_path / "a.tif", grey(srgb_encode(luminance)), atol=2 / 255)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "PNG", "PGM"])
def test_sixteen_bit_grey(tmp_path, rng, mode):
    samples = rng.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
    samples[0, 0] = 0x8000
    path = tmp_path / {"PNG": "a.png", "PGM": "a.pgm"}.get(mode, "a.tif")
    if mode == "I;16B":
        data = samples.astype(">u2").tobytes()
        Image.frombytes(mode, (WIDTH, HEIGHT), data).save(path)
    else:
        Image.fromarray(samples).save(path)
    check(path, grey(samples / 65535), atol=1e-7)
    assert read_image(path)[0, 0, 0] == np.float32(32768 / 65535)


def test_sixteen_bit_grey_with_transparent_value(tmp_path, rng):
    samples = rng.integers(0, 3, (HEIGHT, WIDTH, 1)) * 0x7001
    extra = chunk(b"tRNS", struct.pack(">H", 0x7001))
    (tmp_path / "a.png").write_bytes(png(samples, 0, extra))
    expected = np.where(samples == 0x7001, 1, samples / 65535)
    check(tmp_path / "a.png", np.broadcast_to(expected, (HEIGHT, WIDTH, 3)), atol=1e-7)


def test_sixteen_bit_colour_keeps_its_upper_byte(tmp_path, rng):
    samples = rng.integers(0, 65536, (HEIGHT, WIDTH, 3))
    (tmp_path / "a.png").write_bytes(png(samples, 2))
    check(tmp_path / "a.png", (samples >> 8) / 255)
    (tmp_path / "b.png").write_bytes(png(samples[..., :2], 4))  # grey with alpha
    values, alpha = samples[..., :1] / 65535, samples[..., 1:2] / 65535
    check(tmp_path / "b.png", grey((values * alpha + 1 - alpha)[..., 0]), atol=2 / 255)


@pytest.mark.parametrize("name", ["a.tif", "a.pfm"])
def test_float_grey(tmp_path, rng, name):
    values = rng.random((HEIGHT, WIDTH), np.float32)
    Image.fromarray(values).save(tmp_path / name)
    check(tmp_path / name, grey(values), atol=1e-7)


@pytest.mark.parametrize("bad", [-0.5, 1.5, np.nan, np.int32(65536), np.int32(-1)])
def test_grey_out_of_range(tmp_path, bad):
    values = np.zeros((HEIGHT, WIDTH), np.int32 if isinstance(bad, np.int32) else np.float32)
    values[3, 4] = bad
    Image.fromarray(values).save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", rf"wanted grey values in \[0, (1|65535)\].*{bad}")


# EXIF: the side of the scene that the first row and the first column of the file are.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "16-bit.png"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(tmp_path, rng, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name == "a.webp" else {}
    pixels = levels(rng, 3)
    expected = pixels / 255
    if name == "16-bit.png":
        pixels = rng.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
        expected = grey(pixels / 65535)
    Image.fromarray(pixels).save(tmp_path / name, exif=exif, **options)
    check(tmp_path / name, UPRIGHT[orientation](expected))


@pytest.mark.parametrize(
    "mode, profile",
    [
        ("RGB", LINEAR_RGB),
        ("RGBA", LINEAR_RGB),
        ("L", LINEAR_RGB),
        ("L", LINEAR_GREY),
        ("LA", LINEAR_GREY),
    ],
)
def test_profile(tmp_path, rng, mode, profile):
    pixels = levels(rng, len(mode))
    picture = Image.merge(mode, [Image.fromarray(channel) for channel in np.moveaxis(pixels, 2, 0)])
    picture.save(tmp_path / "a.png", icc_profile=profile)
    alpha = pixels[..., -1:] / 255 if mode.endswith("A") else 1
    colour = srgb_encode(pixels[..., : 3 if mode.startswith("RGB") else 1] / 255)
    expected = np.broadcast_to(colour * alpha + 1 - alpha, (HEIGHT, WIDTH, 3))
    check(tmp_path / "a.png", expected, atol=1.5 / 255)


def test_profile_of_sixteen_bit_grey(tmp_path):
    samples = np.linspace(20000, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    samples = samples.round().astype(np.uint16)
    Image.fromarray(samples).save(tmp_path / "a.png", icc_profile=LINEAR_GREY)
    check(tmp_path / "a.png", grey(srgb_encode(samples / 65535)), atol=1.5 / 255)
    assert len(np.unique(read_image(tmp_path / "a.png"))) > 1000


def test_profile_that_is_srgb_changes_nothing(tmp_path, rng):
    pixels = levels(rng, 3)
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=data)
    check(tmp_path / "a.png", pixels / 255)


@pytest.mark.parametrize("profile", [b"no profile at all", LINEAR_GREY, LINEAR_RGB[:200]])
def test_broken_profile_is_ignored_with_a_warning(tmp_path, rng, caplog, profile):
    pixels = levels(rng, 3)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path, icc_profile=profile)
    with caplog.at_level(logging.WARNING):
        check(path, pixels / 255)
    (message,) = caplog.messages
    assert str(path) in message and "ignored" in message


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif", "a.avif"])
def test_first_of_several_frames(tmp_path, name, caplog):
    frames = [Image.new("RGB", (WIDTH, HEIGHT), c) for c in ("red", "lime", "blue")]
    options = {"a.webp": {"lossless": True}, "a.avif": {"quality": 100}}.get(name, {})
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    with Image.open(tmp_path / name) as saved:
        assert saved.n_frames == 3
    tolerance = 0.004 if name == "a.avif" else 1e-6  # one level of 255
    check(tmp_path / name, np.broadcast_to([1.0, 0.0, 0.0], (HEIGHT, WIDTH, 3)), tolerance)
    kind = "pages" if name == "a.tif" else "frames"
    assert caplog.messages == [
        f"{tmp_path / name}: only the first of 3 {kind} is read; --sequence paints all frames of "
        "an animation"
    ]


def test_the_first_frame_is_read_where_others_are_broken(tmp_path, caplog):
    frames = [Image.new("RGB", (WIDTH, HEIGHT), c) for c in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    whole = (tmp_path / "a.gif").read_bytes()
    for cut in (20, 60, 100):
        (tmp_path / "a.gif").write_bytes(whole[:-cut])
        check(tmp_path / "a.gif", np.broadcast_to([1.0, 0.0, 0.0], (HEIGHT, WIDTH, 3)))


def test_a_picture_with_a_preview_is_no_animation(tmp_path, rng, caplog):
    """As most phones and cameras write it."""
    picture = Image.fromarray(levels(rng, 3))
    picture.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture.reduce(2)])
    read_image(tmp_path / "a.jpg")
    Image.fromarray(levels(rng, 3)).save(tmp_path / "b.gif")
    read_image(tmp_path / "b.gif")
    assert not caplog.messages


def test_missing_directory_and_empty(tmp_path):
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "none.png", "No such file")
    refused(tmp_path, "directory")
    refused(tmp_path / "empty.png", "the file is empty")


@pytest.mark.parametrize("data", [b"hello, world\n" * 100, b"\x89HDF\r\n\x1a\n" + b"\0" * 99])
def test_not_an_image(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    refused(tmp_path / "a.png", "not an image in a known format .*PNG, JPEG")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.gif", "a.bmp"])
def test_truncated_or_corrupted(tmp_path, rng, name):
    path = tmp_path / name
    Image.fromarray(levels(rng, 3)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused(path, "cannot be read|not an image")
    if name == "a.png":  # its checksums tell damage from picture
        path.write_bytes(data[:1000] + bytes(64) + data[1064:])
        refused(path, "cannot be read")


@pytest.mark.parametrize("size", [(31, 200), (200, 31), (1, 1)])
def test_small_pictures_are_read(tmp_path, size):
    """The size of a run, and not that of a file, decides what is too small for the layers."""
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    check(tmp_path / "a.png", np.broadcast_to([1.0, 0.0, 0.0], (*size[::-1], 3)))


@pytest.mark.parametrize("side", [17_400, 60_000])
def test_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b""))
    start = time.perf_counter()
    refused(tmp_path / "a.png", "more than max_pixels = 300,000,000 pixels")
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_max_pixels(tmp_path, monkeypatch, name):
    """Pillow's global limit neither counts, nor warns, nor is changed."""
    path = tmp_path / name
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for limit in (1, HEIGHT * WIDTH // 2, HEIGHT * WIDTH - 1):
            refused(path, f"max_pixels = {limit:,} pixels", max_pixels=limit)
            assert Image.MAX_IMAGE_PIXELS == 1000
        assert read_image(path, max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(ValueError, match="max_pixels: wanted a positive number, got 0"):
        read_image(path, max_pixels=0)
    with pytest.raises(TypeError, match="positional"):
        read_image(path, 10_000)


def test_to_uint8_rounds_and_clips():
    values = [
        -np.inf,
        -0.1,
        0.0,
        0.499 / 255,
        0.501 / 255,
        0.5,
        1.0,
        1.2,
        300.0,
        np.inf,
        np.nan,
    ]
    expected = [0, 0, 0, 0, 1, 128, 255, 255, 255, 255, 0]
    image = np.broadcast_to(np.array(values)[:, None, None], (len(values), 1, 3))
    for dtype in (np.float32, np.float64):
        rounded = to_uint8(image.astype(dtype))
        assert rounded.dtype == np.uint8 and rounded[:, 0, 0].tolist() == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_to_uint8_inverts_division_by_255(dtype):
    every = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 1, 3))
    np.testing.assert_array_equal(to_uint8((every / 255).astype(dtype)), every)


def test_to_uint8_refuses():
    with pytest.raises(TypeError, match="image: wanted float16.*got uint8"):
        to_uint8(np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"image: wanted the shape .* got \[2, 2, 4\]"):
        to_uint8(np.zeros((2, 2, 4), np.float32))
    with pytest.raises(ValueError, match=r"image: wanted the shape .* got \[2, 3\]"):
        to_uint8(np.zeros((2, 3), np.float32))
    assert to_uint8(np.zeros((5, 4, 2, 2, 3), np.float32)).shape == (5, 4, 2, 2, 3)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.TIFF"])
def test_write_and_read_exactly(tmp_path, rng, name):
    image = levels(rng, 3).astype(np.float32) / 255
    path = tmp_path / "new" / "folder" / name
    write_image(path, image)
    np.testing.assert_array_equal(read_image(path), image)
    assert [p.name for p in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "A.JPG"])
def test_write_jpeg(tmp_path, name):
    """Pure red beside pure blue, pixel by pixel, stays sharp: colour is not subsampled."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    image[:, 0::2, 0] = 1
    image[:, 1::2, 2] = 1
    write_image(str(tmp_path / name), image)
    with Image.open(tmp_path / name) as saved:
        assert saved.format == "JPEG"
    assert np.abs(read_image(tmp_path / name) - image).mean() < 0.03


def test_write_clips_and_does_not_wrap(tmp_path):
    image = np.full((HEIGHT, WIDTH, 3), 1.2, np.float32)
    image[:, ::2] = -0.1
    write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image > 0)


def test_write_refuses(tmp_path):
    image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for name in ("a.xyz", "a", "a.gif"):
        with pytest.raises(ImageError, match=r": wanted one of \.png, \.jpg, .* got ") as caught:
            write_image(tmp_path / name, image)
        assert str(caught.value).startswith(str(tmp_path / name))
    for wrong in (image[None], image[..., 0], image[:0]):
        with pytest.raises(ValueError, match="image: wanted the shape"):
            write_image(tmp_path / "a.png", wrong)
    with pytest.raises(TypeError, match="image: wanted float16"):
        write_image(tmp_path / "a.png", image.astype(np.uint8))
    # WebP has no side above 16383.
    with pytest.raises(ImageError, match="cannot be written: "):
        write_image(tmp_path / "a.webp", np.zeros((1, 16384, 3), np.float32))
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"what was there")

    def full(picture, file, **options):
        file.write(b"half a pict")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ImageError, match="cannot be written: No space left") as caught:
        write_image(path, np.zeros((HEIGHT, WIDTH, 3), np.float32))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert path.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [path]


def test_write_where_nothing_can_be_written(tmp_path):
    image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(ImageError, match="cannot be written: ") as caught:
            write_image(path, image)
        assert str(caught.value).startswith(f"{path}: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]
