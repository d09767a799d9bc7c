#!/bin/bash
# fuzz.sh: each fuzz target for FUZZ_TIME (30s), in FUZZ_WORKERS (1) processes;
# FUZZ_ONLY is a regular expression of PACKAGE/Target. What is found stays in Go's
# cache for the next time. Prints how many executions there were; a crasher is
# kept in the package's testdata/fuzz and ends it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

total=0
while IFS=: read -r file target; do
  package=./$(dirname "$file")
  [[ $package/$target =~ ${FUZZ_ONLY:-.} ]] || continue
  out=$(go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZ_TIME:-30s}" -parallel "${FUZZ_WORKERS:-1}" 2>&1) ||
    { [[ $out == *'context deadline exceeded'* && $out != *'Failing input'* ]]; } || # Go's, when the time is up
    die "$package $target:"$'\n'"$out"
  n=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' <<<"$out" | tail -1)
  total=$((total + n))
  printf '%12d  %s %s\n' "$n" "$package" "$target"
done < <(git grep -o "^func Fuzz[A-Za-z]*" -- "*_test.go" | sed "s/func //" | sort)
printf '%12d  in all\n' "$total"
