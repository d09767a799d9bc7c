# job.sh: what the kernel and nvme-cli do in the VM; TestKernel puts the words of
# vmtest and the ports before it.
# shellcheck shell=bash disable=SC2154
DISK=/dev/nvme0n1

join() { nvme connect -t tcp -a $HOST -n "$NQN" -c 1 -l 600 "$@" && udev; }
udev() { for _ in $(seq 50); do [ -b $DISK ] && return; sleep 0.2; done; return 1; }
leave() { nvme disconnect-all; for _ in $(seq 50); do [ -b $DISK ] || return 0; sleep 0.2; done; }

for m in crc32c sha256_generic dh_generic ffdhe nvme-tcp ext4; do modprobe $m 2>/dev/null; done
mkdir -p /etc/nvme
echo nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555 >/etc/nvme/hostnqn
echo 11111111-2222-3333-4444-555555555555 >/etc/nvme/hostid

step discovery
check "discover" nvme discover -t tcp -a $HOST -s "$PORT_A"
same "discover finds the subsystem" "$(nvme discover -t tcp -a $HOST -s "$PORT_A" | grep -c "subnqn: *$NQN$")" 1
check "persistent discovery connection" nvme discover -t tcp -a $HOST -s "$PORT_A" -p -k 10
echo "@@ add subsystem"
wait_for "the added subsystem is found" sh -c "nvme discover -t tcp -a $HOST -s $PORT_A | grep -q 'subnqn: *${NQN}add'"
leave

step connect and look
check "connect" join -s "$PORT_A" -i 2 -Q 32
lsblk -dno NAME,SIZE,WWN $DISK
CTRL=/dev/$(basename "$(ls -d /sys/class/nvme/nvme[0-9]*)")
nvme id-ctrl "$CTRL" | grep -E '^(sn|mn|cntlid|oacs|oncs|fuses|anacap|vwc|kas|sgls|ctratt|ioccsz)' | tr '\n' ';'
echo
check "id-ctrl" nvme id-ctrl "$CTRL"
check "id-ns" nvme id-ns $DISK
check "ns-descs" nvme ns-descs $DISK
check "cmdset-ind-id-ns" nvme cmdset-ind-id-ns "$CTRL" -n 1
check "list-ctrl" nvme list-ctrl "$CTRL"
check "smart-log" nvme smart-log "$CTRL"
check "error-log" nvme error-log "$CTRL"
check "effects-log" nvme effects-log "$CTRL"
check "ana-log" nvme ana-log "$CTRL"
check "changed-ns-list-log" nvme changed-ns-list-log "$CTRL"
check "get-feature" nvme get-feature "$CTRL" -f 6
same "a write cache" "$(cat /sys/block/nvme0n1/queue/write_cache)" "write back"
same "the UUID" "$(cat /sys/block/nvme0n1/uuid)" ca5c0000-0000-4000-8000-000000000001

step verbs
head -c 8192 /dev/urandom >/tmp/a
check "write" nvme write $DISK -s 8 -c 15 -z 8192 -d /tmp/a
check "compare" nvme compare $DISK -s 8 -c 15 -z 8192 -d /tmp/a
refused "compare finds a difference" "compare" nvme compare $DISK -s 9 -c 15 -z 8192 -d /tmp/a
check "verify" nvme verify $DISK -s 8 -c 15
check "copy" nvme copy $DISK --sdlba=100 --slbs=8 --blocks=15
check "the copy is equal" nvme compare $DISK -s 100 -c 15 -z 8192 -d /tmp/a
check "write zeroes" nvme write-zeroes $DISK -s 8 -c 15
head -c 8192 /dev/zero >/tmp/z
check "zeroes are there" nvme compare $DISK -s 8 -c 15 -z 8192 -d /tmp/z
check "dsm" nvme dsm $DISK -d -s 100 -b 16
check "deallocated reads as zeroes" nvme compare $DISK -s 100 -c 15 -z 8192 -d /tmp/z
check "flush" nvme flush $DISK
refused "beyond the end" "LBA|range" nvme read $DISK -s 99999999 -c 0 -z 512
same "the error log has it" "$(nvme error-log "$CTRL" -e 1 | grep -ciE 'lba.*range|range.*lba')" 1

