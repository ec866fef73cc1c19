"""One script a question; run each as `python -m benchmarks.<name>` at the root of the checkout."""
