//go:build linux

// Package attach gives a block.Device a place in /dev on a machine without
// kernel modules for network storage: a FUSE server of one file, and a loop
// device on that file.
//
//	application ─ ext4 ─ /dev/loopN ─ FUSE (one file) ─ Serve ─ block.Device
//
// # What can be left behind
//
// Nothing that has a name: the FUSE file system is a detached mount
// (fsopen, fsmount) that no mount table ever shows. It lives as long as the
// loop device has its file, and the server's end is the device's end: when the
// loop device is cleared the kernel drops the file system and the server sees
// it. After a kill -9 of the server the loop device is left, answers every
// request with an error, and is found by its Backing and cleared.
//
// # Nobody waits for himself
//
// A process that serves a file must make no call that waits for that file's
// server. Killed in the middle, the thread in the call keeps the process's
// descriptors open, /dev/fuse with them, and so waits for ever for a server
// that cannot end. Opening the file and putting a loop device on it, and
// closing or clearing the device, which writes back what is cached, are
// therefore done by a helper, a process that has no part of the connection.
//
// # Caches and order
//
// The loop device and the FUSE file use direct I/O, so the only page cache is
// the one above the loop device, and memory pressure never waits for a page
// cache that the server itself has to write back. A loop device's requests
// are aligned to its logical block; a request that is not, which only a
// direct user of the file could send, is done as read-modify-write with every
// other write held off. Requests larger than the Device's MaxTransfer are
// split. fsync is Flush, punching a hole Unmap, zeroing a range WriteZeroes.
//
// # A dead target
//
// is the Device's business: it holds a request until it can be done. This
// package never gives up on one. What the Device does fail becomes the errno
// of its class.
//
// # Concurrency
//
// Functions and methods may be called from any goroutine. Attachment owns two
// goroutines, the server and the one that waits for it; both end with the
// FUSE connection, and Close waits for them. At most maxBackground requests
// of at most maxRequest bytes are in flight.
package attach
