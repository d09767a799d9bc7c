#!/bin/bash
# zfs.sh: compiles ZFS for user space, without debug checks, from the unmodified
# sources in Debian's zfs-dkms, into a libcask-zpool.a under ${CASK_CACHE:-~/.cache/cask},
# cached by content. Prints the folder it is in. What the sources lack (libzpool's
# own three files, and what is not on the path of I/O) is taken from libzpool.a.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

PACKAGE=zfs-dkms
CFLAGS=(-O2 -std=gnu99 -w -fno-strict-aliasing -D_GNU_SOURCE -D_LARGEFILE64_SOURCE -D_REENTRANT -DNDEBUG -DLIB_ZPOOL_BUILD)
[ "$(uname -m)" != x86_64 ] || CFLAGS+=(-DHAVE_SSE2 -DHAVE_SSSE3 -DHAVE_AVX -DHAVE_AVX2 -DHAVE_AVX512F -DHAVE_AVX512BW)

# headers_version prints the version that the shim is compiled against.
headers_version() { dpkg-query -W -f '${source:Version}' libzfslinux-dev 2>/dev/null; }

# sources DIR unpacks the package there; nothing of it is installed.
sources() (
  mkdir -p "$1" && cd "$1"
  : >"$LOG"
  deb_download "$PACKAGE=$VERSION" 2>>"$LOG" ||
    die "apt-get download $PACKAGE=$VERSION failed; read $LOG. It is in contrib; if apt has another version, upgrade libzfslinux-dev to it"
  dpkg-deb -x ./*.deb .
)

# members FOLDER prints "source object" for each of libzpool.a's members that is
# compiled, and moves the others' objects, which must be known, to FOLDER.
members() {
  local object name found
  for object in theirs/*.o; do
    name=$(basename "$object" .o)
    found=$(find "$MODULE"/{zfs,zcommon,os/linux/zfs} -name "$name.c")
    if [ -n "$found" ]; then
      echo "$found $1/$name.o"
    elif [[ " kernel taskq util " == *" $name "* ]] ||
      [ -n "$(find "$MODULE"/{icp,lua,unicode,zstd} -name "${name#lt1-}.[cS]" -print -quit)" ]; then
      mv "$object" "$1/"
    else
      die "libzpool.a has $name.o, whose source is unknown in $PACKAGE $VERSION"
    fi
  done
  echo "$MODULE/avl/avl.c $1/avl.o"
}

# compile reads what members prints.
compile() {
  xargs -P "$(nproc)" -L 1 sh -c 'echo "$1" && exec nice -n 5 gcc -c '"${CFLAGS[*]}"' -I'"$INCLUDE"' -isystem /usr/include/libspl \
    -idirafter '"$INCLUDE/os/linux/zfs"' -o "$2" "$1"' sh
}

# build OUT
build() {
  local work
  work=$(mktemp -d)
  # shellcheck disable=SC2064 # the path is known now
  trap "rm -rf '$work' '$1'" EXIT
  step "compiling ZFS $VERSION for user space (about 90 CPU seconds, once)"
  sources "$work"
  MODULE=$(echo "$work"/usr/src/zfs-*/module)
  INCLUDE=${MODULE%/module}/include
  cd "$work"
  mkdir theirs ours "$1"
  (cd theirs && ar x "$(gcc -print-file-name=libzpool.a)")
  members ours >list
  echo 'const int cask_zfs_release = 1;' | gcc -c -x c -o ours/release.o -
  compile <list | progress "files of ZFS" "$(wc -l <list)"
  ar rcs "$1/libcask-zpool.a" ours/*.o
}

main() {
  LOG=${TMPDIR:-/tmp}/cask-zfs.log
  VERSION=$(headers_version) || die "libzfslinux-dev is missing; install it with hack/setup.sh"
  local out
  out=$CACHE/zfs/$(content_key "$ROOT/hack/zfs.sh" -- "$VERSION" "$(uname -m)" "$(gcc -dumpfullversion)")
  cached "$out" build >&2
  echo "$out"
}

main "$@"
