package target

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/volume"
)

// more starts another replica, which is no voter yet.
func (s *setup) more(t *testing.T) {
	t.Helper()
	c := &copyOf{t: t, id: fmt.Sprintf("r%d", len(s.replicas)), addr: "127.0.0.1:0", volume: "vol"}
	c.start()
	s.replicas = append(s.replicas, c)
	s.addrs[quorum.ReplicaID(c.id)] = c.addr
}

// settings lay the volume out over some of the replicas.
func (s *setup) settings(level quorum.Level, replicas ...quorum.ReplicaID) Settings {
	out := Settings{Layout: volume.Layout{Level: level, Replicas: replicas}, Addresses: map[quorum.ReplicaID]string{}}
	for id, addr := range s.addrs {
		out.Addresses[id] = addr
	}
	return out
}

// following starts a target with settings that can change.
func (s *setup) following(t *testing.T, name string, x Settings, r Reporter) (*Target, func() error) {
	t.Helper()
	return run(t, Config{Volume: volume.Config{Instance: name, Layout: &x.Layout, Size: testSize, Volume: "vol", Timing: volume.DefaultTiming()},
		Addresses: x.Addresses, Authority: s.record, Reporter: r})
}

// settledAt waits until the record is as laid out.
func settledAt(t *testing.T, s *setup, tg *Target, level quorum.Level, voters ...quorum.ReplicaID) {
	t.Helper()
	for range 2000 {
		rec, err := s.record.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st := tg.Status(); st.Settled && st.Level == string(level) && rec.Level == level && slices.Equal(rec.Voters, voters) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	rec, _ := s.record.Load(t.Context())
	t.Fatalf("record %+v, status %+v", rec, tg.Status())
}

// TestConfigure changes level and replicas under a load that verifies: one
// replica more, another level, then those of the beginning leave and end.
func TestConfigure(t *testing.T) {
	s := newSetup(t, 2)
	tg, _ := s.following(t, "t1", s.settings(quorum.Quorum, "r0", "r1"), nil)
	serving(t, tg, 2)
	var wg sync.WaitGroup
	wg.Go(func() {
		s.more(t)
		tg.Configure(s.settings(quorum.Quorum, "r0", "r1", "r2"))
		settledAt(t, s, tg, quorum.Quorum, "r0", "r1", "r2")
		tg.Configure(s.settings(quorum.All, "r0", "r1", "r2"))
		settledAt(t, s, tg, quorum.All, "r0", "r1", "r2")
		for _, gone := range []quorum.ReplicaID{"r0", "r1"} {
			left := slices.DeleteFunc([]quorum.ReplicaID{"r0", "r1", "r2"}, func(id quorum.ReplicaID) bool { return id <= gone })
			tg.Configure(s.settings(quorum.All, left...))
			settledAt(t, s, tg, quorum.All, left...)
			delete(s.addrs, gone)
			s.replicas[gone[1]-'0'].stop()
			tg.Configure(s.settings(quorum.All, left...))
		}
	})
	blocktest.Verify(t, tg.Device(0), blocktest.Workload{For: 4 * time.Second})
	wg.Wait()
	if st := tg.Status(); !st.Serving || len(st.Replicas) != 1 {
		t.Errorf("status %+v", st)
	}
}

// TestEvicted: at the level all a replica that is gone is removed, and the
// status says below the floor what would help.
func TestEvicted(t *testing.T) {
	s := newSetup(t, 3)
	tg, _ := s.following(t, "t1", s.settings(quorum.All, "r0", "r1", "r2"), nil)
	serving(t, tg, 3)
	s.replicas[2].stop()
	if err := blocktest.Write(tg.Device(0), 0, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if rec, err := s.record.Load(t.Context()); err != nil || len(rec.Voters) != 2 {
		t.Errorf("record %+v, %v", rec, err)
	}
	s.replicas[1].stop()
	done := make(chan error, 1)
	go func() { done <- blocktest.Write(tg.Device(0), 0, make([]byte, 4096)) }()
	for i := 0; !strings.Contains(tg.Status().Message, "lower spec.minVoters to 1"); i++ {
		if i > 1000 {
			t.Fatalf("status %+v", tg.Status())
		}
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case err := <-done:
		t.Fatalf("written with one of two voters: %v", err)
	case <-time.After(longerThanEviction):
	}
	x := s.settings(quorum.All, "r0", "r1", "r2")
	x.Layout.MinVoters = 1
	tg.Configure(x)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// longerThanEviction is longer than an eviction takes.
const longerThanEviction = 3 * time.Second

// told keeps the last status.
type told struct {
	mu   sync.Mutex
	last Status
}

func (r *told) Report(_ context.Context, s Status) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = s
	return nil
}

// refusedRecord expects a target to end because of the record, and the next too.
func refusedRecord(t *testing.T, s *setup, r *told, end func() error, want string) {
	t.Helper()
	err := end()
	if !errors.Is(err, volume.ErrRecord) || !strings.Contains(err.Error(), want) {
		t.Fatalf("ended with %v, want %q", err, want)
	}
	rec, err := s.record.Load(t.Context())
	if err != nil || !strings.Contains(rec.Refused, want) {
		t.Fatalf("record %+v, %v", rec, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last.Reason != ReasonRecordRefused || !strings.Contains(r.last.Message, want) {
		t.Errorf("told %+v", r.last)
	}
	tg, _ := s.following(t, "next", s.settings(quorum.Quorum, rec.Voters...), nil)
	<-tg.ended
	if again, _ := s.record.Load(t.Context()); !again.Equal(rec) {
		t.Errorf("the next target went by it: %+v", again)
	}
}

// TestOldBackup: a record that is older than what replicas promised is refused
// for good. Were it only not served by one target, those after it would outbid
// the replicas, with voters of long ago.
func TestOldBackup(t *testing.T) {
	s := newSetup(t, 3)
	before, err := s.record.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 { // three epochs
		tg, end := s.following(t, fmt.Sprintf("t%d", i), s.settings(quorum.Quorum, "r0", "r1", "r2"), nil)
		serving(t, tg, 3)
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	before.Epoch, before.Initialized = 1, true
	if err := s.record.store(before); err != nil {
		t.Fatal(err)
	}
	r := &told{}
	tg, end := s.following(t, "restored", s.settings(quorum.Quorum, "r0", "r1", "r2"), r)
	<-tg.ended
	refusedRecord(t, s, r, end, "old backup")
}

// TestEditedUnderTarget: a target finds at its next change that the record is
// not what it wrote.
func TestEditedUnderTarget(t *testing.T) {
	s := newSetup(t, 3)
	r := &told{}
	tg, end := s.following(t, "t1", s.settings(quorum.Quorum, "r0", "r1", "r2"), r)
	serving(t, tg, 3)
	rec, err := s.record.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rec.Voters = rec.Voters[:1]
	if err := s.record.store(rec); err != nil {
		t.Fatal(err)
	}
	tg.Configure(s.settings(quorum.All, "r0", "r1", "r2"))
	<-tg.ended
	refusedRecord(t, s, r, end, "changed by hand")
}

func TestExposure(t *testing.T) {
	var e exposure
	const s = volume.Time(time.Second)
	for _, x := range []struct {
		at   volume.Time
		n    uint64
		want uint64
	}{
		{1 * s, 0, 0}, {2 * s, 1, 1}, {3 * s, 7, 10}, {4 * s, 0, 10}, {5 * s, 100, 100}, {6 * s, 101, 1000},
		{12 * s, 0, 1000}, {13 * s, 5, 1000}, {30 * s, 0, 10}, {41 * s, 0, 0},
	} {
		if got := e.observe(x.at, x.n); got != x.want {
			t.Errorf("at %d s, %d exposed: says %d, want %d", x.at/s, x.n, got, x.want)
		}
	}
}
