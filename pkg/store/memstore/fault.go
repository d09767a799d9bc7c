package memstore

import "fmt"

// Call names a method that can be made to fail.
type Call uint8

// The calls.
const (
	Apply Call = iota
	Read
	Flush
	SetMeta
	Changed
	Keep
	calls
)

func (c Call) String() string {
	return [...]string{"apply", "read", "flush", "set meta", "changed", "keep"}[c]
}

// fault fails one future call.
type fault struct {
	in  int // calls to go, 0: none
	err error
}

func (f *fault) hit() error {
	if f.in == 0 {
		return nil
	}
	f.in--
	if f.in > 0 {
		return nil
	}
	return f.err
}

// Inject makes the nth call of c from now on (1: the next) fail with err. A
// second Inject for the same call replaces the first, with nth 0 by nothing.
func (s *Store) Inject(c Call, nth int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[c] = fault{in: nth, err: fmt.Errorf("injected into %s: %w", c, err)}
}
