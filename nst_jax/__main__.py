"""`python -m nst_jax` is the `nst-jax` command."""

from nst_jax.cli.main import main

main()
