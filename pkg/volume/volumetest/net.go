package volumetest

import (
	"encoding/binary"
	"fmt"

	"github.com/cask-storage/cask/pkg/replica"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/volume"
)

// way is a direction, or both.
type way uint8

const (
	toNode   way = 1
	toTarget way = 2
	bothWays     = toNode | toTarget
)

// conn is a connection: two ordered pipes that lose nothing until it is cut.
type conn struct {
	id     uint64
	t      *target
	n      *node
	open   bool // for the target
	over   bool // the node knows that it has ended
	ended  bool // by the node
	life   int  // of the node when it was made
	toNode pipe
	toTgt  pipe
	linger volume.Time // of what was sent to the node before the connection ended
}

type pipe struct {
	way   way
	queue [][]byte
	busy  bool
}

// dial connects t to n, if the two can see each other.
func (w *world) dial(t *target, n *node) {
	if !t.alive || t.conns[n.id] != nil {
		return
	}
	if !n.up || w.cut(t, n)&bothWays != 0 {
		w.after(w.between(50*ms, 300*ms), func() { w.dial(t, n) })
		return
	}
	w.conns++
	k := &conn{id: w.conns, t: t, n: n, open: true, life: n.life, toNode: pipe{way: toNode}, toTgt: pipe{way: toTarget}}
	t.conns[n.id] = k
	t.step(func() { t.core.Connected(t.now(), n.id, k.id) })
}

// nodeHangsUp ends k; the target learns of it when all that was sent before has
// come.
func (w *world) nodeHangsUp(k *conn) {
	if k.ended || !k.open {
		return
	}
	k.ended = true
	w.push(k, &k.toTgt, nil)
}

// nodeHears has the node learn, a little later, that k is over.
func (w *world) nodeHears(k *conn) {
	w.after(w.between(0, 100*ms), func() {
		k.over = true
		if k.n.up && k.n.life == k.life {
			k.endAtNode()
		}
	})
}

// endAtNode tells the node's process that k is over. A turn to be rebuilt that it
// held for that target others wait for.
func (k *conn) endAtNode() {
	n := k.n
	if n.core.Ended(k.replyConn()); n.turns != 0 && n.core.Current(k.replyConn()) {
		n.w.fail(Live, "%s keeps the turn of others, and nobody rebuilds it", n.id)
	}
}

// hangUp ends k for the target. What was sent may be lost, or still reach the
// node, even much later and after what a newer connection carries.
func (w *world) hangUp(k *conn) {
	if !k.open {
		return
	}
	w.shut(k)
	if k.t.conns[k.n.id] == k {
		delete(k.t.conns, k.n.id)
		w.after(w.between(0, 5*ms), func() {
			k.t.step(func() { k.t.core.Disconnected(k.t.now(), k.n.id, k.id) })
			w.after(w.between(10*ms, 200*ms), func() { w.dial(k.t, k.n) })
		})
	}
}

// shut ends k for the target. Of what was sent, all or nothing may yet come.
func (w *world) shut(k *conn) {
	k.open = false
	w.nodeHears(k)
	switch {
	case w.chance(0.3):
		k.linger = w.between(0, 3000*ms)
	case w.chance(0.4):
		k.toNode.queue = nil
	}
}

// cut says in which directions messages between t and n stand still.
func (w *world) cut(t *target, n *node) way {
	if n.isolated {
		return bothWays
	}
	return t.cut[n.id]
}

// send puts m on a pipe, through the real codec.
func (w *world) send(k *conn, p *pipe, m replication.Message) {
	if b := w.encode(m); b != nil {
		w.push(k, p, b)
	}
}

func (w *world) encode(m replication.Message) []byte {
	b, err := replication.AppendHead(nil, &m)
	if err != nil {
		w.fail(Protocol, "encode %v: %v", &m, err)
		return nil
	}
	for _, d := range m.Bufs {
		b = append(b, d...)
	}
	return b
}

// recode is m as it comes out of the real codec.
func (w *world) recode(m replication.Message) replication.Message {
	out, err := replication.Decode(w.encode(m))
	if err != nil {
		w.fail(Protocol, "decode %v: %v", &m, err)
	}
	return out
}

// push queues a frame; nil ends the connection.
func (w *world) push(k *conn, p *pipe, frame []byte) {
	p.queue = append(p.queue, frame)
	if !p.busy {
		p.busy = true
		w.after(w.latency(k), func() { w.deliver(k, p) })
	}
}

func (w *world) latency(k *conn) volume.Time {
	d := w.between(ms/20, 2*ms)
	if k.n.slow {
		d += w.between(10*ms, 200*ms)
	}
	return d
}

// deliver hands over a batch of what waits; a cut pipe keeps it.
func (w *world) deliver(k *conn, p *pipe) {
	if k.open && w.cut(k.t, k.n)&p.way != 0 {
		w.after(w.between(5*ms, 50*ms), func() { w.deliver(k, p) })
		return
	}
	if d := k.linger; d != 0 && p.way == toNode {
		k.linger = 0
		w.after(d, func() { w.deliver(k, p) })
		return
	}
	if p.busy = len(p.queue) > 0; !p.busy { // lost
		return
	}
	if !w.handOver(k, p, 1+w.rng.IntN(len(p.queue))) {
		return
	}
	if p.busy = len(p.queue) > 0; p.busy {
		w.after(w.latency(k), func() { w.deliver(k, p) })
	}
}

// handOver delivers the first n frames, and reports whether more may come.
func (w *world) handOver(k *conn, p *pipe, n int) bool {
	batch := p.queue[:n]
	p.queue = p.queue[n:]
	for _, b := range batch {
		if b == nil {
			w.hangUp(k)
			return false
		}
		m, err := replication.Decode(b)
		if err != nil {
			w.fail(Protocol, "decode: %v", err)
			return false
		}
		w.arrive(k, p, m)
	}
	return true
}

// arrive hands m over, unless the process it was for is gone. What was sent
// before the connection ended may still reach the node.
func (w *world) arrive(k *conn, p *pipe, m replication.Message) {
	switch {
	case p.way == toNode && k.n.up && k.n.life == k.life && !k.ended:
		w.traceMessage(k, "->", &m)
		k.n.handle(k, m)
	case p.way == toTarget && k.open && k.t.alive:
		w.traceMessage(k, "<-", &m)
		k.t.step(func() { k.t.core.Receive(k.t.now(), k.n.id, k.id, m) })
	}
}

// traceMessage shows the content of blocks as the values that clients write.
func (w *world) traceMessage(k *conn, arrow string, m *replication.Message) {
	if w.opt.Trace == nil {
		return
	}
	text := m.String()
	if len(m.Bufs) > 0 {
		text += " ="
		for b := range m.DataLen() / blockSize {
			text += fmt.Sprintf(" %d:%d", int(m.Extent.Off)/blockSize+b, binary.LittleEndian.Uint64(m.Bufs[0][b*blockSize:]))
		}
	} else if m.Type == replication.Apply && store.Kind(m.Kind) == store.Unmap {
		text += fmt.Sprintf(" = %d:0", m.Extent.Off/blockSize)
	}
	w.trace("%s %s %s #%d %s", k.t.name, arrow, k.n.id, k.id, text)
}

func (k *conn) replyConn() replica.ConnID { return replica.ConnID(k.id) }
