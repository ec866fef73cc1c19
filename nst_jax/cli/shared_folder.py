"""What runs leave in a folder beside their pictures: numbered records, and locks while they write.

The first run in a folder writes config.json and metrics.jsonl, the second config_2.json and
metrics_2.jsonl, and so on. A run replaces only records of its own. config.json names what the run
makes. A data set names that in its manifest instead.

While a run writes, it holds a lock on a file of its own, `.nst_jax-*.lock`, which names the
pictures that it makes. The system takes the lock back when the process ends, however it ends. The
next run deletes such a file. A bucket has no locks.
"""

import contextlib
import json
import os
import pathlib
import re
import socket
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nst_jax.files.atomic import FileError, from_json
from nst_jax.files.paths import existing, is_remote, listing, read_bytes

try:
    import fcntl
except ImportError:  # not on every system
    fcntl = None

CONFIG, METRICS, REPORT = "config.json", "metrics.jsonl", "report.html"
MANIFEST = "manifest.jsonl"

_LOCKS = ".nst_jax-*.lock"


# ----------------------------------- Records ------------------------------------


def numbered(name: str, number: int) -> str:
    """Returns the name of a file of run `number`, such as "config_2.json"."""
    stem, dot, suffix = name.partition(".")
    return name if number == 1 else f"{stem}_{number}{dot}{suffix}"


class Record(NamedTuple):
    """A run that left its settings in a folder.

    Attributes:
      number: of the run.
      settings: what its config.json holds.
    """

    number: int
    settings: Mapping[str, Any]

    def made(self) -> list[str]:
        """Returns the names of the files and folders that it makes, apart from its records."""
        found = [self.settings.get("pictures"), self.settings.get("files")]
        lists = [names for names in found if isinstance(names, list)]
        return [name for names in lists for name in names if isinstance(name, str)]


def names_of_kind(folder: pathlib.Path, name: str, *, processes: bool = False) -> list[str]:
    """Returns the names in a folder that `numbered(name, ...)` gives, in order of their numbers.

    Args:
      folder: the folder. It need not exist.
      name: of the first run's file.
      processes: whether files of single processes count, such as manifest-1.jsonl.

    Raises:
      OSError: a remote folder cannot be listed.
    """
    stem, _, suffix = name.partition(".")
    if is_remote(folder):
        names = listing(folder, prefix=stem)
    else:
        names = [path.name for path in folder.glob(f"{stem}*.{suffix}")]
    process = r"(?:-\d+)?" if processes else ""
    pattern = re.compile(rf"{stem}(?:_\d+)?{process}\.{suffix}")
    return sorted(filter(pattern.fullmatch, names), key=lambda name: (number_of(name), name))


def number_of(name: str) -> int:
    """Returns the number of the run whose file has this name."""
    match = re.search(r"_(\d+)(?:-\d+)?\.", name)
    return int(match[1]) if match else 1


def records(folder: pathlib.Path) -> list[Record]:
    """Returns the records in a folder, which need not exist. Other files are passed over.

    Raises:
      OSError: a remote folder cannot be listed.
    """
    found = []
    for name in names_of_kind(folder, CONFIG):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append(Record(number_of(name), dict(from_json(read_bytes(folder / name)))))
    return found


def made(folder: pathlib.Path) -> set[str]:
    """Returns the names of the files and folders that runs have recorded as theirs, with records.

    A run that writes at the moment, or that was killed, has also recorded what it was to make.

    Raises:
      OSError: a remote folder cannot be listed.
    """
    names = {name for record in records(folder) for name in record.made()}
    for name in (CONFIG, METRICS):
        names.update(names_of_kind(folder, name))
    for manifest in names_of_kind(folder, MANIFEST, processes=True):
        names.add(manifest)
        with contextlib.suppress(OSError):
            for line in read_bytes(folder / manifest).split(b"\n"):
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    names.add(str(from_json(line)["output"]))
    for path in () if is_remote(folder) else folder.glob(_LOCKS):
        with contextlib.suppress(OSError, ValueError, TypeError):
            _, planned, _ = from_json(path.read_bytes())
            names |= set(map(str, planned))
    return names


def free_number(
    folder: pathlib.Path,
    names: Callable[[int], Sequence[str]],
    *,
    taken: Collection[int] = (),
    own: Collection[str] = (),
) -> int:
    """Returns the number for a new run: the first one whose files are not there yet.

    Args:
      folder: of the run. It need not exist.
      names: gives the names of the files of a number.
      taken: numbers of other runs.
      own: names that the run needs for other files.
    """
    exists = existing(folder)
    number = 1
    while number in taken or any(exists(name) or name in own for name in names(number)):
        number += 1
    return number


# ------------------------------------ Locks -------------------------------------


class Running(NamedTuple):
    """A run that is writing to a folder.

    Attributes:
      number: of the run.
      names: what it makes.
      process: the number and host of its process, for a message.
    """

    number: int
    names: frozenset[str]
    process: str


@contextlib.contextmanager
def writing(
    folder: pathlib.Path,
    names: Collection[str],
    *,
    choose: Callable[[Collection[int]], int],
) -> Iterator[int]:
    """Holds the lock of a run that writes to a folder.

    Args:
      folder: the folder, which exists.
      names: the pictures and folders that the run makes.
      choose: returns the number of the run, given those of the runs that write at the moment. No
        other run begins meanwhile.

    Yields:
      The number.

    Raises:
      FileError: another run is writing one of these pictures.
    """
    if is_remote(folder) or fcntl is None:
        yield choose(())
        return
    path = folder / _LOCKS.replace("*", uuid.uuid4().hex)
    with contextlib.ExitStack() as held:
        with _alone(folder):
            others = _running(folder)
            for other in others:
                both = sorted(other.names.intersection(names))
                if both:
                    raise FileError(
                        f"{folder / both[0]} is being written by another run ({other.process}): "
                        "wait for its end, or choose another --output_dir"
                    )
            number = choose({other.number for other in others})
            # Without locks, as on some network disks, or on a full disk, the run goes on.
            with contextlib.suppress(OSError):
                file = held.enter_context(path.open("wb", buffering=0))
                held.callback(path.unlink, missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                process = f"process {os.getpid()} on {socket.gethostname()}"
                file.write(json.dumps([number, sorted(names), process]).encode())
        yield number


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """Holds a lock on the folder itself, where the system has such locks."""
    assert fcntl is not None
    place = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def _running(folder: pathlib.Path) -> list[Running]:
    """Returns the runs that hold a lock, and deletes the lock files of those that ended."""
    assert fcntl is not None
    found = []
    for path in folder.glob(_LOCKS):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with contextlib.suppress(ValueError, TypeError):
                    number, names, process = from_json(file.read())
                    found.append(Running(number, frozenset(names), process))
            else:
                path.unlink()
    return found
