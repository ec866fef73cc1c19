"""The layers of the package, and options that are keyword-only."""

import importlib
import inspect
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import nst_jax

ROOT = pathlib.Path(nst_jax.__file__).parent.parent
MODULES = [
    module.name
    for module in pkgutil.walk_packages(nst_jax.__path__, "nst_jax.")
    if not module.ispkg and not module.name.endswith("__main__")
]
# What a function is about rather than an option, though it has a default.
SUBJECTS = ("name_or_path", "config", "flows")


def test_imports_keep_to_the_layers():
    """The contracts stand in setup.cfg."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_package_brings_in_nothing_of_the_command_line():
    code = "import sys, nst_jax; print([name for name in sys.modules if 'nst_jax.cli' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", MODULES)
def test_options_are_keyword_only(module):
    module = importlib.import_module(module)
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if name.startswith("_") or function.__module__ != module.__name__:
            continue
        for parameter in inspect.signature(function).parameters.values():
            if parameter.default is not inspect.Parameter.empty and parameter.name not in SUBJECTS:
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, f"{name}({parameter})"


def test_public_functions_say_what_they_do():
    for name in nst_jax.__all__:
        assert name.startswith("__") or name == "presets" or inspect.getdoc(getattr(nst_jax, name))
