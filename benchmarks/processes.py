"""A benchmark's measurements in processes of their own: with other devices, other flags of XLA or
fewer cores, or with a peak of memory that is theirs alone.

The child is the same benchmark with `--here`; its last line on stdout is its result, as JSON.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

HERE_FLAG = {"here": (flags.DEFINE_boolean, False, "Measure in this process; a line of JSON.")}
ROOT = Path(__file__).resolve().parent.parent


def measured(
    name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What the benchmark `name` finds in a process of its own.

    Args:
      name: of the benchmark.
      arguments: its flags.
      environment: variables on top of this process's.

    Returns:
      The result; of a process that a signal ended, as one is that takes too much memory, a note.

    Raises:
      ValueError: it failed; the message is the last that it said.
    """
    command = [sys.executable, "-m", f"benchmarks.{name}", "--here", *arguments]
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | (environment or {}), capture_output=True, text=True
    )
    if ended.returncode < 0:
        return {"note": f"ended by {signal.Signals(-ended.returncode).name}"}
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise ValueError(reason.removeprefix(f"{name}: "))
    return json.loads(ended.stdout.splitlines()[-1])
