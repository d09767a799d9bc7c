#!/bin/bash
# images.sh [NAME...]: builds Cask's images, and those the lab and the example
# need, from bin/ (make build) into docker-archives under ${CASK_CACHE:-~/.cache/cask},
# cached by content. Prints one path for each image, all of them by default.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

BASE=docker.io/library/debian:bookworm-slim
PREFIX=${CASK_IMAGE_PREFIX:-localhost/}
TAG=${CASK_IMAGE_TAG:-dev}
PRODUCT=(operator csi target replica ioc)
SIDECARS=(csi-provisioner csi-attacher csi-resizer)
KEEP=5 # other checkouts may be about to load theirs
ALL=("${PRODUCT[@]}" "${SIDECARS[@]}" postgres)

# builder is buildah with all of its state in the cache.
builder() { buildah --root "$CACHE/buildah" --runroot "$CACHE/buildah-run" "$@"; }

# exclusively COMMAND... lets one builder work at a time, and leaves none of
# its containers mounted.
exclusively() (
  flock 8
  trap 'builder rm --all >/dev/null 2>&1' EXIT
  "$@"
) 8>"$CACHE/buildah.lock"

base_archive() {
  local exclude=() path
  for path in man doc info locale 'zoneinfo/right' 'zoneinfo/posix'; do
    exclude+=(--dpkgopt="path-exclude=/usr/share/$path/*")
  done
  step "making the Debian base image"
  low_descriptors mmdebstrap --variant=minbase --include=usr-is-merged --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    "${exclude[@]}" --format=tar bookworm "$1" "$(debian_source)" 2>"$CACHE/base.log" ||
    die "mmdebstrap failed; read $CACHE/base.log"
}

# low_descriptors COMMAND... runs it with standard ones only: mmdebstrap has dash
# write to its own by number, and dash knows none above 9.
low_descriptors() (
  for fd in /proc/"$BASHPID"/fd/*; do
    fd=${fd##*/}
    [ "$fd" -le 2 ] || eval "exec $fd>&-"
  done
  exec "$@"
)

# debian_source prints where this machine has its packages from.
debian_source() {
  local file
  for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
    [ -e "$file" ] && echo "$file" && return
  done
}

# ensure_base makes sure that the builder knows the base image.
ensure_base() {
  cached "$CACHE/images/base-$BASE_KEY.tar" base_archive
  builder images -q "$BASE" 2>/dev/null | grep -q . && [ "$(cat "$CACHE/buildah.base" 2>/dev/null)" = "$BASE_KEY" ] && return
  local container
  container=$(builder from scratch)
  builder add -q "$container" "$CACHE/images/base-$BASE_KEY.tar" / >/dev/null
  builder config --cmd /bin/bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
  builder commit -q --rm "$container" "$BASE" >/dev/null
  echo "$BASE_KEY" >"$CACHE/buildah.base"
}

# image_of NAME prints the full name of an image.
image_of() {
  case $1 in
  postgres) echo "${PREFIX}cask-example-postgres:$TAG" ;;
  csi-*) echo "${PREFIX}$1:$TAG" ;;
  *) echo "${PREFIX}cask-$1:$TAG" ;;
  esac
}

# key_of NAME prints a hash of all that goes into an image.
key_of() {
  local image
  image=$(image_of "$1")
  case $1 in
  postgres) content_key "$ROOT/deploy/examples/postgres" -- "$image" "$BASE_KEY" ;;
  csi-*) content_key "$SIDECAR_DIR/$1" "$ROOT/hack/lab/archive.sh" -- "$image" ;;
  *) content_key "$ROOT/Dockerfile" "$ROOT/bin/cask-$1" -- "$image" "$BASE_KEY" ;;
  esac
}

# bud LABEL ARGUMENT... OUT builds an image and writes its archive to OUT.
bud() {
  local name=$1 out=${*: -1} image
  image=$(image_of "$name")
  ensure_base
  step "building image $image"
  builder bud -q --layers --pull-never --network host --isolation chroot -t "$image" "${@:2:$#-2}" >"$CACHE/image-$name.log" 2>&1 ||
    die "building $image failed; read $CACHE/image-$name.log"
  builder push -q "$image" "docker-archive:$out:$image" 2>>"$CACHE/image-$name.log" ||
    die "writing the archive of $image failed; read $CACHE/image-$name.log"
  builder rmi --prune >/dev/null 2>>"$CACHE/image-$name.log" || true # what the image was before
}

# make_image NAME OUT
make_image() {
  case $1 in
  postgres) exclusively bud "$1" "$ROOT/deploy/examples/postgres" "$2" ;;
  csi-*) "$ROOT/hack/lab/archive.sh" "$SIDECAR_DIR/$1" "$(image_of "$1")" "$2" ;;
  *) exclusively bud "$1" --target "$1" --build-arg PROGRAMS=prebuilt -f "$ROOT/Dockerfile" "$ROOT" "$2" ;;
  esac
}

# use FILE prints it, and of its image's archives keeps the last few used.
use() {
  local old
  touch "$1"
  echo "$1"
  ls -t "${1%-*.tar}"-????????????????.tar | tail -n +"$((KEEP + 1))" | while read -r old; do rm -f "$old" "$old.lock"; done
}

main() {
  local name file
  [ $# -gt 0 ] || set -- "${ALL[@]}"
  BASE_KEY=$(declare -f base_archive | sha256sum | cut -c1-16)
  mkdir -p "$CACHE"
  SIDECAR_DIR=$("$ROOT/hack/lab/build.sh" sidecars)
  for name in "$@"; do
    [[ " ${ALL[*]} " == *" $name "* ]] || die "no image $name; there are: ${ALL[*]}"
    [[ " ${PRODUCT[*]} " != *" $name "* ]] || [ -x "$ROOT/bin/cask-$name" ] || die "no bin/cask-$name; run make build first"
    file=$CACHE/images/$name-$(key_of "$name").tar
    cached "$file" make_image "$name" >&2
    use "$file"
  done
}

main "$@"
