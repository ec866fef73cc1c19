#!/usr/bin/env bash
# Checks style and runs the tests, after installing the package into .venv of the checkout.
# Arguments go to pytest, which runs at the root of the checkout:
#   scripts/test.sh tests/test_image.py -k resize
# --torch also installs PyTorch (gigabytes) and runs the tests that compare with it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

extras=test
selection=(-m "not torch")
arguments=()
for argument in "$@"; do
  if [[ $argument == --torch ]]; then
    extras=test,torch
    selection=()
  else
    arguments+=("$argument")
  fi
done

setup "$extras"
cd "$root"
if [[ $extras == test ]]; then
  echo "left out: tests marked torch (need PyTorch, gigabytes); run scripts/test.sh --torch"
fi
# All three run whatever the others find; pytest comes last, so that its summary closes.
status=0
"$venv/bin/python" -m ruff check . || status=$?
"$venv/bin/python" -m ruff format --check . || status=$?
# bash 3.2 takes an empty array for an unset one, hence the ${a[@]+...}.
# Two workers: compiling, which is most of the time, keeps one core busy each.
"$venv/bin/python" -m pytest -n 2 ${selection[@]+"${selection[@]}"} \
  ${arguments[@]+"${arguments[@]}"} || status=$?
exit "$status"
