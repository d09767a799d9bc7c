package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/cask-storage/cask/pkg/scsi/lun"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

const (
	keepTime     = 10 * time.Second // to keep a change of reservations
	keepRetry    = 250 * time.Millisecond
	loadRetry    = time.Second
	keptVersion  = 1
	keptNotKnown = "what is kept beside the record of volume %s is not known to this version"
)

// reservations are those of a frontend's hosts, kept beside the volume's
// record for the next target.
type reservations struct {
	keeper           target.Keeper
	volume, frontend string
	holder           string
}

// kept is what the Keeper keeps, as JSON; the state is the frontend's own.
// Version ratchets one way.
type kept struct {
	Version  int             `json:"version"`
	Frontend string          `json:"frontend"`
	State    json.RawMessage `json:"state"`
}

// load returns the state that the frontend's hosts left behind. It asks again
// until it has an answer or ctx ends.
func (r reservations) load(ctx context.Context) ([]byte, error) {
	for {
		b, err := r.keeper.Kept(ctx)
		if err == nil {
			return r.decode(b)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		log.Printf("read the reservations of volume %s, next try in %v: %v", r.volume, loadRetry, err)
		select {
		case <-ctx.Done():
		case <-time.After(loadRetry):
		}
	}
}

// decode refuses what another frontend has kept: its hosts rely on being the
// only ones that write, and this one cannot tell who they are.
func (r reservations) decode(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var k kept
	if err := json.Unmarshal(b, &k); err != nil {
		return nil, fmt.Errorf(keptNotKnown+": %w", r.volume, err)
	}
	if k.Version != keptVersion {
		return nil, fmt.Errorf(keptNotKnown+": version %d, known is %d", r.volume, k.Version, keptVersion)
	}
	if k.Frontend != r.frontend {
		return nil, fmt.Errorf("hosts of frontend %s have reservations on volume %s: serve it with that, and have them released, before --frontend %s", k.Frontend, r.volume, r.frontend)
	}
	return k.State, nil
}

// keep returns once the state is on stable storage; nil state is none. What
// happened to a try that failed is not known, so it tries again while ctx lets
// it; only a target that was superseded gives up at once.
func (r reservations) keep(ctx context.Context, state []byte) error {
	var b []byte
	if len(state) > 0 {
		var err error
		if b, err = json.Marshal(kept{keptVersion, r.frontend, state}); err != nil {
			return fmt.Errorf("reservations of volume %s: %w", r.volume, err)
		}
	}
	for {
		err := r.keeper.Keep(ctx, r.holder, b)
		if err == nil || errors.Is(err, volume.ErrSuperseded) || errors.Is(err, target.ErrTooLarge) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("keep the reservations of volume %s: %w", r.volume, err)
		case <-time.After(keepRetry):
		}
	}
}

// unitKeeper is reservations as a SCSI unit wants them.
type unitKeeper struct {
	reservations
	state []byte
	ctx   context.Context // of serving, without its end: what began is finished
}

var _ lun.Keeper = unitKeeper{}

// Load implements lun.Keeper.
func (k unitKeeper) Load() ([]byte, error) { return k.state, nil }

// Save implements lun.Keeper.
func (k unitKeeper) Save(b []byte, done func(error)) {
	go func() { // owner: the frontend, whose Serve waits for done
		ctx, cancel := context.WithTimeout(k.ctx, keepTime)
		defer cancel()
		err := k.keep(ctx, b)
		if err != nil {
			log.Printf("iscsi target: %v", err)
		}
		done(err)
	}()
}
