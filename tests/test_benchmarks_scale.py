"""`memory` and `device_scaling`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from benchmarking import parse, run, table

from benchmarks import common, device_scaling, memory, reporting, stepping

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_memory_is_told_with_and_without_rematerialisation(capsys, monkeypatch):
    shallow = {"content_layers": ("block1_conv2",), "style_layers": ("block1_conv1",)}
    monkeypatch.setitem(stepping.CONFIGS, "sgd", stepping.CONFIGS["sgd"].replace(**shallow))
    small = ("--models=vgg16", "--sizes=32x144", "--precisions=float32", "--repeats=1")
    found = run(memory, *small)
    whole, strips = found["rows"]
    assert (whole["remat"], strips["remat"]) == (False, True)
    assert (whole["size"], whole["precision"]) == ("32x144", "float32")
    for row in (whole, strips):
        pixels = 32 * 144
        assert row["program_bytes"] == row["kernel_bytes"] + pixels * row["pixel_bytes"]
        assert row["step_seconds"] > 0
    # block1_conv1 and block1_conv2 are kept of the whole picture, and not of strips.
    assert whole["pixel_bytes"] - strips["pixel_bytes"] > 2 * 64 * 4
    assert len(table(capsys.readouterr().out)) == 3
    # Seconds are a column of runs that take them.
    headings = [column.heading for column in reporting.columns_of(found, memory.COLUMNS)]
    assert headings[-1] == "s/step"
    headings = [column.heading for column in reporting.columns_of({"repeats": 0}, memory.COLUMNS)]
    assert headings[-1] == "compile s"


@pytest.mark.slow
def test_devices_are_counted_in_processes_of_their_own(capsys, monkeypatch):
    in_a_process, given = device_scaling.in_a_process, []

    def measured(options, devices, axis=""):
        """One real process; the others, of the same kind, would take as long again."""
        given.append(devices)
        if devices == 2:
            return in_a_process(options, devices, axis)
        return measured.found if devices is None else {"style_steps_per_second": 4.0}

    small = ("--model=vgg16", "--size=32x48", "--repeats=1", "--axes=space")
    measured.found = in_a_process(parse(device_scaling, *small), None)
    assert measured.found["devices"] == 1 and measured.found["environment"]["arguments"]
    monkeypatch.setattr(device_scaling, "in_a_process", measured)
    found = run(device_scaling, *small, "--devices=2,1")
    assert given == [None, 1, 2]
    # What the process was told is not what the user said.
    assert found["arguments"] == common.arguments() != measured.found["environment"]["arguments"]
    _, row = found["rows"]
    assert (row["scaling"], row["devices"], row["simulated"]) == ("strong", 2, True)
    assert (row["styles"], row["size"]) == (1, "32x48")
    assert row["style_steps_per_second"] == pytest.approx(1 / row["step_seconds"])
    assert row["speed_up"] == pytest.approx(row["style_steps_per_second"] / 4)
    assert row["efficiency"] == pytest.approx(row["speed_up"] / 2)
    headings, _, line = table(capsys.readouterr().out)
    assert line[:4] == ["strong", "space", "2", "yes"] and "simulated" in headings


def test_outputs_grow_with_devices_along_style(monkeypatch):
    options = parse(device_scaling, "--styles=3", "--size=32", "--model=vgg16", "--repeats=1")
    cases = []

    def stop(params, case, *, prepare):
        cases.append(case)
        raise KeyboardInterrupt

    monkeypatch.setattr(device_scaling.stepping, "problem", stop)
    for axis in device_scaling.SCALINGS:
        with pytest.raises(KeyboardInterrupt):
            device_scaling.measure(options, 4, axis)
    assert [case.styles for case in cases] == [12, 3]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--axes=time", "--axes must be one of style, space"),
        ("--devices=0", "--devices must be whole numbers of at least 1, got '0'"),
        ("--size=16", "--size must be HEIGHTxWIDTH or the side of a square, at least 32"),
        ("--model=vgg17", "--model must be one of vgg16, vgg19"),
    ],
)
def test_bad_flags_are_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        run(device_scaling, argument)


def test_repeats_are_not_negative():
    with pytest.raises(flags.IllegalFlagValueError, match="--repeats=-1: -1 is not a non-negative"):
        run(memory, "--repeats=-1")


@pytest.mark.slow
def test_devices_that_are_not_there_end_in_one_line():
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.device_scaling", "--here", "--devices=3"],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "device_scaling: 3 devices wanted, but there are 2\n"
