#!/bin/bash
# demo.sh up|down: one volume from nothing to a killed node and back; see the
# README. Uses the lab cluster, or with CLUSTER=existing the current context of
# kubectl. For a cluster of your own set
#   CASK_IMAGE_PREFIX   where its nodes find the images of `make images` (registry.example/)
#   DEMO_KILL_NODE      a command that cuts the power of the node given as its last argument
#   DEMO_START_NODE     a command that starts it again
# Without the latter two the target of the volume is killed instead of a node.
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

LAB=hack/lab/lab
LAB_DIR=${CASK_LAB_DIR:-/var/tmp/cask-lab}
PREFIX=${CASK_IMAGE_PREFIX:-localhost/}
EXAMPLE=cask-example # namespace
LOG_HINT="the output above"

# use_cluster points kubectl at the cluster of the demo.
use_cluster() {
  [ "${CLUSTER:-lab}" = existing ] && return
  export KUBECONFIG=$LAB_DIR/admin.kubeconfig PATH=$LAB_DIR/bin:$PATH
  DEMO_KILL_NODE="demo_lab node-kill"
  DEMO_START_NODE="demo_lab node-up"
}

# demo_lab COMMAND NODE-NAME calls the lab with the node's number.
demo_lab() { $LAB "$1" "${2#node}"; }

failed() {
  [ "$BASH_SUBSHELL" = 0 ] || return # told once, where it ends
  printf '\nThe demo stopped at: %s\nRead: %s\nStart again with make demo, or clean up with make demo-down.\n' "$STAGE" "$LOG_HINT" >&2
}

# stage HEADING [LOG] names what is being done and the log to read if it fails.
stage() {
  STAGE=$1 LOG_HINT=${2:-the output above}
  step "$1"
}

# await SECONDS COMMAND... waits for COMMAND, showing `describe` every 5 s.
await() {
  local deadline=$((SECONDS + $1)) next=$((SECONDS + 5))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { note "not after all this time: $*" && return 1; }
    [ "$SECONDS" -lt "$next" ] || { next=$((SECONDS + 5)) && note "$(describe 2>&1)"; }
    sleep 0.5
  done
}

describe() {
  kubectl -n $EXAMPLE get pods --no-headers 2>/dev/null | awk '{ printf "%s %s %s; ", $1, $2, $3 }'
  kubectl get volumes --no-headers 2>/dev/null | awk '{ printf "volume %s, %s in sync", $2, $3 }'
}

manifest() { sed "s|localhost/|$PREFIX|g" "$@"; }

volume() { kubectl -n $EXAMPLE get pvc postgres -o jsonpath='{.spec.volumeName}'; }
database_node() { kubectl -n $EXAMPLE get pod postgres-0 -o jsonpath='{.spec.nodeName}'; }
client() { timeout 60 kubectl -n $EXAMPLE exec client -c ledger -- "$@"; }

commits() { client sh -c 'cat /work/acknowledged 2>/dev/null | wc -l'; }
commits_reach() { [ "$(commits)" -ge "$1" ]; }
database_ready() { [ "$(kubectl -n $EXAMPLE get pod postgres-0 -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')" = True ]; }
pool_ready() { [ "$(kubectl get storagepool default -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')" = True ]; }
healthy() { [ "$(kubectl get volume "$(volume)" -o jsonpath='{.status.state}')" = Healthy ]; }

build() {
  stage "1. building Cask and its images" "$CACHE/*.log"
  [ "${CLUSTER:-lab}" = existing ] && return
  hack/setup.sh
  make --no-print-directory build
  mapfile -t ARCHIVES < <(hack/images.sh)
}

start_cluster() {
  [ "${CLUSTER:-lab}" = existing ] && return
  stage "2. a Kubernetes of three nodes on this machine" "$LAB_DIR/log and $LAB_DIR/nodes/*/log"
  if [ -e "$LAB_DIR/owner" ]; then
    note "there is one already: using it"
    $LAB revive
  else
    $LAB up 3
  fi
  $LAB load "${ARCHIVES[@]}"
}

install_cask() {
  stage "3. kubectl apply -f deploy/cask-operator.yaml" "kubectl -n cask-system get events,pods; logs of deployment/cask-operator"
  manifest deploy/cask-operator.yaml | kubectl apply -f - >/dev/null
  kubectl -n cask-system rollout status deployment/cask-operator --timeout 120s
  kubectl -n cask-system rollout status deployment/cask-csi-controller --timeout 120s
  stage "4. a StoragePool on a folder of every node" "kubectl describe storagepool default"
  kubectl apply -f deploy/examples/storagepool.yaml
  await 90 pool_ready
  kubectl get storagepools
}

