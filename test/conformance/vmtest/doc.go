// Package vmtest is what the conformance tests of the frontends share: a device
// in shared memory, a target in a process of its own that can be killed and
// told things, and Debian's kernel in a VM (hack/vm/run) whose job says on its
// console what it found and what it wants of this side.
//
// It is built with the tag conformance only. A Process and a Guest belong to
// one test, and end with it.
package vmtest
