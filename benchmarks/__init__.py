"""Benchmarks: one script for each question. Run `python -m benchmarks.<name>` in the checkout."""
