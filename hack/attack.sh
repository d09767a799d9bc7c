#!/bin/bash
# attack.sh: ROUNDS (100) of faults at random against a volume of real processes;
# a failure prints the SEED and the round (FIRST) that replay it. Logs of a failure
# are in build/attack.
#   attack.sh measure    stalls at deaths, latencies with a slow replica, resync
#                        (FILL MiB of an 8 GiB volume, by default all of it, three
#                        times on the file system of TMPDIR)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
require_root "make attack"
if [ "${1:-}" = measure ]; then
  exec go test ./test/attack -run TestMeasure -count 1 -v -timeout 0 -measure -fill "${FILL:-8192}" -logs "$ROOT/build/attack"
fi
exec go test ./test/attack -run TestAttack -count 1 -v -timeout 0 -logs "$ROOT/build/attack" \
  -rounds "${ROUNDS:-100}" -first "${FIRST:-1}" -seed "${SEED:-0}" -level "${LEVEL:-quorum}" -min-voters "${MIN_VOTERS:-0}" -cuts "${CUTS:-5}"
