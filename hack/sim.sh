#!/bin/bash
# sim.sh: the replication core against its simulator, with SEEDS seeds (20000)
# from FIRST (1) on; or one run again, with its trace in build/sim, with SEED=N.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/sim
args=(-run TestSimulation -count 1 -v -timeout 0 ./pkg/volume/volumetest -traces "$PWD/build/sim")
if [ -n "${SEED:-}" ]; then
  exec go test "${args[@]}" -seed "$SEED"
fi
exec go test "${args[@]}" -seeds "${SEEDS:-20000}" -first "${FIRST:-1}"
