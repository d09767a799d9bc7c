#!/bin/bash
# sim.sh: the replication core against its simulator, with ROUNDS seeds (20000),
# or one run again with SEED=N and its trace.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${SEED:-}" ]; then
  exec go test ./pkg/volume/volumetest -run TestSimulation -count 1 -v -seed "$SEED"
fi
exec go test ./pkg/volume/volumetest -run TestSimulation -count 1 -v -timeout 0 -seeds "${ROUNDS:-20000}"