start_example() {
  stage "5. an application: PostgreSQL on a PVC of class cask" "kubectl -n $EXAMPLE describe pod,pvc; kubectl describe volumes"
  kubectl apply -f deploy/examples/storageclass.yaml
  manifest deploy/examples/postgres.yaml | kubectl apply -f -
  await 180 database_ready
}

start_load() {
  stage "6. load: pgbench, and one numbered row per transaction" "kubectl -n $EXAMPLE logs client -c pgbench (or -c ledger)"
  kubectl -n $EXAMPLE delete pod client --ignore-not-found --now >/dev/null
  kubectl -n $EXAMPLE create configmap client --from-file=hack/demo/client.sh --dry-run=client -o yaml | kubectl apply -f - >/dev/null
  manifest hack/demo/client.yaml | kubectl apply -f -
  await 120 client test -e /work/history
  await 60 commits_reach 200
  note "$(commits) numbered commits so far"
  echo "\$ kubectl get pods -A | grep pvc"
  kubectl get pods -A -o wide | grep pvc
}

# pause_after MILLISECONDS: how long the client waited between its last commit
# before that moment and its first one after it.
pause_after() { client awk -v t="$1" '$2 > t { print $2 - last; exit } { last = $2 }' /work/acknowledged; }
back_after() { [ -n "$(pause_after "$1")" ]; }

kill_node() {
  local node moment
  node=$(database_node)
  if [ -z "${DEMO_KILL_NODE:-}" ]; then
    kill_target
    return
  fi
  stage "7. power cut of $node, under the database" "kubectl describe volume $(volume); kubectl describe node $node"
  $DEMO_KILL_NODE "$node"
  moment=$(date +%s%3N)
  await 300 back_after "$moment"
  note "the database answers on $(database_node); its client waited $(pause_after "$moment" | awk '{ printf "%.1f s", $1 / 1000 }')"
  kubectl -n $EXAMPLE get pods -o wide
  kubectl get volumes
  stage "8. is every commit there?" "kubectl -n $EXAMPLE logs client -c ledger"
  client /client/client.sh check
  return_node "$node"
}

# kill_target is what can be done to a cluster whose nodes we cannot kill.
kill_target() {
  stage "7. killing the target of the volume (no DEMO_KILL_NODE given)" "kubectl describe volume $(volume)"
  kubectl -n cask-system delete pod -l "cask.storage/volume=$(volume),cask.storage/role=target" --force --grace-period 0
  await 120 commits_reach $(($(commits) + 100))
  stage "8. is every commit there?" "kubectl -n $EXAMPLE logs client -c ledger"
  client /client/client.sh check
}

return_node() {
  stage "9. $1 comes back, and its replica catches up" "kubectl describe volume $(volume)"
  local last='' now deadline
  $DEMO_START_NODE "$1"
  deadline=$((SECONDS + 300))
  until healthy; do
    now=$(kubectl get volume "$(volume)" -o jsonpath='{range .status.replicas[*]}{.id} on {.node}: {.state}  {end}')
    [ "$now" = "$last" ] || note "$now"
    last=$now
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.3
  done
  kubectl get volumes
}

finish() {
  stage "10. the count at the end" "kubectl -n $EXAMPLE logs client -c pgbench (or -c ledger)"
  client touch /work/stop
  await 60 client test -e /work/ledger-ended -a -e /work/pgbench-ended
  client /client/client.sh check
  cat <<END

Look around:
  export KUBECONFIG=${KUBECONFIG:-~/.kube/config} PATH=$ROOT/bin:${LAB_DIR}/bin:\$PATH
  kubectl get volumes,storagepools
  kubectl describe volume $(volume)
  kubectl get pods -A | grep pvc
  cask volumes
Stop it all with: make demo-down
END
}

up() {
  trap failed ERR
  STAGE="the beginning"
  build
  use_cluster
  start_cluster
  install_cask
  start_example
  start_load
  kill_node
  finish
}

down() {
  if [ "${CLUSTER:-lab}" != existing ]; then
    $LAB down
    return
  fi
  kubectl delete namespace $EXAMPLE --ignore-not-found
  kubectl delete -f deploy/examples/storageclass.yaml -f deploy/examples/storagepool.yaml --ignore-not-found
  manifest deploy/cask-operator.yaml | kubectl delete --ignore-not-found -f -
}

case ${1:-} in
up | down) "$1" ;;
*) die "usage: demo.sh up|down" ;;
esac
