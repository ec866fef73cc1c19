"""What there is to compute on: the answer of `--devices`, and why no device starts."""

import importlib.util
import os
import platform
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from nst_jax import sharding, vgg
from nst_jax.cli.run import versions
from nst_jax.config import Config
from nst_jax.files.host_memory import GIB, host_bytes
from nst_jax.version import __version__

# The variables that choose devices, or decide how much of their memory there is.
VARIABLES = ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
VARIABLES += ("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION")
VARIABLES += ("XLA_PYTHON_CLIENT_ALLOCATOR",)


# The packages of which one lets JAX use a platform, and what installs one.
PACKAGES = {
    "cuda": (("jax_cuda13_plugin", "jax_cuda12_plugin"), "jax[cuda13]"),
    "gpu": (("jax_cuda13_plugin", "jax_cuda12_plugin", "jax_rocm7_plugin"), "jax[cuda13]"),
    "tpu": (("libtpu",), "jax[tpu]"),
}


def no_devices() -> str | None:
    """Why JAX has no device, and what there is, on one line; None if it has some.

    It is for the end of a process: JAX may choose another platform after it.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that one platform starts
        reason = str(error).partition("\n")[0].partition(" (set JAX_PLATFORMS")[0].rstrip(". ")
    else:
        return None
    asked = jax.config.values["jax_platforms"] or ""
    for name in asked.split(","):
        modules, package = PACKAGES.get(name, ((), ""))
        if modules and not any(map(importlib.util.find_spec, modules)):
            reason = f"{name} needs a package that is missing: pip install '{package}'"
    line = f"JAX_PLATFORMS={asked}: " if asked else ""
    line += reason or "there is no such device"
    jax.config.update("jax_platforms", "")
    try:
        line += f"; there is {_counted()}"
    except (RuntimeError, AssertionError):
        line += "; no other platform starts either"
    return line


def _counted() -> str:
    """The devices of the default platform, such as "2 x cpu"."""
    return f"{jax.device_count()} x {jax.default_backend()}"


def describe_version() -> str:
    """The package, Python and the system, on one line."""
    return f"nst_jax {__version__}, python {platform.python_version()}, {platform.platform()}"


def describe_devices(config: Config, mesh: Mapping[str, int] | None) -> Iterator[str]:
    """Gives the lines of the answer. The versions come first, also if no device starts.

    Args:
      config: its type and precision are tried on a device.
      mesh: sizes of the axes of a mesh to look for; None looks for none.
    """
    yield describe_version()
    others = {n: v for n, v in versions().items() if n not in ("python", "nst_jax")}
    yield ", ".join(f"{name} {version}" for name, version in others.items())
    for name in VARIABLES:
        if name in os.environ:
            yield f"{name}={os.environ[name]}"
    free = host_bytes()
    yield "host: " + ("memory not known" if free is None else f"{free / GIB:.2f} GiB free")
    for device in jax.devices():
        yield f"{device.platform} {device.id}: {device.device_kind}, {_memory(device)}"
    yield _precision(config)
    if mesh is not None:
        yield _mesh(mesh)


# JAX exports the class of its devices as a variable.
def _memory(device: jax.Device) -> str:  # pyright: ignore[reportInvalidTypeForm]
    """What is known about the memory of a device."""
    if device.process_index != jax.process_index():
        return f"of process {device.process_index}"
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        free = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
        return f"{free / GIB:.2f} GiB free of {stats['bytes_limit'] / GIB:.2f} GiB"
    return "the host's memory" if device.platform == "cpu" else "memory not known"


def _precision(config: Config) -> str:
    """Whether a small convolution runs in the configured type and precision."""
    values = config.on(jax.default_backend()).flat()
    dtype, precision = values["dtype"], values["precision"]
    picture = jnp.ones((1, 8, 8, 3), vgg.DTYPES[dtype])
    kernel = jnp.ones((3, 3, 3, 4), vgg.DTYPES[dtype])
    try:
        jax.lax.conv_general_dilated(
            *(picture, kernel, (1, 1), "SAME"),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision,
        ).block_until_ready()
        told = "works"
    except jax.errors.JaxRuntimeError as error:
        told = f"does not work: {str(error).splitlines()[0]}"
    return f"precision: {dtype}, products {precision}: {told}"


def _mesh(sizes: Mapping[str, int]) -> str:
    """Whether there are enough devices for a mesh."""
    asked = ",".join(f"{axis}:{size}" for axis, size in sizes.items())
    try:
        sharding.make_mesh(1, sizes=sizes)
    except ValueError as error:
        return f"mesh {asked}: does not fit: {error}"
    return f"mesh {asked}: fits"
