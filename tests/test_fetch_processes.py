"""Fetching by several processes at once, killed ones among them, and by the script."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fetching import CONTENT, NAME, fetch_from, md5, size
from http_server import Answer, serving

from nst_jax.weights import fetch

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = REPOSITORY / "scripts" / "fetch_weights.py"


def wait_for(condition, *, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.005)


# Runs the module by its path, because importing the package would also import JAX.
CHILD = """
import runpy, sys
module, url, md5, directory = sys.argv[1:]
fetch = runpy.run_path(module)
print(fetch["fetch"](fetch["RemoteFile"](url, md5), directory=directory))
"""


def child(server, directory) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-c", CHILD, fetch.__file__),
            *(f"{server.address}/{NAME}", md5(CONTENT), directory),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(stream, words: str) -> None:
    for line in stream:
        if words in line:
            return
    raise AssertionError(f"the process ended without saying {words!r}")


def test_two_processes_at_once_download_once(tmp_path):
    with (
        serving(CONTENT, Answer(cut=1000, stall=True)) as server,
        child(server, tmp_path) as first,
    ):
        part = tmp_path / f"{NAME}.part"
        wait_for(lambda: size(part) == 1000)
        with child(server, tmp_path) as second:
            read_until(second.stderr, f"{NAME}: another process is downloading it; waiting")
            # The first one loses its connection and completes the file by a second request.
            server.released.set()
            for process in (first, second):
                assert process.communicate(timeout=120)[0] == f"{tmp_path / NAME}\n"
                assert process.returncode == 0
        assert [request.sent for request in server.log] == [1000, len(CONTENT) - 1000]
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_process_takes_over_from_one_that_was_killed(tmp_path):
    with (
        serving(CONTENT, Answer(cut=200_000, stall=True)) as server,
        child(server, tmp_path) as first,
    ):
        part = tmp_path / f"{NAME}.part"
        wait_for(lambda: size(part) == 200_000)
        with child(server, tmp_path) as second:
            read_until(second.stderr, "waiting")
            first.send_signal(signal.SIGKILL)
            assert first.wait(timeout=120) == -signal.SIGKILL
            assert second.communicate(timeout=120)[0] == f"{tmp_path / NAME}\n"
        assert [request.range for request in server.log] == [None, "bytes=200000-"]
        assert sum(request.sent for request in server.log) == len(CONTENT)
    assert (tmp_path / NAME).read_bytes() == CONTENT


# Runs the script with a small file in the table; a test run in the background would pass
# on to it that Ctrl-C is ignored.
RUN_SCRIPT = """
import os, runpy, signal, sys
from nst_jax.weights import fetch
script, url, md5, *flags = sys.argv[1:]
sys.path.insert(0, os.path.dirname(script))  # as where a script is run by its name
signal.signal(signal.SIGINT, signal.default_int_handler)
fetch.FILES["tiny"] = fetch.RemoteFile(url, md5)
sys.argv = [script, *flags]
runpy.run_path(script, run_name="__main__")
"""


def script(server, *flags) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-c", RUN_SCRIPT, SCRIPT),
            *(f"{server.address}/{NAME}", md5(CONTENT), *flags),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


@pytest.mark.slow
def test_script_prints_paths_and_fails_with_one_line(tmp_path):
    with serving(CONTENT, Answer(status=503), Answer(), Answer(status=404)) as server:
        flags = ["--files=tiny,vgg19_notop", f"--cache_dir={tmp_path}"]
        with script(server, *flags, f"--mirror={server.address}/mirror") as process:
            out, err = process.communicate(timeout=120)
        name = fetch.FILES["vgg19_notop"].name
        asked = [request.path for request in server.log]
        assert asked == [f"/mirror/{NAME}"] * 2 + [f"/mirror/{name}"]
        assert process.returncode == 1
        assert out == f"{tmp_path / NAME}\n"
        url = f"{server.address}/mirror/{name}"
        assert err.splitlines()[-1] == f"fetch_weights: {url}: HTTP status 404 Not Found"
        assert "Traceback" not in err
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_script_exits_zero_when_all_is_there(tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT)
    with serving(CONTENT) as server:
        with script(server, "--files=tiny", f"--cache_dir={tmp_path}") as process:
            assert process.communicate(timeout=120) == (f"{tmp_path / NAME}\n", "")
        assert process.returncode == 0 and server.log == []


def test_script_names_files_that_it_does_not_know(tmp_path):
    with serving(CONTENT) as server:
        with script(server, "--files=tiny,vgg11", f"--cache_dir={tmp_path}") as process:
            out, err = process.communicate(timeout=120)
        assert server.log == []
    assert (process.returncode, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("fetch_weights: --files: wanted some of vgg16, ")
    assert line.endswith("got 'vgg11'")


def test_script_interrupted_leaves_a_part_to_go_on_from(tmp_path):
    with serving(CONTENT, Answer(cut=1000, stall=True)) as server:
        with script(server, "--files=tiny", f"--cache_dir={tmp_path}") as process:
            part = tmp_path / f"{NAME}.part"
            wait_for(lambda: size(part) == 1000)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (130, "")
        assert err.splitlines()[1:] == ["fetch_weights: interrupted; run it again to continue"]
        assert not (tmp_path / NAME).exists()
        assert fetch_from(server, tmp_path).read_bytes() == CONTENT
        assert server.log[1].range == "bytes=1000-"
