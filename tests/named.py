"""Tests that are named in tables: what is in one is tested, and by whom is written down."""

import ast
import functools
import pathlib


@functools.cache
def _read(file):
    """The names of a file's tests, and its text."""
    text = (pathlib.Path(__file__).parent / file).read_text("utf-8")
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if node.name.startswith("test_")}, text


def check(test, *, about):
    """Holds that "file.py::name" is a test, in a file that names what it is about."""
    file, _, name = test.partition("::")
    names, text = _read(file)
    assert name in names, f"{about}: there is no {test}"
    assert about in text, f"{about}: {file} doesn't name it"
