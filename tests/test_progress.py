"""Progress bars, on what takes itself for a terminal."""

import functools
import io
import re
import sys
import types

import basic
import pytest
from commandline import FAST
from tqdm import tqdm

import nst_jax
from nst_jax import objective, optimize
from nst_jax.cli import console, progress
from nst_jax.cli.look.observers import Group
from nst_jax.cli.progress import PictureProgress


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
