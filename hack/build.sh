#!/bin/bash
# build.sh COMMAND OUT VERSION: compiles cmd/COMMAND, reproducibly. All but the
# replica are static and without cgo.
set -euo pipefail
cd "$(dirname "$0")/.."
command=$1 out=$2 version=$3

flags=(-trimpath -buildvcs=false)
link="-s -w -X main.version=$version"
if [ "$command" = replica ]; then
  export CGO_ENABLED=1
  flags+=(-tags netgo,osusergo)
  link+=" -linkmode external -extldflags=-static"
else
  export CGO_ENABLED=0
fi
go build "${flags[@]}" -ldflags "$link" -o "$out" "./cmd/$command"
