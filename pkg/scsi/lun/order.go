package lun

import (
	"sync"

	"github.com/cask-storage/cask/pkg/block"
)

// kind says what else a task may run beside.
type kind uint8

const (
	reading    kind = iota // beside everything but alone
	writing                // likewise, and not beside an overlapping exchange
	exchanging             // beside nothing that changes an overlapping range
	alone                  // beside nothing: ORDERED tasks, what runsAlone says
)

// place is a task's place in its unit's order.
type place struct {
	task       *Task
	kind       kind
	extent     block.Extent
	prev, next *place
}

// order decides which tasks of a unit run at once. Who came first goes first
// among those that exclude each other. It allocates nothing.
type order struct {
	mu      sync.Mutex
	running list
	waiting list // oldest first
	special int  // running tasks that are exchanging or alone
}

// list is a ring without a head element.
type list struct{ first, last *place }

func (l *list) push(p *place) {
	p.prev, p.next = l.last, nil
	if l.last != nil {
		l.last.next = p
	} else {
		l.first = p
	}
	l.last = p
}

func (l *list) remove(p *place) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		l.first = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		l.last = p.prev
	}
	p.prev, p.next = nil, nil
}

// excludes reports whether the two may not run at once.
func (p *place) excludes(o *place) bool {
	if p.kind == alone || o.kind == alone {
		return true
	}
	changes := p.kind >= writing && o.kind >= writing
	return changes && (p.kind == exchanging || o.kind == exchanging) && p.extent.Overlaps(o.extent)
}

// blocked reports whether somebody in the list, up to but not including end,
// excludes p.
func (l *list) blocked(p, end *place) bool {
	for o := l.first; o != nil && o != end; o = o.next {
		if p.excludes(o) {
			return true
		}
	}
	return false
}

// enter reports whether p may run now; else it waits, and leave of another
// starts it.
func (o *order) enter(p *place) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	plain := p.kind < exchanging && o.special == 0
	if o.waiting.blocked(p, nil) || !plain && o.running.blocked(p, nil) {
		o.waiting.push(p)
		return false
	}
	o.admitLocked(p)
	return true
}

func (o *order) admitLocked(p *place) {
	o.running.push(p)
	if p.kind >= exchanging {
		o.special++
	}
}

// leave ends p's run. It returns the first of the tasks that p kept waiting,
// for startAll, or nil.
func (o *order) leave(p *place) *Task {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running.remove(p)
	if p.kind >= exchanging {
		o.special--
	}
	var ready list
	for w := o.waiting.first; w != nil; {
		next := w.next
		if !o.running.blocked(w, nil) && !ready.blocked(w, nil) && !o.waiting.blocked(w, w) {
			o.waiting.remove(w)
			ready.push(w)
		}
		w = next
	}
	if ready.first == nil {
		return nil
	}
	// The tasks are linked apart from the list, which they leave as they end.
	for w := ready.first; w != nil; {
		next := w.next
		w.task.after = nil
		if next != nil {
			w.task.after = next.task
		}
		o.admitLocked(w)
		w = next
	}
	return ready.first.task
}

// startAll starts the tasks that leave returned.
func startAll(first *Task) {
	for t := first; t != nil; {
		next := t.after
		t.start()
		t = next
	}
}