step reservations
check "register, persistent" nvme resv-register $DISK --nrkey=0x1234 -p 3 -r 0
check "acquire" nvme resv-acquire $DISK --crkey=0x1234 --rtype=1 --racqa=0
nvme resv-report $DISK -e | tr '\n' ';'
echo
same "report" "$(nvme resv-report $DISK -e -o json | tr -d ' \n' | grep -oE '"rtype":1,"regctl":1,"ptpls":1')" '"rtype":1,"regctl":1,"ptpls":1'
check "the holder writes" nvme write $DISK -s 8 -c 15 -z 8192 -d /tmp/a
check "release" nvme resv-release $DISK --crkey=0x1234 --rtype=1 --rrela=0
check "unregister" nvme resv-register $DISK --crkey=0x1234 -r 1

step file system
check "mkfs" mkfs.ext4 -q -F $DISK
check "mount" mount $DISK /mnt
check "fio verify" fio_verify
check "fstrim" fstrim -v /mnt
check "umount" umount /mnt
check "fsck" e2fsck -fn $DISK

step resize
echo "@@ grow"
wait_for "the kernel sees the new size" sh -c "[ \$(blockdev --getsize64 $DISK) = 234881024 ]"
check "resize2fs" resize2fs -f $DISK
check "fsck of the grown one" e2fsck -fn $DISK

step "reset and shutdown"
check "reset" nvme reset "$CTRL"
wait_for "live again" grep -q live "/sys/class/nvme/$(basename "$CTRL")/state"
check "read after the reset" dd if=$DISK of=/dev/null bs=64k count=16 iflag=direct
check "disconnect" leave

step digests
check "connect with digests" join -s "$PORT_A" -i 1 -g -G
check "mount with digests" mount $DISK /mnt
check "fio verify with digests" fio_verify
check "umount with digests" umount /mnt
check "disconnect with digests" leave

step authentication
refused "without a secret" . nvme connect -t tcp -a $HOST -s "$PORT_C" -n "$NQN-closed"
refused "with another secret" . nvme connect -t tcp -a $HOST -s "$PORT_C" -n "$NQN-closed" -S "$CTRL_SECRET"
for how in "one way" mutual; do
  extra=()
  [ "$how" = mutual ] && extra=(-C "$CTRL_SECRET")
  check "authenticate, $how" nvme connect -t tcp -a $HOST -s "$PORT_C" -n "$NQN-closed" -i 2 -S "$HOST_SECRET" "${extra[@]}"
  udev
  check "write, $how" dd if=/dev/zero of=$DISK bs=64k count=16 oflag=direct
  leave
done

step "two paths"
check "first path" join -s "$PORT_A" -i 2
check "second path" nvme connect -t tcp -a $HOST -s "$PORT_B" -n "$NQN" -i 2 -c 1 -l 600
nvme list-subsys
same "one disk" "$(ls -d /sys/block/nvme[0-9]n1 | wc -l)" 1
states() { cat /sys/block/nvme*c*n1/ana_state | sort | tr '\n' ' '; }
same "states" "$(states)" "non-optimized optimized "
fio_load flip 12 &
FIO=$!
sleep 3
echo "@@ flip"
wait_for "flipped" sh -c "cat /sys/block/nvme*c*n1/ana_state | grep -q inaccessible"
sleep 3
echo "@@ flip back"
wait $FIO
same "fio through two flips" $? 0
echo "## ANA flip: longest I/O $(longest flip) ms"
nvme disconnect-all
leave

step "kill the target under load"
check "connect" join -s "$PORT_A" -i 2 -k 5
fio_load kill 15 &
FIO=$!
echo "@@ kill"
wait $FIO
same "fio through the kill" $? 0
echo "## target killed, started again after 1 s: longest I/O $(longest kill) ms, reconnect delay 1 s"
leave
same "the kernel saw no errors but those asked for" "$(dmesg | grep -E 'I/O error|I/O Error|BUG:|WARNING:|Oops' | head -3)" ""
dmesg | grep -i nvme | tail -12
exit 0
