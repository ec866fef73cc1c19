"""The benchmarks for the day that a device is there, on this machine's CPU."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import nst_jax
from benchmarks import agreement, on_device
from benchmarks.reporting import RESULTS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_a_wrong_network_does_not_agree(vgg19):
    """That the right one does, the script below shows: it runs this benchmark first."""
    wanted = agreement.read_reference(str(agreement.REFERENCE))
    # The kernel of the second layer, a hundredth larger.
    other = {**vgg19, "block1_conv2": dict(vgg19["block1_conv2"])}
    other["block1_conv2"]["kernel"] = 1.01 * np.asarray(vgg19["block1_conv2"]["kernel"])
    found = {n: agreement._thinned(n, x) for n, x in agreement.figures(other, "float32").items()}
    wrong = agreement.errors(found, wanted)
    assert wrong["features"] > agreement.BOUNDS["float32"]["features"]


def test_a_number_that_is_not_finite_is_no_agreement():
    wanted = agreement.read_reference(str(agreement.REFERENCE))
    broken = {name: np.array(array) for name, array in wanted.items()}
    broken["features_block3_conv1"][0, 0, 0] = np.nan
    errors = agreement.errors(broken, wanted)
    assert np.isnan(errors["features"]) and errors["gradient"] == 0


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, loss=np.zeros(1))
    with pytest.raises(ValueError, match=r"other.npz: holds no figures of this benchmark"):
        agreement.read_reference(str(path))
    np.save(tmp_path / "other.npy", np.zeros(1))
    with pytest.raises(ValueError, match=r"other.npy: holds no figures of this benchmark"):
        agreement.read_reference(str(tmp_path / "other.npy"))


def test_the_reference_is_small_and_complete():
    assert agreement.REFERENCE.stat().st_size < 150_000
    found = agreement.read_reference(str(agreement.REFERENCE))
    assert found["ten_steps"].shape == (10, 1) and found["gradient"].shape == (64, 48, 3)
    layers = {name.removeprefix("features_") for name in found if name.startswith("features_")}
    assert layers == set(nst_jax.presets["default"]["style_layers"])


def test_what_does_not_fit_is_left_and_what_fails_is_named(tmp_path, monkeypatch, capsys):
    tasks = [
        on_device.Task("agreement", ["--nothing"], 1.0),
        on_device.Task("step_time", [], 1.0, "no_such_package"),
        on_device.Task("memory", [], 1.0),
    ]
    monkeypatch.setattr(on_device, "tasks", lambda size, folder: tasks)
    monkeypatch.setattr(on_device, "platform", lambda: "cpu")
    clock = iter([0.0, 1.0, 2.0, 55.0, 56.0])
    monkeypatch.setattr(on_device.time, "monotonic", lambda: next(clock))
    options = type("Options", (), {"minutes": 1.0, "results": str(tmp_path), "size": "full"})
    with pytest.raises(ValueError, match=r"these did not finish: agreement \(exit code 1\)"):
        on_device.main(options)
    said = capsys.readouterr().out
    assert "step_time: left out, no_such_package is not installed" in said
    assert "memory: left out, the time is over" in said


@pytest.mark.slow
def test_the_script_runs_at_the_smallest_size(tmp_path):
    """Without `torch` where it is not installed; results are there task by task."""
    command = [ROOT / "scripts" / "on_device.sh", "--size=smallest", "--minutes=60"]
    command += [f"--results={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("cpu-*.json")
    results = json.loads(path.read_text())
    assert {"agreement", "step_time", "memory", "end_to_end"} <= results.keys()
    rows = results["step_time"]["rows"]
    assert [row["precision"] for row in rows] == ["float32", "bfloat16"]
    assert all(row["matmul_share"] > 0 for row in rows)
    assert any((tmp_path / "trace").rglob("*.json.gz")) and tmp_path != RESULTS
