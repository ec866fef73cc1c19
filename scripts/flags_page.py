#!/usr/bin/env python
"""Writes docs/guide/flags.md, the table of all flags, from the flags themselves.

.venv/bin/python scripts/flags_page.py
"""

from pathlib import Path

import program
from absl import flags

from nst_jax.cli.help import flags_page
from nst_jax.presets import presets

PAGE = Path(__file__).resolve().parent.parent / "docs" / "guide" / "flags.md"


def run() -> None:
    """Writes the page."""
    PAGE.write_text(flags_page(flags.FLAGS, presets["default"]), encoding="utf-8")


if __name__ == "__main__":
    program.start(run, arguments="it takes none")
