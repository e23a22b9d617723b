#!/usr/bin/env bash
# All checks: ruff, mypy, the material that ships, pytest. Options pass through to pytest: scripts/test.sh -k mask
set -euo pipefail

# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT"

"$COACH_BIN/ruff" check .
"$COACH_BIN/ruff" format --check .
"$COACH_BIN/mypy"
"$COACH_BIN/coach" lint-data reference/*.jsonl config/{input-taxonomy,personas,rubric,probes,crisis-resources}.yaml
# A file's tests share what they made, so they stay in one process; four processes hold four models.
# In the order of their names the long ones begin early.
exec "$COACH_BIN/python" -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
