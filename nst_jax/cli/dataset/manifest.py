"""Records of a data-set job: its settings in config.json, its progress in manifest.jsonl."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from nst_jax.cli.dataset.pairs import Pair
from nst_jax.cli.run import PLACED
from nst_jax.files.atomic import from_json, writing
from nst_jax.files.checkpoints import differences

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
        """
        self.finished: dict[Pair, bool] = {}
        self._painted: dict[str, Pair] = {}  # by output
        self.bad: set[tuple[str, str]] = set()
        self._path = folder / (f"manifest-{process}.jsonl" if process else "manifest.jsonl")
        self._whole = 0  # bytes of complete lines in this process's file
        for path in [folder / "manifest.jsonl", *sorted(folder.glob("manifest-*.jsonl"))]:
            text = path.read_bytes() if path.exists() else b""
            whole = text[: text.rfind(b"\n") + 1]
            if path == self._path:
                self._whole = len(whole)
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
        """Appends lines, all in one write."""
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
        with (
            writing(self._path),
            self._path.open("r+b" if self._path.exists() else "wb") as file,
        ):
            file.seek(self._whole)
            file.truncate()
            file.write(text)
        self._whole += len(text)
        for line in lines:
            self._take(line)


def check_settings(path: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Refuses to continue with settings that differ from the recorded ones of an earlier run.

    Args:
      path: config.json of the folder. If it does not exist, any settings are accepted.
      settings: of this run. Those in `PLACEMENT` may differ.

    Raises:
      ValueError: settings differ; the message names them. Or the file is no record of settings.
    """
    if not path.exists():
        return

    def flat(settings: dict[str, Any]) -> dict[str, Any]:
        # Names outside of the config stand first, and have priority over the config's own.
        settings |= settings.pop("config", {}) | settings
        return {name: value for name, value in settings.items() if name not in PLACEMENT}

    try:
        earlier = flat(from_json(path.read_text("utf-8")))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{path} is not a record of settings") from None
    different = differences(earlier, flat(json.loads(json.dumps(settings))))
    if different:
        raise ValueError(
            f"{path} belongs to a run that differs in {different}; use another --output_dir"
        )
