"""`start_up`, `end_to_end`, and the suite of all."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarking import parse, run, table

from benchmarks import common, end_to_end, first_step, reporting, start_up, suite, tables
from nst_jax.files.images import read_image, write_image

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_end_to_end_counts_the_pictures_that_it_wrote(capsys, monkeypatch):
    written = []

    def write(path, image):
        write_image(path, image)
        written.append(read_image(path).shape)

    monkeypatch.setattr(end_to_end, "write_image", write)
    found = run(
        end_to_end, "--sizes=32x48", "--styles=2", "--model=vgg16", "--steps=1", "--repeats=2"
    )
    assert written == 6 * [(32, 48, 3)]
    (row,) = found["rows"]
    assert (row["size"], row["styles"], row["steps"]) == ("32x48", 2, 1)
    assert row["pictures_per_minute"] == pytest.approx(120 / row["seconds"])
    assert row["first_pictures_per_minute"] == pytest.approx(120 / row["first_seconds"])
    _, line = table(capsys.readouterr().out)
    assert line[:5] == ["default", "32x48", "2", "float32", "1"]


@pytest.mark.slow
def test_start_up_of_the_api(capsys, monkeypatch):
    started = []
    start_api = start_up.start_api

    def start(environment, **case):
        """One real start; the others, of the same kind, would take as long again."""
        started.append(environment)
        if len(started) == 1:
            start.found = start_api(environment, **case)
        slower = {key: len(started) * value for key, value in start.found["moments"].items()}
        return start.found | {"moments": slower}

    monkeypatch.setattr(start_up, "start_api", start)
    small = ("--size=32", "--styles=1", "--model=vgg16", "--repeats=3")
    found = run(start_up, *small, "--interfaces=api")
    parts = ("import_seconds", "load_seconds", "first_step_seconds")
    first = start.found["moments"]
    assert all(first[part] > 0 for part in (*parts, "trace_seconds", "compile_seconds"))
    inside = max(first["trace_seconds"], first["compile_seconds"])
    assert inside < first["first_step_seconds"]
    # The first of all isn't counted; then come the three kinds, three times.
    assert [row["cache"] for row in found["rows"]] == ["none", "filling", "filled"]
    for row, median in zip(found["rows"], (5, 6, 7), strict=True):
        assert row["first_step_seconds"] == pytest.approx(median * first["first_step_seconds"])
        assert row["total_seconds"] == pytest.approx(sum(row[part] for part in parts))
    assert started[1]["JAX_ENABLE_COMPILATION_CACHE"] == "false"
    folders = [each["JAX_COMPILATION_CACHE_DIR"] for each in started[2:4] + started[5:7]]
    assert folders[0] == folders[1] != folders[2] == folders[3]
    assert found["platform"] == "cpu" and found["size"] == 32
    # Not what the starts were told.
    assert found["arguments"] == common.arguments() != start.found["environment"]["arguments"]
    assert len(table(capsys.readouterr().out)) == 4


@pytest.mark.slow
def test_start_up_of_the_command_line(tmp_path):
    cache = tmp_path / "cache"
    environment = os.environ | start_up.caches(str(cache))["filling"]
    files = start_up.write_pictures(tmp_path, size=32, styles=1)
    assert [flag.partition("=")[0] for flag in files] == ["--content", "--styles"]
    assert read_image(tmp_path / "style_0.png").shape == (32, 32, 3)
    found = start_up.start_command_line(environment, files, model="vgg16", size=32)
    assert found["total_seconds"] > 0
    assert list(cache.iterdir())  # it was filled
    with pytest.raises(ValueError, match="a start of the command line failed: nst-jax: "):
        start_up.start_command_line(environment, files, model="vgg16", size=0)


def test_time_in_spans_that_nest_counts_once():
    # By hand: [0, 3] holds [1, 2]; [4, 6] and [5, 7] overlap.
    assert first_step.covered([(4, 6), (0, 3), (5, 7), (1, 2)]) == 6
    assert first_step.covered([]) == 0


def test_a_start_that_fails_says_why():
    with pytest.raises(ValueError, match="a start failed: .*vgg17"):
        start_up.start_api(dict(os.environ), model="vgg17", size=32, styles=1)
    with pytest.raises(ValueError, match="--interfaces must be one of api, command_line"):
        run(start_up, "--interfaces=web")


@pytest.mark.slow
def test_the_suite_runs_from_one_command_to_the_document(tmp_path):
    docs = tmp_path / "benchmarks.md"
    docs.write_text(f"# Before\n\n{tables.BEGIN}\nold\n{tables.END}\n\nafter\n", "utf-8")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.suite", "--suite=smallest", "--only=end_to_end"),
            *(f"--results={tmp_path}/results", f"--docs={docs}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    (path,) = (tmp_path / "results").iterdir()
    assert path.name.startswith("cpu-")
    (row,) = reporting.read_results(path)["end_to_end"]["rows"]
    document = docs.read_text("utf-8")
    assert document.startswith("# Before\n") and document.endswith("\n\nafter\n")
    assert "old" not in document
    columns = {column.key: column for column in end_to_end.COLUMNS}
    cells = [columns[key].cell(row) for key in tables.SHOWN["end_to_end"].measures]
    assert f" | {' | '.join(cells)} |" in document


def test_every_suite_gives_flags_that_its_benchmarks_take():
    for name in suite.SUITES:
        for platform in ("cpu", "gpu", "tpu"):
            planned = suite.plan(name, platform)
            for benchmark, given in planned.items():
                parse(tables.BENCHMARKS[benchmark], *given)
            left_out = {"against_torch", "leads", "peers", "tpu_compiled"}
            assert set(tables.BENCHMARKS) - set(planned) <= left_out
            assert ("leads" in planned) == (name == "full")
            # PyTorch has no TPU.
            assert ("against_torch" in planned) == (platform != "tpu")
    assert suite.plan("quick", "cpu") != suite.plan("quick", "gpu")
    assert list(suite.plan("full", "cpu", ["start_up"])) == ["start_up"]
    with pytest.raises(ValueError, match="did you mean 'quick'"):
        suite.plan("quik", "cpu")


def test_the_suite_goes_on_after_a_failure(tmp_path, monkeypatch, capfd):
    ran = []

    def fail(command, **_):
        ran.append(command[2])
        return subprocess.CompletedProcess(command, returncode=1)

    monkeypatch.setattr(suite, "platform", lambda: "cpu")
    monkeypatch.setattr(subprocess, "run", fail)
    docs = tmp_path / "benchmarks.md"
    docs.write_text(f"{tables.BEGIN}\n{tables.END}\n", "utf-8")
    with pytest.raises(ValueError, match="these failed, see above: step_time, start_up$"):
        run(
            suite,
            *("--only=step_time,start_up", f"--results={tmp_path}/results", f"--docs={docs}"),
        )
    assert ran == ["benchmarks.step_time", "benchmarks.start_up"]
    assert "Not measured." in docs.read_text("utf-8")


@pytest.mark.slow
def test_pictures_of_other_sizes_are_drawn_anew():
    from benchmarks import stepping

    assert stepping.picture("rainbow", 32, 40).shape == (32, 40, 3)
    assert not np.array_equal(
        stepping.picture("rainbow", 32, 32), stepping.picture("triangles", 32, 32)
    )
