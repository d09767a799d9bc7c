# job.sh: what runs in the VM. TestKernel puts the words of vmtest before it, and
# STAGE, SEED, FLUSHED and ROUNDS: the first boot makes the pool and runs all tests,
# each later one looks at what the loss of power before it left.
# shellcheck shell=bash disable=SC2154
step modules
for m in virtio_blk virtio_pci zfs; do modprobe $m || echo "FAIL modprobe $m"; done
for _ in $(seq 50); do [ -b /dev/vda1 ] && break; sleep 0.2; done

export CASK_ZVOL_PARENT=node/volumes CASK_ZVOL_DISK=/dev/vda1 CASK_ZVOL_ROUNDS=$ROUNDS
cd /tmp || exit
tests() { /tmp/job/zvol.test -test.timeout=20m "$@"; }

# verify NAME SEED FLUSHED: what a writer left
verify() {
  check "$1" env CASK_ZVOL_SEED="$2" CASK_ZVOL_FLUSHED="$3" sh -c "/tmp/job/zvol.test -test.v -test.run 'TestKernelVerify\$' >verified 2>&1; grep -q ^VERIFIED verified || { cat verified; false; }"
  grep ^VERIFIED verified
}

# killed SEED SECONDS: a writer that is killed
killed() {
  CASK_ZVOL_SEED=$1 /tmp/job/zvol.test -test.run 'TestKernelWriter$' >writer 2>&1 &
  local pid=$! flushed
  for _ in $(seq 200); do grep -q FLUSHED writer && break; sleep 0.2; done
  sleep "$2"
  kill -9 $pid
  wait $pid 2>/dev/null
  flushed=$(grep FLUSHED writer | tail -1 | cut -d' ' -f2)
  [ -n "$flushed" ] || { echo "FAIL the writer did not write: $(tail -3 writer)"; return; }
  verify "killed after $2 s: what is there is a prefix" "$1" "$flushed"
}

if [ "$STAGE" = 0 ]; then
  check "a pool" zpool create -f -o cachefile=none -O mountpoint=none node /dev/vda1
  check "a dataset for volumes" zfs create -o canmount=off node/volumes
  step "the suite, on kernel ZFS"
  tests -test.v -test.run 'TestKernel(Conformance|Classes)$' | tee suite | grep --line-buffered -E '^ *(---|===|[a-z_]+\.go)'
  same "the suite passes" "$(tail -1 suite)" PASS
  step "processes that are killed"
  for n in 1 2 3; do killed "$n" "$n.$n"; done
else
  check "import after the loss of power" zpool import -d /dev/vda1 -f -o cachefile=none node
  verify "power lost: what is there is a prefix" "$SEED" "$FLUSHED"
  check "scrub" zpool scrub -w node
  same "errors found" "$(zpool status -x node | grep -c 'is healthy')" 1
fi
if [ "$STAGE" = "$LAST" ]; then
  check "export" zpool export node
else
  step "a writer, until power is lost"
  CASK_ZVOL_SEED=$((100 + STAGE)) tests -test.run 'TestKernelWriter$' | sed -u 's/^/@@ /'
fi
