package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

// sessions has a frontend serve the volume under a name that is another after
// each loss of acknowledged writes: hosts that know the older name cannot take
// their sessions up again. They learn the new one by discovery.
type sessions struct {
	t        *target.Target
	name     string // before any loss
	replaced error  // the frontend's refusal of an older name
	add      func(ctx context.Context, name string, d block.Device) error
	remove   func(ctx context.Context, name string) error
	resized  func(name string) // tells hosts that the size is another

	mu      sync.Mutex
	serving bool
	lost    history.Epoch // of what is served
	size    uint64        // that hosts were told, bytes
	changed chan struct{} // closed when something else is
}

func newSessions(t *target.Target, name string, replaced error) *sessions {
	return &sessions{t: t, name: name, replaced: replaced, changed: make(chan struct{})}
}

const (
	locateTime = 5 * time.Second  // a host waits for recovery at most so long, then comes again
	removeTime = 10 * time.Second // for the requests of sessions that are over, which fail
)

// run serves under the right name until ctx ends.
func (s *sessions) run(ctx context.Context) error {
	for ctx.Err() == nil {
		lost, known, changed := s.t.Session()
		if err := s.serve(ctx, lost, known); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return nil
}

func (s *sessions) serve(ctx context.Context, lost history.Epoch, known bool) error {
	s.mu.Lock()
	was, served, size := s.lost, s.serving, s.size
	s.size = s.t.Size()
	larger := s.size != size
	s.mu.Unlock()
	if !known || served && was == lost {
		if served && larger {
			s.resized(volume.AfterLoss(s.name, lost))
		}
		return nil
	}
	if served {
		log.Printf("the sessions of all hosts are over: acknowledged writes may have been lost in epoch %d", lost)
		remove, cancel := context.WithTimeout(ctx, removeTime)
		defer cancel()
		if err := s.remove(remove, volume.AfterLoss(s.name, was)); err != nil {
			log.Printf("go on although %v", err) // the device refuses what is left
		}
	}
	if err := s.add(ctx, volume.AfterLoss(s.name, lost), s.t.Device(lost)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serving, s.lost = true, lost
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

var errNotYet = errors.New("it is not known yet which sessions may go on")

// locate tells a host whether the name it knows is the volume's now. It waits
// until that is known.
func (s *sessions) locate(ctx context.Context, asked string) error {
	of, ours := volume.LossOf(s.name, asked)
	if !ours {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, locateTime)
	defer cancel()
	for {
		s.mu.Lock()
		serving, lost, changed := s.serving, s.lost, s.changed
		s.mu.Unlock()
		switch {
		case serving && of == lost:
			return nil
		case serving && of < lost:
			return fmt.Errorf("%w: acknowledged writes may have been lost in epoch %d since %s began; a new session finds %s by discovery",
				s.replaced, lost, asked, volume.AfterLoss(s.name, lost))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errNotYet
		}
	}
}
