"""Checks in a separate process whether an HDF5 file can be read to its end.

On some damaged files, libhdf5 loops without end or crashes in C, without a Python exception. As a
script, `python -P hdf5.py FILE SECONDS`, this module reads everything in the file.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

LARGEST = 25088 * 4096 * 8  # bytes of the largest array allowed: the largest parameter in float64
MEMORY = 2**32  # bytes of address space, enough for a few such arrays, because one may be copied
SECONDS = 10  # CPU time for any file, plus one second for each `BYTES_A_SECOND` of the file
BYTES_A_SECOND = 10**7
PATIENCE = 12  # the wall-clock limit over the CPU time limit, for slow disks and machines


def check(path: Path) -> None:
    """Reads a file in another process, with limits of time and memory that fit any good file.

    Raises:
      OSError: the file is damaged: reading it fails, does not end, or crashes the process.
    """
    seconds = SECONDS + path.stat().st_size // BYTES_A_SECOND
    command = [sys.executable, "-P", __file__, str(path.absolute()), str(seconds)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment["OPENBLAS_NUM_THREADS"] = "1"  # each thread would take a share of `MEMORY`
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE * seconds,
        )
    except subprocess.TimeoutExpired:
        raise OSError("damaged: reading it does not end") from None
    if done.returncode == 0:
        return
    if done.returncode < 0 or not done.stderr:
        raise OSError(f"damaged: reading it took over {seconds} s, or broke the HDF5 library")
    raise OSError(done.stderr.strip().splitlines()[-1])


def _read(path: str) -> None:
    """Reads everything in a file, attributes and arrays. Refuses an array above `LARGEST`."""
    import h5py

    def visit(place, item):
        for name in item.attrs:
            item.attrs[name]
        if isinstance(item, h5py.Dataset):
            # A few compressed bytes can expand to any size.
            if item.nbytes > LARGEST:
                raise ValueError(f"{place} has {item.nbytes} bytes, more than any parameter")
            item[()]

    with h5py.File(path, "r") as file:
        visit("/", file)
        file.visititems(visit)


def _main(path: str, seconds: str) -> None:
    with contextlib.suppress(ImportError, ValueError):  # some systems lack these limits
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        _read(path)
    except Exception as error:  # on damaged bytes, libraries raise errors of all kinds
        sys.exit(" ".join(str(error).split()) or type(error).__name__)


if __name__ == "__main__":
    _main(*sys.argv[1:])
