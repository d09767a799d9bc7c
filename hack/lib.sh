# Functions shared by the scripts under hack/. Sourced, never run; sourcing
# changes nothing but variables.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${CASK_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/cask}
KUBE_VERSION=1.34.4
ZFS_TAG=caskzfs # see with_zfs

# step prints a heading with the seconds since the script began.
step() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }

# note prints a line of detail under a step.
note() { printf '        %s\n' "$*"; }

# die names what failed and ends the script.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# require_root NAME ends the script unless it runs as root.
require_root() { [ "$(id -u)" = 0 ] || die "$1 needs root (network namespaces, mounts): run it with sudo -E"; }

# content_key PATH... prints a short hash of the files' contents (folders are
# walked) and of the words given after "--".
content_key() {
  local paths=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do paths+=("$1") && shift; done
  {
    find "${paths[@]}" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | cut -d' ' -f1
    printf '%s\n' "$@"
  } | sha256sum | cut -c1-16
}

# cached FILE COMMAND... makes FILE, which lies under $CACHE, by running
# COMMAND with a temporary path as its last argument, unless FILE exists.
# Two callers at once build it once.
cached() {
  local file=$1 tmp
  shift
  [ -e "$file" ] && return
  mkdir -p "$(dirname "$file")"
  (
    flock 9
    [ -e "$file" ] && exit
    tmp=$file.tmp.$BASHPID
    trap 'rm -rf "$tmp"' EXIT
    "$@" "$tmp" # not in a condition: there, set -e would not hold inside
    mv "$tmp" "$file"
  ) 9>"$file.lock"
}

# deb_download PACKAGE... fetches packages into this folder, installing nothing; what
# the list of packages no longer has right is looked up again. It prints to stderr.
deb_download() {
  local get=(apt-get -q download -o APT::Sandbox::User=root "$@")
  "${get[@]}" >&2 || { apt-get -q update >&2 && "${get[@]}" >&2; }
}

# progress LABEL TOTAL counts the lines of its input, showing how far it is
# every ten seconds, and keeps what looks like an error for the end.
progress() {
  local label=$1 total=$2 count=0 next=$((SECONDS + 10)) line
  while IFS= read -r line; do
    case $line in *' '*) printf '%s\n' "$line" >&2 ;; esac
    count=$((count + 1))
    [ "$SECONDS" -lt "$next" ] && continue
    next=$((SECONDS + 10))
    note "$label: $count of about $total"
  done
}

# with_zfs has go link the ZFS that hack/zfs.sh compiles. Without it, go links
# the distribution's libzpool: the same code with its debug checks, slower. The
# tag makes go compile nothing but the engine anew.
with_zfs() {
  LIBRARY_PATH=$("$ROOT/hack/zfs.sh")
  export LIBRARY_PATH GOFLAGS="${GOFLAGS:+$GOFLAGS }-tags=$ZFS_TAG"
}

# wait_for SECONDS WHAT COMMAND... runs COMMAND until it succeeds; on timeout
# it fails, naming WHAT.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || {
      printf 'error: timed out waiting for %s\n' "$what" >&2
      return 1
    }
    sleep 0.2
  done
}
