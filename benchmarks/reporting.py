"""Tables of the benchmarks: row by row on stdout, in the JSON file of a device, as Markdown."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import common
from nst_jax.cli.flag_types import define_path

RESULTS = Path(__file__).resolve().parent / "results"

JSON_FLAG = {
    "json": (
        define_path,
        None,
        "File for the result, under the benchmark's name; or folder, in which the device has a "
        "file.",
    )
}


class Column(NamedTuple):
    """A column of a table: its heading, and what it shows of a row.

    Attributes:
      heading: text above the column.
      key: key of the value in the row; None or a missing key is shown as "-".
      show: turns the value into text.
      width: width of the column on stdout, at least the heading's.
      of: whether a run can have the column, from the environment and settings of its report.
    """

    heading: str
    key: str
    show: Callable[[Any], str] = str
    width: int = 0
    of: Callable[[Mapping[str, Any]], bool] = lambda report: True

    def cell(self, row: Mapping[str, Any]) -> str:
        value = row.get(self.key)
        return "-" if value is None else self.show(value)

    def padded(self, text: str) -> str:
        return f"{text:>{max(self.width, len(self.heading)) + 2}}"


def columns_of(report: Mapping[str, Any], columns: Iterable[Column]) -> list[Column]:
    """The columns that the run of this report can have."""
    return [column for column in columns if column.of(report)]


def empty_columns(report: Mapping[str, Any], columns: Iterable[Column]) -> list[str]:
    """Headings of columns that the run of this report can have, but that no row fills.

    The benchmark has gained them since. Rows with a note do not count.
    """
    rows = [row for row in report["rows"] if "note" not in row]
    own = columns_of(report, columns) if rows else []
    return [column.heading for column in own if all(row.get(column.key) is None for row in rows)]


def tells_memory(report: Mapping[str, Any]) -> bool:
    """Whether the device tells what it has allocated; a CPU does not."""
    return report["platform"] != "cpu"


def significant(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def mebibytes(value: float) -> str:
    return f"{value / 2**20:.0f}"


def giga(value: float) -> str:
    return significant(value / 1e9)


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def ratio(value: float) -> str:
    return f"{value:.2f}"


class Report:
    """The rows of one benchmark, printed and saved as they come.

    Attributes:
      report: the content of the JSON: the environment, the settings and `rows`.
    """

    def __init__(
        self,
        name: str,
        title: str,
        columns: Sequence[Column],
        *,
        environment: Mapping[str, Any],
        settings: Mapping[str, Any],
        path: str | os.PathLike | None,
        rows: Iterable[Mapping[str, Any]] = (),
    ):
        """Begins a report with `rows` of earlier runs, which are saved and not printed again."""
        self.report = {**environment, **settings, "rows": [dict(row) for row in rows]}
        self._name, self._columns = name, columns_of(self.report, columns)
        self._path = None if path is None else device_file(path, environment)
        if self._path is not None:
            read_results(self._path)  # refuses a wrong file before a run of hours
        print(title)
        common.print_environment(environment)
        print(settings_line(self.report) + "\n")
        print("".join(column.padded(column.heading) for column in self._columns), flush=True)

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row to the table and the file, with its `note` if it has one."""
        self.report["rows"].append(dict(row))
        line = "".join(column.padded(column.cell(row)) for column in self._columns)
        print(line + (f"  {row['note']}" if row.get("note") else ""), flush=True)
        if self._path is not None:
            common.write_json(self._path, read_results(self._path) | {self._name: self.report})


def settings_line(report: Mapping[str, Any]) -> str:
    """The settings of a report on one line."""
    return ", ".join(
        f"{key.replace('_', ' ')} {significant(value) if isinstance(value, float) else value}"
        for key, value in report.items()
        if key not in ("rows", *common.ENVIRONMENT)
    )


def device_file(
    path: str | os.PathLike, environment: Mapping[str, Any], *, prefix: str = ""
) -> Path:
    """`path`, or the device's file in the folder `path`; `prefix` names a separate report."""
    path = Path(path)
    return path / f"{prefix}{device_slug(environment)}.json" if path.is_dir() else path


def device_slug(environment: Mapping[str, Any]) -> str:
    """The device as the name of a file: "nvidia-h200", "cpu-2-cores-amd-epyc"."""
    name = environment["device"]
    if environment["platform"] == "cpu":
        name = f"cpu {environment['cores']} cores {environment['processor']}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """`{benchmark: report}` of a device's file; empty if there is no file.

    Raises:
      ValueError: the file is something else.
    """
    path = Path(path)
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not is_results(results):
        raise ValueError(f"{path}: holds no reports by benchmark's name; give another file")
    return results


def is_results(results: Any) -> bool:
    """Whether parsed JSON is `{benchmark: report}`."""
    return isinstance(results, dict) and all(
        isinstance(report, dict) and {"rows", "platform", "date"} <= report.keys()
        for report in results.values()
    )


def markdown_table(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table, with a column of notes if any row has one."""
    rows = list(rows)
    if any(row.get("note") for row in rows):
        columns = [*columns, Column("note", "note")]
    lines = [[column.heading for column in columns], ["---:"] * len(columns)]
    lines += [[column.cell(row).replace("|", "\\|") for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
