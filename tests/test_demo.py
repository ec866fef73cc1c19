"""What scripts/demo.sh asks the command for, without installing anything."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parent.parent / "scripts" / "demo.sh"


@pytest.fixture
def asked(tmp_path):
    """Runs a copy of the script in `tmp_path`; returns the arguments that the command got."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(DEMO, tmp_path / "scripts")
    (tmp_path / "scripts" / "_venv.sh").write_text(f"venv={tmp_path}/.venv\nsetup() {{ :; }}\n")
    command = tmp_path / ".venv" / "bin" / "nst-jax"
    command.parent.mkdir(parents=True)
    command.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/asked\n")
    command.chmod(0o755)
    for folder in ("demo_output", "mine"):
        (tmp_path / folder).mkdir()

    def run(*arguments):
        script = tmp_path / "scripts" / "demo.sh"
        done = subprocess.run(
            ["bash", script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        folder = "mine" if "mine" in " ".join(arguments) else "demo_output"
        first, last = done.stdout.splitlines()
        assert first.startswith(f"The pictures are in {tmp_path}/{folder}; ")
        own = f"{tmp_path}/.venv/bin/nst-jax --content=photo.jpg --styles=painting.jpg"
        assert last == f"Paint your own: {own}"
        return (tmp_path / "asked").read_text().splitlines()

    return run


def test_a_demo_that_is_far_too_large_is_refused_before_it_is_drawn(tmp_path):
    """Drawing it would take an hour."""
    command = [sys.executable, "-m", "nst_jax", "--demo", "--size=60000"]
    done = subprocess.run(
        [*command, f"--output_dir={tmp_path}/out"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    start = "nst-jax: a picture of 60000x60000 would take about "
    assert done.stderr.startswith(start) and done.stderr.count("\n") == 1


def test_only_its_own_folder_is_overwritten(asked):
    own = ["--demo", "--output_dir=demo_output", "--overwrite"]
    assert asked() == own
    assert asked("--size=64", "--seed=1 2") == [*own, "--size=64", "--seed=1 2"]
    for named in (["--output_dir=mine"], ["-output_dir=mine"], ["--output_dir", "mine"]):
        assert asked(*named, "--steps=2") == ["--demo", *named, "--steps=2"]
