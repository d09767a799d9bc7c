# job.sh: what the kernel and the distribution's tools do in the VM; TestKernel puts
# the words of vmtest and what is expected before it.
# shellcheck shell=bash disable=SC2154
step modules
for m in virtio_blk virtio_pci zfs; do modprobe $m || echo "FAIL modprobe $m"; done
for _ in $(seq 50); do [ -b /dev/vdb ] && break; sleep 0.2; done
cat /sys/module/zfs/version

# device NAME is the block device of a zvol or of a snapshot of one: there is no udev.
device() {
  local d
  for d in /dev/zd*[0-9]; do
    [ "$(/lib/udev/zvol_id "$d" 2>/dev/null)" = "$1" ] && echo "$d" && return
  done
  echo "no device of $1" >&2
  return 1
}
sum() { dd if="$(device "$1")" bs=1M iflag=direct 2>/dev/null | sha256sum | cut -d' ' -f1; }

judge() { # HOW DISK POOL VOLUME-SUM SNAPSHOT-SUM
  local dir=/tmp/$(basename "$2")
  step "$1"
  mkdir "$dir" # a pool made on a file is opened on a regular file only
  check "$1: a copy of the extent" cp --sparse=always "$2" "$dir/extent"
  check "$1: import" zpool import -d "$dir" -f -N "$3"
  zpool status -v "$3"
  check "$1: snapshots have devices" zfs set snapdev=visible "$3/vol"
  same "$1: one snapshot" "$(zfs list -H -t snapshot -o name "$3/vol" | wc -l)" 1
  wait_for "$1: the volume's device" device "$3/vol"
  wait_for "$1: the snapshot's device" device "$3/vol@first"
  same "$1: the volume's bytes" "$(sum "$3/vol")" "$4"
  same "$1: the snapshot's bytes" "$(sum "$3/vol@first")" "$5"
  check "$1: scrub" zpool scrub -w "$3"
  same "$1: errors found" "$(zpool status -x "$3" | grep -c 'is healthy')" 1
  dd if=/dev/urandom of="$(device "$3/vol")" bs=4k count=64 seek=100 oflag=direct conv=fsync 2>/dev/null
  same "$1: the kernel writes to it" "$?" 0
  check "$1: export" zpool export "$3"
}

judge "after a clean stop" /dev/vda "$POOL" "$CLEAN" "$FIRST"
judge "after a crash" /dev/vdb "$POOL" "$CRASHED" "$FIRST"
