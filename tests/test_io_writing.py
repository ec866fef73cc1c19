"""Image files as they are written: 16 bits, transparency, tags, and what an error leaves."""

import io as bytes_io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from nst_jax.files import deep_color
from nst_jax.files.images import FORMATS, ImageError, read_text, read_with_alpha, write_image

HEIGHT, WIDTH = 100, 44  # of more rows than are compressed together


@pytest.fixture
def picture(rng):
    return rng.random((HEIGHT, WIDTH, 3), np.float32)


@pytest.fixture
def alpha(rng):
    alpha = rng.random((HEIGHT, WIDTH), np.float32)
    alpha[:9], alpha[9:18] = 0, 1
    return alpha


def chunks(data):
    """Names and contents of the chunks of a PNG, their checksums verified."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    place, found = 8, []
    while place < len(data):
        (length,), name = struct.unpack(">I", data[place : place + 4]), data[place + 4 : place + 8]
        content = data[place + 8 : place + 8 + length]
        (checksum,) = struct.unpack(">I", data[place + 8 + length : place + 12 + length])
        assert checksum == zlib.crc32(name + content)
        found.append((name, content))
        place += 12 + length
    return found


def png_samples(path):
    """All 16 bits of a PNG of colour. Pillow has them of grey alone, so it is made to see one grey
    picture, as many times as wide as there are channels; the filters work by the byte."""
    parts = chunks(path.read_bytes())
    width, height, bits, colour_type = struct.unpack(">IIBB", parts[0][1][:10])
    channels = {2: 3, 6: 4}[colour_type]
    assert bits == 16 and parts[0][0] == b"IHDR"
    rows = zlib.decompress(b"".join(content for name, content in parts if name == b"IDAT"))
    # Filters that look to the left would see another pixel's channel.
    assert set(rows[:: 2 * width * channels + 1]) == {2}
    header = struct.pack(">IIBBBBB", width * channels, height, 16, 0, 0, 0, 0)
    grey = b"\x89PNG\r\n\x1a\n"
    for name, content in [(b"IHDR", header), *parts[1:]]:
        grey += struct.pack(">I", len(content)) + name + content
        grey += struct.pack(">I", zlib.crc32(name + content))
    with Image.open(bytes_io.BytesIO(grey)) as seen:
        assert seen.mode == "I;16"
        return np.asarray(seen).reshape(height, width, channels)


def tiff_samples(path):
    """All 16 bits of a TIFF of colour, by the tags of TIFF 6.0, section 2."""
    data = path.read_bytes()
    assert data[:4] == b"II*\0"
    (place,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[place : place + 2])
    tags = {}
    for index in range(count):
        entry = data[place + 2 + 12 * index :][:12]
        tag, kind, number = struct.unpack("<HHI", entry[:8])
        letter = {3: "H", 4: "I"}.get(kind)
        if letter is None:
            continue  # text and profile
        size = struct.calcsize(f"<{number}{letter}")
        offset = 8 if size <= 4 else struct.unpack("<I", entry[8:])[0]
        source = entry if size <= 4 else data
        tags[tag] = struct.unpack(f"<{number}{letter}", source[offset : offset + size])
    (width,), (height,), (channels,) = tags[256], tags[257], tags[277]
    assert tags[258] == (16,) * channels and tags[259] == (8,) and tags[262] == (2,)
    assert tags.get(338) == ((2,) if channels == 4 else None)
    strips = [
        zlib.decompress(data[start : start + size])
        for start, size in zip(tags[273], tags[279], strict=True)
    ]
    assert all(len(strip) == tags[278][0] * width * channels * 2 for strip in strips[:-1])
    return np.frombuffer(b"".join(strips), "<u2").reshape(height, width, channels)


DEEP = {"a.png": png_samples, "a.tiff": tiff_samples}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("transparent", [False, True])
def test_sixteen_bits(tmp_path, picture, alpha, name, transparent):
    path = tmp_path / name
    picture[0, 0], picture[0, 1], picture[0, 2] = np.nan, -1, 2
    write_image(path, picture, bits=16, alpha=alpha if transparent else None, text="so")
    wanted = np.clip(np.nan_to_num(picture), 0, 1)
    if transparent:
        wanted = np.concatenate([wanted, alpha[..., None]], axis=-1)
    found = DEEP[name](path)
    # The nearest level, but for the rounding of the product to float32.
    assert np.abs(found - 65535 * wanted.astype(np.float64)).max() < 0.5 + 2**-8
    with Image.open(path) as seen:  # and as everyone else sees it, by the upper byte
        assert seen.mode == ("RGBA" if transparent else "RGB") and seen.format in ("PNG", "TIFF")
        np.testing.assert_array_equal(np.asarray(seen), found >> 8)
        if seen.format == "TIFF":  # no program, date, person or computer
            assert not {305, 306, 315, 316} & set(seen.tag_v2)
    assert read_text(path) == "so"


@pytest.mark.parametrize("channels", [3, 4])
def test_pillow_still_has_no_16_bit_colour(channels):
    """If this fails, Pillow can write 16-bit PNG, and `deep_color.write_png` can go."""
    with pytest.raises(TypeError, match="Cannot handle this data type"):
        Image.fromarray(np.zeros((4, 4, channels), np.uint16))


def test_text_beyond_ascii_does_not_stop_a_tiff(tmp_path, picture):
    write_image(tmp_path / "a.tiff", picture, bits=16, text="caf\u00e9")
    assert read_text(tmp_path / "a.tiff") == "caf?"


def test_a_large_tiff_is_read_back_whole(tmp_path, rng):
    """Pictures above some hundred kilobytes are compressed in several strips."""
    picture = rng.random((300, 400, 3), np.float32)
    write_image(tmp_path / "a.tiff", picture, bits=16)
    found = tiff_samples(tmp_path / "a.tiff")
    np.testing.assert_array_equal(found, np.rint(picture * np.float32(65535)))
    with Image.open(tmp_path / "a.tiff") as seen:
        np.testing.assert_array_equal(np.asarray(seen), found >> 8)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_alpha_comes_back(tmp_path, picture, alpha, name):
    write_image(tmp_path / name, picture, alpha=alpha)
    with Image.open(tmp_path / name) as seen:
        assert seen.mode == "RGBA"
        pixels = np.asarray(seen)
    # The colours of what is not to be seen, too.
    np.testing.assert_array_equal(pixels[..., :3], np.rint(255 * picture))
    np.testing.assert_array_equal(pixels[..., 3], np.rint(255 * alpha))
    image, found = read_with_alpha(tmp_path / name)
    np.testing.assert_allclose(found, np.rint(255 * alpha) / 255, atol=1e-6)
    opaque = found[..., None]
    on_white = np.rint(255 * picture) / 255 * opaque + 1 - opaque
    np.testing.assert_allclose(image, on_white, atol=1e-6)


def test_alpha_of_what_is_opaque_and_of_a_transparent_grey(tmp_path, picture):
    write_image(tmp_path / "a.png", picture, alpha=np.ones((HEIGHT, WIDTH), np.float32))
    assert read_with_alpha(tmp_path / "a.png")[1] is None
    write_image(tmp_path / "a.png", picture)
    assert read_with_alpha(tmp_path / "a.png")[1] is None
    grey = np.full((40, 50), 700, np.uint16)
    grey[3:9] = 9
    Image.fromarray(grey).save(tmp_path / "b.png", transparency=9)
    _, alpha = read_with_alpha(tmp_path / "b.png")
    np.testing.assert_array_equal(alpha, grey != 9)


def test_a_jpeg_goes_without_alpha_but_with_everything_else(tmp_path, picture, alpha):
    write_image(tmp_path / "a.jpg", picture, alpha=alpha, text="x" * 65_000)
    with Image.open(tmp_path / "a.jpg") as seen:
        assert seen.mode == "RGB" and seen.layers == 3
        assert all(sampling[1:3] == (1, 1) for sampling in seen.layer)  # 4:4:4
        reference = bytes_io.BytesIO()
        Image.new("RGB", (8, 8)).save(reference, "JPEG", quality=95)
        assert seen.quantization == Image.open(reference).quantization
    assert read_text(tmp_path / "a.jpg") == "x" * 65_000
    with pytest.raises(ImageError, match="a.jpg: cannot be written: EXIF data is too long"):
        write_image(tmp_path / "a.jpg", picture, text="x" * 66_000)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff"])
def test_everything_is_tagged_as_srgb(tmp_path, picture, name, bits):
    if bits == 16 and name in ("a.jpg", "a.webp"):
        with pytest.raises(ImageError, match="wanted 8 bits a channel, or 16 in PNG and TIFF"):
            write_image(tmp_path / name, picture, bits=bits)
        return
    write_image(tmp_path / name, picture, bits=bits)
    with Image.open(tmp_path / name) as seen:
        if name == "a.png":
            assert seen.info["srgb"] == 0
            names = [chunk for chunk, _ in chunks((tmp_path / name).read_bytes())]
            assert names.index(b"sRGB") < names.index(b"IDAT")
            return
        profile = ImageCms.ImageCmsProfile(bytes_io.BytesIO(seen.info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3))
    srgb = ImageCms.createProfile("sRGB")
    same = ImageCms.profileToProfile(ramp, profile, srgb)
    np.testing.assert_array_equal(np.asarray(same), np.asarray(ramp))


def test_the_profile_holds_no_time(monkeypatch):
    first = deep_color.srgb_profile()
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert made[24:36] != first[24:36] and made[36:] == first[36:]


@pytest.mark.parametrize("kind", FORMATS)
def test_equal_pictures_are_equal_files_and_carry_their_text(tmp_path, picture, kind):
    suffix = FORMATS[kind].suffix
    text = '{"a": "\\u00e9 \'quoted\'"}' * 50
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        deep_color.srgb_profile.cache_clear()
        write_image(path, picture, bits=FORMATS[kind].bits, text=text)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert read_text(paths[0]) == text


def test_no_text_and_none_to_read(tmp_path, picture):
    write_image(tmp_path / "a.png", picture)
    assert read_text(tmp_path / "a.png") is None
    (tmp_path / "b.png").write_bytes(b"none")
    with pytest.raises(ImageError, match="b.png: not an image"):
        read_text(tmp_path / "b.png")


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH, 1), (HEIGHT, WIDTH - 1), (1, HEIGHT, WIDTH)])
def test_alpha_of_another_shape_is_refused(tmp_path, picture, shape):
    with pytest.raises(ValueError, match=r"alpha: wanted the shape \[100, 44\], got \[") as caught:
        write_image(tmp_path / "a.png", picture, alpha=np.ones(shape, np.float32))
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_the_longest_side_of_a_format_is_its_own(tmp_path, kind):
    suffix, longest = FORMATS[kind].suffix, FORMATS[kind].longest_side
    write_image(tmp_path / f"a{suffix}", np.zeros((1, longest, 3), np.float32))
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / f"b{suffix}", np.zeros((1, longest + 36, 3), np.float32))
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]
