"""Whether an HDF5 file can be read to its end, found out in a process of its own.

On some damaged files libhdf5 loops without end or crashes, in C, where no exception reaches. As a
script, `python -P hdf5.py FILE`, this module reads everything in the file.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

LARGEST = 2**31  # bytes of an array, above any parameter's: others are not read
SECONDS = 10  # of computing, and one for each of
BYTES_A_SECOND = 10**7
PATIENCE = 12  # times as long by the clock: a disk or a machine may be slow


def check(path: Path) -> None:
    """Reads a file in another process, at most as long as any good one takes.

    Raises:
      OSError: it is damaged, in words or in that the process did not end well.
    """
    seconds = SECONDS + path.stat().st_size // BYTES_A_SECOND
    command = [sys.executable, "-P", __file__, str(path.absolute()), str(seconds)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
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
    """Everything in a file: attributes, and arrays unless they are larger than any of ours."""
    import h5py

    def visit(_, item):
        for name in item.attrs:
            item.attrs[name]
        if isinstance(item, h5py.Dataset) and item.nbytes < LARGEST:
            item[()]

    with h5py.File(path, "r") as file:
        visit("/", file)
        file.visititems(visit)


def _main(path: str, seconds: str) -> None:
    with contextlib.suppress(ImportError):  # there is none on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        _read(path)
    except Exception as error:  # damaged bytes make libraries raise nearly anything
        sys.exit(" ".join(str(error).split()) or type(error).__name__)


if __name__ == "__main__":
    _main(*sys.argv[1:])
