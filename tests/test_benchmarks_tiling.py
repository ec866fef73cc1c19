import json
import subprocess
import sys


def test_prints_memory_and_time_of_whole_and_tiled_steps(tmp_path):
    command = [sys.executable, "-m", "benchmarks.tiling_memory", "--sizes=200x24,9x9"]
    command += ["--tiles=181", "--steps=1", "--model=vgg16", f"--json={tmp_path / 'x.json'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    tiled, failed = json.loads((tmp_path / "x.json").read_text())["measurements"]
    assert tiled["size"] == "200x24" and tiled["tile"] == "181"
    # More than the weights' 59 MB in float32, less than this benchmark ever took.
    assert 59e6 < tiled["peak_bytes"] < 64e9 and tiled["seconds"] > 0
    assert "at least 16 pixels" in failed["error"]
    assert "200x24" in done.stdout and "9x9" in done.stdout
