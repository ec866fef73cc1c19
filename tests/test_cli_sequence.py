"""Sequences through the command line."""

import json
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from commandline import SMALL
from PIL import Image

from nst_jax import examples
from nst_jax.cli.main import BAD_INPUT
from nst_jax.files import footage, images
from nst_jax.files.images import to_uint8

FAST = ("--style_layers=block1_conv1", "--content_layers=block1_conv2", "--mesh=style:1")
FAST += (*(flag for flag in SMALL if not flag.startswith("--size")), "--size=32", "--next_steps=1")


@pytest.fixture(scope="module")
def film():
    return examples.butterfly_film(32, frames=4, background=(-0.0625, 0.0), insect=(0.125, 0.0))


@pytest.fixture(scope="module")
def paintings():
    return {name: examples.by_name[name](32) for name in ("rainbow", "triangles")}


@pytest.fixture
def folder(tmp_path, film, paintings, monkeypatch):
    """Four numbered frames, their flows, and two styles."""
    monkeypatch.chdir(tmp_path)
    for place in ("frames", "flows", "styles"):
        (tmp_path / place).mkdir()
    for number, frame in enumerate(film.frames, start=8):  # 8, 9, 10, 11: not as text sorts them
        images.write_image(tmp_path / "frames" / f"{number}.png", frame)
    for number, (forward, backward) in enumerate(
        zip(film.forward, film.backward, strict=True), start=1
    ):
        footage.write_flow(tmp_path / f"flows/forward_{number}_{number + 1}.flo", forward)
        footage.write_flow(tmp_path / f"flows/backward_{number + 1}_{number}.flo", backward)
    for name, painting in paintings.items():
        images.write_image(tmp_path / f"styles/{name}.png", painting)
    return tmp_path


def arguments(*more, content="frames", flow="flows", out="out"):
    return (
        *("--sequence", f"--content={content}", "--styles=styles/rainbow.png,styles/triangles.png"),
        *(f"--flow={flow}", f"--output_dir={out}", *FAST, *more),
    )


