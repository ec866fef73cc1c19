"""Runs the command `nst-jax`, by `python -m nst_jax`."""

from nst_jax.cli.main import main

main()
