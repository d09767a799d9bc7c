// Package keylock is a lock for each of a set of keys, waited for no longer
// than a context allows.
//
// A Set may be used from any goroutine. It holds memory only for the keys that
// are locked or waited for.
package keylock

import (
	"context"
	"sync"
)

// Set is a set of locks; the zero value is ready.
type Set struct {
	mu    sync.Mutex
	locks map[string]*lock // guarded by mu
}

type lock struct {
	users int           // the holder and those who wait; guarded by Set.mu
	token chan struct{} // full while held
}

// Lock waits for key until ctx is done, whose error it then returns.
func (s *Set) Lock(ctx context.Context, key string) (unlock func(), err error) {
	l := s.enter(key)
	select {
	case l.token <- struct{}{}:
		return func() {
			<-l.token
			s.leave(key, l)
		}, nil
	case <-ctx.Done():
		s.leave(key, l)
		return nil, ctx.Err()
	}
}

func (s *Set) enter(key string) *lock {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks == nil {
		s.locks = map[string]*lock{}
	}
	l := s.locks[key]
	if l == nil {
		l = &lock{token: make(chan struct{}, 1)}
		s.locks[key] = l
	}
	l.users++
	return l
}

func (s *Set) leave(key string, l *lock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(s.locks, key)
	}
}
