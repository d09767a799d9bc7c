#!/bin/bash
# lint.sh: formatting, go vet with and without cgo, static analysis. The style
# rules of the repository are tests, in internal/lint.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

STATICCHECK=honnef.co/go/tools/cmd/staticcheck@v0.8.2
# Names, comments and their form are the style tests' business.
CHECKS=all,-ST1000,-ST1003,-ST1020,-ST1021,-ST1022

step "gofmt"
unformatted=$(git ls-files -co --exclude-standard '*.go' | xargs ls 2>/dev/null | xargs gofmt -l)
[ -z "$unformatted" ] || die "not formatted, run gofmt -w on: $unformatted"

step "go vet, with cgo and without"
go vet ./...
CGO_ENABLED=0 go vet ./...
go vet -tags e2e,conformance ./test/...

step "staticcheck"
go run $STATICCHECK -checks "$CHECKS" ./...

if command -v golangci-lint >/dev/null; then
  step "golangci-lint"
  golangci-lint run
fi

if command -v shellcheck >/dev/null; then
  step "shellcheck"
  { grep -rlE '^#!/bin/(ba)?sh' hack deploy .ci; ls hack/lab/lib/*.sh hack/lib.sh; } | xargs shellcheck -x -P SCRIPTDIR
fi
