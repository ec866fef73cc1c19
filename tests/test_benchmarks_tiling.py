"""`tiling_memory`, and the processes that benchmarks measure in."""

import json
import subprocess

import basic
import pytest
from benchmarking import parse, run, table

import nst_jax
from benchmarks import common, device_scaling, processes, reporting, tiling_memory
from nst_jax.cli import preflight

SMALL = ("--model=vgg16", "--steps=1")


@pytest.fixture
def shallow(monkeypatch):
    """A step on the first block alone, which compiles quickly and whose halo is narrow."""
    layers = {"content_layers": ("block1_conv2",), "style_layers": ("block1_conv1",)}
    config = basic.CONFIG.replace(size=None, **layers)
    monkeypatch.setattr(tiling_memory, "configured", lambda options: config)


@pytest.mark.slow
def test_the_device_part_of_a_tiled_step_does_not_grow(shallow):
    options = parse(tiling_memory, *SMALL)
    tiled = [tiling_memory.measure(options, (side, 48), 40) for side in (112, 184)]
    whole = tiling_memory.measure(options, (184, 48), None)
    assert tiled[0]["device_bytes"] == tiled[1]["device_bytes"]
    # Two layers of 64 channels, of the picture in place of the window.
    assert whole["device_bytes"] - tiled[1]["device_bytes"] > 2 * 4 * 64 * (184 * 48 - 40 * 40)
    for found in (*tiled, whole):
        assert found["step_seconds"] > 0 and 59e6 < found["resident_bytes"] < 64e9


def test_a_whole_step_that_does_not_fit_is_not_run(shallow, monkeypatch):
    monkeypatch.setattr(preflight, "available_bytes", lambda: 3 * 2**20)
    monkeypatch.setattr(nst_jax, "stylize", None)
    found = tiling_memory.measure(parse(tiling_memory, *SMALL), (64, 48), None)
    assert found.keys() == {"device_bytes", "note"}
    assert found["note"] == "does not fit into 3 MiB"


def test_a_row_a_size_and_tile_in_table_and_file(tmp_path, capsys, monkeypatch):
    asked = []

    def measured(options, shape=None, tile=None):
        asked.append((shape, tile))
        if shape is None:
            return common.environment() | {"arguments": ["--here"]}
        if shape[0] == 640:
            return {"note": "out of memory"} if tile is None else {"step_seconds": 6.0}
        bytes_ = {"device_bytes": 2**20 * (tile or 512), "resident_bytes": 2**30}
        return bytes_ | {"step_seconds": 3.0 if tile else 2.0}

    monkeypatch.setattr(tiling_memory, "in_a_process", measured)
    given = (*SMALL, "--sizes=480x320,640", "--tiles=256", f"--json={tmp_path}")
    found = run(tiling_memory, *given)
    assert asked == [
        (None, None),
        *(((480, 320), None), ((480, 320), 256), ((640, 640), None), ((640, 640), 256)),
    ]
    (path,) = tmp_path.iterdir()
    assert reporting.read_results(path) == {"tiling_memory": found}
    assert found["arguments"] == common.arguments()
    first, second = found["rows"]
    assert (first["size"], first["tile"], first["ratio"]) == ("480x320", 256, 1.5)
    assert first["megapixels"] == pytest.approx(0.1536)
    assert first["window"] == "256x224"
    assert second["note"] == "whole: out of memory" and "ratio" not in second
    headings, line, _ = capsys.readouterr().out.rpartition("\n\n")[2].splitlines()
    assert line.split() == [
        *("480x320", "0.15", "256", "256x224", "512", "256", "1024", "1024", "2", "3", "1.50")
    ]
    assert "whole device MiB" in headings
    run(tiling_memory, *given, "--nowhole")
    assert "whole device MiB" not in capsys.readouterr().out
    assert asked[-3:] == [(None, None), ((480, 320), 256), ((640, 640), 256)]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--sizes=abc", "--sizes must be HEIGHTxWIDTH or the side of a square, .* got 'abc'"),
        ("--sizes=", "--sizes must be HEIGHTxWIDTH"),
        ("--model=vgg17", "--model must be one of vgg16, vgg19"),
        ("--optimizer=sdg", "--optimizer must be one of sgd, adam, lbfgs"),
        ("--tiles=whole", "--tiles must be whole numbers of at least 1, got 'whole'"),
        ("--tiles=64", "--tiles: tile must be at least 1.. for these layers, got 64"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_measured(argument, message, monkeypatch):
    monkeypatch.setattr(tiling_memory, "in_a_process", None)
    with pytest.raises(ValueError, match=message):
        run(tiling_memory, argument)


def test_a_process_gives_its_last_line_a_note_or_a_reason(monkeypatch):
    def ended(returncode, stdout="", stderr=""):
        found = subprocess.CompletedProcess([], returncode, stdout, stderr)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: found)
        return processes.measured("memory", [])

    assert ended(0, 'chatter\n{"seconds": 2}\n') == {"seconds": 2}
    assert ended(-9) == {"note": "ended by SIGKILL"}
    with pytest.raises(ValueError, match="^no such thing$"):
        ended(1, stderr="warning\nmemory: no such thing\n")
    with pytest.raises(ValueError, match="^exit code 3$"):
        ended(3)


def test_a_process_without_a_size_tells_what_it_sees(capsys):
    assert run(tiling_memory, "--here", "--sizes=", "--tiles=") is None
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == set(common.ENVIRONMENT)


def test_devices_without_enough_memory_get_a_note(capsys, monkeypatch):
    def measured(options, devices, axis=""):
        if devices is None:
            return {"environment": common.environment(), "devices": 4}
        if devices == 2:
            return {"note": "out of memory"}
        return {"step_seconds": 0.5, "style_steps_per_second": 2.0}

    monkeypatch.setattr(device_scaling, "in_a_process", measured)
    found = run(device_scaling, "--axes=style", "--model=vgg16")
    # On a CPU up to eight of them, simulated.
    assert [row["devices"] for row in found["rows"]] == [1, 2, 4, 8]
    _, missing, *_, last = found["rows"]
    assert (missing["note"], missing["styles"]) == ("out of memory", 2)
    assert "speed_up" not in missing and last["speed_up"] == 1.0
    assert table(capsys.readouterr().out)[2][-3:] == ["out", "of", "memory"]
    assert found["arguments"] == common.arguments()
