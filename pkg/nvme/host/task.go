package host

import (
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/nvme"
)

// task is one command, from being prepared to being completed, over as many
// associations as that takes.
type task struct {
	op   *operation
	sqe  nvme.Command
	bufs [][]byte // data, in either direction
	size uint32   // bytes of bufs
	read bool     // data comes from the controller
	got  uint32   // of it, so far
	seq  uint64   // of the issue on a qpair: tells a stale reference
	sent bool     // the command went to the connection's batch
	done func(*task, *nvme.Completion)
}

// commandFor is what a namespace adds to a Request.
type commandFor struct {
	nsid      nvme.NSID
	blockSize uint32
}

// prepare makes t the command for a part of an operation.
func (t *task) prepare(o *operation, e block.Extent, f commandFor) {
	r := o.r
	t.op, t.sqe, t.size, t.read = o, nvme.Command{}, 0, false
	t.sqe.SetNSID(f.nsid)
	bs := uint64(f.blockSize)
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
	t.sqe.SetRange(e.Off/bs, uint32(e.Len/bs))
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
		t.size = uint32(e.Len)
		t.bufs = slice(t.bufs[:0], r.Bufs, block.Extent{Off: e.Off - r.Extent.Off, Len: e.Len})
	}
}

func (t *task) clear() {
	t.op = nil
	clear(t.bufs)
	t.bufs = t.bufs[:0]
}

// slice appends to dst the range e of the bytes in src.
func slice(dst, src [][]byte, e block.Extent) [][]byte {
	for _, b := range src {
		n := uint64(len(b))
		if e.Off >= n {
			e.Off -= n
			continue
		}
		b = b[e.Off:min(n, e.End())]
		if len(b) == 0 {
			break
		}
		dst = append(dst, b)
		e.Off, e.Len = 0, e.Len-uint64(len(b))
	}
	return dst
}
