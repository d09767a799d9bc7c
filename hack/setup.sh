#!/bin/bash
# setup.sh: installs from the distribution what building and testing Cask
# needs. Idempotent, and done in a moment when nothing is missing.
#   setup.sh           install what is missing (as root)
#   setup.sh --check   only say what is missing
#   setup.sh --vm      with what the VM and the judges in it need, too
set -euo pipefail
. "$(dirname "$0")/lib.sh"

GO_MINIMUM=1.26

# Package lists by purpose. zfs' libraries are in Debian's contrib.
BUILD=(gcc libc6-dev make git libzfslinux-dev libzpool5linux libtirpc-dev libjemalloc-dev liblz4-dev zlib1g-dev libssl-dev libblkid-dev libudev-dev)
CLUSTER=(containerd runc containernetworking-plugins nftables iptables conntrack iproute2 util-linux procps openssl)
IMAGES=(buildah mmdebstrap)
JUDGES=(zfsutils-linux e2fsprogs xfsprogs fio fuse3 jq spin)
# Initiators and a decoder that judge the iSCSI target.
ISCSI=(libiscsi-bin qemu-utils qemu-block-extra tshark)
PACKAGES=("${BUILD[@]}" "${CLUSTER[@]}" "${IMAGES[@]}" "${JUDGES[@]}" "${ISCSI[@]}")
# A kernel with modules runs in qemu; busybox, kmod and cpio make its initramfs.
VM=(qemu-system-x86 busybox-static kmod cpio xz-utils nvme-cli sg3-utils jq tshark tgt libiscsi-bin)

missing_packages() {
  comm -23 <(printf '%s\n' "${PACKAGES[@]}" | sort) \
    <(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${PACKAGES[@]}" 2>/dev/null | sed -n 's/ installed$//p' | sort)
}

# enable_contrib adds contrib to the Components of the Debian sources that
# exist; both notations of apt are known.
enable_contrib() {
  apt-cache policy libzpool5linux 2>/dev/null | grep -q 'Candidate: [0-9]' && return
  local file
  for file in /etc/apt/sources.list.d/*.sources; do
    [ -e "$file" ] && grep -qi '^Signed-By:.*debian-archive' "$file" &&
      sed -i '/^Components:/{/contrib/!s/$/ contrib/}' "$file"
  done
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -e "$file" ] && sed -i -E '/^deb .*debian.* main/{/contrib/!s/ main/ main contrib/}' "$file"
  done
  return 0
}

install_packages() {
  require_root "installing packages"
  export DEBIAN_FRONTEND=noninteractive
  enable_contrib
  step "installing: $*"
  apt-get update -q >"$LOG" 2>&1 || die "apt-get update failed; read $LOG"
  apt-get install -y -q --no-install-recommends "$@" >>"$LOG" 2>&1 ||
    die "apt-get install failed; read $LOG. On another distribution install the like of: $*"
}

# version_at_least HAVE WANT compares dotted versions.
version_at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -1)" = "$2" ]; }

check_go() {
  command -v go >/dev/null ||
    die "no go in PATH; Cask needs Go $GO_MINIMUM or newer: see https://go.dev/dl, then add its bin folder to PATH"
  local have
  have=$(cd / && GOTOOLCHAIN=local go env GOVERSION)
  version_at_least "${have#go}" "$GO_MINIMUM" || die "Go $have is too old; Cask needs $GO_MINIMUM or newer: see https://go.dev/dl"
}

check_kernel() {
  local file
  for file in /dev/fuse /dev/loop-control; do
    [ -e "$file" ] || note "warning: no $file in this kernel: volumes cannot be attached on this machine"
  done
  grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null ||
    note "warning: no overlayfs in this kernel: containerd will not run containers"
}

main() {
  LOG=${TMPDIR:-/tmp}/cask-setup.log
  command -v dpkg-query >/dev/null || die "this is not Debian; install by hand the like of: ${PACKAGES[*]}"
  [ "${1:-}" = --vm ] && PACKAGES+=("${VM[@]}")
  local missing
  mapfile -t missing < <(missing_packages)
  if [ ${#missing[@]} -gt 0 ]; then
    [ "${1:-}" = --check ] && die "missing packages: ${missing[*]}; install them with hack/setup.sh"
    install_packages "${missing[@]}"
  fi
  check_go
  check_kernel
  [ "${1:-}" = --check ] || "$ROOT/hack/zfs.sh" >/dev/null
  step "set up: ${#PACKAGES[@]} packages, $(go env GOVERSION)"
}

main "$@"
