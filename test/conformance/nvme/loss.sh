# loss.sh: the target says that acknowledged writes may be gone, under a mounted
# file system. TestKernelLoss puts the ports and the functions of job.sh before it.
# shellcheck shell=bash disable=SC2154

step "a loss under a mounted file system"
check "connect" join -s "$PORT_A" -i 1
check "mkfs" mkfs.ext4 -q -F $DISK
check "mount" mount $DISK /mnt
stable() { dd if=/etc/hostname of="$1" conv=fsync status=none; }
check "a file that is flushed" stable /mnt/kept
(
  n=0
  while stable /mnt/file$((n % 8)); do n=$((n + 1)); done
  echo $n >/tmp/failed
) &
sleep 2
echo "@@ lose"
wait_for "fsync fails" test -e /tmp/failed
echo "## after $(cat /tmp/failed) files"
refused "nothing is stable any more" "." stable /mnt/more
wait_for "the kernel gives the controller up" sh -c "! ls -d /sys/class/nvme/nvme[0-9]*"
wait
check "umount" umount /mnt
refused "the old name" "." nvme connect -t tcp -a $HOST -s "$PORT_A" -n "$NQN" -l 5
same "discovery has the new name" "$(nvme discover -t tcp -a $HOST -s "$PORT_A" | grep -c "subnqn: *$NQN:lost-7$")" 1
NQN=$NQN:lost-7
check "connect to the new name" join -s "$PORT_A" -i 1
same "the UUID stays" "$(cat /sys/block/nvme0n1/uuid)" ca5c0000-0000-4000-8000-000000000001
check "mount again" mount $DISK /mnt
check "what was flushed is there" cmp /etc/hostname /mnt/kept
check "flushes go on" stable /mnt/more
check "umount again" umount /mnt
check "fsck" e2fsck -fn $DISK
dmesg | grep -iE 'nvme|ext4' | tail -25
exit 0
