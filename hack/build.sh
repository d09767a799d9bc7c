#!/bin/bash
# build.sh COMMAND OUT VERSION: compiles cmd/COMMAND, reproducibly. All but the
# replica are static and without cgo.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
command=$1 out=$2 version=$3

flags=(-trimpath -buildvcs=false)
link="-s -w -X main.version=$version"
if [ "$command" = replica ]; then
  export CGO_ENABLED=1
  with_zfs
  flags+=(-tags "netgo,osusergo,$ZFS_TAG")
  link+=" -linkmode external -extldflags=-static"
else
  export CGO_ENABLED=0
fi
go build "${flags[@]}" -ldflags "$link" -o "$out" "./cmd/$command"
