// Package iscsi holds the iSCSI target against judges from outside: the tests
// of libiscsi (iscsi-test-cu), one at a time, with the result of each in
// results.txt; qemu's initiator; and a capture that tshark decodes.
//
//	go test -tags conformance ./test/conformance/iscsi
//	go test -tags conformance ./test/conformance/iscsi -run Libiscsi -only CompareAndWrite -v
//
// results.txt explains each test that does not pass. A test whose result is
// another than the one written there fails, be it better or worse.
package iscsi
