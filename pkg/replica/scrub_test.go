package replica

import (
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/memstore"
)

func TestScrubIsDue(t *testing.T) {
	const week = 7 * 24 * time.Hour
	now := time.Unix(2e9, 0)
	cfg := ScrubConfig{Every: week}
	late := 0
	for i := range 40 {
		id := Identity{"vol", string(rune('a' + i))}
		if cfg.due(id, now.Add(-week+time.Second), now, now) {
			t.Errorf("%v: due before a week has passed", id)
		}
		if !cfg.due(id, now.Add(-week-week/scrubJitter), now, now) {
			t.Errorf("%v: not due after a week and a fourth", id)
		}
		if !cfg.due(id, now.Add(-week-week/scrubJitter/2), now, now) {
			late++
		}
		if cfg.due(id, time.Time{}, now, now) || !cfg.due(id, time.Time{}, now.Add(-week-week/scrubJitter), now) {
			t.Errorf("%v: never scrubbed: due at once, or never", id)
		}
	}
	if late < 5 || late > 35 {
		t.Errorf("%d of 40 wait longer than half of the jitter", late)
	}
	if (ScrubConfig{}).due(Identity{}, time.Time{}, now.Add(-100*week), now) {
		t.Error("due although it is off")
	}
}

// scrubbed is a store that can be scrubbed.
type scrubbed struct {
	*memstore.Store
	mu     sync.Mutex
	st     store.ScrubStatus
	rotten block.Set
}

func (s *scrubbed) BeginScrub() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.st.Running, s.st.Paused = true, false
	return nil
}

func (s *scrubbed) PauseScrub() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.st.Paused = true
	return nil
}

func (s *scrubbed) Scrubbing() (store.ScrubStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st, nil
}

func (s *scrubbed) Rotten() (block.Set, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.rotten
	s.rotten = nil
	return out, 0, nil
}

type scrubbedDisk struct{ s *scrubbed }

func (d scrubbedDisk) Open() (store.Store, error)         { return d.s, nil }
func (d scrubbedDisk) Create(uint64) (store.Store, error) { return d.s, nil }

// TestScrubRuns: it begins when due, is paused when it is off, goes on when it is
// on again, and what it finds is known.
func TestScrubRuns(t *testing.T) {
	d := scrubbedDisk{&scrubbed{Store: memstore.New(memstore.Options{Size: size})}}
	s := NewServer(Config{Identity: Identity{"vol", "r0"}, Backing: d, Scrub: ScrubConfig{Every: time.Hour}})
	look := func(every time.Duration) store.ScrubStatus {
		s.core.cfg.Scrub.Every = every
		s.lookAt(s.scrubber(), time.Now().Add(-2*time.Hour))
		st, _ := s.ScrubStatus()
		return st
	}
	if st := look(3 * time.Hour); st.Running {
		t.Errorf("begun before it is due: %+v", st)
	}
	if st := look(time.Hour); !st.Running || st.Paused {
		t.Errorf("due: %+v", st)
	}
	if st := look(0); !st.Paused {
		t.Errorf("off: %+v", st)
	}
	if st := look(time.Hour); st.Paused {
		t.Errorf("on again: %+v", st)
	}
	d.s.rotten = block.SetOf(block.Extent{Off: 4096, Len: 8192})
	look(time.Hour)
	if got := s.core.Damage(); got.Bytes() != 8192 {
		t.Errorf("damage %v", got)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`cask_scrub_running{replica="r0",volume="vol"} 1`, `cask_replica_unreadable_bytes{replica="r0",volume="vol"} 8192`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("metrics lack %s:\n%s", want, w.Body)
		}
	}
}
