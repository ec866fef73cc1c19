"""JAX's persistent compilation cache as the command line uses it: a run loads what an earlier one
compiled. Importing this module changes nothing; the library leaves the cache to its caller.
"""

import functools
import pathlib
import re
import warnings
from collections.abc import Callable

import jax

from nst_jax.weights import fetch

# How JAX warns of an entry that it could not read or write, before it goes on without.
_WARNING = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(.+?)'")


def default_folder() -> pathlib.Path:
    """Where compiled programs are kept unless JAX was told another place."""
    return fetch.cache_dir() / "compiled"


def keep_programs(say: Callable[[str], None]) -> None:
    """Keeps compiled programs in a folder, and loads those that are there.

    A folder that JAX is configured with, by `JAX_COMPILATION_CACHE_DIR` or in code, is used as it
    is configured; else every program goes to `default_folder`. A folder that cannot be used costs
    one line, entries that cannot be read are dropped, and those that cannot be written are let
    go: the run goes on in any case. For the whole process, before it compiles anything.

    Source: https://docs.jax.dev/en/latest/persistent_compilation_cache.html.

    Args:
      say: takes a line for whoever runs the program.
    """
    folder = jax.config.jax_compilation_cache_dir
    if not folder:
        folder = str(default_folder())
        jax.config.update("jax_compilation_cache_dir", folder)
        # Loading a program is quicker than compiling even the smallest.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if "://" not in folder:
        try:
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            jax.config.update("jax_enable_compilation_cache", False)
            say(f"no compilation cache: {folder}: {error.strerror or error}")
            return
        warnings.showwarning = functools.partial(_showwarning, folder, warnings.showwarning)
    if jax.default_backend() == "cpu" and jax.config.jax_logging_level == "NOTSET":
        # On some processors XLA takes hints to its compiler, such as +prefer-no-gather, for
        # features that the processor lacks, and prints pages of it for every program that it
        # then loads all the same: https://github.com/jax-ml/jax/issues/38445.
        jax.config.update("jax_logging_level", "CRITICAL")


def keep_nothing() -> None:
    """Neither keeps compiled programs nor loads any, wherever JAX is configured to."""
    jax.config.update("jax_enable_compilation_cache", False)


def _showwarning(folder: str, show: Callable, message: Warning, *args, **kwargs) -> None:
    """Drops entries that cannot be read, which JAX would neither use nor ever replace."""
    found = _WARNING.match(str(message))
    if found is None:
        show(message, *args, **kwargs)
    elif found[1] == "reading":
        for path in pathlib.Path(folder).glob(f"{found[2]}-*"):
            path.unlink(missing_ok=True)
