#!/usr/bin/env bash
# Stylizes the built-in example pictures into demo_output/ of the current directory, in place of
# what an earlier run left there, after installing the package into .venv of the checkout.
# Arguments go to nst-jax:
#   scripts/demo.sh --size=128 --steps=50
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

output_dir=demo_output
previous=
for argument in "$@"; do
  case $argument in
    --output_dir=* | -output_dir=*) output_dir=${argument#*=} ;;
  esac
  case $previous in
    --output_dir | -output_dir) output_dir=$argument ;;
  esac
  previous=$argument
done

setup plots
"$venv/bin/nst-jax" --demo --output_dir=demo_output --overwrite "$@"
echo "The pictures are in $(CDPATH= cd -- "$output_dir" && pwd); contact_sheet.png shows them together."
