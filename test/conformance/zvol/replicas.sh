# replicas.sh: a whole volume in the VM, of a target and three replicas on zvols of
# its kernel, under Debian's own NVMe/TCP host. TestReplicas puts the words of vmtest
# and NQN before it.
# shellcheck shell=bash disable=SC2154
DISK=/dev/nvme0n1 SIZE=$((96 << 20)) IDS="r0 r1 r2"
declare -A pid

replica() { # ID
  /tmp/job/cask-replica --volume v --replica "$1" --listen "127.0.0.1:450${1#r}" --zvol node/volumes --block-size 8192 >>"/tmp/$1.log" 2>&1 &
  pid[$1]=$!
}
serve() {
  /tmp/job/cask-target --volume v --authority file:/tmp/record --listen 127.0.0.1:4420 --health 127.0.0.1:9900 --size $SIZE \
    --replica r0=127.0.0.1:4500 --replica r1=127.0.0.1:4501 --replica r2=127.0.0.1:4502 >>target.log 2>&1 &
  target=$!
}
in_sync() { [ "$(wget -qO- http://127.0.0.1:9900/metrics | grep -c '^cask_replica_in_sync.* 1$')" = "$1" ]; }
synced() { # NAME: until all three are, for two minutes
  local _
  for _ in $(seq 120); do
    if in_sync 3; then echo "OK $1" && return; fi
    sleep 1
  done
  echo "FAIL $1"
  tail -n 5 /tmp/*.log
}
end() { # NAME PID
  kill "$2" && wait "$2"
  same "$1 ends" $? 0
}

# contents prints a checksum of the content of each replica's zvol.
contents() {
  local dev
  for dev in /sys/block/zd*; do
    [ "$(cat "$dev/size")" = $((SIZE / 512)) ] && md5sum <"/dev/$(basename "$dev")"
  done
}

step modules
for m in virtio_blk virtio_pci zfs crc32c nvme-tcp ext4; do modprobe $m || echo "FAIL modprobe $m"; done
for _ in $(seq 50); do [ -b /dev/vda1 ] && break; sleep 0.2; done
ip link set lo up
mkdir -p /etc/nvme
echo nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555 >/etc/nvme/hostnqn
echo 11111111-2222-3333-4444-555555555555 >/etc/nvme/hostid
cd /tmp || exit
cp /tmp/job/record .
check "a pool" zpool create -f -o cachefile=none -O mountpoint=none node /dev/vda1
check "a dataset for volumes" zfs create -o canmount=off node/volumes

step "a volume"
for r in $IDS; do replica "$r"; done
serve
synced "three replicas in sync"
check "connect" nvme connect -t tcp -a 127.0.0.1 -s 4420 -l 600 -n "$NQN"
wait_for "the disk" test -b $DISK
same "its size" "$(blockdev --getsize64 $DISK)" $SIZE
check "mkfs" mkfs.ext4 -q $DISK
mkdir -p /mnt
check "mount" mount $DISK /mnt
FIO_SIZE=2m
check "fio finds what it wrote" fio_verify

step "a replica is killed while the host writes"
head -c 2M /dev/urandom >/tmp/a
(for _ in 1 2 3; do dd if=/tmp/a of=/mnt/a bs=64k conv=fsync 2>/dev/null; done) &
writer=$!
sleep 1
kill -9 "${pid[r1]}"
wait "${pid[r1]}" 2>/dev/null
check "the host went on" wait $writer
replica r1
synced "it is in sync again"

step "all is stopped, and started again"
check "unmount" umount /mnt
check "disconnect" nvme disconnect-all
end "the target" $target
for r in $IDS; do end "$r" "${pid[$r]}"; done
same "the replicas' contents" "$(contents | wc -l) zvols, $(contents | sort -u | wc -l) content" "3 zvols, 1 content"
for r in $IDS; do replica "$r"; done
serve
synced "three replicas in sync again"
check "connect again" nvme connect -t tcp -a 127.0.0.1 -s 4420 -l 600 -n "$NQN"
wait_for "the disk is back" test -b $DISK
check "mount again" mount $DISK /mnt
check "what was written is there" cmp /tmp/a /mnt/a
check "unmount again" umount /mnt
check "fsck" fsck.ext4 -fn $DISK
check "disconnect again" nvme disconnect-all
end "the target" $target
for r in $IDS; do end "$r" "${pid[$r]}"; done
grep -h "ends:\|panic" ./*.log
check "export" zpool export node
