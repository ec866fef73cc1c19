"""The records of a run, where there is no room for them; the rest is tested with the command."""

import json

import pytest
from disk import room_for

from nst_jax.cli.look.observers import Records
from nst_jax.files.atomic import FileError


def line(step):
    return {"output": "a", "step": step, "seconds": 0.5}


def test_records_that_outgrow_the_disk_are_told_by_their_name(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with (
        pytest.raises(FileError) as caught,
        room_for(1000),
        Records(tmp_path, {}) as records,
    ):
        for step in range(1000):
            records.write([line(step)])
    assert str(caught.value) == f"{path}: cannot be written: File too large"
    whole = path.read_text("utf-8").splitlines()[:-1]  # the last one has no end
    assert list(map(json.loads, whole)) == [line(step) for step in range(len(whole))]
    assert len(whole) > 10


def test_so_are_those_that_do_not_fit_when_they_are_closed(tmp_path):
    with (
        pytest.raises(FileError, match="metrics.jsonl: cannot be written: File too large"),
        room_for(1000),
        Records(tmp_path, {}) as records,
    ):
        records.write([line(1)])
        records._metrics.write(1000 * "x")  # no more than Python keeps to itself for a while


def test_an_error_on_its_way_is_the_one_that_is_told(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        room_for(1000),
        Records(tmp_path, {}) as records,
    ):
        records.write([line(1)])
        records._metrics.write(1000 * "x")
        raise KeyboardInterrupt


@pytest.mark.parametrize("foreign", ["{", "[" * 10**5, "[1]", '{"a": 1}', "\udcff"])
def test_foreign_lines_of_an_earlier_file_are_no_matter(tmp_path, foreign):
    path = tmp_path / "metrics.jsonl"
    text = json.dumps(line(1)) + "\n" + foreign + "\n"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with Records(tmp_path, {}) as records:
        earlier = list(records.earlier)
        assert earlier == ([] if foreign == "\udcff" else [line(1)])
        records.keep(earlier)
        records.write([line(2)])
    assert list(map(json.loads, path.read_text().splitlines()))[-1] == line(2)
