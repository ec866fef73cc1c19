#!/usr/bin/env bash
# Installs the package into .venv of the checkout and builds the documentation into site/.
# Any problem, such as a link that leads nowhere, ends it with an error.
# Arguments go to mkdocs:
#   scripts/docs.sh serve     # shows the site at http://127.0.0.1:8000 and follows changes
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

setup docs
cd "$root"
if (($#)); then
  exec "$venv/bin/python" -m mkdocs "$@"
fi
"$venv/bin/python" -m mkdocs build --strict
echo "The documentation is in $root/site: open index.html."
