#!/usr/bin/env bash
# All checks: ruff, mypy, pytest. Options pass through to pytest: scripts/test.sh -k mask
set -euo pipefail

# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT"

"$COACH_BIN/ruff" check .
"$COACH_BIN/ruff" format --check .
"$COACH_BIN/mypy"
exec "$COACH_BIN/python" -m pytest "$@"
