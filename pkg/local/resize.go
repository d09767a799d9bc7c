package local

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/target"
)

const resizeLook = 200 * time.Millisecond

// ErrShrinks is the class of a size that is less than what the volume has.
var ErrShrinks = errors.New("a volume cannot shrink")

// Resize has the volume in dir grow to size, in bytes, and waits until it has. Until
// then progress is told what it waits for. It goes on when the wait ends before.
func Resize(ctx context.Context, dir string, size uint64, progress func(string)) error {
	st, err := ReadState(dir)
	if err != nil {
		return err
	}
	told, want := "", uint64(0) // what the target is told, once that is kept
	look := time.NewTicker(resizeLook)
	defer look.Stop()
	for {
		s, err := st.sizing(ctx, want)
		text := s.Text
		switch {
		case ctx.Err() != nil: // below
		case err != nil:
			text = err.Error()
		case s.Size == 0: // the target says why
		case want == 0:
			if err := keepSize(dir, size, s.Size); err != nil {
				return err
			}
			want = size
			continue
		case s.Size >= size:
			return nil
		}
		if ctx.Err() == nil && text != "" && text != told {
			told = text
			progress(text)
		}
		select {
		case <-ctx.Done():
			if want == 0 {
				return fmt.Errorf("volume in %s was not asked to grow, try again: %s: %w", dir, told, ctx.Err())
			}
			return fmt.Errorf("volume in %s has not grown to %d bytes yet, and goes on by itself: %s: %w", dir, size, told, ctx.Err())
		case <-look.C:
		}
	}
}

// Resizing says why the volume has not the size that it is to have; empty when it
// has, or when its target does not answer.
func (st State) Resizing(ctx context.Context) string {
	s, err := st.sizing(ctx, 0)
	if err != nil {
		return ""
	}
	return s.Text
}

// sizing is what the target says of the volume's size, after it was told what it is
// to be; 0: it is told nothing.
func (st State) sizing(ctx context.Context, want uint64) (target.Sizing, error) {
	var s target.Sizing
	if want == 0 {
		return s, st.ask(ctx, http.MethodGet, "/resize", &s)
	}
	return s, st.ask(ctx, http.MethodPost, fmt.Sprintf("/resize?size=%d", want), &s)
}

// keepSize writes down what size the volume is to have, so that the next target
// is told the same. It has now bytes.
func keepSize(dir string, size, now uint64) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil { // others that resize
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	s, err := open(dir, Spec{})
	if err != nil {
		return err
	}
	s.Size = size
	if err := s.check(); err != nil {
		return err
	}
	if size < now {
		return fmt.Errorf("%w: the one in %s has %d bytes and would have %d, without what its hosts keep at the end; make a smaller one in another --dir and copy",
			ErrShrinks, dir, now, size)
	}
	return writeJSON(filepath.Join(dir, "volume.json"), s)
}
