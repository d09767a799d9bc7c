# What the lab uses of the machine outside of its namespaces, and gives back:
# kernel settings, cgroups, loop devices.
# shellcheck shell=bash

# Settings that a kubelet changes for the whole machine, and one that several
# kubelets need raised.
SETTINGS=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys
  kernel.keys.root_maxbytes fs.inotify.max_user_instances)

save_settings() { sysctl -e "${SETTINGS[@]}" >"$DIR/settings" 2>/dev/null || true; }

raise_settings() {
  [ "$(sysctl -n fs.inotify.max_user_instances)" -ge 1024 ] || sysctl -qw fs.inotify.max_user_instances=1024
}

restore_settings() { [ ! -e "$DIR/settings" ] || sysctl -qe -p "$DIR/settings" 2>/dev/null || true; }

# cgroup_roots prints the top of each hierarchy that pods' cgroups are made in.
cgroup_roots() {
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    echo /sys/fs/cgroup
  else
    awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts | grep ^/sys/fs/cgroup/ | sort -u
  fi
}

# remove_cgroups PATH: the path below each root, once nothing runs there.
remove_cgroups() {
  local root
  for root in $(cgroup_roots); do
    [ -d "$root/$1" ] && find "$root/$1" -depth -type d -exec rmdir {} + 2>/dev/null
  done
  return 0
}

# node_processes I prints the pids of all that runs in a node.
node_processes() {
  local root
  for root in $(cgroup_roots); do
    [ -d "$root/$NAME/node$1" ] && find "$root/$NAME/node$1" -name cgroup.procs -exec cat {} + 2>/dev/null
  done | sort -u
}

# fuse_devices PID... prints the device numbers of the FUSE file systems that
# the processes serve (Linux says which since 6.17) or have mounted.
fuse_devices() {
  local pid
  for pid in "$@"; do
    sed -n 's/^fuse_connection:[[:space:]]*/0:/p' "/proc/$pid/fdinfo"/* 2>/dev/null
    awk '/ - fuse/ { print $3 }' "/proc/$pid/mountinfo" 2>/dev/null
  done | sort -u
}

# mounted_loops PID... prints the loop devices that the processes have mounted.
mounted_loops() {
  local pid
  for pid in "$@"; do
    awk '$(NF-1) ~ "^/dev/loop" { print $(NF-1) }' "/proc/$pid/mountinfo" 2>/dev/null
  done | sort -u
}

# node_fuse_devices I prints those of a node that are not this machine's.
node_fuse_devices() {
  local pids
  mapfile -t pids < <(node_processes "$1")
  comm -23 <(fuse_devices "${pids[@]}") <(fuse_devices self)
}

# abort_fuse DEVICE... ends FUSE connections: all that waits for them fails.
abort_fuse() {
  [ $# -gt 0 ] || return 0
  local control device
  control=$(mktemp -d)
  mount -t fusectl fusectl "$control"
  for device in "$@"; do echo 1 >"$control/${device#0:}/abort" 2>/dev/null || true; done
  umount "$control"
  rmdir "$control"
}

# node_loops I prints the loop devices that are the node's: it has them mounted
# and this machine has not, or their backing file is on one of its FUSE file
# systems or among its own files. To be called while the node runs: what a dead
# FUSE server backs cannot be asked.
node_loops() {
  local pids fuse own name device inode
  mapfile -t pids < <(node_processes "$1")
  comm -23 <(mounted_loops "${pids[@]}") <(mounted_loops self)
  fuse=" $(node_fuse_devices "$1" | xargs) "
  own=$(stat -c '%Hd:%Ld' "$DIR")
  losetup -l -n -O NAME,BACK-MAJ:MIN,BACK-INO 2>/dev/null | while read -r name device inode; do
    case $fuse in *" $device "*) echo "$name" ;; esac
    [ "$device" = "$own" ] &&
      [ -n "$(find "$(node_dir "$1")"/lib/{cask,kubelet} -xdev -inum "$inode" -print -quit 2>/dev/null)" ] && echo "$name"
  done
  return 0
}

# detach_loops DEVICE... detaches what is still attached of a dead node's.
detach_loops() {
  local device
  for device in "$@"; do losetup -d "$device" 2>/dev/null || true; done
}
