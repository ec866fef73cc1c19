"""Progress bars, on what takes itself for a terminal."""

import functools
import io
import re
import sys
import types

import basic
import jax
import numpy as np
import pytest
from commandline import FAST
from tqdm import tqdm

import nst_jax
from nst_jax import coarse_to_fine, objective, optimize
from nst_jax.cli import console, progress, speeds
from nst_jax.cli.look.observers import Group, Observers
from nst_jax.cli.progress import PictureProgress, StepProgress
from nst_jax.cli.run import _seams, planned


def terminal_in_place_of_stderr(monkeypatch):
    """What is written to it; bars are drawn at every change, however short its time.

    To be called in the test: between the set-up and it pytest puts a stderr of its own in place.
    """

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(console, "_quiet", False)
    monkeypatch.setattr(progress, "tqdm", functools.partial(tqdm, mininterval=0))
    return terminal


def test_a_data_sets_bar_shows_how_many_pictures_a_minute_it_makes(monkeypatch):
    terminal = terminal_in_place_of_stderr(monkeypatch)
    now = 100.0
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(perf_counter=lambda: now))
    with PictureProgress(total=10, done=4) as follow:
        now += 30.0
        follow.begin(Group((), (), (), ("a", "b", "c", "c")))
        follow.end(None)
        follow.pass_over(1)
        follow(optimize.Progress(2, 5, {}, None, None, None, None))
    last = terminal.getvalue().rpartition("\r")[2]
    assert "| 7/9 pictures [" in last and "6 a minute, step 2/5]" in last


def progress_at(step, count, steps=4):
    total = {"total": np.ones((count, 2))}
    return optimize.Progress(step, steps, total, None, None, None, None)


@pytest.mark.parametrize("terminal", [False, True])
def test_the_time_that_is_left_counts_pixels_and_no_compiling(monkeypatch, capsys, terminal):
    shown = terminal_in_place_of_stderr(monkeypatch) if terminal else None
    monkeypatch.setattr(console, "_quiet", False)
    now = 100.0
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(perf_counter=lambda: now))
    group = Group((), (), ("a", "b"), (), steps=6, pixels=[100] * 3 + [400] * 3)
    said = []
    pace = progress.Pace()
    with Observers([pace, StepProgress(lambda: 7.0, pace)]) as follow:
        follow.begin(group)
        # The first and the last step of a scale compile for 10 s; a step takes 1 s per 100 pixels.
        for step, seconds in ((1, 11), (2, 1), (3, 11), (4, 14), (5, 4), (6, 14)):
            now += seconds
            follow(progress_at(step, 1, steps=6))
            text = shown.getvalue().rpartition("\r")[2] if shown else capsys.readouterr().err
            said.append(re.sub(r"\s+", " ", text))
    if terminal:
        assert "6 steps [" in said[0] and "loss: a 1, b 1]" in said[0]
        assert "compiling, about 12 s left, loss: " in said[2]
        assert "about 4 s left, loss: " in said[4] and "compiling" not in said[4]
        assert "left" not in said[5]
        return
    assert said == [
        "compiling step 1/6, 7.0 s, loss: a 1, b 1 ",
        "step 2/6, 7.0 s, about 13 s left, loss: a 1, b 1 ",
        "step 3/6, 7.0 s, about 12 s left, loss: a 1, b 1 ",
        "step 4/6, 7.0 s, about 8 s left, loss: a 1, b 1 ",
        "step 5/6, 7.0 s, about 4 s left, loss: a 1, b 1 ",
        "step 6/6, 7.0 s, loss: a 1, b 1 ",
    ]


