"""Every script explains itself with --help, and that is no error."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Those that are run by their names, and not imported by others.
PROGRAMS = [
    path for path in sorted((ROOT / "scripts").glob("*.py")) if "__main__" in path.read_text()
]
SHELL = sorted(
    path for path in (ROOT / "scripts").glob("*.sh") if "_venv.sh" in path.read_text("utf-8")
)
SHELL = [path for path in SHELL if not path.name.startswith("_")]


def explain(*command, **options):
    return subprocess.run(
        [*command], capture_output=True, text=True, check=False, timeout=300, **options
    )


def head(path):
    """The first line of what a script says of itself."""
    text = path.read_text("utf-8")
    return text.split('"""')[1].strip().splitlines()[0]


def test_all_programs_are_tried():
    names = [path.stem for path in PROGRAMS]
    assert "flags_page" in names and "convert_weights" in names and len(names) > 5
    assert [path.stem for path in SHELL] == ["demo", "docs", "test"]


@pytest.mark.parametrize(
    "path",
    [
        path if path.stem == "flags_page" else pytest.param(path, marks=pytest.mark.slow)
        for path in PROGRAMS
    ],
    ids=lambda path: path.stem,
)
def test_help_of_a_script_is_on_stdout_and_no_error(path):
    before = path.stat().st_mtime, (ROOT / "docs" / "guide" / "flags.md").stat().st_mtime
    done = explain(sys.executable, path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert head(path) in done.stdout
    assert before[1] == (ROOT / "docs" / "guide" / "flags.md").stat().st_mtime


@pytest.mark.slow
def test_help_of_a_benchmark_is_no_error_also_if_its_reader_leaves():
    command = [sys.executable, "-m", "benchmarks.step_time", "--help"]
    program = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout and program.stderr
    program.stdout.close()
    assert (program.stderr.read(), program.wait(timeout=300)) == ("", 0)
    program.stderr.close()
    done = explain(*command, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "") and "--model" in done.stdout


def test_a_wrong_flag_of_a_benchmark_is_one_line():
    done = explain(sys.executable, "-m", "benchmarks.step_time", "--stepz=2", cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("step_time: Unknown command line flag 'stepz'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.stem)
def test_help_of_a_shell_script_installs_nothing(path, flag, tmp_path):
    """In a checkout whose environment would be refused."""
    (tmp_path / "scripts").mkdir()
    for name in (path.name, "_venv.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    (tmp_path / ".venv").mkdir()
    done = explain("bash", tmp_path / "scripts" / path.name, flag)
    assert (done.returncode, done.stderr) == (0, "")
    comment = [line for line in path.read_text("utf-8").splitlines()[1:] if line.startswith("#")]
    first, *rest = done.stdout.splitlines()
    assert first == comment[0].removeprefix("# ")
    assert rest and not any(line.startswith("#") or "pipefail" in line for line in rest)
