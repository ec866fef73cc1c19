# Sourced by the other scripts: sets `root` (the checkout) and `venv`, and defines `setup`,
# which gives the checkout a virtual environment, .venv, with the package installed in it.

# Each script explains itself: --help prints the comment at its head, and installs nothing.
case ${1:-} in
  -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac

root=$(CDPATH= cd -- "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv

_fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# Whether a command runs as Python >= 3.11 and holds the given modules.
_python_has() {
  "$1" -c "import sys; assert sys.version_info >= (3, 11); import $2" >/dev/null 2>&1
}

_find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    # Version managers leave commands that exist but do not run, and some systems ship Python
    # without venv: trying is the only test.
    if _python_has "$candidate" "venv, ensurepip"; then
      echo "$candidate"
      return
    fi
  done
  _fail "needs Python >= 3.11 with venv: install it, or name it in the variable PYTHON"
}

# Makes .venv unless there is a whole one. Only one that these scripts made is ever replaced.
_make_venv() {
  local unfinished=$venv/.nst_jax_unfinished python
  if [[ -e $venv && ! -e $unfinished ]]; then
    _python_has "$venv/bin/python" sys ||
      _fail "$venv has no working Python >= 3.11: remove it and run this again"
  else
    python=$(_find_python)
    rm -rf "$venv"
    mkdir "$venv"
    touch "$unfinished"
    echo "making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
  fi
  _python_has "$venv/bin/python" pip || "$venv/bin/python" -m ensurepip >/dev/null
}

# setup EXTRAS: installs the package, editable, with comma-separated extras; does nothing when
# that has been done and neither the requirements, the Python nor the checkout's place changed.
setup() {
  local extras=$1 stamp want
  _make_venv
  stamp=$venv/.nst_jax_${extras//,/_}
  want=$(
    echo "$root"
    "$venv/bin/python" -VV
    cat "$root/setup.cfg" "$root/pyproject.toml" | cksum
  )
  if [[ ! -e $stamp || $(cat "$stamp") != "$want" ]]; then
    echo "installing nst_jax[$extras] and what it needs (minutes the first time)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --editable "$root[$extras]"
    echo "$want" >"$stamp"
  fi
  rm -f "$venv/.nst_jax_unfinished"
}
