"""Reports: what is printed, the devices' files, and the document."""

import json
import sys

import pytest

from benchmarks import common, reporting, tables
from benchmarks.reporting import Column, Report

ENVIRONMENT = {
    "date": "2020-01-02T03:04:05+00:00",
    "platform": "gpu",
    "device": "NVIDIA H200",
    "runtime": "cuda 12",
    "processor": "AMD EPYC 9654 96-Core Processor",
    "cores": 16,
    "load": 0.1,
    "products": "float32 highest",
    "arguments": ["--sizes=32", "--only=a b"],
    "versions": {"nst_jax": "1", "jax": "2", "python": "3"},
}
CPU = ENVIRONMENT | {"platform": "cpu", "device": "cpu", "runtime": "cpu", "cores": 2}
COLUMNS = [Column("name", "name"), Column("half", "value", "{:.1f}".format, width=6)]


def report(name, rows, *, path, environment=ENVIRONMENT, **settings):
    made = Report(name, "Title", COLUMNS, environment=environment, settings=settings, path=path)
    for row in rows:
        made.add(row)
    return made.report


def test_an_environment_says_what_was_measured_with():
    found = common.environment(packages=("pytest",))
    assert found.keys() == set(common.ENVIRONMENT)
    assert found["platform"] == "cpu" and found["cores"] >= 1 and found["processor"]
    assert {"jax", "jaxlib", "nst_jax", "pytest", "python"} <= found["versions"].keys()
    assert found["products"] == "float32 highest, bfloat16 default"
    assert "no-such-package" not in common.environment(packages=("no-such-package",))["versions"]
    assert common.device_name(CPU) == "AMD EPYC 9654 96-Core Processor, 2 cores"
    assert common.device_name(ENVIRONMENT) == "NVIDIA H200"


def test_arguments_are_those_that_make_the_figures(monkeypatch):
    given = ["--sizes=32", "--json=a.json", "-json=b", "--json", "c", "--nopastiche", "--json_x"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *given])
    assert common.arguments() == ["--sizes=32", "--nopastiche", "--json_x"]
    assert common.environment()["arguments"] == common.arguments()


def test_a_device_has_one_file_for_all_benchmarks(tmp_path, capsys):
    rows = [{"name": "a", "value": 0.5}, {"name": "b", "note": "out of memory"}]
    first = report("step_time", rows, path=tmp_path, repeats=3, rate=1.23456)
    second = report("start_up", rows[:1], path=tmp_path)
    path = tmp_path / "nvidia-h200.json"
    assert json.loads(path.read_text("utf-8")) == {"step_time": first, "start_up": second}
    assert first["rows"] == rows and first["repeats"] == 3
    again = report("step_time", rows[:1], path=path)
    assert reporting.read_results(path) == {"step_time": again, "start_up": second}
    out = capsys.readouterr().out
    assert "cuda 12: NVIDIA H200, on 16 cores of AMD EPYC 9654" in out
    assert "products float32 highest, 2020" in out
    assert "repeats 3, rate 1.23\n" in out
    assert "\n  name    half\n     a     0.5\n     b       -  out of memory\n" in out


def test_names_of_devices_are_names_of_files(tmp_path):
    assert reporting.device_slug(ENVIRONMENT) == "nvidia-h200"
    assert reporting.device_slug(CPU) == "cpu-2-cores-amd-epyc-9654-96-core-processor"
    assert reporting.device_slug(ENVIRONMENT | {"device": "TPU v5 lite"}) == "tpu-v5-lite"
    assert reporting.device_file(tmp_path / "mine.json", CPU) == tmp_path / "mine.json"


def test_files_of_others_are_not_written_to(tmp_path):
    other = tmp_path / "quality.json"
    other.write_text('{"date": "2020", "pairs": []}', "utf-8")
    with pytest.raises(ValueError, match="holds no reports"):
        report("step_time", [], path=other)
    other.write_text("{", "utf-8")
    with pytest.raises(ValueError, match="not JSON"):
        report("step_time", [], path=other)
    assert reporting.read_results(tmp_path / "none.json") == {}


@pytest.mark.parametrize(
    "value, text",
    [(0.0123456, "0.0123"), (1.23456, "1.23"), (12.3456, "12.3"), (999.4, "999"), (1234.5, "1234")],
)
def test_three_digits(value, text):
    assert reporting.significant(value) == text


def test_markdown_has_notes_only_where_there_are_any():
    rows = [{"name": "a|b", "value": 0.25}, {"name": "c"}]
    lines = ["| name | half |", "| ---: | ---: |", "| a\\|b | 0.2 |", "| c | - |"]
    assert reporting.markdown_table(COLUMNS, rows) == "\n".join(lines)
    noted = reporting.markdown_table(COLUMNS, [*rows, {"name": "d", "note": "why"}])
    assert noted.splitlines()[0] == "| name | half | note |"
    assert noted.splitlines()[-1] == "| d | - | why |"


