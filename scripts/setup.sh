# Sourced by the other scripts: makes .venv with the pinned packages, once. Sets COACH_BIN.
# Nothing is installed outside .venv; a second call costs a fraction of a second.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
COACH_BIN="$ROOT/.venv/bin"

say() { printf '%s\n' "$*" >&2; }

find_python() {
  local name
  for name in python3.13 python3.12 python3.14 python3.11 python3 python; do
    if command -v "$name" >/dev/null 2>&1 &&
      "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      command -v "$name"
      return 0
    fi
  done
  return 1
}

check_machine() {
  case "$(uname -s)-$(uname -m)" in
    Darwin-arm64 | Linux-x86_64 | Linux-aarch64) ;;
    Darwin-x86_64)
      say "MLX needs Apple Silicon (M1 or newer); this Mac has an Intel chip, or this shell runs under Rosetta."
      return 5
      ;;
    *)
      say "This runs on macOS with Apple Silicon, and on Linux. Found: $(uname -s) $(uname -m)."
      return 5
      ;;
  esac
  if [ "$(uname -s)" = Linux ] && ! has_openblas; then
    say "OpenBLAS is missing: everything works, but much slower. To install it:"
    say "  sudo apt-get install libopenblas0-pthread"
  fi
  if [ ! -e "$COACH_BIN/coach" ] && ! has_compiler; then
    say "A C++ compiler is missing; llama.cpp is built with it, once. To install it:"
    if [ "$(uname -s)" = Darwin ]; then say "  xcode-select --install"; else say "  sudo apt-get install build-essential"; fi
    return 5
  fi
}

has_openblas() {
  case "$(PATH="$PATH:/usr/sbin:/sbin" ldconfig -p 2>/dev/null)" in *libopenblas.so.0*) return 0 ;; *) return 1 ;; esac
}

has_compiler() {
  # macOS has a c++ that only asks to be installed.
  if [ "$(uname -s)" = Darwin ]; then xcode-select -p >/dev/null 2>&1; else command -v c++ >/dev/null 2>&1; fi
}

make_environment() {
  local stamp wanted python
  stamp="$ROOT/.venv/.installed"
  wanted=$(cat "$ROOT/requirements.lock" "$ROOT/pyproject.toml" | cksum)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted $ROOT" ]; then
    return 0
  fi
  say "Installing the pinned packages into .venv (llama.cpp is compiled: some minutes the first time) ..."
  if command -v uv >/dev/null 2>&1; then
    uv venv --quiet --allow-existing --python '>=3.11,<3.15' "$ROOT/.venv" || return 5
    VIRTUAL_ENV="$ROOT/.venv" uv pip install --quiet --require-hashes -r "$ROOT/requirements.lock" || return 5
    VIRTUAL_ENV="$ROOT/.venv" uv pip install --quiet --no-deps -e "$ROOT" || return 5
  else
    if ! python=$(find_python); then
      say "Python 3.11 to 3.14 is needed. To install it:"
      if [ "$(uname -s)" = Darwin ]; then
        say "  brew install python@3.13      (or install uv, which brings its own)"
      else
        say "  sudo apt-get install python3 python3-venv      (or install uv, which brings its own)"
      fi
      return 5
    fi
    "$python" -m venv "$ROOT/.venv" || return 5
    "$COACH_BIN/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
      -r "$ROOT/requirements.lock" || return 5
    "$COACH_BIN/python" -m pip install --quiet --disable-pip-version-check --no-deps -e "$ROOT" || return 5
  fi
  printf '%s' "$wanted $ROOT" >"$stamp"
}

check_machine || exit $?
if ! make_environment; then
  say "The install did not finish. Look at the message above; the same command goes on from there."
  exit 5
fi
