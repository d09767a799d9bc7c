package target

import (
	"bytes"
	"slices"
	"sync/atomic"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/volume"
)

// device is the volume as the frontends of some sessions see it.
type device struct {
	t       *Target
	session history.Epoch
}

// Device is the volume as a block device, for the sessions of that name; see
// Session. Once they are over its requests fail with block.ErrSessionOver. Its
// Close does nothing: Run's end closes it.
func (t *Target) Device(session history.Epoch) block.Device { return device{t, session} }

// Session names the sessions that begin now (volume.Record.Lost), once that is
// known. changed is closed when the answer is another.
func (t *Target) Session() (session history.Epoch, known bool, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.session.name, t.session.known, t.session.changed
}

// Size is what hosts see of the volume, in bytes: 0 before Session is known.
// Session's changed is closed when it is another, too.
func (t *Target) Size() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.session.size
}

// session is what Session and Size answer.
type session struct {
	name    history.Epoch
	known   bool
	size    uint64
	changed chan struct{}
}

// noteSession tells who waits for a change.
func (t *Target) noteSession() {
	name, known := t.core.Session()
	size, _ := t.core.Size()
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := &t.session; s.name != name || s.known != known || s.size != size {
		close(s.changed)
		*s = session{name, known, size, make(chan struct{})}
	}
}

// stats counts completed requests.
type stats struct {
	ops   [block.OpWriteZeroes + 1]atomic.Uint64
	bytes [block.OpWriteZeroes + 1]atomic.Uint64
	errs  atomic.Uint64
}

func (d device) Geometry() block.Geometry {
	return block.Geometry{Size: d.t.Size(), BlockSize: 512, PhysicalBlock: 4096, MaxTransfer: replication.MaxData}
}

func (d device) Close() error { return nil }

// Submit implements block.Device. The content of a write is copied: it stays
// in the backlog after the request completed.
func (d device) Submit(r *block.Request) {
	if err := d.Geometry().Check(r); err != nil {
		r.Done(r, err)
		return
	}
	q := &volume.Request{Op: r.Op, Extent: r.Extent, FUA: r.FUA, Owner: r, Session: d.session}
	if r.Op == block.OpWrite {
		q.Bufs = [][]byte{joined(r.Bufs)}
	}
	select {
	case d.t.slots <- struct{}{}:
	case <-d.t.ended:
		r.Done(r, block.ErrClosed)
		return
	}
	if !d.t.post(func() { d.t.core.Submit(d.t.now(), q) }) {
		<-d.t.slots
		r.Done(r, block.ErrClosed)
	}
}

// joined is a copy of bufs in one piece. Clone, unlike Concat, does not zero first.
func joined(bufs [][]byte) []byte {
	if len(bufs) == 1 {
		return bytes.Clone(bufs[0])
	}
	return slices.Concat(bufs...)
}

// complete answers a frontend.
func (t *Target) complete(a volume.Action) {
	r := a.Req.Owner.(*block.Request)
	if a.Err == nil && r.Op == block.OpRead {
		scatter(r.Bufs, a.Req.Bufs)
		a.Req.Own.Free()
	}
	if a.Err != nil {
		t.stats.errs.Add(1)
	}
	t.stats.ops[r.Op].Add(1)
	t.stats.bytes[r.Op].Add(r.Extent.Len)
	<-t.slots
	r.Done(r, a.Err)
}

// scatter copies src into dst, which have the same length in all.
func scatter(dst, src [][]byte) {
	for _, s := range src {
		for len(s) > 0 && len(dst) > 0 {
			n := copy(dst[0], s)
			s = s[n:]
			if n == len(dst[0]) {
				dst = dst[1:]
			} else {
				dst = append([][]byte{dst[0][n:]}, dst[1:]...)
			}
		}
	}
}
