#!/usr/bin/env python
"""Writes docs/guide/flags.md, the table of all flags, from the flags themselves.

.venv/bin/python scripts/flags_page.py
"""

from pathlib import Path

from absl import flags

from nst_jax.cli.help import flags_page
from nst_jax.presets import presets

PAGE = Path(__file__).resolve().parent.parent / "docs" / "guide" / "flags.md"

if __name__ == "__main__":
    flags.FLAGS(["nst-jax"])
    PAGE.write_text(flags_page(flags.FLAGS, presets["default"]), encoding="utf-8")
