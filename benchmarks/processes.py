"""Runs measurements of a benchmark in their own processes.

They can have other devices, other flags of XLA or fewer cores, and their own peak of memory. The
child is the same benchmark with `--here`. The last line on its stdout is its result, as JSON.
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

HERE_FLAG = {
    "here": (flags.DEFINE_boolean, False, "Measure in this process and print a line of JSON.")
}
ROOT = Path(__file__).resolve().parent.parent


def measured(
    name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The result of the benchmark `name` in its own process.

    Args:
      name: of the benchmark.
      arguments: its flags.
      environment: variables added to those of this process.

    Returns:
      The result. If a signal ended the process, for lack of memory for example, a note.

    Raises:
      ValueError: it failed; the message is its last line.
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
