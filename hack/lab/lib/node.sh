# Nodes of a lab: each in its own mount, pid, uts, ipc and network namespaces,
# with its own /var/lib, /var/log and /run. What lies in its /var/lib survives
# killing it, as a disk survives a power cut; nothing else does.
# shellcheck shell=bash

# node_up I starts the node's init; node_ready waits for it.
node_up() {
  local dir
  dir=$(node_dir "$1")
  recall "$dir/pid" >/dev/null && die "node $1 is running already"
  mkdir -p "$dir"/lib/{kubelet,containerd,cni,cask} "$dir"/{log,etc}
  rm -f "$dir/partitioned" "$dir/pid"
  node_network_up "$1"
  spawn "$dir/pid" "$(node_namespace "$1")" "$LAB/node-init" "$1"
}

# node_ready I: the kubelet that runs now has said Ready.
node_ready() {
  [ "$(kube get --raw "/api/v1/nodes/node$1/proxy/healthz")" = ok ] && kube get node "node$1" --no-headers | grep -q " Ready"
}

# node_kill I is a power cut: silence on the network first, then nothing runs.
node_kill() {
  local loops connections status=0
  mapfile -t loops < <(node_loops "$1" | sort -u)
  mapfile -t connections < <(node_fuse_devices "$1")
  node_link "$1" down 2>/dev/null || true
  cut_power "$(node_dir "$1")/pid" "${connections[@]}" || status=1
  node_network_down "$1"
  detach_loops "${loops[@]}"
  remove_cgroups "$NAME/node$1"
  return $status
}

# cut_power PIDFILE CONNECTION...: a killed FUSE server can wait for itself for
# ever, which a machine without power does not.
cut_power() {
  local pid
  pid=$(recall "$1") || return 0
  kill -9 "$pid"
  abort_fuse "${@:2}"
  end "$1"
}

node_partition() {
  node_link "$1" down
  touch "$(node_dir "$1")/partitioned"
}

node_heal() {
  node_link "$1" up
  rm -f "$(node_dir "$1")/partitioned"
}

# node_exec I COMMAND... runs a command inside the node.
node_exec() {
  local pid
  pid=$(recall "$(node_dir "$1")/pid") || die "node $1 is not running; start it with: lab node-up $1"
  shift
  nsenter -t "$pid" -m -p -n -u -i -- "$@"
}

node_state() {
  if ! recall "$(node_dir "$1")/pid" >/dev/null; then
    echo down
  elif [ -e "$(node_dir "$1")/partitioned" ]; then
    echo partitioned
  else
    echo up
  fi
}

running_nodes() {
  local i
  for i in $(nodes); do [ "$(node_state "$i")" = down ] || echo "$i"; done
}

# load_into I TAR... imports what the node has not taken yet: an archive of the
# cache has a hash of its content in its name.
load_into() {
  local i=$1 tar loaded
  loaded=$(node_dir "$i")/etc/loaded
  shift
  for tar in "$@"; do
    grep -qsxF "$tar $(stat -c %Y "$tar")" "$loaded" && continue
    node_exec "$i" ctr -n k8s.io images import "$tar" >>"$DIR/log/import.node$i.log" 2>&1 || {
      echo "error: node $i did not take $tar; read $DIR/log/import.node$i.log" >&2
      return 1
    }
    echo "$tar $(stat -c %Y "$tar")" >>"$loaded"
  done
}
