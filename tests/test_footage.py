"""Frames from files, animations and films, and back again."""

import struct
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from nst_jax.files import footage, images
from nst_jax.files.atomic import FileError


def levels(rng, count, height=24, width=30):
    """Frames that differ, soft enough for lossy formats, uint8."""
    small = rng.integers(0, 256, (count, 3, 4, 3), np.uint8)
    sized = [
        Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC) for one in small
    ]
    return [np.asarray(one) for one in sized]


def write_film(path, frames, *, times=None, sound=False, codec="libx264", turned=0):
    """A film with frames at 1/10 s, or at `times` in 1/100 s, and a tone if asked."""
    with av.open(str(path), "w") as made:
        stream = made.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        if turned:
            stream.set_display_rotation(turned)
        tone = made.add_stream("aac", rate=8000) if sound else None
        for number, levels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(levels, format="rgb24")
            frame.pts = 10 * number if times is None else times[number]
            frame.time_base = Fraction(1, 100)
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
        if tone is not None:
            wave = np.sin(np.arange(1024 * 8) * 0.3).astype(np.float32)[None]
            for number, part in enumerate(np.split(wave, 8, axis=1)):
                own = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), "fltp", "mono")
                own.sample_rate, own.pts = 8000, 1024 * number
                own.time_base = Fraction(1, 8000)
                made.mux(tone.encode(own))
            made.mux(tone.encode(None))


def test_names_sort_as_people_count():
    names = ["b", "f10", "f2", "f1b", "f1", "10", "9"]
    assert sorted(names, key=footage.natural) == ["9", "10", "b", "f1", "f1b", "f2", "f10"]


def test_files_are_frames(tmp_path, rng):
    paths = []
    for number, frame in enumerate(levels(rng, 3)):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(frame).save(paths[-1])
    found = footage.open_footage(paths)
    assert found.kind == "files" and found.count == 3
    for frame, path in zip(found.frames(), paths, strict=True):
        np.testing.assert_array_equal(frame, images.read_image(path))
    Image.new("RGB", (8, 9)).save(paths[1])
    with pytest.raises(
        FileError, match=r"1\.png: all frames must have one size, 30 x 24 as .* 8 x"
    ):
        list(found.frames())
    paths[1].write_bytes(b"\x89PNG")
    with pytest.raises(FileError, match=r"1\.png: "):
        list(found.frames())


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_and_back(tmp_path, rng, suffix):
    frames, shown = levels(rng, 4), [40, 100, 60, 250]
    path = tmp_path / f"a{suffix}"
    images.write_animation(path, frames, milliseconds=shown, hold=None)
    found = footage.open_footage([path])
    assert (found.kind, found.count) == ("animation", 4)
    read = list(found.frames())
    assert [time for _, time in images.read_animation(path)] == shown
    # A GIF has 256 colours, and the WebP is lossy.
    most = {".png": 0, ".webp": 0.06, ".gif": 0.06}[suffix]
    for own, frame in zip(read, frames, strict=True):
        assert np.abs(own - frame / 255).mean() <= most + 1e-6


def test_a_transparent_animation_is_laid_on_white(tmp_path):
    clear = Image.new("RGBA", (10, 8), (255, 0, 0, 0))
    solid = Image.new("RGBA", (10, 8), (255, 0, 0, 255))
    clear.save(tmp_path / "a.png", save_all=True, append_images=[solid], duration=50)
    first, second = footage.open_footage([tmp_path / "a.png"]).frames()
    assert (first == 1).all() and (second == [1, 0, 0]).all()


def test_a_broken_frame_of_an_animation_is_named(tmp_path, rng):
    path = tmp_path / "a.png"
    images.write_animation(path, levels(rng, 4), hold=None)
    data = bytearray(path.read_bytes())
    # The compressed rows of the third frame: chunk fdAT, its sequence number, then the data.
    third = [at for at in range(len(data)) if data.startswith(b"fdAT", at)][1]
    data[third + 8 : third + 40] = bytes(32)
    path.write_bytes(data)
    read = []
    with pytest.raises(FileError, match=r"a\.png: frame 3 cannot be read"):
        for frame in footage.open_footage([path]).frames():
            read.append(frame)
    assert len(read) == 2


