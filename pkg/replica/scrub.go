package replica

import (
	"context"
	"hash/fnv"
	"time"

	"github.com/cask-storage/cask/pkg/store"
)

// ScrubConfig says when a replica verifies all it holds.
type ScrubConfig struct {
	Every time.Duration // from the end of one to the begin of the next; 0: never, and one under way is paused
}

const (
	scrubLook   = time.Second    // between looks at what was found
	scrubJitter = 4              // the first part of Every that is added at random: one fourth
	scrubFirst  = 10 * time.Hour // a replica that never was scrubbed waits as if it had been this long before the process began
)

// due reports whether a scrub is to begin. Replicas of one volume, and volumes
// of one host, begin at different times: each waits longer by a part of Every
// that is its own.
func (s ScrubConfig) due(id Identity, last, started, now time.Time) bool {
	if s.Every <= 0 {
		return false
	}
	if last.IsZero() {
		last = started.Add(-min(scrubFirst, s.Every/2))
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(id.Volume + "/" + id.Replica))
	jitter := time.Duration(h.Sum64() % uint64(max(s.Every/scrubJitter, 1))) //nolint:gosec // positive
	return !now.Before(last.Add(s.Every + jitter))
}

// ScrubStatus is the scrub under way or the last one; false when the replica has
// no store, or one that cannot be scrubbed.
func (s *Server) ScrubStatus() (store.ScrubStatus, bool) {
	x := s.scrubber()
	if x == nil {
		return store.ScrubStatus{}, false
	}
	st, err := x.Scrubbing()
	return st, err == nil
}

func (s *Server) scrubber() store.Scrubber {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, _ := s.core.store.(store.Scrubber)
	return x
}

// scrub begins scrubs when they are due, and reports what they and reads find,
// until ctx ends. One that a restart broke off goes on by itself.
func (s *Server) scrub(ctx context.Context) {
	t := time.NewTicker(scrubLook)
	defer t.Stop()
	started := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if x := s.scrubber(); x != nil && s.core.Err() == nil {
			s.lookAt(x, started)
		}
	}
}

func (s *Server) lookAt(x store.Scrubber, started time.Time) {
	blocks, others, err := x.Rotten()
	if err != nil {
		return // it is being closed
	}
	s.core.Damaged(blocks)
	if others > 0 {
		s.logf("%d blocks that are not content could not be read, see zdb: replace the replica if that stays", others)
	}
	st, err := x.Scrubbing()
	if err != nil {
		return
	}
	cfg := s.core.cfg
	on := cfg.Scrub.Every > 0
	if st.Running && st.Paused != on || !st.Running && !cfg.Scrub.due(cfg.Identity, st.Ended, started, time.Now()) {
		return
	}
	change := x.BeginScrub
	if !on {
		change = x.PauseScrub
	}
	if err := change(); err != nil {
		s.logf("scrub: %v", err)
		return
	}
	s.logf("scrub of %d bytes, %d done: goes on: %v", st.Total, st.Done, on)
}
