#!/usr/bin/env bash
# The main job: set up once, then walk the pipeline from the first stage that is not complete.
#
#   scripts/train_local.sh [--config FILE] [--set section.key=value]... [--workspace DIR]
#
# With output/training_data.jsonl it trains on that, by config/coach.yaml. Without it, it runs the embedded
# demo (config/demo.yaml): the starter conversations and a small real model that comes with the install.
# Exit codes: 0 deploy (or the demo ran through), 10 another verdict, or a file that is not what was trained,
# 5 something is missing on this machine, 130 interrupted (run it again).
set -euo pipefail

case " $* " in *" --help "* | *" -h "*) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;; esac

# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

workspace= config= previous=
for argument in "$@"; do
  case "$previous" in --workspace) workspace=$argument ;; --config) config=$argument ;; esac
  case "$argument" in --workspace=*) workspace=${argument#*=} ;; --config=*) config=${argument#*=} ;; esac
  previous=$argument
done
if [ -z "$workspace" ]; then
  workspace=$ROOT
  set -- "$@" --workspace "$ROOT"
fi

demo=
if [ -z "$config" ] && [ ! -e "$workspace/output/training_data.jsonl" ] &&
  [ ! -e "$workspace/output/conversations.jsonl" ]; then
  say "There is no output/training_data.jsonl, so this is the demo: the starter conversations and SmolLM2-135M."
  set -- --config "$ROOT/config/demo.yaml" "$@"
  demo=yes
fi

status=0
result=$("$COACH_BIN/coach" run "$@") || status=$?
[ -z "$result" ] || printf '%s\n' "$result"
# A demo that walked to its report has done what it is for. Its verdict stands in the report.
if [ -n "$demo" ] && [ "$status" = 10 ] && [ -n "$result" ]; then
  say "The demo ran through. A coach of your own is served only where the verdict is deploy."
  status=0
fi
exit "$status"
