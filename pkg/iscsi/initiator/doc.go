// Package initiator is an iSCSI initiator (RFC 7143, error recovery level 0):
// Attach makes a block.Device of a logical unit.
//
//	dev, err := initiator.Attach(ctx, initiator.Config{Addr: "10.0.0.7:3260", Target: iqn, Initiator: me})
//
// # Riding out
//
// As package ride says; a session has one connection. When it breaks, or the
// target says nothing for Config.Silence, a new login with the same ISID takes
// its place: the target ends what the old session had submitted before it
// answers (reinstatement). The ISID is made from the initiator's name, so this
// holds for a process that was started again, too: one session for a name.
//
// A login that is refused because the node was removed (0204h) is how a target
// says that another node has taken its place, after a loss of acknowledged
// writes. Attach then finds that one by SendTargets; a Device that was connected
// before fails all requests with ride.ErrReplaced.
//
// # What it wants of a target
//
// READ and WRITE(16), SYNCHRONIZE CACHE(16), WRITE SAME(16) with NDOB (no data)
// and UNMAP, pages 83h and B0h. Unit attentions are taken note of and the
// command repeated: a new size shows in Geometry. Authentication is CHAP, one
// way or mutual.
//
// # Concurrency
//
// A session owns two goroutines, a reader and a writer; ride.Device owns the
// session. Requests have none. At most Config.Depth commands are in flight or
// kept; of them the target's window (MaxCmdSN) says how many are sent. Lock
// order: ride's, then session.mu.
package initiator
