package keylock

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func TestExcludesPerKey(t *testing.T) {
	var s Set
	unlock, err := s.Lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.Lock(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Lock(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a held key was locked: %v", err)
	}
	unlock()
	if len(s.locks) != 0 {
		t.Errorf("%d locks are kept for nobody", len(s.locks))
	}
}

func TestCounts(t *testing.T) {
	var s Set
	n := 0
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			unlock, err := s.Lock(t.Context(), "k")
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			n++
		})
	}
	wg.Wait()
	if n != 50 || len(s.locks) != 0 {
		t.Errorf("n %d, locks left %d", n, len(s.locks))
	}
}
