"""Inputs that someone or something has damaged.

`NST_FUZZ_EXAMPLES=1200 python -m pytest tests/fuzz` takes so many of each kind, new ones each time
"""

import contextlib
import faulthandler
import os
import pathlib
import re
import resource
import string
import sys
import time

import pytest
from fuzz.inputs import NAMES, TARGETS, read_flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nst_jax.weights import hdf5

EXAMPLES = os.environ.get("NST_FUZZ_EXAMPLES")
SECONDS = 20.0
MEBIBYTES = 600  # by which the process may grow: `inputs.PIXELS` in floating point, several times
MEBIBYTES_OF_CHILDREN = 2 * hdf5.LARGEST / 2**20 + 100  # an array and a copy of it, and Python

fuzzed = settings(
    max_examples=int(EXAMPLES or 60),
    derandomize=EXAMPLES is None,
    deadline=None,  # of ours is one that a busy machine keeps
    database=None,
    suppress_health_check=list(HealthCheck),
)


@st.composite
def damaged(draw, seeds):
    """One of `seeds`, changed in a few places: bytes and bits, pieces taken out, moved, doubled."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        end = min(len(data), at + draw(st.sampled_from([1, 2, 4, 8, 64, 1024])))
        kind = draw(st.sampled_from(["bit", "byte", "number", "cut", "end", "double", "move"]))
        if kind == "bit":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            data[at] = draw(st.integers(0, 255))
        elif kind == "number":
            value = draw(
                st.sampled_from([b"\0\0\0\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\1\0"])
            )
            data[at : at + 4] = value
        elif kind == "cut":
            del data[at:end]
        elif kind == "end":
            del data[at:]
        elif kind == "double":
            data[at:at] = data[at:end]
        else:
            piece = data[at:end]
            del data[at:end]
            to = draw(st.integers(0, len(data)))
            data[to:to] = piece
    return bytes(data)


class Bounds:
    """Holds what is in it against the time and memory that it may take, also of other processes.

    What hangs ends all of it, after a traceback to the file descriptor `terminal`.
    """

    def __init__(self, terminal):
        self._terminal = terminal

    def __enter__(self):
        faulthandler.dump_traceback_later(10 * SECONDS, exit=True, file=self._terminal)
        with contextlib.suppress(OSError):  # no Linux: then of growth beyond an earlier peak only
            pathlib.Path("/proc/self/clear_refs").write_text("5")  # man proc_pid_clear_refs
        self._start, self._memory = time.monotonic(), own_peak()
        # A process begins as a copy of this one, of the same size.
        self._children = max(children_peak(), self._memory)

    def __exit__(self, *_):
        faulthandler.cancel_dump_traceback_later()
        assert time.monotonic() - self._start < SECONDS
        assert own_peak() - self._memory < MEBIBYTES
        assert children_peak() - self._children < MEBIBYTES_OF_CHILDREN


def own_peak():
    """The most memory of this process, in MiB; on Linux since `Bounds` has last been entered."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
    except (OSError, TypeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def children_peak():
    """The most memory of any process that this one has started and that has ended, in MiB."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


@pytest.fixture
def bounds(capsys):
    """Makes `Bounds` that tell of a hang on the terminal, whatever pytest captures."""
    with capsys.disabled():
        terminal = os.dup(2)
    yield lambda: Bounds(terminal)
    os.close(terminal)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets an earlier peak")
def test_bounds_see_memory_below_an_earlier_peak(bounds, monkeypatch):
    monkeypatch.setitem(globals(), "MEBIBYTES", 50)

    def fill(mebibytes):
        return len(b"x" * (mebibytes * 2**20))

    fill(100)
    with pytest.raises(AssertionError, match="own_peak"), bounds():
        fill(100)
    with bounds():
        fill(10)


@pytest.mark.parametrize("kind", TARGETS)
def test_damaged_files_are_read_or_refused_in_one_line(kind, tmp_path, bounds):
    target = TARGETS[kind]
    path = tmp_path / target.name
    for whole in target.seeds:  # which shows, too, that what is damaged below is worth reading
        path.write_bytes(whole)
        target.read(path)

    def refusal(data):
        """The line that refuses it, if one does."""
        path.write_bytes(data)
        with bounds():
            try:
                return target.read(path)
            except (ValueError, TypeError) as error:
                (line,) = str(error).splitlines()
                assert path.name in line or path.parent.name in line
                return line

    for bad in target.refused:
        assert refusal(bad) is not None

    @settings(fuzzed, max_examples=round(fuzzed.max_examples * target.share))
    @given(damaged([*target.seeds, *target.refused]))
    def check(data):
        refusal(data)

    check()


values = st.one_of(
    st.sampled_from(
        ["", "0", "-1", "1e400", "nan", "inf", "1,2", ",", ";", "1;2,3", "=", "default"]
    ),
    st.integers().map(str),
    st.floats().map(repr),
    st.text(string.printable, max_size=20),
    st.text(max_size=8),
)
names = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(NAMES).map(lambda name: f"no{name}"),
    st.text(string.ascii_lowercase + "_", max_size=12),
)
arguments = st.lists(
    st.one_of(
        st.builds(lambda name, value: f"--{name}={value}", names, values),
        names.map(lambda name: f"--{name}"),
        values,
    ),
    max_size=4,
)


def test_any_flags_end_in_one_line(tmp_path, bounds, capsys):
    @fuzzed
    @given(arguments)
    def check(found):
        with bounds():
            code = read_flags(found, tmp_path)
        out, err = capsys.readouterr()
        if code == 0:  # a question, or help
            assert out
        else:
            assert code == 1, found
            assert len([line for line in err.splitlines() if line.startswith("nst-jax: ")]) == 1
            assert "Traceback" not in err

    check()
