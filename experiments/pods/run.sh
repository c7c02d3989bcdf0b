#!/usr/bin/env bash
# Runs a command so that its launcher starts it again after a preemption:
#     run.sh sid train EXPERIMENT --workdir DIR ...
# At SIGTERM `sid train` saves and exits with 0, which Kubernetes and SLURM take for
# "done". After a SIGTERM this exits with 143 (128 + 15) instead; else with the
# command's own code.
set -euo pipefail

stopped=""
child=""
stop() {
  stopped=yes
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
}
trap stop TERM

"$@" &
child=$!
[ -z "$stopped" ] || stop # it came before there was a child

code=0
wait "$child" || code=$?
# The signal ends `wait` at once; the command may still be saving.
while kill -0 "$child" 2>/dev/null; do
  code=0
  wait "$child" || code=$?
done

if [ -n "$stopped" ] && [ "$code" -eq 0 ]; then
  code=143
fi
exit "$code"
