package ioc

import "testing"

// TestTurns: so many at once, and one more when one ends.
func TestTurns(t *testing.T) {
	dir := t.TempDir()
	turns := Turns{Dir: dir}
	take := func(want bool) func() {
		t.Helper()
		release, ok, err := turns.Take()
		if err != nil || ok != want {
			t.Fatalf("a turn: %v, %v, want %v", ok, err, want)
		}
		return release
	}
	for range RebuildsAtOnce + 1 {
		take(true)() // nobody bounds it yet
	}
	mustOpen(t, testConfig(dir))
	first := take(true)
	for range RebuildsAtOnce - 1 {
		defer take(true)()
	}
	take(false)
	first()
	defer take(true)()
	take(false)
}
