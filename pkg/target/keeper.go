package target

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cask-storage/cask/pkg/volume"
)

// Keeper keeps what a volume's frontend must find again when another target
// serves it: the reservations that hosts asked to be persistent. It is kept
// beside the Record, under its epoch: read it once Target.Acquired is closed,
// and no target before can change it any more.
type Keeper interface {
	// Kept returns what was kept last, nothing if nothing was.
	Kept(ctx context.Context) ([]byte, error)
	// Keep replaces it, and returns when it is on stable storage. When
	// another instance than holder has acquired an epoch it is
	// volume.ErrSuperseded, and nothing has changed. Any other error leaves
	// open whether it was kept.
	Keep(ctx context.Context, holder string, b []byte) error
}

// MaxKept bounds what a Keeper takes, bytes.
const MaxKept = 64 << 10

// ErrTooLarge is returned for more than MaxKept.
var ErrTooLarge = fmt.Errorf("more than the %d bytes that are kept beside a volume's record", MaxKept)

var _ Keeper = FileAuthority{}

// kept is the file beside the record.
func (a FileAuthority) kept() string { return a.Path + ".kept" }

// Kept implements Keeper.
func (a FileAuthority) Kept(context.Context) ([]byte, error) {
	b, err := os.ReadFile(a.kept())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("what is kept beside record %s: %w", a.Path, err)
	}
	return b, nil
}

// Keep implements Keeper.
func (a FileAuthority) Keep(ctx context.Context, holder string, b []byte) error {
	if len(b) > MaxKept {
		return ErrTooLarge
	}
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := a.Load(ctx)
	if err != nil {
		return err
	}
	if rec.Holder != holder {
		return fmt.Errorf("record %s is held by %q: %w", a.Path, rec.Holder, volume.ErrSuperseded)
	}
	return replace(a.kept(), b)
}
