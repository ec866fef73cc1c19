"""What a run shows on its way, by the command's flags and piece by piece."""

import json
import struct
import sys
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from commandline import FAST
from disk import room_for
from PIL import Image
from test_page import Parsed

from nst_jax.cli.look import observers, report_page
from nst_jax.cli.look.observers import (
    FRAMES,
    Animation,
    Group,
    Observers,
    Picture,
    Report,
    Snapshots,
    TensorBoard,
)
from nst_jax.cli.main import BAD_INPUT
from nst_jax.coarse_to_fine import Result
from nst_jax.files.atomic import FileError
from nst_jax.files.images import to_uint8

# Two scales of four steps each.
TWO_SCALES = ("--first_size=24", "--scale_factor=2", "--steps=4", "--first_steps=4")

TERMS = ("total", "content", "style", "tv")


@pytest.fixture
def followed(monkeypatch):
    """For each dispatch of a run: step, pictures, and what the report's file held afterwards."""
    seen = []
    call = Observers.__call__

    def follow(self, progress):
        call(self, progress)
        paths = [o._path for o in self._observers if isinstance(o, Report)]
        text = paths[0].read_text("utf-8") if paths else None
        seen.append((progress.step, np.array(progress.images), text))

    monkeypatch.setattr(Observers, "__call__", follow)
    return seen


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def events(folder):
    """Of TensorBoard's file: {tag: {step: value}}, read from its records."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    data, found, place = path.read_bytes(), {}, 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)  # then a checksum, the event, another
        event = Event.FromString(data[place + 12 : place + 12 + length])
        for value in event.summary.value:
            kind = value.WhichOneof("value")
            found.setdefault(value.tag, {})[event.step] = getattr(value, kind)
        place += 16 + length
    return found


def data_of(text):
    return json.loads(Parsed(text).texts["script"][0])


@pytest.mark.slow
def test_everything_that_a_run_can_show(run, pictures, tmp_path, followed):
    content, *styles = pictures
    out, board = tmp_path / "out", tmp_path / "board"
    code, err = run(
        f"--content={content}", f"--styles={styles[0]},{styles[1]}", f"--output_dir={out}", *FAST,
        *TWO_SCALES, "--log_every=3", "--save_every=2", "--animate=gif", "--report",
        f"--tensorboard_dir={board}",
    )  # fmt: skip
    assert code == 0, err
    stems = ("a__b", "a__c")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    logged = {stem: [line for line in lines if line["output"] == stem] for stem in stems}
    assert [line["step"] for line in logged["a__b"]] == [1, 3, 6, 8]
    by_step = {step: images for step, images, _ in followed}

    for number, stem in enumerate(stems):
        names = sorted(path.name for path in (out / stem).iterdir())
        snapshots = [f"step_{step:06d}.png" for step in (2, 4, 6, 8)]
        assert names == ["animation.gif", *snapshots]
        for step in (2, 4, 6, 8):
            found = pixels(out / stem / f"step_{step:06d}.png")
            assert found.shape == ((18, 24, 3) if step <= 4 else (36, 48, 3))
            np.testing.assert_array_equal(found, to_uint8(by_step[step][number]))
        final = pixels(out / f"{stem}.png")
        np.testing.assert_array_equal(found, final)

        with Image.open(out / stem / "animation.gif") as animation:
            assert (animation.size, animation.n_frames) == ((48, 36), 8)
            assert animation.info["loop"] == 0
            durations, frames = [], []
            for frame in range(8):
                animation.seek(frame)
                durations.append(animation.info["duration"])
                frames.append(np.asarray(animation.convert("RGB"), float))
        assert durations == 7 * [80] + [2000]
        # A palette of 256 colours is near, but not the picture itself.
        near, far = (np.abs(frames[n] - final).mean() for n in (7, 0))
        assert near < 0.7 * far

        tags = events(board)
        for term, name in (("total", "total"), ("style", "style_loss"), ("content", "content")):
            scalars = tags[f"{term}/{stem}"]
            assert list(scalars) == [1, 3, 6, 8]
            expected = [line[name] for line in logged[stem]]
            np.testing.assert_allclose(list(scalars.values()), expected, rtol=1e-6)
        assert sorted(tags[f"picture/{stem}"]) == [2, 4, 6, 8]
        image = tags[f"picture/{stem}"][8]
        with Image.open(BytesIO(image.encoded_image_string)) as picture:
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), final)

    # The page: there from the first step, renewed, and at rest in the end.
    first, last = followed[0][2], (out / "report.html").read_text("utf-8")
    assert 'http-equiv="refresh"' in first and 'http-equiv="refresh"' not in last
    assert (data_of(first)["state"], data_of(first)["step"]) == ("running", 1)
    data = data_of(last)
    assert (data["state"], data["step"], data["steps"]) == ("finished", 8, 8)
    for shown, stem in zip(data["outputs"], stems, strict=True):
        assert shown["stem"] == stem
        assert shown["metrics"]["step"] == [1, 3, 6, 8]
        for term, name in (("total", "total"), ("style", "style_loss"), ("content", "content")):
            assert shown["metrics"][term] == [line[name] for line in logged[stem]]
        assert [layers["step"] for layers in shown["layers"]][0] == 1
        assert shown["layers"][-1]["step"] == 8
        assert list(shown["layers"][-1]["style"]) == ["block1_conv1", "block2_conv1"]
        assert all(value > 0 for value in shown["layers"][-1]["style"].values())
    assert [(scale["size"], scale["steps"]) for scale in data["scales"]] == [
        ([18, 24], 4),
        ([36, 48], 4),
    ]
    assert data["settings"]["config"]["first_steps"] == 4
    assert f"wrote {out / 'report.html'}" in err


@pytest.mark.slow
def test_a_run_that_stops_leaves_a_page_that_says_so(run, pictures, tmp_path, monkeypatch):
    content, style, _ = pictures
    call = Observers.__call__

    def stop(self, progress):
        call(self, progress)
        if progress.step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Observers, "__call__", stop)
    arguments = (f"--content={content}", f"--styles={style}", f"--output_dir={tmp_path / 'o'}")
    code, err = run(*arguments, *FAST, *TWO_SCALES, "--report", "--animate=webp")
    assert code == 130
    text = (tmp_path / "o" / "report.html").read_text("utf-8")
    assert data_of(text)["state"] == "stopped" and "interrupted" in text
    assert 'http-equiv="refresh"' not in text


@pytest.mark.slow
def test_nothing_is_shown_unasked_and_bad_input_leaves_a_page_alone(run, pictures, tmp_path):
    content, style, _ = pictures
    (tmp_path / "report.html").write_text("old")
    arguments = (f"--content={content}", f"--styles={style}", f"--output_dir={tmp_path}")
    code, err = run(*arguments, *FAST, "--report", "--size=1")
    assert code == BAD_INPUT
    code, err = run(*arguments, *FAST)
    assert code == 0, err
    assert (tmp_path / "report.html").read_text() == "old"
    assert not (tmp_path / "a__b").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--save_every=0", "--save_every must be at least 1, got 0"),
        ("--animate=webm", "--animate must be one of gif, webp, got 'webm'; did you mean 'webp'?"),
    ],
)
def test_bad_flags_get_one_line(run, flag, message):
    assert run("--demo", flag) == (BAD_INPUT, f"nst-jax: {message}\n")


def test_without_tensorboardx_one_line_says_how_to_get_it(run, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    content, style, _ = pictures
    code, err = run(
        f"--content={content}", f"--styles={style}", f"--output_dir={tmp_path}", *FAST,
        f"--tensorboard_dir={tmp_path / 'board'}",
    )  # fmt: skip
    line = "nst-jax: --tensorboard_dir needs tensorboardX: pip install tensorboardX\n"
    assert (code, err) == (BAD_INPUT, line)


def in_no_room(monkeypatch, function, room):
    """From now on a method of an observer finds its disk full, and no other."""
    method = getattr(*function)

    def called(*arguments, **options):
        with room_for(room):
            return method(*arguments, **options)

    monkeypatch.setattr(*function, called)


@pytest.mark.parametrize(
    "room",  # when its file is begun, and further on
    [10, pytest.param(100, marks=pytest.mark.slow), pytest.param(400, marks=pytest.mark.slow)],
)
def test_a_full_disk_for_tensorboard_is_one_line(run, pictures, tmp_path, monkeypatch, room):
    content, style, _ = pictures
    board = tmp_path / "board"
    monkeypatch.setattr(TensorBoard, "SECONDS", 0.0)
    in_no_room(monkeypatch, (TensorBoard, "__call__"), room)
    code, err = run(
        f"--content={content}", f"--styles={style}", f"--output_dir={tmp_path / 'out'}", *FAST,
        f"--tensorboard_dir={board}", "--log_every=1", "--steps=4",
    )  # fmt: skip
    assert code == BAD_INPUT
    assert err.splitlines()[-1] == f"nst-jax: {board}: cannot be written: File too large"
    assert "Traceback" not in err and "step 4/4" not in err
    assert (tmp_path / "out" / "a__b.png").exists()


def test_a_page_that_cannot_be_written_leaves_the_pictures(run, pictures, tmp_path, monkeypatch):
    content, style, _ = pictures
    arguments = (f"--content={content}", f"--styles={style}", *FAST, "--steps=3")
    code, err = run(*arguments, f"--output_dir={tmp_path / 'whole'}", "--save_every=1")
    assert code == 0, err
    in_no_room(monkeypatch, (Report, "_write"), 100)
    out = tmp_path / "out"
    code, err = run(*arguments, f"--output_dir={out}", "--report")
    assert code == BAD_INPUT
    assert err.splitlines()[-1] == f"nst-jax: {out}/report.html: cannot be written: File too large"
    kept = pixels(out / "a__b.png")
    np.testing.assert_array_equal(kept, pixels(tmp_path / "whole" / "a__b" / "step_000001.png"))


def test_many_losses_on_a_full_disk_end_too(tmp_path):
    """Without a flush: what tensorboardX keeps goes out to the disk by itself."""
    board = TensorBoard(str(tmp_path), log_every=1, pictures_every=None)
    board.begin(group("x"))
    with room_for(2000), pytest.raises(FileError) as caught:
        for progress in dispatches(1000):
            board(progress, None)
    assert str(caught.value) == f"{tmp_path}: cannot be written: File too large"


# Piece by piece, on dispatches that were never computed.


# What a run says at its end of one output.
ENDS = Result(
    np.ones((1, 4, 4, 3), np.float32),
    {},
    np.zeros(1, bool),
    np.zeros(1, int),
    np.ones(1, int),
    np.ones(1),
    None,
)


def group(*stems):
    picture = Picture("x", np.random.default_rng(0).random((8, 8, 3)))
    return Group([picture], [[picture]] * len(stems), stems, stems)


def dispatches(steps, length=1, shape=(4, 4, 3)):
    """(progress, its pictures) of a run whose pictures grow brighter with every step."""
    ends = list(range(length, steps + 1, length))
    ends += range((ends or [0])[-1] + 1, steps + 1)  # the rest one by one
    before = 0
    for step in ends:
        images = np.full((1, *shape), step / steps, np.float32)
        terms = dict.fromkeys(TERMS, np.full((step - before, 1), 1.0 / step))
        before = step
        losses = [{"content": {}, "style": {"block1_conv1": 1.0}}]
        yield SimpleNamespace(
            step=step,
            steps=steps,
            terms=terms,
            images=images,
            diverged=np.zeros(1, bool),
            kept_start=np.zeros(1, int),
            layer_losses=lambda losses=losses: losses,
        )


@pytest.mark.parametrize(
    ("every", "length", "expected"),
    [(10, 1, [10, 20, 30]), (7, 1, [7, 14, 21, 28]), (10, 25, [25, 30]), (99, 1, [])],
)
def test_snapshots_are_of_the_first_step_that_can_be_seen(tmp_path, every, length, expected):
    snapshots = Snapshots(tmp_path, every=every)
    snapshots.begin(group("x"))
    for progress in dispatches(30, length):
        snapshots(progress, lambda progress=progress: progress.images)
    names = sorted(path.name for path in tmp_path.glob("x/*"))
    assert names == [f"step_{step:06d}.png" for step in expected]


def animated(tmp_path, steps, length=1, suffix="webp"):
    """Brightness of each frame, of 255."""
    animation = Animation(tmp_path, suffix=suffix)
    animation.begin(group("x"))
    for progress in dispatches(steps, length):
        animation(progress, lambda progress=progress: progress.images)
    animation.end(ENDS._replace(images=progress.images))
    with Image.open(tmp_path / "x" / f"animation.{suffix}") as file:
        found = []
        for frame in range(file.n_frames):
            file.seek(frame)
            found.append(np.asarray(file.convert("RGB"), float).mean())
    return np.array(found)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_frames_are_few_and_evenly_spread(tmp_path, suffix):
    found = animated(tmp_path, 240, suffix=suffix)
    assert len(found) == FRAMES
    np.testing.assert_allclose(np.diff(found), 255 / 59, atol=3)
    assert found[0] < 4 and found[-1] == pytest.approx(255, abs=2)
    assert len(animated(tmp_path / "short", 5, suffix=suffix)) == 5
    assert len(animated(tmp_path / "chunks", 100, length=25, suffix=suffix)) == 4


def test_frames_take_no_more_memory_than_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(observers, "FRAME_BYTES", 16 * 48)
    found = animated(tmp_path, 240)
    assert 8 <= len(found) <= 17
    gaps = np.diff(found)
    assert gaps.max() < 2.5 * np.median(gaps) and found[-1] == pytest.approx(255, abs=2)


def report(tmp_path, monkeypatch, steps, seconds, cost):
    """Steps at which the page was written, by a clock that each step and each page puts forward."""
    clock, written = [0.0], []
    times = SimpleNamespace(perf_counter=lambda: clock[0], time=lambda: clock[0])
    monkeypatch.setattr(observers, "time", times)
    render = report_page.render

    def rendered(run):
        clock[0] += cost
        written.append(run.step)
        return render(run)

    monkeypatch.setattr(report_page, "render", rendered)
    path = tmp_path / "report.html"
    observer = Report(path, settings={}, log_every=1, outputs=1)
    observer.begin(group("x"))
    for progress in dispatches(steps):
        clock[0] += seconds
        observer(progress, lambda progress=progress: progress.images)
    return written, observer, path


def test_the_page_is_renewed_every_few_seconds(tmp_path, monkeypatch):
    written, *_ = report(tmp_path, monkeypatch, 100, seconds=0.5, cost=0.0)
    assert written == [1, *range(9, 100, 8), 100]
    written, *_ = report(tmp_path, monkeypatch, 1000, seconds=1.0, cost=1.0)
    assert len(written) == pytest.approx((1000 + len(written)) / 20, abs=2)  # of the time


def test_what_the_page_holds_is_bounded_and_keeps_both_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(Report, "ROWS", 50)
    monkeypatch.setattr(Report, "LAYERS", 20)
    _, observer, path = report(tmp_path, monkeypatch, 300, seconds=5.0, cost=0.0)
    assert not observer.end(ENDS)
    assert observer.close(None) == [path]
    (output,) = data_of(path.read_text("utf-8"))["outputs"]
    steps = output["metrics"]["step"]
    assert observer.ROWS <= len(steps) <= 2 * observer.ROWS + 1
    assert (steps[0], steps[-1]) == (1, 300)
    assert len({len(values) for values in output["metrics"].values()}) == 1
    layers = [layers["step"] for layers in output["layers"]]
    assert len(layers) <= observer.LAYERS + 1 and (layers[0], layers[-1]) == (1, 300)


def test_a_value_that_is_not_finite_is_null(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    observer = Report(path, settings={}, log_every=1, outputs=1)
    observer.begin(group("x"))
    for progress in dispatches(3):
        progress.terms |= {"total": np.full((1, 1), np.nan)}
        progress.diverged = np.ones(1, bool)
        observer(progress, lambda progress=progress: progress.images)
    observer.close(ValueError("first line\nsecond"))
    text = path.read_text("utf-8")
    (output,) = data_of(text)["outputs"]
    assert output["metrics"]["total"] == [None] * 3 and output["diverged"]
    assert "stopped at a value that is not finite" in text
    assert "first line" in "".join(Parsed(text).texts["span"]) and "line\nsecond" not in text


def test_the_first_page_of_a_run_that_goes_on_shows_the_losses_before(tmp_path):
    *before, now = dispatches(5)
    terms = {name: np.concatenate([p.terms[name] for p in before]) for name in TERMS}
    path = tmp_path / "report.html"
    observer = Report(path, settings={}, log_every=100, outputs=1)
    observer.begin(group("x")._replace(history=terms))
    now.steps = 99
    observer(now, lambda: now.images)
    text = path.read_text("utf-8")
    (output,) = data_of(text)["outputs"]
    assert (output["metrics"]["step"], output["metrics"]["total"]) == ([1, 4], [1.0, 0.25])
    assert "loss 0.250, from 1.00" in Parsed(text).texts["small"]


@pytest.mark.parametrize("state", ["finished", "running", "stopped", None])
def test_a_run_found_to_be_over_writes_what_is_missing_or_no_whole_page(tmp_path, capsys, state):
    history = dict.fromkeys(TERMS, np.float32([[3.0], [2.0], [1.0]]))
    animation, path = tmp_path / "x" / "animation.gif", tmp_path / "report.html"
    if state is not None:
        path.write_text(f'<!DOCTYPE html>\n<html lang="en" data-state="{state}">\n')
        animation.parent.mkdir()
        animation.write_bytes(b"there")
    before = path.read_text() if state else None
    board = TensorBoard(str(tmp_path / "board"), log_every=1, pictures_every=None)
    page_of = Report(path, settings={}, log_every=2, outputs=1)
    kinds = [Animation(tmp_path, suffix="gif"), board, page_of]
    with Observers(kinds) as watch:
        watch.begin(group("x")._replace(history=history))
        watch.end(ENDS._replace(diverged=np.ones(1, bool)))
    assert not (tmp_path / "board").exists()
    wrote = {None: [animation, path], "finished": []}.get(state, [path])
    assert capsys.readouterr().err == "".join(f"wrote {path}\n" for path in wrote)
    if state == "finished":
        assert path.read_text() == before and animation.read_bytes() == b"there"
        return
    data = data_of(path.read_text("utf-8"))
    assert (data["state"], data["step"], data["steps"]) == ("finished", 3, 3)
    (output,) = data["outputs"]
    assert output["metrics"]["step"] == [1, 2, 3] and output["metrics"]["total"] == [3, 2, 1]
    assert output["diverged"] and not data["scales"]
    if state is None:
        with Image.open(animation) as shown:
            assert shown.n_frames == 1 and np.asarray(shown.convert("RGB")).min() == 255
