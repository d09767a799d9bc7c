#!/bin/bash
# bench.sh [compare]: what volumes cost on this machine (see hack/bench); results
# are in build. BENCH_TIME (3s) for each case, BENCH_ROUNDS (1), BENCH_ONLY (a
# regular expression of cases), BENCH_REPLICAS (1,3), BENCH_FRONTENDS (nvme/tcp,iscsi;
# compare: nvme/tcp).
#   bench.sh compare   this tree beside the commit BASE, taking turns, with benchstat
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

BENCHSTAT=golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
OUT=$ROOT/build

# programs DIR: compiles what a volume needs from the tree in DIR.
programs() { make -s -C "$1" build-replica build-target build-kubectl-cask; }

bench() {
  mkdir -p "$OUT"
  CGO_ENABLED=0 go build -o "$OUT/bench" ./hack/bench
  "$OUT/bench" -out "$OUT" -time "${BENCH_TIME:-3s}" -rounds "${BENCH_ROUNDS:-$1}" \
    -only "${BENCH_ONLY:-}" -replicas "${BENCH_REPLICAS:-1,3}" -frontends "${BENCH_FRONTENDS:-$2}" "${@:3}"
}

# compare builds BASE in a work tree of its own.
compare() {
  [ -n "${BASE:-}" ] || die "say what to compare with: make bench-compare BASE=main"
  local tree
  tree=$(mktemp -d)
  # shellcheck disable=SC2064 # the path is known now
  trap "git worktree remove --force '$tree'" EXIT
  git worktree add -q --detach --force "$tree" "$BASE"
  programs "$tree"
  programs .
  bench 4 nvme/tcp -bin "base=$tree/bin" -bin "head=$ROOT/bin"
  go run "$BENCHSTAT" "$OUT/bench-base.txt" "$OUT/bench-head.txt" | tee "$OUT/bench-compare.txt"
}

case ${1:-} in
compare) compare ;;
"")
  programs .
  bench 1 nvme/tcp,iscsi
  step "the table is above; rows in build/bench.json, a plot in build/bench.svg"
  ;;
*) die "usage: bench.sh [compare]" ;;
esac
