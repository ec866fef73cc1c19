"""What a data-set job leaves of itself: settings in config.json, progress in manifest.jsonl."""

import json
import pathlib
from collections.abc import Mapping, Sequence

from nst_jax.cli.dataset.pairs import Pair
from nst_jax.files.atomic import from_json, writing
from nst_jax.files.checkpoints import differences

# Of the settings, what says where and how pictures are computed and not what: it may change between
# runs.
PLACEMENT = ("batch_size", "mesh", "tile", "remat", "strips", "platform", "device", "versions")


class Manifest:
    """manifest.jsonl of a folder: a line a finished pair or bad file, as they come.

    The process of number n > 0 writes manifest-n.jsonl instead; all of them are read. A last line
    that was cut off, as by the end of its process, is as good as not written.

    Attributes:
      finished: `{pair: whether it diverged}`.
      bad: (path, error) of files.
    """

    def __init__(self, folder: pathlib.Path, *, process: int = 0):
        self.finished: dict[Pair, bool] = {}
        self._painted: dict[str, Pair] = {}
        self.bad: set[tuple[str, str]] = set()
        self._path = folder / (f"manifest-{process}.jsonl" if process else "manifest.jsonl")
        self._whole = 0  # bytes of whole lines in it
        for path in [folder / "manifest.jsonl", *sorted(folder.glob("manifest-*.jsonl"))]:
            text = path.read_bytes() if path.exists() else b""
            whole = text[: text.rfind(b"\n") + 1]
            if path == self._path:
                self._whole = len(whole)
            for number, line in enumerate(whole.splitlines(), start=1):
                try:
                    self._take(from_json(line))
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f"{path}: line {number} is not a manifest's") from None

    def _take(self, line: Mapping) -> None:
        if "error" in line:
            self.bad.add((line["path"], line["error"]))
        else:
            done = Pair(line["content"], line["style"], line["output"])
            # Of a file that two pairs were painted into, the last.
            self.finished.pop(self._painted.get(done.output), None)
            self._painted[done.output] = done
            self.finished[done] = line["diverged"]

    def write(self, lines: Sequence[Mapping]) -> None:
        """Appends lines, all at once."""
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


def check_settings(path: pathlib.Path, settings: Mapping) -> None:
    """Refuses to go on with other settings than those that an earlier run recorded.

    Raises:
      ValueError: one line that says which settings differ.
    """
    if not path.exists():
        return

    def flat(settings):
        settings |= settings.pop("config", {}) | settings  # in this order, and the former's values
        return {name: value for name, value in settings.items() if name not in PLACEMENT}

    try:
        earlier = flat(from_json(path.read_text("utf-8")))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{path} is not a record of settings") from None
    different = differences(earlier, flat(json.loads(json.dumps(settings))))
    if different:
        raise ValueError(
            f"{path} is of a run that differs in {different}; use another --output_dir"
        )
