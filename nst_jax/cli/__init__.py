"""The command line `nst-jax`: flags in, files out. Nothing else in the package imports this."""
