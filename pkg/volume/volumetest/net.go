package volumetest

import (
	"fmt"

	"github.com/cask-storage/cask/pkg/replica"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/volume"
)

// conn is a connection: two ordered pipes that lose nothing until it is cut.
type conn struct {
	id     uint64
	t      *target
	n      *node
	open   bool
	life   int // of the node when it was made
	toNode pipe
	toTgt  pipe
}

type pipe struct {
	queue [][]byte
	busy  bool
}

// dial connects t to n, if the two can see each other.
func (w *world) dial(t *target, n *node) {
	if !t.alive || t.conns[n.id] != nil {
		return
	}
	if !n.up || w.cut(t, n) {
		w.after(w.between(50*ms, 300*ms), func() { w.dial(t, n) })
		return
	}
	w.conns++
	k := &conn{id: w.conns, t: t, n: n, open: true, life: n.life}
	t.conns[n.id] = k
	t.step(func() { t.core.Connected(w.now, n.id, k.id) })
}

// hangUp ends k on both sides; each learns of it now or a little later.
func (w *world) hangUp(k *conn) {
	if !k.open {
		return
	}
	k.open = false
	if k.t.conns[k.n.id] == k {
		delete(k.t.conns, k.n.id)
		w.after(w.between(0, 5*ms), func() {
			k.t.step(func() { k.t.core.Disconnected(w.now, k.n.id, k.id) })
			w.after(w.between(10*ms, 200*ms), func() { w.dial(k.t, k.n) })
		})
	}
}

// cut reports whether messages between t and n stand still.
func (w *world) cut(t *target, n *node) bool { return n.isolated || t.cut[n.id] }

// send puts m on a pipe, through the real codec.
func (w *world) send(k *conn, p *pipe, m replication.Message, deliver func(replication.Message)) {
	head, err := replication.AppendHead(nil, &m)
	if err != nil {
		w.fail("encode %v: %v", &m, err)
		return
	}
	for _, b := range m.Bufs {
		head = append(head, b...)
	}
	p.queue = append(p.queue, head)
	if !p.busy {
		p.busy = true
		w.after(w.latency(k), func() { w.deliver(k, p, deliver) })
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
func (w *world) deliver(k *conn, p *pipe, deliver func(replication.Message)) {
	if w.cut(k.t, k.n) && k.open {
		w.after(w.between(5*ms, 50*ms), func() { w.deliver(k, p, deliver) })
		return
	}
	p.busy = false
	n := 1 + w.rng.IntN(len(p.queue))
	batch := p.queue[:n]
	p.queue = p.queue[n:]
	for _, b := range batch {
		m, err := replication.Decode(b)
		if err != nil {
			w.fail("decode: %v", err)
			return
		}
		deliver(m)
	}
	if len(p.queue) > 0 {
		p.busy = true
		w.after(w.latency(k), func() { w.deliver(k, p, deliver) })
	}
}

// fromTarget hands m to the node, unless the process it was for is gone. What
// was sent before the connection ended may still arrive.
func (w *world) fromTarget(k *conn) func(replication.Message) {
	return func(m replication.Message) {
		if !k.n.up || k.n.life != k.life {
			return
		}
		w.trace("%s -> %s #%d %v", k.t.name, k.n.id, k.id, &m)
		k.n.handle(k, m)
	}
}

func (w *world) fromNode(k *conn) func(replication.Message) {
	return func(m replication.Message) {
		if !k.open || !k.t.alive {
			return
		}
		w.trace("%s <- %s #%d %v", k.t.name, k.n.id, k.id, &m)
		k.t.step(func() { k.t.core.Receive(w.now, k.n.id, k.id, m) })
	}
}

func (k *conn) String() string { return fmt.Sprintf("%s-%s#%d", k.t.name, k.n.id, k.id) }

func (k *conn) replyConn() replica.ConnID { return replica.ConnID(k.id) }
