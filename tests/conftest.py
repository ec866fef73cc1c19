"""Settings that every test runs under: eight CPU devices, no silent broadcasting of ranks, and
programs that are quick to compile rather than quick to run, since most run once or twice."""

import gc
import importlib.metadata
import os

# Tracing makes many objects and little garbage: the collector took a fourteenth of the tests' time.
gc.set_threshold(200_000, 20, 100)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of processes that tests start, too
# Fused loops by the emitter without MLIR take a fifth of the time to compile. A jaxlib that does
# not know a flag ends the process. So only one that knows them gets them.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = " ".join(
        (
            os.environ.get("XLA_FLAGS", ""),
            "--xla_cpu_use_fusion_emitters=false",
            "--xla_cpu_parallel_codegen_split_count=1",
            # Of the fixture `many_steps`.
            "--xla_backend_optimization_level=1",
            "--xla_llvm_disable_expensive_passes=true",
        )
    ).strip()
# With the TPU's compiler installed, JAX would look for a TPU and say that there is none.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402
from absl.testing import flagsaver  # noqa: E402
from commandline import Command  # noqa: E402
from PIL import Image  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

import nst_jax  # noqa: E402  (after the settings)
from nst_jax.cli import outputs  # noqa: E402
from nst_jax.cli.main import _main  # noqa: E402
from nst_jax.files.images import write_image  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """A module's programs are of little use to the next, and take gigabytes together."""
    yield
    jax.clear_caches()


@pytest.fixture
def many_steps():
    """Programs that take twice as long to compile and run several times faster."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Processes that tests start keep what they compile there, and leave the user's cache alone."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NST_JAX_CACHE", str(folder))
        yield folder


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
def curves():
    """Has `run` draw the curves of the loss."""


@pytest.fixture
def run(capsys, monkeypatch, request):
    """Runs the command in this process: `code, stderr = run("--flag=value", ...)`.

    A blank picture stands for the curves of the loss, which take matplotlib a second.
    """
    if "curves" not in request.fixturenames:
        blank = np.ones((1, 1, 3), np.float32)
        monkeypatch.setattr(outputs, "loss_curves", lambda path, *_: write_image(path, blank))

    def run(*arguments):
        with flagsaver.flagsaver():
            # The cache would be this process's from here on.
            remaining = flags.FLAGS(["nst-jax", "--nocompilation_cache", *arguments])
            code = _main(remaining)
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


@pytest.fixture
def command(tmp_path):
    command = Command(tmp_path / "log.txt")
    yield command
    command.close()


@pytest.fixture(scope="session")
def servers():
    """The environment in which clients find the buckets of this machine."""
    import buckets  # only for tests that need them

    with buckets.servers() as environment:
        yield environment


@pytest.fixture
def new_bucket(servers, monkeypatch):
    """Makes a bucket: `new_bucket("s3")`."""
    import buckets

    for name, value in servers.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    buckets.forget_clients()
    yield buckets.Bucket
    buckets.forget_clients()


@pytest.fixture(params=["gs", "s3"])
def bucket(request, new_bucket):
    return new_bucket(request.param)


@pytest.fixture
def s3(new_bucket):
    return new_bucket("s3")
