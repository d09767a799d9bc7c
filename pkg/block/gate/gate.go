// Package gate orders what changes a block device, for frontends that have
// more to do atomically than one write: any number of writes pass at once, or
// one exclusive holder (a compare-and-write, a change of reservations) alone.
// Who comes first passes first, so neither kind starves the other.
//
// A Gate may be used from any goroutine. It allocates nothing while nobody has
// to wait. Its queue is as long as its callers' commands in flight.
package gate

import "sync"

// Waiter is who wants to pass.
type Waiter interface {
	// Enter is called once when it is the waiter's turn, by the goroutine
	// that left; it must not block.
	Enter()
}

// Gate is open when it is zero.
type Gate struct {
	mu        sync.Mutex
	sharing   int
	exclusive bool
	queue     []entry
}

type entry struct {
	w         Waiter
	exclusive bool
}

// Shared asks to pass along with others. It returns true when w may go on now;
// else w.Enter is called later. Either way Leave must follow.
func (g *Gate) Shared(w Waiter) bool { return g.pass(entry{w: w}) }

// Exclusive asks to pass alone, and returns like Shared.
func (g *Gate) Exclusive(w Waiter) bool { return g.pass(entry{w: w, exclusive: true}) }

func (g *Gate) pass(e entry) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == 0 && g.admitLocked(e) {
		return true
	}
	g.queue = append(g.queue, e)
	return false
}

func (g *Gate) admitLocked(e entry) bool {
	switch {
	case g.exclusive, e.exclusive && g.sharing > 0:
		return false
	case e.exclusive:
		g.exclusive = true
	default:
		g.sharing++
	}
	return true
}

// Leave ends a passage of either kind.
func (g *Gate) Leave() {
	g.mu.Lock()
	if g.exclusive {
		g.exclusive = false
	} else {
		g.sharing--
	}
	if g.sharing < 0 {
		g.mu.Unlock()
		panic("gate: Leave without having passed")
	}
	if len(g.queue) == 0 {
		g.mu.Unlock()
		return
	}
	n := 0
	for n < len(g.queue) && g.admitLocked(g.queue[n]) {
		n++
	}
	turn := g.queue[:n:n]
	g.queue = g.queue[n:]
	g.mu.Unlock()
	for _, e := range turn {
		e.w.Enter()
	}
}
