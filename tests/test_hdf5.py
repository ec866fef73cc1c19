"""Files that HDF5's library cannot get through, which stand-ins for its process show."""

import h5py
import numpy as np
import pytest

import nst_jax
from nst_jax.weights import hdf5


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a/b", data=np.arange(1000.0), compression="gzip")
        file["a"].attrs["names"] = np.array(["b"], "S")
    return path


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Gives the reading process another program."""

    def replace(program):
        path = tmp_path / "program.py"
        path.write_text(program)
        monkeypatch.setattr(hdf5, "__file__", str(path))
        monkeypatch.setattr(hdf5, "SECONDS", 1)

    return replace


LOOP = f"import runpy, sys\nmain = runpy.run_path({hdf5.__file__!r})\n"
LOOP += "main['_main'].__globals__['_read'] = lambda path: [None for _ in iter(int, 1)]\n"
LOOP += "main['_main'](*sys.argv[1:])\n"
WASTE = LOOP.replace("[None for _ in iter(int, 1)]", f"bytearray({hdf5.MEMORY})")


def test_a_whole_file_is_read(whole):
    hdf5.check(whole)


def test_what_is_damaged_is_told_in_the_librarys_words(whole):
    data = bytearray(whole.read_bytes())
    at = data.index(b"TREE")
    data[at : at + 4] = b"EERT"
    whole.write_bytes(data)
    with pytest.raises(OSError, match="signature") as error:
        hdf5.check(whole)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "program",
    [LOOP, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"],
    ids=["loop", "crash"],
)
def test_a_library_that_does_not_come_back_is_one_line(whole, stand_in, program):
    stand_in(program)
    with pytest.raises(OSError, match="over 1 s, or broke the HDF5 library"):
        hdf5.check(whole)
    with pytest.raises(ValueError, match=r"whole.h5: cannot be read \(damaged") as error:
        nst_jax.load_params(whole)
    assert len(str(error.value).splitlines()) == 1


def test_a_process_that_waits_is_ended(whole, stand_in, monkeypatch):
    stand_in("import time\ntime.sleep(60)")
    monkeypatch.setattr(hdf5, "PATIENCE", 1)
    with pytest.raises(OSError, match="does not end"):
        hdf5.check(whole)


@pytest.mark.slow
def test_a_small_file_that_claims_much_is_refused(tmp_path):
    """As a head of so many classes would pass for one of ours."""
    path = tmp_path / "zeros.h5"
    shape = (4096, 2**20)
    with h5py.File(path, "w") as file:
        options = {"compression": "gzip", "chunks": (64, 2**10)}
        zeros = file.create_dataset("predictions/kernel", shape, np.float32, **options)
        zeros[:64, : 2**16] = 0.0
    assert path.stat().st_size < 10**6
    with pytest.raises(OSError, match=f"predictions/kernel has {2**34} bytes, more than any"):
        hdf5.check(path)


def test_memory_is_limited(whole, stand_in):
    stand_in(WASTE)
    with pytest.raises(OSError, match="MemoryError"):
        hdf5.check(whole)


def test_bundled_weights_whose_sums_are_right_need_no_process(stand_in):
    stand_in("raise SystemExit('no')")
    nst_jax.load_params("vgg16")
