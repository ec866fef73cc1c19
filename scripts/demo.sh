#!/usr/bin/env bash
# Stylizes the built-in example pictures into demo_output/ of the current directory, in place of
# what an earlier run left there, after installing the package into .venv of the checkout.
# Arguments go to nst-jax; in a folder of --output_dir nothing is replaced without --overwrite:
#   scripts/demo.sh --size=128 --steps=50
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

output_dir=
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
own=()
if [[ -z $output_dir ]]; then
  output_dir=demo_output
  own=(--output_dir=demo_output --overwrite)
fi

setup plots
# bash 3.2 takes an empty array for an unset one, hence the ${a[@]+...}.
"$venv/bin/nst-jax" --demo ${own[@]+"${own[@]}"} "$@"
echo "The pictures are in $(CDPATH= cd -- "$output_dir" && pwd); contact_sheet.png shows them together."
echo "Paint your own: $venv/bin/nst-jax --content=photo.jpg --styles=painting.jpg"
