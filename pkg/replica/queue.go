package replica

import (
	"sync"

	"github.com/cask-storage/cask/pkg/replication"
)

// queue is an ordered queue of messages with a bound on what it holds, in
// bytes, that put may wait for.
type queue struct {
	limit int

	mu     sync.Mutex
	cond   sync.Cond
	ms     []replication.Message
	bytes  int
	closed bool
}

func newQueue(limit int) *queue {
	q := &queue{limit: limit}
	q.cond.L = &q.mu
	return q
}

// cost is what a message holds, roughly.
func cost(m *replication.Message) int {
	return 256 + m.DataLen() + 16*(len(m.Extents)+len(m.History))
}

// put adds m at once, beyond the limit too; after a close it drops it.
func (q *queue) put(m replication.Message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.ms = append(q.ms, m)
	q.bytes += cost(&m)
	q.cond.Broadcast()
}

// room waits until the queue holds less than its limit. It returns false once
// the queue is closed.
func (q *queue) room() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.bytes >= q.limit && !q.closed {
		q.cond.Wait()
	}
	return !q.closed
}

// take waits for messages and returns at most n of them, nil once the queue
// is closed and empty.
func (q *queue) take(n int) []replication.Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.ms) == 0 && !q.closed {
		q.cond.Wait()
	}
	ms := q.ms[:min(n, len(q.ms)):min(n, len(q.ms))]
	q.ms = q.ms[len(ms):]
	for i := range ms {
		q.bytes -= cost(&ms[i])
	}
	q.cond.Broadcast()
	return ms
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.cond.Broadcast()
}
