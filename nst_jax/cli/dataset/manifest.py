"""Records of a data-set job: its settings in config.json, its progress in manifest.jsonl."""

import fnmatch
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from nst_jax.cli.dataset.pairs import Pair
from nst_jax.cli.run import PLACED
from nst_jax.files.atomic import from_json
from nst_jax.files.checkpoints import differences
from nst_jax.files.lines import Lines
from nst_jax.files.paths import exists, is_remote, listing, read_bytes

# Settings that say where and how pictures are computed. They may change between runs.
PLACEMENT = (*PLACED, "batch_size", "mesh", "platform", "device", "versions")


class Manifest:
    """manifest.jsonl of a folder: one line per finished pair or bad file, in order of time.

    Process number n > 0 writes manifest-n.jsonl instead. Every process reads all of these files.
    A last line that was cut off, for example because its process was killed, does not count.

    Attributes:
      finished: `{pair: whether it diverged}`.
      bad: (path, error) of each bad file.
    """

    def __init__(self, folder: pathlib.Path, *, process: int = 0):
        """Reads what is recorded in `folder`.

        Raises:
          ValueError: a line is not one of a manifest.
          OSError: a file cannot be read.
        """
        self.finished: dict[Pair, bool] = {}
        self._painted: dict[str, Pair] = {}  # by output
        self.bad: set[tuple[str, str]] = set()
        own = folder / (f"manifest-{process}.jsonl" if process else "manifest.jsonl")
        self._lines = Lines(own)
        for path in _manifests(folder):
            text = read_bytes(path)
            whole = text[: text.rfind(b"\n") + 1]
            if path == own:
                self._lines = Lines(own, start=whole)
            for number, line in enumerate(whole.splitlines(), start=1):
                try:
                    self._take(from_json(line))
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f"{path}: line {number} is not a line of a manifest") from None

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


def _manifests(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the manifests in a folder: first process 0's, then the others' by name."""
    if is_remote(folder):
        names = [name for name in listing(folder, prefix="manifest") if "/" not in name]
    else:
        names = [path.name for path in folder.glob("manifest*.jsonl")]
    first = [name for name in names if name == "manifest.jsonl"]
    return [folder / name for name in [*first, *sorted(fnmatch.filter(names, "manifest-*.jsonl"))]]


def check_settings(path: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Refuses to continue with settings that differ from the recorded ones of an earlier run.

    Args:
      path: config.json of the folder. If it does not exist, any settings are accepted.
      settings: of this run. Those in `PLACEMENT` may differ.

    Raises:
      ValueError: settings differ; the message names them. Or the file is no record of settings.
    """
    if not exists(path):
        return

    def flat(settings: dict[str, Any]) -> dict[str, Any]:
        # Names outside of the config stand first, and have priority over the config's own.
        settings |= settings.pop("config", {}) | settings
        return {name: value for name, value in settings.items() if name not in PLACEMENT}

    try:
        earlier = flat(from_json(read_bytes(path)))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{path} is not a record of settings") from None
    different = differences(earlier, flat(json.loads(json.dumps(settings))))
    if different:
        raise ValueError(
            f"{path} belongs to a run that differs in {different}; use another --output_dir"
        )
