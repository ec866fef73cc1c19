"""The version of the package. A build reads this module without importing JAX."""

__version__ = "0.2.0"
