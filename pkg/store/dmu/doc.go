// Package dmu is a store.Store on the DMU of ZFS, run in user space: an
// ordinary zvol dataset in an ordinary pool on one extent file, which any
// machine with OpenZFS can import and read. See DESIGN.md beside this file.
//
// # Format
//
// The pool's label carries the comment "cask volume v1", written last when an
// extent is made. The dataset <pool>/vol holds, in the pool's byte order:
//
//	object 1  data        what any zvol has
//	object 2  properties  what any zvol has: a ZAP with "size"
//	object 3  mark        8192 bytes
//	  0  magic "CASKMARK"     32  tainted: content changed since the mark moved
//	  8  version, 1           40  offset and
//	 16  mark (Seq)           48  length of an unmap that may be unfinished
//	 24  TXG of this record   56  used checkpoints
//	 64  252 checkpoints (TXG, Seq), ascending: what changed after Seq was born after TXG
//	4096 used ghosts          4104 bytes per region of object 5
//	4112 170 ghosts (TXG, offset, length), by offset: written and zeroed within one TXG
//	object 4  metadata    16384 bytes: magic "CASKMETA", version 1, length; content from 64
//	object 5  regions     an array of TXGs: in which one each region was last zeroed, even in part
//
// Snapshots of <pool>/vol that have the user property cask:seq are the volume's:
// the Seq that took it; cask:size, bytes; cask:drop, the Seq that drops it. But
// cask_kept is a state that is kept, its cask:seq one beyond the mark, and
// cask_kept_<name> a snapshot of that which was dropped since.
//
// ZFS checksums every block; the records have no checksum of their own. The
// versions are frozen: a higher one is refused with store.ErrFormat.
//
// # Concurrency
//
// As store.Store. Flushes run on a bounded number of threads; reads of several at
// a time, and batches of operations, keep none of Go's (away.go). A
// call that ZFS may block for ever runs on a thread or a goroutine of its own, so that
// it can be given up when the pool is suspended; Close waits for the others.
//
// # Process
//
// ZFS runs once per process and its memory bounds are the process's: the last
// Options.Memory given counts. A failed assertion in ZFS aborts the process.
package dmu
