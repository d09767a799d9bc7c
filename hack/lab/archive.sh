#!/bin/bash
# archive.sh PROGRAM IMAGE OUT.tar: an image of one static program, as a
# docker-archive, with nothing but tar.
set -euo pipefail
program=$1 image=$2 out=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

name=$(basename "$program")
cp "$program" "$work/$name"
cd "$work"
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=0755 -cf layer.tar "$name"
layer=$(sha256sum layer.tar | cut -d' ' -f1)
cat >config.json <<END
{"architecture": "$(dpkg --print-architecture)", "os": "linux", "config": {"Entrypoint": ["/$name"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]}}
END
echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"$image\"], \"Layers\": [\"layer.tar\"]}]" >manifest.json
tar --sort=name --owner=0 --group=0 --mtime=@0 -cf "$out" manifest.json config.json layer.tar
