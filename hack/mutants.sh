#!/bin/bash
# mutants.sh: breaks the rules of replication one at a time and lets the
# simulator look for it, for SEEDS seeds each (2000) from FIRST (1) on. Fails when one survives.
# MUTANT=N tries one only.
set -euo pipefail
cd "$(dirname "$0")/.."
exec go test -tags mutants -run TestMutants -count 1 -v -timeout 0 ./pkg/volume/volumetest -seeds "${SEEDS:-2000}" -first "${FIRST:-1}" -mutant "${MUTANT:-0}"
