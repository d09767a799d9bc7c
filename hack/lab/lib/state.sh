# What the lab keeps under $DIR, and how it is shared between checkouts.
# shellcheck shell=bash

DIR=${CASK_LAB_DIR:-/var/tmp/cask-lab}
NAME=$(basename "$DIR") # prefix of network namespaces and cgroups
GRACE=${CASK_LAB_GRACE:-16s}
PORT=${CASK_LAB_PORT:-16443} # of the API server, on the machine's loopback
NODES_MAX=9

node_dir() { echo "$DIR/nodes/node$1"; }

# nodes prints the numbers of all nodes ever started in this lab.
nodes() { find "$DIR/nodes" -mindepth 1 -maxdepth 1 -name 'node*' -printf '%f\n' 2>/dev/null | sed 's/node//' | sort -n; }

# remember FILE PID stores a process so that a later pid of the same number
# is not mistaken for it.
remember() { echo "$2 $(start_time "$2")" >"$1"; }

start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# recall FILE prints the remembered pid if that process still runs.
recall() {
  local pid start
  read -r pid start 2>/dev/null <"$1" || return 1
  [ -n "$start" ] && [ "$(start_time "$pid")" = "$start" ] && echo "$pid"
}

# end FILE kills the remembered process, with its namespace when it is the
# first of one, and waits until it is gone.
end() {
  local pid
  pid=$(recall "$1") || return 0
  kill -9 "$pid" 2>/dev/null
  wait_for 30 "process $pid of $1 to end" gone "$1" || return 1
  rm -f "$1"
}

gone() { ! recall "$1"; }

# claim makes this checkout the lab's owner, or says whose it is.
claim() {
  [ -e "$DIR/owner" ] && die "a lab is already up in $DIR, started from $(cat "$DIR/owner");" \
    "stop it with $(cat "$DIR/owner")/hack/lab/lab down, or choose another folder with CASK_LAB_DIR"
  [[ $DIR == /* && $CACHE == /* ]] || die "CASK_LAB_DIR ($DIR) and CASK_CACHE ($CACHE) must be absolute paths"
  mkdir -p "$DIR"/{nodes,log,images,bin}
  echo "$ROOT" >"$DIR/owner"
}

# check_owner refuses to touch a lab of another checkout that still exists.
check_owner() {
  local owner
  owner=$(cat "$DIR/owner" 2>/dev/null) || die "no lab is up in $DIR; start one with hack/lab/lab up"
  [ "$owner" = "$ROOT" ] || [ ! -d "$owner" ] ||
    die "the lab in $DIR belongs to the checkout $owner: use $owner/hack/lab/lab"
}

check_node() {
  case ${1:-} in
  [1-9]) [ -d "$(node_dir "$1")" ] || die "no node $1; there are: $(nodes | xargs)" ;;
  *) die "node number expected, one of: $(nodes | xargs)" ;;
  esac
}
