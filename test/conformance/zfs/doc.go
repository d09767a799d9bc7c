// Package zfs has stock ZFS in Debian's kernel import what replicas wrote: the
// modules of zfs-dkms, in a VM. Its test has the build tag conformance and is run
// by make vm-zfs: it compiles the modules once (ten CPU minutes), then it takes two
// minutes.
package zfs