def test_the_next_run_knows_the_pace_of_the_last(monkeypatch, tmp_path):
    monkeypatch.setenv("NST_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(speeds, "_path", lambda: tmp_path / "more" / "speeds.json")
    config, placement = nst_jax.Config(), nst_jax.Placement()
    kind = speeds.kind_of(config, placement)
    # Numbers and sizes do not matter, layers and the way of evaluation do.
    assert kind == speeds.kind_of(config.replace(size=64, style_weight=3, steps=1), placement)
    others = [
        speeds.kind_of(config.replace(content_layers=("block1_conv1",)), placement),
        speeds.kind_of(config.replace(dtype="bfloat16"), placement),
        speeds.kind_of(config, placement.replace(remat=True)),
        speeds.kind_of(config.replace(nearest_rows=2048), placement),
    ]
    assert len({kind, *others}) == 5
    now = 100.0
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(perf_counter=lambda: now))
    pace = progress.Pace(kind)
    for steps, known in ((4, None), (8, 5 / 100 / 2)):  # two and six measured steps
        pace.begin(Group((), (), (), ("a", "b"), steps=steps, pixels=[100] * steps))
        assert speeds.recall(kind) is None and pace.left(0) is None
        for step in range(1, steps + 1):
            now += 50 if step in (1, steps) else 5  # the first and the last one compile
            pace(progress_at(step, 1))
        pace.end(None)
        assert speeds.recall(kind) == known
    assert speeds.recall(others[0]) is None
    with monkeypatch.context() as patch:
        patch.setattr(speeds, "_MOST", 1)
        speeds.remember(others[0], 1.0)
    assert speeds.recall(kind) is None and speeds.recall(others[0]) == 1.0
    for broken in ("", "[]", f'{{"{kind}": "x"}}'):
        (file,) = tmp_path.rglob("speeds.json")
        file.write_text(broken)
        assert speeds.recall(kind) is None


@pytest.mark.parametrize("kept", [True, False])
def test_a_pace_lies_beside_the_programs_if_they_are_kept(monkeypatch, tmp_path, kept):
    monkeypatch.setenv("NST_JAX_CACHE", str(tmp_path))
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", kept)
    try:
        speeds.remember("kind", 1.0)
        assert speeds.recall("kind") == (1.0 if kept else None)
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
    assert [path.name for path in tmp_path.rglob("*.json")] == ["speeds.json"] * kept


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(0.4, "0 s"), (119, "119 s"), (150, "2.5 min"), (3000, "50 min"), (9000, "2.5 h")],
)
def test_an_estimate_has_a_unit_that_suits_it(seconds, wanted):
    assert progress.spoken(seconds) == wanted


def test_a_run_says_what_it_is_about_to_do():
    config = nst_jax.presets["default"].replace(size=256, first_size=64, scale_factor=2)
    config = config.replace(first_steps=30, steps=20)
    shapes = [((100, 50, 3), 1), ((50, 50, 3), 1)]
    assert planned(shapes, config) == "2 pictures in 3 scales, 70 steps in all"
    one = config.replace(first_size=None, first_steps=None, steps=1)
    assert planned(shapes[:1], one) == "1 picture in 1 scale, 1 step in all"
    told = planned([((100, 50, 3), 3)], one, pace=1e-3)
    about = f"{3 * 256 * 128 * 1e-3:.0f} s"
    assert told.endswith(f", 1 step in all; about {about} after compiling, judged by the last run")
    pixels = coarse_to_fine.pixels_at_steps(config, (100, 50, 3))
    assert pixels == [64 * 32] * 30 + [128 * 64] * 20 + [256 * 128] * 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", [(), ("--pairing=zip",)])
def test_a_tiled_step_has_a_bar_over_its_windows(run, pictures, tmp_path, monkeypatch, kind):
    terminal = terminal_in_place_of_stderr(monkeypatch)
    content, style, _ = pictures
    code, _ = run(
        *(f"--content={content}", f"--styles={style}", f"--output_dir={tmp_path / 'o'}", *FAST),
        *("--tile=24", "--tv_weight=0", *kind),
    )
    assert code == 0, terminal.getvalue()
    config = basic.CONFIG.replace(
        style_layers=("block1_conv1", "block2_conv1"), content_layers=("block2_conv2",)
    )
    windows = objective.Objective.of(config).grid(nst_jax.load_params("vgg16"), (36, 48), 24)
    total = 2 * len(windows)  # statistics, and gradients
    drawn = re.findall(r"(\d+)/(\d+) \[[^\]]*window", terminal.getvalue())
    assert {int(of) for _, of in drawn} == {total}
    assert [int(done) for done, _ in drawn] == 3 * list(range(total + 1))  # two steps, and the end


@pytest.mark.parametrize("shape", [(48, 64, 3), (40, 64, 3)])
def test_sides_that_make_no_exact_tile_are_told(shape):
    config = nst_jax.Config().replace(padding="circular", size=64, first_size=None)
    lines = _seams(shape, config)
    assert lines == [] if shape[0] % 16 == 0 else "64x40 makes no exact tile" in lines[0]
    assert not _seams((40, 64, 3), config.replace(padding="replicate"))
