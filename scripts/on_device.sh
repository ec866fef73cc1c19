#!/usr/bin/env bash
# Measures a GPU or TPU within some minutes, with the packages that its machine already has: JAX for
# the device, flax, optax and what else nst_jax needs. Nothing is downloaded or installed.
# The interpreter is $PYTHON, or .venv of the checkout if it is there, or python3.
# Flags go to benchmarks/on_device.py:
#   scripts/on_device.sh --minutes=8 --results=benchmarks/results
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-}
if [[ -z $python ]]; then
  python=$root/.venv/bin/python
  [[ -x $python ]] || python=python3
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
cd "$root"
exec "$python" -m benchmarks.on_device "$@"
