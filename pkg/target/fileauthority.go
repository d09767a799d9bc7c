package target

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/volume"
)

// FileAuthority keeps a volume's record in a JSON file, and beside it what its
// frontend has kept, for volumes without Kubernetes. A lock file makes the
// compare-and-swap atomic among processes.
type FileAuthority struct{ Path string }

// CreateRecord makes the file unless it is there.
func (a FileAuthority) CreateRecord(r volume.Record) error {
	if _, err := os.Stat(a.Path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return a.store(r)
}

// Load implements volume.Authority.
func (a FileAuthority) Load(context.Context) (volume.Record, error) {
	var r volume.Record
	b, err := os.ReadFile(a.Path)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, fmt.Errorf("record %s: %w", a.Path, err)
	}
	return r, nil
}

// CompareAndSwap implements volume.Authority.
func (a FileAuthority) CompareAndSwap(ctx context.Context, old, next volume.Record) error {
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	now, err := a.Load(ctx)
	if err != nil {
		return err
	}
	if !now.Equal(old) {
		return volume.ErrConflict
	}
	return a.store(next)
}

// lock keeps other processes from changing what is kept.
func (a FileAuthority) lock() (unlock func(), err error) {
	f, err := os.OpenFile(a.Path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock of record %s: %w", a.Path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock of record %s: %w", a.Path, err), f.Close())
	}
	return func() { f.Close() }, nil
}

func (a FileAuthority) store(r volume.Record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return replace(a.Path, b)
}

// replace writes a file so that a crash leaves the old or the new one.
func replace(path string, b []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
