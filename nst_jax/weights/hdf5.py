"""Whether an HDF5 file can be read to its end, found out in a process of its own.

On some damaged files libhdf5 loops without end or crashes, in C, where no exception reaches. As a
script, `python -P hdf5.py FILE`, this module reads everything in the file.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

LARGEST = 25088 * 4096 * 8  # bytes of an array: those of the largest parameter in float64
MEMORY = 2**32  # bytes of address space: a few of these arrays, as one may be copied
SECONDS = 10  # of computing, and one for each of
BYTES_A_SECOND = 10**7
PATIENCE = 12  # times as long by the clock: a disk or a machine may be slow


def check(path: Path) -> None:
    """Reads a file in another process, with the time and memory that any good one may take.

    Raises:
      OSError: it is damaged, in words or in that the process did not end well.
    """
    seconds = SECONDS + path.stat().st_size // BYTES_A_SECOND
    command = [sys.executable, "-P", __file__, str(path.absolute()), str(seconds)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment["OPENBLAS_NUM_THREADS"] = "1"  # or each core would take a share of `MEMORY`
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
    """Everything in a file, attributes and arrays; refuses what is larger than any of ours."""
    import h5py

    def visit(place, item):
        for name in item.attrs:
            item.attrs[name]
        if isinstance(item, h5py.Dataset):
            # A few bytes, compressed, may stand for any number.
            if item.nbytes > LARGEST:
                raise ValueError(f"{place} is of {item.nbytes} bytes, more than any parameter")
            item[()]

    with h5py.File(path, "r") as file:
        visit("/", file)
        file.visititems(visit)


def _main(path: str, seconds: str) -> None:
    with contextlib.suppress(ImportError, ValueError):  # not every system has these limits
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        _read(path)
    except Exception as error:  # damaged bytes make libraries raise nearly anything
        sys.exit(" ".join(str(error).split()) or type(error).__name__)


if __name__ == "__main__":
    _main(*sys.argv[1:])
