import json
import os
import subprocess
import sys
from pathlib import Path

import benchmarking
import numpy as np
import pytest

from benchmarks import defaults
from nst_jax import examples
from nst_jax.files.images import read_image, write_image

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.defaults", *arguments],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
    )


def test_the_checkerboard_measures_2x2_alternation_alone():
    rows, columns = np.mgrid[:9, :12]
    board = np.repeat(np.where((rows + columns) % 2, 0.6, 0.4)[..., None], 3, axis=-1)
    # a = d = 0.4 and b = c = 0.6: (a - b - c + d) / 2 is 0.2, in grey levels 51.
    np.testing.assert_allclose(defaults.checkerboard(board), 51.0, rtol=1e-6)
    ramp = np.repeat((rows / 10 + columns / 50)[..., None], 3, axis=-1)
    stripes = np.repeat((columns % 2 / 1.0)[..., None], 3, axis=-1)
    for picture in (np.full((5, 5, 3), 0.3), ramp, stripes):
        np.testing.assert_allclose(defaults.checkerboard(picture), 0.0, atol=1e-9)
    noise = np.random.default_rng(0).normal(0.5, 0.1, (200, 200, 3))
    np.testing.assert_allclose(defaults.checkerboard(noise), 25.5, rtol=0.02)  # the deviation


def test_the_highest_loss_is_taken_scale_by_scale():
    assert defaults.highest_over_first([[2.0, 3.0, 1.0], [10.0, 12.0]]) == 1.5
    assert defaults.highest_over_first([[2.0, 1.0]]) == 1.0
    assert defaults.highest_over_first([[0.0, 0.0], [0.0, 0.002]]) == 2.0  # of a perfect picture


def test_extremes_have_perfect_pairs():
    found = defaults.extremes(32)
    assert {picture.shape for picture in found.values()} == {(32, 32, 3)}
    assert np.ptp(found["flat"]) == 0 and found["noise"].std() == pytest.approx(12**-0.5, rel=0.05)
    with pytest.raises(ValueError, match="--extremes takes no --contents and no --styles"):
        benchmarking.run(defaults, "--extremes", "--styles=x")


@pytest.mark.slow
def test_presets_and_another_checkout_are_compared(tmp_path):
    write_image(tmp_path / "contents" / "butterfly.png", examples.butterfly((64, 96)))
    write_image(tmp_path / "styles" / "rainbow.png", examples.rainbow((80, 64)))
    out, path = tmp_path / "out", tmp_path / "result.json"
    ended = run(
        f"--contents={tmp_path}/contents",
        f"--styles={tmp_path}/styles",
        "--presets=default,fast",
        f"--other={ROOT}",  # of which the default is this one's
        "--size=48",
        "--steps=2",
        f"--output_dir={out}",
        f"--json={path}",
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads(path.read_text("utf-8"))
    (pair,) = report["pairs"]
    assert list(pair["methods"]) == list(report["summary"]) == ["default", "fast", "other"]
    own, fast, other = pair["methods"].values()
    assert own["steps"] == [2] and own["loss"] == other["loss"] != fast["loss"]
    assert report["summary"]["other"]["loss_ratio"] == 1
    assert own["highest_over_first"] >= 1 and own["own_loss"] > 0
    picture = read_image(out / "butterfly__rainbow__default.png")
    np.testing.assert_array_equal(read_image(out / "butterfly__rainbow__other.png"), picture)
    np.testing.assert_allclose(defaults.checkerboard(picture), own["checkerboard"], atol=0.5)
    assert (out / "grid.png").is_file()
    for found in (own, fast, other):
        assert f"{found['checkerboard']:.2f}" in ended.stdout


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--presets=dfault", "did you mean 'default'[?]$"),
        ("--other=nowhere", "^--other must be a checkout of nst_jax, got nowhere$"),
    ],
)
def test_bad_flags_are_refused(flag, line):
    with pytest.raises(ValueError, match=line):
        benchmarking.run(defaults, flag)
