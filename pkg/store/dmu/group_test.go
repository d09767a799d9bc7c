package dmu

import (
	"sync"
	"testing"
	"testing/synctest"
)

// Who waits while one runs is served by the next one, all by the same; nobody
// by one that began before.
func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := group[int]{slots: make(chan struct{}, 1)}
		runs, gate := 0, make(chan struct{})
		run := func() int {
			runs++ // one at a time
			n := runs
			<-gate
			return n
		}
		var wg sync.WaitGroup
		var first int
		wg.Go(func() { first = g.do(run) })
		synctest.Wait()
		got := make([]int, 10)
		for i := range got {
			wg.Go(func() { got[i] = g.do(run) })
		}
		synctest.Wait()
		close(gate)
		wg.Wait()
		if first != 1 || runs != 2 {
			t.Errorf("%d runs, the first caller was served by run %d", runs, first)
		}
		for i, n := range got {
			if n != 2 {
				t.Errorf("caller %d was served by run %d, want 2", i, n)
			}
		}
	})
}
