//go:build cgo && linux

package dmu

import (
	"testing"
	"time"
)

func TestRest(t *testing.T) {
	r, start := rest{after: 10 * time.Second}, time.Unix(100, 0)
	for _, step := range []struct {
		at   time.Duration
		uses uint64
		want bool
	}{
		{0, 0, false}, {9 * time.Second, 0, false}, {10 * time.Second, 0, true}, {11 * time.Second, 0, false},
		{12 * time.Second, 1, false}, {21 * time.Second, 1, false}, {22 * time.Second, 1, true},
	} {
		if got := r.look(start.Add(step.at), step.uses); got != step.want {
			t.Errorf("after %v with %d uses: %v", step.at, step.uses, got)
		}
	}
}
