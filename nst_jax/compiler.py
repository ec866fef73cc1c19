"""Options of XLA's compiler for programs of which the default is not the best.

They are for a CPU, where a user waits for the compiler. `benchmarks.start_up` measures the wait.
"""

import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import Mesh

from nst_jax import sharding

# Few temporary results at a time. XLA:CPU seeks no such order by default.
LEAN = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

# Compiles the targets of the default three times as fast, and they run as fast as otherwise. A step
# would run a seventh slower. jaxlib 0.12 lacks the first option: there it is a quarter faster.
QUICK = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": 1,
    "xla_llvm_disable_expensive_passes": True,
}


@functools.cache
def compiled(function: Callable, options: tuple[tuple[str, Hashable], ...], **jit: Any) -> Callable:
    """A jitted function, jitted again with options of the compiler.

    Args:
      function: a jitted function.
      options: of the compiler, the items of a dict. Those that this XLA does not know are left out.
      **jit: further arguments of `jax.jit`. All are hashable.
    """
    known = {name: value for name, value in options if _is_known(name, value)}
    return jax.jit(inspect.unwrap(function), compiler_options=known or None, **jit)


@functools.cache
def _is_known(name: str, value: Hashable) -> bool:
    try:
        jax.jit(jnp.sin, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def run_once(function: Callable, *, mesh: Mesh | None = None, **jit: Any) -> Callable:
    """A jitted function as a program that compiles fast, because it runs once.

    While JAX traces, the function stays as it is, since only a whole program may have options.

    Args:
      function: a jitted function.
      mesh: the devices that it runs on; None is the default one.
      **jit: further arguments of `jax.jit`, as of `function`.
    """
    traced = isinstance(jnp.zeros(()), Tracer)  # as all results are while a program is traced
    # Someone who disables optimisations wants something that compiles faster still.
    least = jax.config.read("jax_disable_most_optimizations")
    if traced or least or sharding.platform_of(mesh) != "cpu":
        return function
    return compiled(function, tuple(QUICK.items()), **jit)
