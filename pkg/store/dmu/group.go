package dmu

import "sync"

// group gathers calls that ask for the same thing: all that wait when one begins are
// served by that one, and none by one that began before it came.
type group[T any] struct {
	slots chan struct{} // as many run at once

	mu   sync.Mutex
	next *batch[T] // nil: nobody waits
}

// batch is who is served together.
type batch[T any] struct {
	done   chan struct{} // closed when result is set
	result T
}

// do has run called, perhaps by another caller of do, once there is a slot.
func (g *group[T]) do(run func() T) T {
	g.mu.Lock()
	b := g.next
	first := b == nil
	if first {
		b = &batch[T]{done: make(chan struct{})}
		g.next = b
	}
	g.mu.Unlock()
	if !first {
		<-b.done
		return b.result
	}
	defer close(b.done)
	g.slots <- struct{}{}
	defer func() { <-g.slots }()
	g.mu.Lock()
	g.next = nil
	g.mu.Unlock()
	b.result = run()
	return b.result
}
