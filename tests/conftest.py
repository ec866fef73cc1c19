"""Settings that every test runs under: eight CPU devices, and no silent broadcasting of ranks."""

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

import nst_jax  # noqa: E402  (after the settings)


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
