// Package poolnode is the IO container's side in a cluster: it opens the pool
// directory of its node on the terms of the StoragePool, reports the node's
// entry in the StoragePool's status, and deletes the extents of Volumes that
// are released. Both reconcilers are level-triggered: gather, decide (pure),
// apply. The data itself is handed out by pkg/ioc, which goes on without the
// API server.
//
// # Which directory is trusted
//
// The pool ID recorded in the StoragePool's status must be the directory's. A
// directory is made into a pool only when no ID is recorded for this node, no
// Volume has a replica on it, and it is empty. A disk that was replaced on
// purpose is accepted by the annotation AnnotationReplaceDisk.
//
// # Concurrency
//
// Each reconciler is run by one goroutine of the manager. Agent.mu guards the
// engine between them.
package poolnode
