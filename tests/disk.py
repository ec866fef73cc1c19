"""Disks without room and folders that take nothing, by the system's own refusals."""

import contextlib
import os
import pathlib
import resource


@contextlib.contextmanager
def room_for(size):
    """No file of this process may grow beyond `size` bytes: what follows is as on a full disk, but
    for the words. Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def closed_folder(parent):
    """A folder that takes no files: one in `parent`, or, as root, whom rights don't stop, /proc."""
    if os.geteuid() == 0:
        return pathlib.Path("/proc/self")
    folder = parent / "closed"
    folder.mkdir(mode=0o555)
    return folder
