"""Tells how much memory the operating system has left for this process."""

import os
from pathlib import Path

GIB = 2**30
"""Bytes in a GiB."""

ROOT = Path("/")
"""Where `proc` and `sys` lie. Tests put another folder in its place."""


def host_bytes() -> int | None:
    """Returns how many bytes this process may still take; None if the system does not tell.

    It is the least of what the operating system and the limits of a container leave.
    """
    found = _left_by_control_groups()
    meminfo = ROOT / "proc/meminfo"
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        if "MemAvailable" in fields:
            found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    elif "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", ()):
        found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def _left_by_control_groups() -> list[int]:
    """Returns the bytes left by each limit on this process's control group and its parents."""
    top = own = ROOT / "sys/fs/cgroup"
    if (ROOT / "proc/self/cgroup").exists():
        for line in (ROOT / "proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::/"):  # control groups of version 2
                own = top / line.removeprefix("0::/")
    second = ("memory.max", "memory.current", "memory.stat", "inactive_file")
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file")
    groups = [(group, *second) for group in (own, *own.parents) if group.is_relative_to(top)]
    found = []
    for group, limit, used, stat, cache in (*groups, (top / "memory", *first)):
        paths = [group / name for name in (limit, used, stat)]
        if all(path.exists() for path in paths):
            texts = [path.read_text().strip() for path in paths]
            if texts[0] != "max":
                # The system frees inactive cached files when memory runs short.
                kept = dict(line.split() for line in texts[2].splitlines()).get(cache, 0)
                found.append(int(texts[0]) - int(texts[1]) + int(kept))
    return found