def test_the_document_has_a_part_for_each_device_and_kind(tmp_path):
    row = {"model": "vgg19", "size": "32x32", "styles": 1, "step_seconds": 0.5}
    made = report("step_time", [row], path=tmp_path, matmul_float32_gflops=100.0)
    (tmp_path / "quality.json").write_text('{"date": "2020", "pairs": []}', "utf-8")
    document = tables.render(tables.read_folder(tmp_path))
    headings = [line for line in document.splitlines() if line.startswith("#")]
    assert headings == ["## CPU", "## GPU: NVIDIA H200", "### Seconds of a step", "## TPU"]
    assert made["rows"][0]["step_seconds"] == 0.5
    assert "| model | s/step | s/style-step | of matmul | compile s | program MiB |\n" in document
    assert "\n| vgg19 | 0.5 | - | - | - | - |" in document
    assert (
        "100 % is the rate of a large matrix product. In all rows: size 32x32, styles 1.\n"
        in document
    )
    said = "2020-01-02; nst_jax 1, jax 2; load before 0.1; products float32 highest; matmul"
    assert f"`python -m benchmarks.step_time --sizes=32 '--only=a b'`: {said}" in document
    assert "matmul float32 gflops 100." in document
    assert document.count("Not measured.") == 2


def test_what_differs_is_one_column_and_what_does_not_stands_above(tmp_path):
    rows = [
        {"model": "vgg19", "size": "32x32", "styles": n, "precision": p, "step_seconds": n / 4}
        for n, p in ((1, "float32"), (2, "bfloat16"))
    ]
    report("step_time", rows, path=tmp_path)
    document = tables.render(tables.read_folder(tmp_path))
    assert "In all rows: model vgg19, size 32x32.\n" in document
    assert "| styles, precision | s/step |" in document
    assert "\n| styles 1, float32 | 0.25 |" in document
    assert "\n| styles 2, bfloat16 | 0.5 |" in document


@pytest.mark.parametrize("name", tables.BENCHMARKS)
def test_a_table_has_six_columns_and_a_line_on_how_to_read_it(name):
    shown, known = tables.SHOWN[name], {c.key for c in tables.BENCHMARKS[name].COLUMNS}
    assert len(shown.measures) <= 5 and {*shown.case, *shown.measures} <= known
    assert shown.how.endswith(".")


def test_only_what_is_between_the_markers_is_written():
    document = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter"
    inserted = tables.insert(document, "new")
    assert inserted == f"before\n{tables.BEGIN}\n\nnew\n\n{tables.END}\nafter"
    assert tables.insert(inserted, "new") == inserted
    for bad in ("", tables.BEGIN, f"{tables.END}{tables.BEGIN}", document + tables.END):
        with pytest.raises(ValueError, match="once each"):
            tables.insert(bad, "new")


def test_the_document_shows_the_results_that_there_are():
    """After new results: python -m benchmarks.tables"""
    document = tables.DOCS.read_text("utf-8")
    rendered = tables.render(tables.read_folder(reporting.RESULTS))
    assert tables.insert(document, rendered) == document
    for results in tables.read_folder(reporting.RESULTS):
        for name, report in results.items():
            empty = reporting.empty_columns(report, tables.BENCHMARKS[name].COLUMNS)
            assert not empty, f"{name} of {common.device_name(report)}: nothing in {empty}"


def test_columns_that_a_run_should_have_are_not_empty():
    """As a column is whose rows were measured before there was one."""
    known = [*COLUMNS, Column("peak", "peak", of=reporting.tells_memory)]
    rows = [{"name": "a", "value": None}, {"name": "b"}]
    assert reporting.empty_columns(ENVIRONMENT | {"rows": rows}, known) == ["half", "peak"]
    assert reporting.empty_columns(CPU | {"rows": rows}, known) == ["half"]
    rows.append({"value": 0.0, "peak": 1})
    assert reporting.empty_columns(ENVIRONMENT | {"rows": rows}, known) == []
    # Where nothing could be measured, notes say why.
    noted = [{"name": "a", "note": "out of memory"}]
    assert reporting.empty_columns(ENVIRONMENT | {"rows": noted}, known) == []


def test_results_without_their_flags_say_so():
    old = {key: value for key, value in CPU.items() if key not in ("arguments", "products")}
    report = old | {"rows": [{"model": "vgg19"}], "repeats": 3}
    document = tables.render([{"step_time": report}])
    said = "flags not recorded; 2020-01-02; nst_jax 1, jax 2; load before 0.1; repeats 3."
    assert f"`python -m benchmarks.step_time`: {said}" in document
    assert "device peak MiB" not in document.partition("## GPU")[0]
