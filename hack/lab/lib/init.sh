# Functions of the programs that are the first process of a namespace.
# shellcheck shell=bash

# write_own_pid stores this process as the machine sees it; /proc must still
# be the machine's.
write_own_pid() {
  local fields
  read -r -a fields </proc/self/stat
  echo "${fields[0]} ${fields[21]}" >"$PIDFILE"
}

# own_mounts makes the mounts private, and lets go of the machine's loop and
# FUSE mounts: a copy of them would keep their devices busy.
own_mounts() {
  mount --make-rprivate /
  awk '$(NF-1) ~ "^/dev/loop" || / - fuse/ { print $5 }' /proc/self/mountinfo | tac | xargs -r umount -l
}

# supervise LOG-FOLDER PROGRAM ARGUMENT... keeps a program running, as an
# init system would.
supervise() {
  local log=$1/$2.log
  shift
  while :; do
    "$@" >>"$log" 2>&1
    echo "$1 ended with status $?; starting it again" >>"$log"
    sleep 1
  done
}
