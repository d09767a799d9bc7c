# The lab's network: one namespace ($NAME) with a bridge, the control plane in
# it, and a namespace for each node joined to the bridge. Nothing but the
# forwarder's loopback port exists outside of these namespaces.
#   10.89.0.1 control plane, 10.89.0.1I node I, 10.244.I.0/24 its pods,
#   10.96.0.0/16 Services
# shellcheck shell=bash

node_namespace() { echo "$NAME-node$1"; }

control_network_up() {
  ip netns add "$NAME"
  ip -n "$NAME" link set lo up
  ip -n "$NAME" link add lab0 type bridge
  ip -n "$NAME" addr add 10.89.0.1/24 dev lab0
  ip -n "$NAME" link set lab0 up
}

# node_network_up I: pods of other nodes are reached through those nodes.
node_network_up() {
  local i=$1 space j
  space=$(node_namespace "$i")
  ip netns add "$space"
  ip -n "$NAME" link add "node$i" type veth peer name eth0 netns "$space"
  ip -n "$NAME" link set "node$i" master lab0 up
  ip -n "$NAME" route replace "10.244.$i.0/24" via "10.89.0.1$i"
  ip -n "$space" addr add "10.89.0.1$i/24" dev eth0
  ip -n "$space" link set lo up
  ip -n "$space" link set eth0 up
  ip -n "$space" route add default via 10.89.0.1
  for j in $(seq $NODES_MAX); do
    [ "$j" = "$i" ] || ip -n "$space" route add "10.244.$j.0/24" via "10.89.0.1$j"
  done
}

node_network_down() {
  ip -n "$NAME" link del "node$1" 2>/dev/null || true
  ip netns del "$(node_namespace "$1")" 2>/dev/null || true
}

control_network_down() {
  ip netns del "$NAME" 2>/dev/null || true
  rmdir /run/netns 2>/dev/null || { [ -z "$(ls /run/netns)" ] && umount /run/netns && rmdir /run/netns; } 2>/dev/null || true
}

# node_link I up|down joins the node to the network or cuts it off.
node_link() { ip -n "$NAME" link set "node$1" "$2"; }
