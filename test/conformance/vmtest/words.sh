# words.sh: what every job of a VM says with. Lines "OK …" and "FAIL …" are the
# verdict, "@@ …" asks the test. FIO_SIZE is what fio_verify writes.
# shellcheck shell=bash disable=SC2034
HOST=10.0.2.2

step() { echo "## $* [$(cut -d' ' -f1 /proc/uptime) s]"; }
check() {
  local name=$1 out rc
  shift
  out=$("$@" 2>&1)
  rc=$?
  if [ $rc = 0 ]; then echo "OK $name"; else
    echo "FAIL $name: $rc"
    echo "$out" | tail -8
  fi
}
refused() { # NAME TEXT COMMAND…: it fails, and says TEXT
  local name=$1 text=$2 out
  shift 2
  if out=$("$@" 2>&1); then echo "FAIL $name: it succeeded"; elif grep -qiE "$text" <<<"$out"; then echo "OK $name"; else echo "FAIL $name: $out"; fi
}
same() { if [ "$2" = "$3" ]; then echo "OK $1"; else echo "FAIL $1: $2, want $3"; fi; }
wait_for() { # NAME COMMAND…: until it is true, for 20 s
  local name=$1 i
  shift
  for i in $(seq 100); do
    if "$@" >/dev/null 2>&1; then echo "OK $name" && return; fi
    sleep 0.2
  done
  echo "FAIL $name"
}
fio_verify() { fio --name=v --directory=/mnt --size="${FIO_SIZE:-24m}" --bs=4k --rw=randwrite --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --do_verify=1 --fallocate=none --group_reporting; }
fio_load() { # NAME SECONDS: a verifying load on $DISK, results in /tmp/NAME.json
  fio --name="$1" --filename="$DISK" --rw=randwrite --bs=4k --size=32m --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c --do_verify=1 \
    --verify_backlog=256 --time_based --runtime="$2" --output-format=json >"/tmp/$1.json" 2>"/tmp/$1.err"
}
longest() { jq '[.jobs[0].write.clat_ns.max, .jobs[0].read.clat_ns.max] | max / 1e6 | floor' "/tmp/$1.json"; }
