// Package ioc is the IO container: it owns a pool directory of one node and
// hands out extents (virtual disks) from it. A replica keeps its own ZFS pool
// on one extent. The file engine keeps each extent as a sparse file; Server and
// Client carry the Engine interface over HTTP and JSON on a unix socket, so
// that a replica needs no right to create files.
//
// # Format of a pool directory (frozen at version 1)
//
//	cask-pool.json            {"format":"cask-pool","version":1,"poolID":UUID,"pool":NAME,"node":NAME,"created":TIME}
//	ioc.sock                  the socket; not part of the format
//	rebuild.N                 empty, locked by a replica that is rebuilt; not part of the format
//	extents/NAME.json         {"format":"cask-extent","version":1,"name":NAME,"size":BYTES,"created":TIME}
//	extents/NAME.img          the content: a sparse file of at least that size
//	extents/.tmp-*            a creation not finished: removed at the next start
//	extents/.trash-NAME.json  a deletion decided: finished at the next start
//	extents/.trash-*.img      content whose deletion was decided
//
// The marker cask-pool.json is written once, when the directory is first used
// and holds nothing else. From then on a directory without it, or with another
// one, is refused: most likely the disk is not mounted and the files would go to
// the root file system. A record is the commit point of creation and, renamed,
// of deletion; each file is synced before it is renamed into place, and the
// directory after. Content without a record is never deleted unless no block of
// it was ever written.
//
// # Concurrency
//
// Every method of every type may be called from any goroutine. One process at a
// time has a pool directory open, by flock(2) on the directory. FileEngine.mu is
// the only lock held across file operations; deleting content, which can be
// slow, happens outside it.
package ioc
