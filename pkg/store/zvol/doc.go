// Package zvol keeps a replica's volume on zvols of a node whose kernel has ZFS.
//
// A volume is a dataset with two zvols: vol is the content, as any machine reads it;
// log is what makes changes of it atomic. Nothing here links ZFS: the two are block
// devices, and snapshots are taken with the node's zfs command. DESIGN.md has the
// failures and why each is harmless.
//
// # Order
//
// Apply writes a record of each operation to log, and when that write has completed
// changes vol in place. Flush flushes log alone. Open does the records since the last
// checkpoint again, in order: doing one twice changes nothing. So content and mark
// are those of the last record that is there.
//
// After a loss of power all datasets of a pool are as at one TXG, and each zvol has
// beyond that what was written to it before its own last flush, in its intent log.
// From that follows the invariant on which everything stands:
//
//	vol has nothing of an operation whose record log does not have.
//
// The record was written before, so that a TXG with the one has the other; and vol
// is only flushed, for a checkpoint, after log is.
//
// # Log
//
// Numbers are little-endian; sizes are in bytes. Frozen; the version is in the
// superblock.
//
//	0      superblock of even generations       4 KiB  superblock of odd ones
//	64 KiB checkpoint of even generations, 2 MiB; then that of odd ones
//	8 MiB  ring
//	then   slots of 1 MiB + 64 KiB: the table of each snapshot
//
//	superblock: magic u64, version u32, block size u32, generation u64,
//	            incarnation u64, number u64, position u64, ring size u64,
//	            checkpoint length u32, checkpoint CRC-32C u32, CRC-32C u32
//	checkpoint: size u64, mark u64, record, snapshots, kept u8 (1: mark u64,
//	            size u64, record, number u64, slot u32, snapshots), table
//	record:     length u32 (all ones: never set), bytes
//	snapshots:  count u32, each: seq u64, size u64, number u64, slot u32,
//	            length u8, name
//	table:      log2 of the region size u32, count u32, a Seq u64 each, a bit each
//	slot:       magic u64, length u32, CRC-32C u32, mark u64, table
//
// A record of the ring takes whole sectors of 512 bytes, the first for the header:
//
//	magic u32, CRC-32C u32 of what follows, incarnation u64, number u64, kind u8,
//	flags u8, 0 u16, slot u32, seq u64, base u64, offset u64, length u64,
//	payload length u32, zeroes; then the payload
//
// A record counts when its number follows, its checksum matches and its incarnation
// is the superblock's. Each Open begins a new incarnation.
//
// # Changed blocks
//
// A table has the highest Seq that changed each region: 1 MiB, or more in a volume of
// more than 128 GiB. It is part of the checkpoint, and a copy of it is in a slot per
// snapshot.
//
// # Concurrency
//
// As store.Store. Locks are taken in the order life, past.use, mu, past.mu. There are
// no goroutines.
package zvol