def test_one_picture_is_no_sequence(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(FileError, match="a sequence needs several frames, got one picture"):
        footage.open_footage([tmp_path / "a.png"])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_film_keeps_its_times_and_its_sound(tmp_path, rng, suffix):
    frames, times = levels(rng, 6), [0, 10, 15, 40, 50, 65]
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write_film(source, frames, times=times, sound=True)
    found = footage.open_footage([source])
    assert (found.kind, found.count) == ("film", 6)
    read = list(found.frames())
    assert read[0].shape == (24, 30, 3) and read[0].dtype == np.float32
    assert np.abs(np.stack(read) - np.stack(frames) / 255).mean() < 0.03  # two lossy steps

    odd = [frame[:23, :29] for frame in frames]
    footage.write_film(target, iter(odd), source)
    with av.open(str(target)) as made, av.open(str(source)) as first:
        video = made.streams.video[0]
        shown = [float(frame.pts * video.time_base) for frame in made.decode(video=0)]
        start = float(next(first.decode(video=0)).pts * first.streams.video[0].time_base)
        np.testing.assert_allclose(shown, start + np.array(times) / 100, atol=0.002)
        assert (video.height, video.width) == (24, 30)
    with av.open(str(target)) as made, av.open(str(source)) as first:
        ours, theirs = ([bytes(p) for p in f.demux(audio=0) if p.size] for f in (made, first))
        assert ours == theirs and ours
    again = np.stack(list(footage.open_footage([target]).frames()))
    assert np.abs(again[:, :23, :29] - np.stack(odd) / 255).mean() < 0.03
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name, target.name]


def test_a_film_of_a_phone_is_turned(tmp_path, rng):
    frames = levels(rng, 2, 24, 32)
    write_film(tmp_path / "a.mp4", frames, turned=90)
    (first, *_) = footage.open_footage([tmp_path / "a.mp4"]).frames()
    assert first.shape == (32, 24, 3)
    assert np.abs(first - np.rot90(frames[0]) / 255).mean() < 0.03


def test_bad_films_are_refused_in_a_line(tmp_path, rng, monkeypatch):
    broken = tmp_path / "a.mp4"
    broken.write_bytes(b"no film")
    with pytest.raises(FileError, match=r"a\.mp4: cannot be read: "):
        footage.open_footage([broken])
    with pytest.raises(FileError, match=r"b\.mkv: cannot be read: No such file"):
        footage.open_footage([tmp_path / "b.mkv"])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(FileError, match="a film needs PyAV: pip install av"):
        footage.open_footage([broken])


def test_flow_files(tmp_path, rng):
    """The bytes as the benchmark's page describes them."""
    motion = rng.standard_normal((2, 3, 2)).astype(np.float32)
    path = tmp_path / "forward_1_2.flo"
    footage.write_flow(path, motion)
    assert path.read_bytes() == b"PIEH" + struct.pack("<ii12f", 3, 2, *motion.ravel())
    np.testing.assert_array_equal(footage.read_flow(path), motion)
    footage.write_flow(tmp_path / "backward_2_1.flo", -motion)
    pairs = iter(footage.FlowFolder(tmp_path))
    forward, backward = next(pairs)
    np.testing.assert_array_equal(backward, -forward)
    with pytest.raises(FileError, match=r"forward_2_3\.flo: cannot be read: No such file"):
        next(pairs)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FileError, match=r"must hold 3 x 2 vectors, got 5.5"):
        footage.read_flow(path)
    path.write_bytes(b"JUNK" + bytes(20))
    with pytest.raises(FileError, match=r"is not a \.flo file"):
        footage.read_flow(path)
    with pytest.raises(ValueError, match=r"flow must be \[H, W, 2\], got \(2, 3\)"):
        footage.write_flow(path, np.zeros((2, 3)))


def test_the_same_frames_make_the_same_film(tmp_path, rng):
    """Matroska numbers its tracks at random unless it is told not to."""
    frames = levels(rng, 3)
    write_film(tmp_path / "in.mkv", frames, sound=True)
    for name in ("a.mkv", "b.mkv"):
        footage.write_film(tmp_path / name, iter(frames), tmp_path / "in.mkv")
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()


def test_colours_and_proportions_of_pixels_are_kept(tmp_path):
    """Saturated green, which the two standards of television see differently."""
    green = np.broadcast_to(np.uint8([20, 220, 40]), (24, 32, 3))
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    with av.open(str(source), "w") as made:
        stream = made.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(green), format="rgb24")
            frame.pts = number
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    footage.write_film(target, iter([green] * 2), source)
    with av.open(str(target)) as made:
        video = made.streams.video[0]
        assert video.sample_aspect_ratio == 2
        assert video.codec_context.colorspace == 1  # BT.709, as the conversion was
    for frame in footage.open_footage([target]).frames():
        np.testing.assert_allclose(frame[12, 16], green[0, 0] / 255, atol=0.03)


def test_sound_lies_beside_its_pictures(tmp_path, rng):
    """A player that reads the file from its start needs both soon."""
    frames = levels(rng, 2)
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    write_film(source, frames * 10, times=list(range(0, 100, 5)), sound=True)
    footage.write_film(target, iter(frames * 10), source)
    with av.open(str(target)) as made:
        kinds = [packet.stream.type for packet in made.demux() if packet.size]
    assert kinds.index("audio") < len(kinds) - kinds[::-1].index("video") - 5


def test_a_film_without_frames_is_refused(tmp_path, rng):
    write_film(tmp_path / "a.mkv", levels(rng, 4))
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # its first cluster
    try:
        assert list(footage.open_footage([tmp_path / "a.mkv"]).frames()) == []
    except FileError as error:
        assert "a.mkv" in str(error)
