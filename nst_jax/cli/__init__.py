"""The `nst-jax` command: flags in, files out. No other part of the package imports it."""
