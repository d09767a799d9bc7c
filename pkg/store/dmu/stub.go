//go:build !cgo || !linux

package dmu

import (
	"errors"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// ErrUnsupported is what Create and Open return in a program that was built
// without cgo: build it on Linux with CGO_ENABLED=1 and ZFS's libzpool.
var ErrUnsupported = errors.New("built without the ZFS engine: build on Linux with CGO_ENABLED=1 and libzfslinux-dev")

// Store is a store.Store that cannot be had in this build.
type Store struct{}

// Create returns ErrUnsupported.
func Create(Options) (*Store, error) { return nil, ErrUnsupported }

// Open returns ErrUnsupported.
func Open(Options) (*Store, error) { return nil, ErrUnsupported }

// Engine says nothing in this build.
func Engine() string { return "" }

// Describe says nothing in this build.
func (*Store) Describe() string { return "" }

// Info implements store.Store.
func (*Store) Info() store.Info { return store.Info{} }

// Apply implements store.Store.
func (*Store) Apply([]store.Op) error { return ErrUnsupported }

// ReadAt implements store.Store.
func (*Store) ReadAt([]byte, uint64) error { return ErrUnsupported }

// Flush implements store.Store.
func (*Store) Flush() error { return ErrUnsupported }

// Changed implements store.Past.
func (*Store) Changed(history.Seq) ([]block.Extent, error) { return nil, ErrUnsupported }

// Snapshots implements store.Past.
func (*Store) Snapshots() []store.SnapshotInfo { return nil }

// ReadSnapshot implements store.Past.
func (*Store) ReadSnapshot(history.Seq, []byte, uint64) error { return ErrUnsupported }

// ChangedIn implements store.Past.
func (*Store) ChangedIn(store.Span) ([]block.Extent, error) { return nil, ErrUnsupported }

// Keep implements store.Keeper.
func (*Store) Keep() error { return ErrUnsupported }

// Kept implements store.Keeper.
func (*Store) Kept() (store.Kept, bool) { return store.Kept{}, false }

// ReadKept implements store.Keeper.
func (*Store) ReadKept([]byte, uint64) error { return ErrUnsupported }

// ChangedSinceKeep implements store.Keeper.
func (*Store) ChangedSinceKeep() ([]block.Extent, error) { return nil, ErrUnsupported }

// Return implements store.Keeper.
func (*Store) Return() error { return ErrUnsupported }

// DropKept implements store.Keeper.
func (*Store) DropKept() error { return ErrUnsupported }

// Meta implements store.Meta.
func (*Store) Meta() []byte { return nil }

// SetMeta implements store.Meta.
func (*Store) SetMeta([]byte) error { return ErrUnsupported }

// BeginScrub implements store.Scrubber.
func (*Store) BeginScrub() error { return ErrUnsupported }

// PauseScrub implements store.Scrubber.
func (*Store) PauseScrub() error { return ErrUnsupported }

// Scrubbing implements store.Scrubber.
func (*Store) Scrubbing() (store.ScrubStatus, error) { return store.ScrubStatus{}, ErrUnsupported }

// Rotten implements store.Scrubber.
func (*Store) Rotten() (block.Set, uint64, error) { return nil, 0, ErrUnsupported }

// Freeze implements store.Comparer.
func (*Store) Freeze() (store.Frozen, error) { return nil, ErrUnsupported }

// Grow implements store.Grower.
func (*Store) Grow() error { return ErrUnsupported }

// Close implements store.Meta.
func (*Store) Close() error { return ErrUnsupported }

var _ store.Store = (*Store)(nil)