def files(folder):
    """The bytes of every file; of the manifest and config.json what does not change with time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "manifest.jsonl":
            lines = map(json.loads, path.read_text().splitlines())
            found[name] = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
        elif path.is_file() and path.name != "config.json":
            found[name] = path.read_bytes()
    return found


def test_a_folder_in_two_styles(folder, run):
    code, stderr = run(*arguments())
    assert code == 0, stderr
    made = files(folder / "out")
    stems = ("frames__rainbow", "frames__triangles")
    frames = {f"{stem}/{number:06d}.png" for stem in stems for number in range(1, 5)}
    assert made.keys() == {*frames, *(f"{stem}.webp" for stem in stems), "manifest.jsonl"}
    lines = made["manifest.jsonl"]
    assert [line["content"] for line in lines[::2]] == [f"frames/{n}.png" for n in range(8, 12)]
    assert [line["begins_shot"] for line in lines] == [True] * 2 + [False] * 6
    assert [line["steps"] for line in lines] == [2] * 2 + [1] * 6
    assert all(line["loss"] > 0 for line in lines)
    # The animation has the painted frames, at 25 a second.
    animation = list(images.read_animation(folder / "out" / "frames__rainbow.webp"))
    assert [time for _, time in animation] == [40] * 4
    for number, (frame, _) in enumerate(animation, start=1):
        painted = images.read_image(folder / f"out/frames__rainbow/{number:06d}.png")
        assert np.abs(frame - painted).mean() < 0.05  # WebP with losses
    assert "out holds 4 frames of 2 outputs" in stderr
    assert "4/4 frames" in stderr and "minutes left" in stderr
    # The metadata of a frame hold a command that makes the sequence again.
    kept = json.loads(images.read_text(folder / "out/frames__rainbow/000002.png") or "")["flags"]
    code, stderr = run(*kept, "--output_dir=again")
    assert code == 0, stderr
    again = images.read_image(folder / "again/frames__rainbow/000004.png")
    np.testing.assert_array_equal(
        again, images.read_image(folder / "out/frames__rainbow/000004.png")
    )
    # The same command paints nothing again.
    code, stderr = run(*arguments())
    assert code == 0, stderr
    assert "frames, " not in stderr
    assert files(folder / "out") == made


def test_a_broken_frame_ends_the_run_and_what_is_finished_stays(folder, run):
    """Repaired, the run goes on to the bytes of an uninterrupted one."""
    assert run(*arguments(out="whole"))[0] == 0
    shutil.copy(folder / "frames/10.png", folder / "kept.png")
    (folder / "frames/10.png").write_bytes(b"\x89PNG\r\n")
    code, stderr = run(*arguments())
    assert code == BAD_INPUT
    assert "frames/10.png: " in stderr.splitlines()[-1]
    assert (folder / "out/frames__rainbow/000002.png").is_file()
    assert not (folder / "out/frames__rainbow/000003.png").exists()
    shutil.copy(folder / "kept.png", folder / "frames/10.png")
    code, stderr = run(*arguments())
    assert code == 0, stderr
    assert files(folder / "out") == files(folder / "whole")


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bytes(folder, command):
    more = ("--passes=2", "--temporal_long_term=1")
    command.start(*arguments(*more, out="whole"))
    assert command.wait() == 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        command.start(*arguments(*more))
        lines = folder / "out/manifest.jsonl"
        before = len(lines.read_text().splitlines()) if lines.exists() else 0
        end = time.monotonic() + 300
        while not (lines.exists() and len(lines.read_text().splitlines()) > before + 1):
            assert time.monotonic() < end
            time.sleep(0.01)
        command.send(number)
        assert command.wait() != 0
    command.start(*arguments(*more))
    assert command.wait() == 0
    assert files(folder / "out") == files(folder / "whole")


@pytest.mark.slow
def test_an_animation_keeps_its_times(folder, film, run):
    images.write_animation(
        folder / "a.gif", list(to_uint8(film.frames)), milliseconds=[50, 100, 30, 200], hold=None
    )
    code, stderr = run(*arguments(content="a.gif", flow="still"))
    assert code == 0, stderr
    made = list(images.read_animation(folder / "out" / "a__rainbow.gif"))
    assert [time for _, time in made] == [50, 100, 30, 200]


@pytest.mark.slow
def test_a_film_becomes_a_film(folder, film, run):
    from test_footage import write_film

    write_film(folder / "a.mp4", list(to_uint8(film.frames)), sound=True)
    code, stderr = run(*arguments("--cuts=3", content="a.mp4", flow="dis"))
    assert code == 0, stderr
    for style in ("rainbow", "triangles"):
        made = footage.open_footage([folder / f"out/a__{style}.mp4"])
        assert made.count == 4
        first = next(made.frames())
        painted = images.read_image(folder / f"out/a__{style}/000001.png")
        assert np.abs(first - painted).mean() < 0.1  # half the colour resolution
    lines = files(folder / "out")["manifest.jsonl"]
    assert [line["begins_shot"] for line in lines[::2]] == [True, False, True, False]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--passes=2",), "--passes needs --sequence"),
        (("--temporal_weight=2",), "--temporal_weight needs --sequence"),
        (("--sequence", "--demo"), "--demo cannot be combined with --sequence"),
        (
            ("--sequence", "--content=a", "--styles=b", "--temporal_weight=0"),
            "--temporal_weight must be above 0 with --sequence, got 0",
        ),
        (("--sequence", "--content=frames"), "--sequence needs --content and --styles"),
        (("--sequence", "--content=a", "--styles=b", "--passes=0"), "--passes must be at least 1"),
        (
            ("--sequence", "--content=a", "--styles=b", "--flow=dos"),
            "--flow must be dis, still, or a folder of .flo files, got 'dos'",
        ),
        (
            ("--sequence", "--content=frames", "--styles=styles/rainbow.png", "--cuts=0,b"),
            "--cuts must be numbers of frames, from 1, or none, got '0,b'",
        ),
        (
            ("--sequence", "--content=a", "--styles=b", "--style_weight=1,2"),
            "--style_weight with several values cannot be combined with --sequence",
        ),
        (("--sequence", "--content=a", "--styles=b", "--frame_rate=0"), "--frame_rate must be"),
        (
            ("--sequence", "--content=frames/8.png", "--styles=styles/rainbow.png"),
            "frames/8.png: a sequence needs several frames, got one picture",
        ),
        (("--sequence", "--content=gs://a/b", "--styles=b"), "--content"),
        (
            ("--sequence", "--content=frames", "--styles=b", "--flow=still", "--format=png16"),
            "--format must be png, jpg or webp with --sequence, got png16",
        ),
    ],
)
def test_flags_that_do_not_fit(folder, run, more, message):
    code, stderr = run(*more)
    assert code == BAD_INPUT
    assert message in stderr.splitlines()[-1]
    assert not (folder / "out").exists()


def test_without_the_extra_it_says_what_is_missing(folder, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, stderr = run(*arguments(flow="dis"))
    assert code == BAD_INPUT
    assert "--flow=dis needs OpenCV: give --flow=still, or pip install opencv" in stderr


@pytest.mark.slow
def test_frames_and_flows_of_another_size_are_refused(folder, run):
    footage.write_flow(folder / "flows/forward_2_3.flo", np.zeros((8, 9, 2), np.float32))
    code, stderr = run(*arguments())
    assert code == BAD_INPUT
    assert "flows for frames[2] must have the shape (32, 32, 2), got (8, 9, 2)" in stderr
    assert (folder / "out/frames__rainbow/000002.png").is_file()
    Image.new("RGB", (20, 32)).save(folder / "frames/9.png")
    code, stderr = run(*arguments(out="other"))
    assert code == BAD_INPUT
    assert (
        "frames/9.png: all frames must have one size, 32 x 32 as the first, got 20 x 32" in stderr
    )


@pytest.mark.slow
def test_another_runs_frames_are_not_touched(folder, run):
    assert run(*arguments())[0] == 0
    before = files(folder / "out")
    code, stderr = run(*arguments("--style_weight=3"))
    assert code == BAD_INPUT
    assert "differs in style_weight" in stderr
    assert files(folder / "out") == before


@pytest.mark.slow
def test_other_steps_are_another_run(folder, run):
    """The steps of a scale, not only those of a later frame."""
    assert run(*arguments("--steps=2"))[0] == 0
    code, stderr = run(*arguments("--steps=3"))
    assert code == BAD_INPUT and "differs in steps" in stderr
    before = files(folder / "out")
    assert run(*arguments("--steps=3", "--overwrite"))[0] == 0
    code, stderr = run(*arguments("--steps=2"))  # whose frames are there no more
    assert code == BAD_INPUT
    assert files(folder / "out") != before
    code, stderr = run(*arguments("--steps=3"))
    assert code == 0 and "frames, " not in stderr


@pytest.mark.slow
def test_a_shorter_sequence_makes_a_shorter_animation(folder, run):
    assert run(*arguments(flow="still"))[0] == 0
    (folder / "frames/11.png").unlink()
    code, stderr = run(*arguments("--overwrite", "--frame_rate=10", flow="still"))
    assert code == 0, stderr
    animation = list(images.read_animation(folder / "out/frames__rainbow.webp"))
    assert [time for _, time in animation] == [100] * 3


@pytest.mark.slow
def test_its_own_animation_is_no_frame(folder, run):
    """The animations lie in the folder of the frames."""
    for _ in range(2):
        code, stderr = run(*arguments("--styles=styles/rainbow.png", flow="still", out="frames"))
        assert code == 0, stderr
    assert "passed over" in stderr
