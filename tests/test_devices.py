"""What the command says if JAX starts no device."""

import os
import subprocess
import sys
import types

import pytest

from nst_jax.cli import devices


def refuse(error):
    """A `jax.devices` that raises an error."""

    def raising(*_):
        raise error

    return raising


@pytest.fixture
def told(monkeypatch):
    """What is said of an error of JAX, with these platforms asked for and packages installed."""

    def told(error, *, platforms="", packages=(), counting=lambda: 8):
        values = {"jax_platforms": platforms}
        config = types.SimpleNamespace(values=values, update=values.__setitem__)
        own = types.SimpleNamespace(devices=refuse(error), config=config, device_count=counting)
        own.default_backend = lambda: "no platform" if values["jax_platforms"] else "cpu"
        monkeypatch.setattr(devices, "jax", own)
        monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name in packages)
        return devices.no_devices()

    return told


CUDA = "JAX_PLATFORMS=cuda: "
INSTALL = "cuda needs a package that is missing: pip install 'jax[cuda13]'"


def test_without_its_package_a_platform_is_told_how_to_get_it(told):
    there = "; there is 8 x cpu"
    assert told(AssertionError(), platforms="cuda") == f"{CUDA}{INSTALL}{there}"
    assert told(RuntimeError("no libtpu"), platforms="tpu") == (
        f"JAX_PLATFORMS=tpu: tpu needs a package that is missing: pip install 'jax[tpu]'{there}"
    )
    package = {"packages": ("jax_cuda12_plugin",)}
    found = told(AssertionError(), platforms="cuda", **package)
    assert found == f"{CUDA}there is no such device{there}"
    error = RuntimeError("it is in use. (set JAX_PLATFORMS='' to choose another)\nin 35 lines")
    found = told(error, platforms="cuda", **package)
    assert found == f"{CUDA}it is in use{there}"
    assert told(error) == f"it is in use{there}"


def test_if_no_platform_starts_it_says_so(told):
    found = told(AssertionError(), platforms="cuda", counting=refuse(RuntimeError("none")))
    assert found == f"{CUDA}{INSTALL}; no other platform starts either"


def test_where_devices_start_nothing_is_said():
    assert devices.no_devices() is None


@pytest.mark.parametrize(
    ("command", "platform", "line"),
    [
        (("nst_jax", "--demo", "--size=32"), "cuda", f"nst-jax: {CUDA}"),
        pytest.param(
            *(("nst_jax", "--demo", "--size=32"), "nope", "nst-jax: JAX_PLATFORMS=nope: Unable to"),
            marks=pytest.mark.slow,
        ),
        (("benchmarks.step_time",), "cuda", f"step_time: {CUDA}"),
    ],
)
def test_a_platform_that_is_not_there_is_one_line(command, platform, line, tmp_path):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = {"PYTHONPATH": root, "JAX_PLATFORMS": platform}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
        env=os.environ | paths | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert (done.returncode, done.stdout) == (1, "")
    # Where the TPU's library is installed, it says first that it finds no TPU.
    *others, last = done.stderr.splitlines()
    assert last.startswith(line) and "; there is 1 x cpu" in last, done.stderr
    assert not any("nst-jax" in other or "Traceback" in other for other in others), done.stderr
