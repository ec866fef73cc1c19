"""The compilation cache of the command line, each time in processes of its own."""

import json
import os
import pathlib
import subprocess
import sys
import zlib

import numpy as np
import pytest

# Compiles a program; prints where the cache is, how often it was hit, and what was said.
PROGRAM = """
import json, sys, jax
from nst_jax.cli import compilation
hits, said = [], []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
assert jax.config.jax_compilation_cache_dir == (sys.argv[1] if len(sys.argv) > 1 else None)
compilation.keep_programs(said.append)
assert jax.jit(lambda x: 3 * x + 1)(2.0) == 7.0
print(json.dumps([
    jax.config.jax_compilation_cache_dir,
    hits.count("/jax/compilation_cache/cache_hits"),
    said,
]))
"""


def run(folder, *arguments, code=PROGRAM, **environment):
    """What PROGRAM prints, with its caches under `folder`; nothing may come on stderr."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "NST_JAX_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=kept | {"XDG_CACHE_HOME": str(folder), "JAX_PLATFORMS": "cpu"} | environment,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


def entries(folder):
    return sorted(pathlib.Path(folder).glob("*-cache"))


@pytest.mark.slow
def test_the_second_process_loads_what_the_first_compiled(tmp_path):
    kept = tmp_path / "nst_jax" / "compiled"
    assert run(tmp_path) == [str(kept), 0, []]
    (entry,) = (path for path in entries(kept) if "lambda" in path.name)
    assert run(tmp_path)[1] == len(entries(kept)) >= 1

    # Entries cut short, as by a full disk: compiled again, and whole from then on.
    for path in entries(kept):
        path.write_bytes(path.read_bytes()[:100])
    assert run(tmp_path) == [str(kept), 0, []]
    assert entry.stat().st_size > 100
    assert run(tmp_path)[1] == len(entries(kept))


@pytest.mark.slow
def test_what_xla_says_of_processors_does_not_reach_the_terminal(tmp_path):
    run(tmp_path)
    for entry in entries(tmp_path / "nst_jax" / "compiled"):
        try:
            program = zlib.decompress(entry.read_bytes())
        except zlib.error:
            pytest.skip("entries are not in zlib: the package zstandard is installed")
        if b"+avx2" not in program:
            pytest.skip("the program names no such feature: another kind of processor")
        entry.write_bytes(zlib.compress(program.replace(b"+avx2", b"+avx9")))
    assert run(tmp_path)[1] >= 1


def test_a_cache_that_jax_is_told_of_is_used_as_it_is(tmp_path):
    own = tmp_path / "own"
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(own),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    assert run(tmp_path, own, **environment) == [str(own), 0, []]
    assert run(tmp_path, own, **environment)[1] >= 1
    assert not (tmp_path / "nst_jax").exists()


def test_a_path_that_is_a_file_costs_one_line(tmp_path):
    (tmp_path / "nst_jax").mkdir()
    path = tmp_path / "nst_jax" / "compiled"
    path.write_text("in the way")
    folder, hits, said = run(tmp_path)
    assert (folder, hits) == (str(path), 0)
    assert said == [f"no compilation cache: {path}: File exists"]
    assert path.read_text() == "in the way"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody may fill")
def test_a_folder_that_cannot_be_written_breaks_nothing():
    # There, as the administrator too, files cannot be made.
    environment = {
        "JAX_COMPILATION_CACHE_DIR": "/proc/self",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    assert run("/", "/proc/self", **environment) == ["/proc/self", 0, []]


def test_importing_the_package_sets_up_no_cache(tmp_path):
    code = (
        "import json, jax, nst_jax.cli.main; jax.jit(lambda x: x + 1)(1);"
        "print(json.dumps(jax.config.jax_compilation_cache_dir))"
    )
    assert run(tmp_path, code=code) is None
    assert list(tmp_path.iterdir()) == []


def paint(folder, flag, environment):
    """The bytes of the picture that the command paints, with `flag`, and what it said."""
    command = [sys.executable, "-m", "nst_jax", "--demo", "--size=32", "--steps=1", flag]
    command += ["--style_layers=block1_conv1", "--content_layers=block1_conv2"]
    command += ["--nearest_weight=0"]
    command += [f"--output_dir={folder}", "--quiet", "--model=vgg16", "--overwrite"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return (folder / "butterfly__rainbow.png").read_bytes(), done.stderr


@pytest.mark.slow
def test_no_cache_is_none_wherever_jax_is_told_of_one(tmp_path):
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    made, left = {}, {}
    for flag in ("--nocompilation_cache", "--compilation_cache"):
        made[flag], said = paint(tmp_path / "out", flag, environment)
        assert said == ""
        left[flag] = len(list((tmp_path / "own").glob("*")))
    assert left["--nocompilation_cache"] == 0 < left["--compilation_cache"]
    assert made["--nocompilation_cache"] == made["--compilation_cache"]


@pytest.mark.slow
def test_the_command_compiles_again_what_is_damaged(tmp_path):
    environment = {"NST_JAX_CACHE": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": ""}
    kept = tmp_path / "compiled"
    whole, said = paint(tmp_path / "out", "--compilation_cache", environment)
    assert said == "" and len(entries(kept)) > 2
    # Cut short, of other bytes, and empty: of each kind every third entry, in turn.
    rng = np.random.default_rng(0)
    for number, path in enumerate(entries(kept)):
        data = path.read_bytes()
        path.write_bytes([data[: len(data) // 2], rng.bytes(len(data)), b""][number % 3])
    damaged = {path: path.read_bytes() for path in entries(kept)}
    assert paint(tmp_path / "out", "--compilation_cache", environment) == (whole, "")
    assert all(path.read_bytes() != data for path, data in damaged.items())
