// Package host is an NVMe/TCP host: Attach makes a block.Device of a
// namespace of a remote subsystem.
//
//	dev, err := host.Attach(ctx, host.Config{Addr: "10.0.0.7:4420", SubsystemNQN: nqn, HostNQN: me, HostID: id})
//
// # Riding out
//
// As package ride says; a session is an association. When a connection breaks,
// or the target does not answer keep-alives, the whole association is given up.
// The target completes or discards what the old association had submitted
// before it answers the new Connect (pkg/nvme/target displaces it).
//
// Restart Discovery is how a target says that another subsystem has taken the
// place of this one. Attach then goes to that one; a Device that was connected
// before fails all requests with ErrReplaced.
//
// # Concurrency
//
// A Device is a ride.Device, which owns associations; one of these owns two
// goroutines per connection, a reader and a writer. Requests have none. At most
// Queues × QueueDepth commands are in flight or kept. Lock order: ride's, then
// qpair.mu.
package host

import (
	"context"
	"fmt"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/blockstatus"
)

// Device is a block device over a remote namespace.
type Device = ride.Device

// ErrReplaced is ride's: another subsystem has taken the place of this one.
var ErrReplaced = ride.ErrReplaced

// maxZeroes is the most blocks of one Write Zeroes command.
const maxZeroes = 1 << 16

// Attach connects to a namespace, trying until ctx is done. ctx does not bound
// the life of the Device: Close ends it.
func Attach(ctx context.Context, cfg Config) (*Device, error) {
	cfg.setDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	d, err := ride.Attach(ctx, ride.Config{
		Name:  fmt.Sprintf("namespace %d of %s at %s", cfg.NSID, cfg.SubsystemNQN, cfg.Addr),
		Tasks: cfg.Queues * cfg.QueueDepth, NewWire: newTask, Logf: cfg.Logf,
		Target: cfg.SubsystemNQN, Connect: cfg.connect,
		Resolve: func(ctx context.Context) (string, error) { return Resolve(ctx, cfg) },
	})
	if err != nil {
		return nil, fmt.Errorf("nvme host: %w", err)
	}
	return d, nil
}

// newTask is the NVMe part of a ride.Task.
func newTask(r *ride.Task) any {
	t := &task{ride: r}
	t.done = rideDone
	return t
}

// rideDone is called by a connection's reader with a command's completion.
func rideDone(t *task, cqe *nvme.Completion) {
	if s := cqe.Status(); blockstatus.Transient(s) {
		t.ride.Retry()
	} else {
		t.ride.End(blockstatus.ToError(s))
	}
}

// Submit gives an I/O task to one of the queues.
func (a *association) Submit(r *ride.Task) bool {
	t := r.Wire.(*task)
	t.prepare(a.cfg.NSID, a.blockSize)
	q := a.io[0]
	if len(a.io) > 1 {
		q = a.io[a.next.Add(1)%uint32(len(a.io))]
	}
	return q.submit(t)
}

// Close ends all queues and returns the I/O tasks that were not completed.
func (a *association) Close() []*ride.Task {
	if a.admin != nil {
		a.admin.close()
	}
	var left []*ride.Task
	for _, q := range a.io {
		for _, t := range q.close() {
			if t.ride != nil { // else a Connect, which nobody waits for any more
				left = append(left, t.ride)
			}
		}
	}
	return left
}

// prepare makes t the command for its ride.Task.
func (t *task) prepare(nsid nvme.NSID, blockSize uint32) {
	r := t.ride
	t.sqe, t.size, t.read, t.bufs = nvme.Command{}, 0, false, nil
	t.sqe.SetNSID(nsid)
	bs := uint64(blockSize)
	switch r.Op {
	case block.OpFlush:
		t.sqe.SetOpcode(nvme.OpFlush)
		return
	case block.OpRead:
		t.sqe.SetOpcode(nvme.OpRead)
		t.read = true
	case block.OpWrite:
		t.sqe.SetOpcode(nvme.OpWrite)
	case block.OpUnmap, block.OpWriteZeroes:
		t.sqe.SetOpcode(nvme.OpWriteZeroes)
	}
	t.sqe.SetRange(r.Extent.Off/bs, uint32(r.Extent.Len/bs))
	var flags uint32
	if r.Op == block.OpUnmap {
		// Not Dataset Management: that is a hint, and has no FUA.
		flags |= nvme.CDW12DEA
	}
	if r.FUA && r.Op != block.OpRead {
		flags |= nvme.CDW12FUA
	}
	t.sqe.SetDW(12, t.sqe.DW(12)|flags)
	if r.Op == block.OpRead || r.Op == block.OpWrite {
		t.size, t.bufs = uint32(r.Extent.Len), r.Bufs
	}
}
