#!/bin/bash
# model.sh: checks the model of replication exhaustively, within several small
# bounds, then without each of its rules, which spin must find. About two minutes
# and 2 GiB on two processors. What failed leaves its trace in build/model.
#   model.sh trace NAME    prints a trace that was left
set -euo pipefail
. "$(dirname "$0")/lib.sh"
OUT=$ROOT/build/model
MODEL=$ROOT/pkg/volume/model/volume.pml

# name, macros: no state within these bounds may break what must hold.
CHECKS='
empty        -DEMPTY -DS=1 -DE=2 -DKILLS=1
operations   -DS=2 -DE=2 -DKILLS=1
epochs       -DS=1 -DE=3 -DKILLS=1
unclean      -DS=1 -DE=2 -DKILLS=2
connections  -DS=1 -DE=2 -DKILLS=0 -DRESTARTS=1 -DDROPS=1
wiped        -DS=1 -DE=2 -DKILLS=0 -DWIPES=1
voters       -DS=1 -DE=2 -DKILLS=1 -DCHANGES=1
voters-two   -DS=1 -DE=2 -DKILLS=0 -DCHANGES=2 -DVOTERS=3
missed       -DMISSED0 -DS=1 -DE=2 -DKILLS=2
voters-all   -DALL -DS=1 -DE=2 -DKILLS=1 -DCHANGES=1
'
# rule left out, macros: the bounds in which that must be found.
BREAKS='
CAS          -DS=1 -DE=2 -DKILLS=0
PROMISE      -DS=1 -DE=3 -DKILLS=1
SUSPECT      -DS=1 -DE=3 -DKILLS=1
INTERSECT    -DS=1 -DE=3 -DKILLS=1
LONGEST      -DS=1 -DE=3 -DKILLS=0
COMMON       -DS=1 -DE=3 -DKILLS=0
BARRIER      -DS=1 -DE=3 -DKILLS=0
QUORUM       -DS=1 -DE=2 -DKILLS=0
FLUSH        -DS=1 -DE=2 -DKILLS=2
INITIALIZED  -DS=1 -DE=2 -DKILLS=0 -DWIPES=1
KEEP         -DS=1 -DE=2 -DKILLS=0 -DWIPES=1
INCOMPLETE   -DS=2 -DE=2 -DKILLS=0
STABLE       -DS=1 -DE=3 -DKILLS=1
JOINT        -DS=1 -DE=2 -DKILLS=0 -DCHANGES=1
COMPLETE     -DS=1 -DE=2 -DKILLS=0 -DCHANGES=1
EFFECT       -DS=1 -DE=2 -DKILLS=0 -DCHANGES=1 -DVOTERS=3
UNCLEAN      -DS=1 -DE=2 -DKILLS=2
BEGUN        -DMISSED0 -DS=1 -DE=3 -DKILLS=1
'

# pan DIR MACRO... searches all states; the verdict is in DIR/out.
pan() {
  local dir=$1
  shift
  rm -rf "$dir" && mkdir -p "$dir" && cd "$dir" && cp "$MODEL" . || return
  spin "$@" -a volume.pml >spin.log 2>&1 || return
  gcc -O2 -w -DSAFETY -DNOREDUCE -DMEMLIM=1800 -o pan pan.c >gcc.log 2>&1 || return
  ./pan -m100000 -n >out 2>&1
  [ -e volume.pml.trail ] && spin -t "$@" volume.pml >trace 2>&1
  rm -f pan pan.?
  grep -q 'errors:' out && ! grep -q 'Search not completed' out || [ -e trace ]
}

# report VERDICT NAME prints one line of result.
report() {
  printf '%s  %-12s %s states in %s s\n' "$1" "$2" "$(awk '/states, stored/ { print $1 }' out)" \
    "$(awk '/elapsed time/ { print $4 }' out)"
}

check() {
  local name=$1
  shift
  pan "$OUT/$name" "$@" && grep -q 'errors: 0' out && report 'holds ' "$name" && return
  echo "error: $name ($*): $(grep -m1 pan:1 out || echo "the search did not end, see $OUT/$name")"
  return 1
}

broken() {
  local rule=$1
  shift
  pan "$OUT/without-$rule" "$@" "-DBREAK=$rule" && grep -q 'assertion violated' out && report 'found ' "without $rule" && return
  echo "error: without the rule $rule ($*) nothing was found: the model cannot fail there"
  return 1
}

all() {
  local failed=0
  { sed -n '/./s/^/check /p' <<<"$CHECKS" && sed -n '/./s/^/broken /p' <<<"$BREAKS"; } |
    xargs -P "$(nproc)" -L 1 "$0" || failed=1
  [ $failed = 0 ] || die "the model of replication does not hold; see the lines above and: hack/model.sh trace NAME"
}

case ${1:-all} in
all) all ;;
check | broken) "$@" ;;
trace) grep -vE '^ *(timeout|spin:|#proc)' "$OUT/${2:?give the name of a check}/trace" ;;
*) die "usage: model.sh [trace NAME]" ;;
esac
