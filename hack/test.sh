#!/bin/bash
# test.sh [unit|e2e]: everything that matters, in stages; without an argument
# all of them. Ends with a line that counts the tests. Logs are in build/test.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

OUT=$ROOT/build/test
FAILED=()

# stage NAME COMMAND...: a stage that fails does not stop the later ones. Being
# in a condition, COMMAND has to care for its own errors: no set -e inside.
stage() {
  local name=$1 started=$SECONDS
  shift
  step "=== $name"
  if "$@"; then
    step "--- $name: ok, $((SECONDS - started)) s"
  else
    step "--- $name: FAILED after $((SECONDS - started)) s"
    FAILED+=("$name")
  fi
}

# tests NAME ARGUMENT... runs go test; its packages are shown as they end, and
# its tests counted.
tests() {
  local log=$OUT/$1.json
  shift
  go test -json "$@" 2>&1 | tee "$log" | "$OUT/testsum" "$OUT/totals"
}

# tests_with_assertions has the distribution's ZFS in the engine; see with_zfs.
tests_with_assertions() (
  unset GOFLAGS LIBRARY_PATH
  tests "$@"
)

tests_without_cgo() { CGO_ENABLED=0 tests "$@"; }

generated_state() { git ls-files -co --exclude-standard api deploy charts | sort | xargs -d '\n' sha256sum; }

# generate_again fails when making generated files again changes them.
generate_again() {
  local before
  before=$(generated_state)
  make --no-print-directory generate || return
  diff <(echo "$before") <(generated_state) && return
  note "generated files were not up to date: run make generate and commit"
  return 1
}

# with_engine prints the packages whose tests reach the engine: the ones that
# differ without cgo.
with_engine() {
  go list -test -f '{{.ForTest}} {{join .Deps " "}}' ./... |
    awk '$1 ~ /^github.com/ && / github.com\/cask-storage\/cask\/pkg\/store\/dmu( |$)/ { print $1 }' | sort -u
}

# RACES are the packages with much concurrency and no cluster.
RACES=(./pkg/attach/... ./pkg/ioc/... ./pkg/iscsi/... ./pkg/nvme/... ./pkg/replica/... ./pkg/replication/... ./pkg/scsi/...
  ./pkg/store/memstore ./pkg/target/... ./pkg/volume ./csi/... ./controllers/...)

unit() {
  local engine
  stage programs make --no-print-directory build
  stage lint hack/lint.sh
  stage "generated code" generate_again
  stage "Kubernetes for tests" hack/lab/build.sh kube
  mapfile -t engine < <(with_engine)
  stage "unit tests" tests unit ./...
  stage "without cgo" tests_without_cgo nocgo "${engine[@]}"
  stage "assertions of ZFS" tests_with_assertions assertions -count 1 ./pkg/store/dmu
  stage "data races" tests race -race -short "${RACES[@]}"
  stage "iSCSI conformance" tests iscsi -tags conformance -count 1 -timeout 5m -skip TestKernel ./test/conformance/iscsi
  stage simulator tests simulator -run TestSimulation -count 1 ./pkg/volume/volumetest -seeds 2000
  stage "model of replication" hack/model.sh
  stage "attack on real processes" tests attack -run TestAttack -count 1 ./test/attack -rounds 10 -logs "$OUT/attack"
  stage mutants tests mutants -tags mutants -run TestMutants -count 1 -timeout 20m ./pkg/volume/volumetest -seeds 2000
}

# e2e: the demo, from nothing to a killed node; then what users get wrong and
# what breaks, on the same cluster.
e2e() {
  export CASK_LAB_DIR=${CASK_LAB_DIR:-/var/tmp/cask-lab}
  export KUBECONFIG=$CASK_LAB_DIR/admin.kubeconfig PATH=$PATH:$CASK_LAB_DIR/bin
  stage "the demo" hack/demo.sh up
  stage "a real cluster" tests e2e -tags e2e -count 1 -timeout 30m ./test/e2e
  stage "nothing left behind" hack/demo.sh down
}

finish() {
  echo
  "$OUT/testsum" -total "$OUT/totals"
  [ ${#FAILED[@]} = 0 ] || die "failed stages: ${FAILED[*]} (logs in $OUT)"
  step "all stages ok"
}

main() {
  require_root "make test"
  hack/setup.sh
  with_zfs
  mkdir -p "$OUT"
  : >"$OUT/totals"
  go build -o "$OUT/testsum" ./hack/testsum
  case ${1:-all} in
  unit | e2e) "$1" ;;
  all) unit && e2e ;;
  *) die "usage: test.sh [unit|e2e]" ;;
  esac
  finish
}

main "$@"
