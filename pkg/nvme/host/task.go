package host

import (
	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/nvme"
)

// task is one command, from being prepared to being completed.
type task struct {
	ride *ride.Task // nil for commands of the host's own
	sqe  nvme.Command
	bufs [][]byte // data, in either direction
	size uint32   // bytes of bufs
	read bool     // data comes from the controller
	got  uint32   // of it, so far
	r2ts int      // outstanding, at most maxR2T
	seq  uint64   // of the issue on a qpair: tells a stale reference
	sent bool     // the command went to the connection's batch
	done func(*task, *nvme.Completion)
}
