"""The module map: no import points back, and options are keyword-only."""

import ast
import importlib
import inspect
import pathlib

import pytest

import nst_jax

PACKAGE = pathlib.Path(nst_jax.__file__).parent
MODULES = {path.stem for path in PACKAGE.glob("*.py")}

# module: the modules of the package that it may import.
MAY_IMPORT = {
    "version": set(),
    "settings": set(),
    "config": {"extractor", "optimizers", "settings", "terms"},
    "presets": {"config", "extractor", "optimizers", "settings", "terms"},
    "image": set(),
    "color": {"image"},
    "losses": set(),
    "files": set(),
    "console": set(),
    "report": {"files", "image", "io"},
    "examples": {"image"},
    "winograd": set(),
    "vgg": {"settings", "winograd"},
    "deep_color": set(),
    "memory": set(),
    "profiles": {"files"},
    "io": {"deep_color", "files", "memory", "profiles"},
    "terms": {"losses", "settings"},
    "extractor": {"settings", "vgg"},
    "partition": {"extractor", "terms", "vgg"},
    "objective": {
        *("config", "extractor", "image", "partition", "terms"),
    },
    "windows": {"config", "objective", "partition", "terms"},
    "sharding": {"terms"},
    "optimizers": {"image", "settings"},
    "optimize": {"config", "image", "sharding"},
    "stylize": {
        *("config", "image", "color"),
        *("objective", "optimize", "partition", "sharding", "terms", "windows"),
    },
    "preflight": {
        *("config", "memory", "objective", "optimize", "partition", "stylize", "terms"),
    },
    "observers": {"console", "files", "optimize", "sharding", "stylize"},
    "checkpoints": {"console", "files", "observers", "optimize", "sharding"},
    "hdf5": set(),
    "weights": {"files", "vgg", "fetch", "hdf5"},
    "pairs": {"files", "io"},
    "manifest": {"console", "files", "pairs"},
    "convert": {"vgg", "weights"},
    "fetch": set(),
    "compilation": {"fetch"},
    "results": {
        *("console", "files", "image", "io", "observers", "page", "report", "sharding"),
        "stylize",
    },
    "helptext": {"config", "console", "options", "presets", "vgg"},
    "charts": set(),
    "page": {"io", "charts"},
    "looks": {"files", "io", "observers", "optimize", "page", "stylize"},
    "runner": {
        *("checkpoints", "config", "console", "files", "observers", "preflight", "sharding"),
        *("objective", "partition", "stylize", "version"),
    },
    "jobs": {
        *("checkpoints", "console", "files", "io", "looks", "objective", "observers", "results"),
        *("runner", "stylize", "vgg"),
    },
    "dataset": {
        *("config", "console", "files", "io", "manifest", "objective", "observers"),
        *("pairs", "results", "runner", "sharding", "stylize", "vgg"),
    },
    "options": {
        *("config", "dataset", "io", "looks", "optimizers", "presets", "settings", "terms"),
    },
}
ANY = {"__init__", "__main__", "cli"}
SUBJECT = "name_or_path"  # what a function is about rather than an option, though it has a default
PURE = {
    *("image", "color", "winograd", "vgg", "losses", "terms", "objective", "optimize"),
    *("config", "extractor", "optimizers", "partition", "settings"),
    *("sharding", "windows"),
}


def imported(module):
    """Every imported name, as ("nst_jax", module) or (top-level package, None)."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                package, _, inner = alias.name.partition(".")
                yield package, inner or None
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            package, _, inner = node.module.partition(".")
            for alias in node.names:
                yield package, inner.split(".")[0] or alias.name


def test_imports_point_one_way():
    assert set(MAY_IMPORT) == MODULES - ANY
    for module in MAY_IMPORT:
        inner = {name for package, name in imported(module) if package == "nst_jax"}
        assert inner <= MAY_IMPORT[module], module


def test_the_pure_part_knows_no_files_and_no_flags():
    for module in PURE:
        packages = {package for package, _ in imported(module)}
        assert packages.isdisjoint({"PIL", "h5py", "absl", "tqdm", "os", "pathlib"}), module


@pytest.mark.parametrize("module", sorted(MODULES - {"__init__", "__main__"}))
def test_options_are_keyword_only(module):
    module = importlib.import_module(f"nst_jax.{module}")
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if name.startswith("_") or function.__module__ != module.__name__:
            continue
        for parameter in inspect.signature(function).parameters.values():
            if parameter.default is not inspect.Parameter.empty and parameter.name != SUBJECT:
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, f"{name}({parameter})"


def test_public_functions_say_what_they_do():
    for name in nst_jax.__all__:
        assert name.startswith("__") or name == "presets" or inspect.getdoc(getattr(nst_jax, name))
