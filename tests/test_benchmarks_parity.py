import json
import os
import subprocess
import sys
from pathlib import Path

import benchmarking
import pytest
from absl import flags

from benchmarks import parity
from nst_jax import vgg

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.parity", *arguments],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": "jax"} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_table_names_every_layer_and_the_largest_error(tmp_path):
    ended = run("--height=33", "--width=32", f"--json={tmp_path}")
    assert (ended.returncode, ended.stderr) == (0, "")
    (path,) = tmp_path.iterdir()  # the device's, of parity alone
    assert path.name.startswith("parity-cpu-")
    report = json.loads(path.read_text("utf-8"))
    assert (report["height"], report["width"]) == (33, 32)
    assert report["versions"].keys() >= {"nst_jax", "jax", "keras", "python"}
    errors = report["relative_error"]
    assert {model: tuple(found) for model, found in errors.items()} == {
        model: vgg.layer_names(model) for model in vgg.CONVOLUTIONS
    }
    assert 0 <= report["largest"] <= 1e-5
    assert report["largest"] == max(error for found in errors.values() for error in found.values())
    rows = {line.split()[0]: line.split()[1:] for line in ended.stdout.splitlines() if line}
    assert rows["layer"] == ["vgg16", "vgg19"]
    assert set(vgg.layer_names("vgg19")) <= rows.keys()
    assert rows["block5_conv4"] == ["-", f"{errors['vgg19']['block5_conv4']:.1e}"]
    assert rows["largest"] == [f"{max(found.values()):.1e}" for found in errors.values()]


def test_without_keras_it_says_so_in_one_line(tmp_path):
    (tmp_path / "keras.py").write_text("raise ModuleNotFoundError('no keras here')\n")
    ended = run(PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1
    assert ended.stdout == ""
    expected = "parity: needs Keras: pip install '.[test]' (no keras here)\n"
    assert ended.stderr == expected


def test_bad_arguments_are_refused():
    ended = run("vgg16")
    assert ended.returncode == 1
    assert ended.stderr == "parity: unexpected argument 'vgg16'\n"
    with pytest.raises(flags.IllegalFlagValueError, match="not integer >= 32"):
        benchmarking.parse(parity, "--width=31")
