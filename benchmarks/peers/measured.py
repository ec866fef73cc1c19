"""Runs a command and writes what it took: seconds, seconds of the processor, peak memory.

    python measured.py RESULT.json COMMAND ARGUMENT...

A process of its own, because the peak of a child counts the memory of the process that starts it.
This one imports nothing large. The result also has the exit code, or minus the signal.
"""

import json
import os
import subprocess
import sys
import time


def main(path, *command):
    start = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    found = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        # In bytes on macOS, in KiB elsewhere.
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "exit_code": child.returncode,
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
