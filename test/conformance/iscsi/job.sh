# job.sh: what the kernel, open-iscsi and sg3-utils do in the VM; TestKernel puts the
# words of vmtest and the ports before it.
# shellcheck shell=bash disable=SC2154
CLOSED=$NODE-closed
FIO_SIZE=8m

node() { iscsiadm -m node -T "$1" -p "$HOST:$2" "${@:3}"; }
record() { # NODE PORT [NAME VALUE]…: makes the node's record anew
  local n=$1 p=$2
  shift 2
  node "$n" "$p" -o delete >/dev/null 2>&1
  node "$n" "$p" -o new >/dev/null || return
  set -- node.conn[0].timeo.noop_out_interval 2 node.conn[0].timeo.noop_out_timeout 3 node.session.timeo.replacement_timeout 120 "$@"
  while [ $# -gt 0 ]; do
    node "$n" "$p" -o update -n "$1" -v "$2" || return
    shift 2
  done
}
login() { record "$@" && node "$1" "$2" --login; }
disk() { # waits for the disk of the one session, and sets DISK
  local i
  for i in $(seq 100); do
    DISK=$(ls -d /sys/class/iscsi_session/session*/device/target*/*/block/* 2>/dev/null | head -1)
    DISK=${DISK:+/dev/$(basename "$DISK")}
    [ -b "$DISK" ] && return
    sleep 0.2
  done
  return 1
}
logout() { iscsiadm -m node --logoutall=all; }
chap() { echo node.session.auth.authmethod CHAP node.session.auth.username "$1" node.session.auth.password; }

for m in crc32c sd_mod sg iscsi_tcp ext4; do modprobe $m 2>/dev/null; done
mkdir -p /run/lock/iscsi /etc/iscsi
echo InitiatorName=iqn.2026-01.storage.cask:guest >/etc/iscsi/initiatorname.iscsi
iscsid
wait_for "iscsid runs" pidof iscsid

step discovery
iscsiadm -m discovery -t sendtargets -p "$HOST:$PORT_A"
same "discovery finds the node, at the address that was asked" \
  "$(iscsiadm -m discovery -t sendtargets -p "$HOST:$PORT_A" | grep -c "^$HOST:$PORT_A,.* $NODE$")" 1

step login and look
check "login" login "$NODE" "$PORT_A"
disk
same "a disk of the size" "$(blockdev --getsize64 "$DISK")" 201326592
same "a write cache" "$(cat /sys/block/"$(basename "$DISK")"/queue/write_cache)" "write back"
same "unmap" "$([ "$(cat /sys/block/"$(basename "$DISK")"/queue/discard_max_bytes)" -gt 0 ] && echo yes)" yes
for c in "sg_inq" "sg_luns" "sg_turs" "sg_readcap -l" "sg_modes" "sg_opcodes" "sg_sync" "sg_rtpg -d" "sg_requests"; do
  # shellcheck disable=SC2086
  check "$c" $c "$DISK"
done
for page in 0 sn di bl lbpv bdc; do check "VPD page $page" sg_vpd -p $page "$DISK"; done

step verbs
head -c 8192 /dev/urandom >/tmp/a
check "write" sg_dd if=/tmp/a of="$DISK" bs=512 seek=8 count=16 oflag=fua
check "verify" sg_verify -l 8 -c 16 "$DISK"
head -c 512 /tmp/a >/tmp/caw && head -c 512 /dev/zero >>/tmp/caw
check "compare and write" sg_compare_and_write --in=/tmp/caw --lba=8 --num=1 --xferlen=1024 "$DISK"
refused "compare and write finds a difference" "miscompare" sg_compare_and_write --in=/tmp/caw --lba=8 --num=1 --xferlen=1024 "$DISK"
check "write same with unmap" sg_write_same --16 --unmap --lba=8 --num=16 "$DISK"
check "unmapped reads as zeroes" sh -c "dd if=$DISK bs=512 skip=8 count=16 iflag=direct 2>/dev/null | cmp -n 8192 - /dev/zero"
check "unmap" sg_unmap --lba=100 --num=16 "$DISK"
refused "beyond the end" "out of range|lba" sg_verify -l 99999999 -c 1 "$DISK"
check "LUN reset" sg_reset -d "$DISK"

step "file system"
check "mkfs" mkfs.ext4 -q -F "$DISK"
check "mount" mount "$DISK" /mnt
check "fio verify" fio_verify
check "fstrim" fstrim -v /mnt
check "umount" umount /mnt
check "fsck" e2fsck -fn "$DISK"

step resize
echo "@@ grow"
dd if="$DISK" of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null
wait_for "the kernel is told" sh -c "dmesg | grep -qi 'capacity data has changed'"
check "rescan" iscsiadm -m session -R
wait_for "the kernel sees the new size" sh -c "[ \$(blockdev --getsize64 $DISK) = 234881024 ]"
check "resize2fs" resize2fs -f "$DISK"
check "fsck of the grown one" e2fsck -fn "$DISK"

step reservations
check "register, persistent" sg_persist --out --register --param-sark=0x1234 --param-aptpl "$DISK"
check "reserve" sg_persist --out --reserve --param-rk=0x1234 --prout-type=1 "$DISK"
echo "@@ restart"
wait_for "reads go on after a restart" dd if="$DISK" of=/dev/null bs=4k count=1 iflag=direct
same "the reservation is there after a restart" "$(sg_persist --in --read-reservation "$DISK" | grep -c 'Key=0x1234')" 1
check "the holder writes" dd if=/tmp/a of="$DISK" bs=512 seek=8 count=16 oflag=direct
check "release" sg_persist --out --release --param-rk=0x1234 --prout-type=1 "$DISK"
check "unregister" sg_persist --out --register --param-rk=0x1234 "$DISK"
check "logout" logout

step digests
check "login with digests" login "$NODE" "$PORT_A" node.conn[0].iscsi.HeaderDigest CRC32C node.conn[0].iscsi.DataDigest CRC32C
disk
same "both digests are on" "$(iscsiadm -m session -P 2 | grep -c 'Digest: CRC32C')" 2
check "mount with digests" mount "$DISK" /mnt
check "fio verify with digests" fio_verify
check "umount with digests" umount /mnt
check "logout with digests" logout

step CHAP
refused "without a secret" "authorization|authentication" login "$CLOSED" "$PORT_C"
# shellcheck disable=SC2046
refused "with another secret" "authorization|authentication" login "$CLOSED" "$PORT_C" $(chap alice) "not hers at all"
# shellcheck disable=SC2046
check "one way" login "$CLOSED" "$PORT_C" $(chap alice) "alice has a secret"
disk
check "write, one way" dd if=/dev/zero of="$DISK" bs=64k count=16 oflag=direct
check "logout, one way" logout
# shellcheck disable=SC2046
check "mutual" login "$CLOSED" "$PORT_C" $(chap alice) "alice has a secret" node.session.auth.username_in cask node.session.auth.password_in "cask has one too"
disk
check "write, mutual" dd if=/dev/zero of="$DISK" bs=64k count=16 oflag=direct
check "logout, mutual" logout
# shellcheck disable=SC2046
refused "a target that cannot prove itself" "authorization|authentication|failure" login "$CLOSED" "$PORT_C" $(chap alice) "alice has a secret" \
  node.session.auth.username_in cask node.session.auth.password_in "what cask has not"
logout 2>/dev/null

step "kill the target under load"
check "login again" login "$NODE" "$PORT_A"
disk
fio_load kill 20 &
FIO=$!
echo "@@ kill"
wait $FIO
same "fio through the kill" $? 0
echo "## target killed, started again after 1 s: longest I/O $(longest kill) ms"
check "logout at the end" logout
same "the kernel saw no errors" "$(dmesg | grep -E 'I/O error|BUG:|WARNING:|Oops' | head -3)" ""
dmesg | grep -iE 'iscsi|connection' | tail -12
exit 0
