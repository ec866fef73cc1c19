"""Settings that every test runs under: eight CPU devices, and no silent broadcasting of ranks."""

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

import nst_jax  # noqa: E402  (after the settings)
from nst_jax import cli  # noqa: E402


@pytest.fixture(scope="session")
def vgg16():
    return nst_jax.load_params("vgg16")


@pytest.fixture(scope="session")
def vgg19():
    return nst_jax.load_params("vgg19")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def compilations():
    """Counts the programs that JAX compiles: `with compilations() as count: ...; count()`."""
    import contextlib

    @contextlib.contextmanager
    def counting():
        events = []

        def listen(event, duration, **_):
            if event == "/jax/core/compile/backend_compile_duration":
                events.append(duration)

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield lambda: len(events)
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)

    return counting


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Servers of the tests are on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def run(capsys):
    """Runs the command in this process: `code, stderr = run("--flag=value", ...)`."""

    def run(*arguments):
        with flagsaver.flagsaver():
            # The cache would be this process's from here on.
            remaining = flags.FLAGS(["nst-jax", "--nocompilation_cache", *arguments])
            code = cli._main(remaining)
        captured = capsys.readouterr()
        assert captured.out == ""  # stdout is for what was asked for
        return code, captured.err

    return run


@pytest.fixture
def pictures(tmp_path, rng):
    paths = []
    for name, shape in (("a.png", (60, 80, 3)), ("b.png", (64, 48, 3)), ("c.jpg", (50, 50, 3))):
        paths.append(tmp_path / name)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(paths[-1])
    return paths
