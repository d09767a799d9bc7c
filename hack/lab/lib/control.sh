# The control plane of a lab: etcd, API server, controller manager, scheduler,
# in one pid namespace and the lab's network namespace; and the forwarder that
# makes the API server reachable on the machine's loopback.
# shellcheck shell=bash

control_up() {
  spawn "$DIR/control.pid" "$NAME" "$LAB/control-init"
  spawn_forwarder
  wait_for 60 "the API server; read $DIR/log/kube-apiserver.log and $DIR/log/etcd.log" api_ready
}

control_down() {
  end "$DIR/forward.pid"
  end "$DIR/control.pid"
}

api_ready() { [ "$(kube get --raw /readyz)" = ok ]; }

kube() { "$DIR/bin/kubectl" --kubeconfig "$DIR/admin.kubeconfig" --request-timeout 10s "$@"; }

# spawn PIDFILE NETWORK-NAMESPACE PROGRAM ARGUMENT... starts PROGRAM as the
# first process of new namespaces: when it is killed, all of it is gone.
spawn() {
  local file=$1 space=$2
  shift 2
  DIR=$DIR NAME=$NAME CACHE=$CACHE GRACE=$GRACE PIDFILE=$file setsid nsenter --net="/run/netns/$space" \
    unshare --mount --pid --uts --ipc --fork --kill-child "$@" >"$DIR/log/$(basename "${1}").$space.log" 2>&1 </dev/null 9>&- &
  wait_for 60 "${1##*/} to start; read $DIR/log" recall "$file"
}

spawn_forwarder() {
  setsid "$DIR/bin/forward" "/run/netns/$NAME" "127.0.0.1:$PORT" 10.89.0.1:6443 >"$DIR/log/forward.log" 2>&1 </dev/null 9>&- &
  remember "$DIR/forward.pid" $!
}
