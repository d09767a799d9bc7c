// Package zvol runs package store/zvol on the ZFS of Debian's kernel, in a VM: the
// suite of every store, processes that are killed, and a machine that loses power.
// Its test has the build tag conformance and is run by make vm-zvol.
package zvol
