"""Records of a data-set job: its settings in config.json, its progress in manifest.jsonl.

A later job in the same folder has records with a number: see `nst_jax.cli.shared_folder`.
"""

import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nst_jax.cli.dataset.pairs import Pair
from nst_jax.cli.run import PLACED
from nst_jax.cli.shared_folder import CONFIG, MANIFEST, names_of_kind, number_of, numbered
from nst_jax.files.atomic import from_json
from nst_jax.files.checkpoints import differences
from nst_jax.files.lines import Lines
from nst_jax.files.paths import read_bytes

# Settings that say where and how pictures are computed. They may change between runs.
PLACEMENT = (*PLACED, "batch_size", "mesh", "platform", "device", "versions")


class Manifest:
    """manifest.jsonl of a folder: one line per finished pair or bad file, in order of time.

    Process number n > 0 writes manifest-n.jsonl instead. Every process reads those of all
    processes. A last line that was cut off, for example because its process was killed, does not
    count.

    Attributes:
      finished: `{pair: whether it diverged}`.
      bad: (path, error) of each bad file.
    """

    def __init__(self, folder: pathlib.Path, *, process: int = 0, number: int = 1):
        """Reads what is recorded in `folder`.

        Args:
          folder: of the job. It need not exist.
          process: number of this process.
          number: of the job in the folder.

        Raises:
          ValueError: a line is not one of a manifest.
          OSError: a file cannot be read.
        """
        self.finished: dict[Pair, bool] = {}
        self._painted: dict[str, Pair] = {}  # by output
        self.bad: set[tuple[str, str]] = set()
        own = folder / manifest_name(number, process=process)
        self._lines = Lines(own)
        names = names_of_kind(folder, MANIFEST, processes=True)
        for path in (folder / name for name in names if number_of(name) == number):
            text = read_bytes(path)
            whole = text[: text.rfind(b"\n") + 1]
            if path == own:
                self._lines = Lines(own, start=whole)
            for place, line in enumerate(whole.splitlines(), start=1):
                try:
                    self._take(from_json(line))
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f"{path}: line {place} is not a line of a manifest") from None

    def _take(self, line: Mapping[str, Any]) -> None:
        """Adds what a line records."""
        if "error" in line:
            self.bad.add((line["path"], line["error"]))
            return
        done = Pair(line["content"], line["style"], line["output"])
        # If two pairs were painted into one file, the later pair counts.
        earlier = self._painted.get(done.output)
        if earlier is not None:
            self.finished.pop(earlier, None)
        self._painted[done.output] = done
        self.finished[done] = line["diverged"]

    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Appends lines, all in one write.

        Raises:
          FileError: they cannot be written.
        """
        self._lines.write("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
        self._lines.flush()
        for line in lines:
            self._take(line)

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()


def manifest_name(number: int, *, process: int = 0) -> str:
    """Returns the name of a process's manifest."""
    stem, _, suffix = numbered(MANIFEST, number).partition(".")
    return f"{stem}-{process}.{suffix}" if process else f"{stem}.{suffix}"


def records_of(number: int) -> list[str]:
    """Returns the names of the records of a job, by its number in the folder."""
    return [numbered(CONFIG, number), manifest_name(number)]


def find_job(folder: pathlib.Path, settings: Mapping[str, Any]) -> int | None:
    """Returns the number of the job in the folder that has these settings, or None.

    Args:
      folder: the folder. It need not exist.
      settings: of this job. Those in `PLACEMENT` may differ.

    Raises:
      ValueError: a config.json is no record of settings.
      OSError: it cannot be read.
    """
    for name in names_of_kind(folder, CONFIG):
        if not _different(folder / name, settings):
            return number_of(name)
    return None


def check_others(
    folder: pathlib.Path, settings: Mapping[str, Any], outputs: Collection[str]
) -> None:
    """Refuses pictures that a job with other settings has made, by the names of these settings.

    Args:
      folder: the folder. It need not exist.
      settings: of this job.
      outputs: names of its pictures.

    Raises:
      ValueError: there are such pictures. Or a file is no record.
    """
    for name in names_of_kind(folder, CONFIG):
        different = _different(folder / name, settings)
        job = Manifest(folder, number=number_of(name))
        if different and any(pair.output in outputs for pair in job.finished):
            raise ValueError(
                f"{folder / name} belongs to a run that differs in {different}; use another "
                "--output_dir"
            )


def _different(path: pathlib.Path, settings: Mapping[str, Any]) -> str:
    """Says how recorded settings differ from those of this job; "" if they are equal."""

    def flat(settings: dict[str, Any]) -> dict[str, Any]:
        # Names outside of the config stand first, and have priority over the config's own.
        settings |= settings.pop("config", {}) | settings
        return {name: value for name, value in settings.items() if name not in PLACEMENT}

    try:
        earlier = flat(from_json(read_bytes(path)))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{path} is not a record of settings") from None
    return differences(earlier, flat(json.loads(json.dumps(settings))))
