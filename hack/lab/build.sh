#!/bin/bash
# build.sh: builds what the lab cluster runs, cached by content under
# ${CASK_CACHE:-~/.cache/cask}: the Kubernetes multi-call binary, the CSI
# sidecars, and the lab's own small programs.
#   build.sh kube|sidecars|tools    prints the folder of the result
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
LAB=$ROOT/hack/lab
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off

go_version() { go env GOVERSION; }

# go_build MODULE-DIR OUT ARGUMENT... builds statically with visible progress.
go_build() {
  local dir=$1 out=$2
  shift 2
  cd "$dir"
  note "downloading modules of ${dir#"$ROOT"/}"
  go mod download
  nice -n 5 go build -v -trimpath -o "$out" "$@" 2>&1 | progress building "$(go list -deps "${@: -1}" | wc -l)"
}

build_kube() {
  local prefix=k8s.io/component-base/version minor
  minor=$(cut -d. -f2 <<<"$KUBE_VERSION")
  step "building Kubernetes $KUBE_VERSION and etcd (about 15 CPU minutes, once)"
  mkdir -p "$1"
  go_build "$LAB/kube" "$1/kube" -tags providerless,grpcnotrace -ldflags "-s -w -X $prefix.gitVersion=v$KUBE_VERSION \
    -X $prefix.gitMajor=1 -X $prefix.gitMinor=$minor -X $prefix.gitTreeState=clean -X $prefix.buildDate=2026-01-01T00:00:00Z" .
  for program in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
    ln -s kube "$1/$program"
  done
}

build_sidecars() {
  step "building the CSI sidecars"
  mkdir -p "$1"
  go_build "$LAB/sidecars" "$1/" -ldflags "-s -w" tool
}

build_tools() {
  mkdir -p "$1"
  cd "$ROOT" && go build -trimpath -ldflags "-s -w" -o "$1/" ./hack/lab/pause ./hack/lab/forward
}

main() {
  local key out
  case ${1:-} in
  kube | sidecars) key=$(content_key "$LAB/$1" -- "$KUBE_VERSION" "$(go_version)" "$(sha256sum <"$LAB/build.sh")") ;;
  tools) key=$(content_key "$LAB/pause" "$LAB/forward" -- "$(go_version)") ;;
  *) die "usage: build.sh kube|sidecars|tools" ;;
  esac
  out=$CACHE/$1/$key
  cached "$out" "build_$1" >&2
  ln -sfn "$key" "$CACHE/$1/bin" # the newest, by a fixed name
  echo "$out"
}

main "$@"
