"""JAX's persistent compilation cache for the command: a run loads what an earlier run compiled.

Importing this module changes nothing. The library leaves the cache to its caller.
"""

import functools
import pathlib
import re
import warnings
from collections.abc import Callable
from typing import Any

import jax

from nst_jax.weights import fetch

# JAX's warning about an entry that it could not read or write. JAX then goes on without the entry.
_WARNING = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(.+?)'")


def default_folder() -> pathlib.Path:
    """Returns the folder of compiled programs where JAX is configured with no other."""
    return fetch.cache_dir() / "compiled"


def keep_programs(say: Callable[[str], None]) -> None:
    """Saves compiled programs in a folder, and loads the programs that are already there.

    Call it before the process compiles anything; it applies to the whole process. If JAX is
    configured with a folder, by `JAX_COMPILATION_CACHE_DIR` or in code, that configuration stays
    as it is. Otherwise every program is saved in `default_folder`.

    The run goes on in any case. If the folder cannot be used, one line says so. An entry that
    cannot be read is deleted. An entry that cannot be written is not saved.

    Source: https://docs.jax.dev/en/latest/persistent_compilation_cache.html.

    Args:
      say: shows a line to the user.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder:
        folder = str(default_folder())
        jax.config.update("jax_compilation_cache_dir", folder)
        # Loading a program is faster than compiling even the smallest one.
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
    if jax.default_backend() == "cpu" and jax.config.values["jax_logging_level"] == "NOTSET":
        # On some processors, XLA prints pages of errors for every program that it loads: it takes
        # hints to its compiler, such as +prefer-no-gather, for missing features of the processor.
        # The programs work: https://github.com/jax-ml/jax/issues/38445.
        jax.config.update("jax_logging_level", "CRITICAL")


def keep_nothing() -> None:
    """Neither saves nor loads compiled programs, whatever folder JAX is configured with."""
    jax.config.update("jax_enable_compilation_cache", False)


def _showwarning(
    folder: str, show: Callable[..., None], message: Warning | str, *args: Any, **kwargs: Any
) -> None:
    """Deletes entries that cannot be read: JAX would neither use nor replace them."""
    found = _WARNING.match(str(message))
    if found is None:
        show(message, *args, **kwargs)
    elif found[1] == "reading":
        for path in pathlib.Path(folder).glob(f"{found[2]}-*"):
            path.unlink(missing_ok=True)
