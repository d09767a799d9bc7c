package ioc

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// RebuildsAtOnce is how many replicas on one pool of one node are rebuilt at
// once.
const RebuildsAtOnce = 2

func turnName(i int) string { return fmt.Sprintf("rebuild.%d", i) }

// makeTurns makes the files that Turns locks.
func (e *FileEngine) makeTurns() error {
	for i := range RebuildsAtOnce {
		f, err := e.dir.OpenFile(turnName(i), os.O_RDONLY|os.O_CREATE, 0o640)
		if err == nil && e.cfg.Owner != nil {
			err = f.Chown(e.cfg.Owner.UID, e.cfg.Owner.GID)
		}
		if err != nil {
			return ioError("pool directory "+e.cfg.Dir, "cannot make "+turnName(i), err)
		}
		f.Close()
	}
	return nil
}

// Turns bounds the rebuilds on a pool by flock(2) on files of its directory:
// nobody grants a turn, so nobody's death withholds one, and the kernel takes
// it back from a process that ends.
type Turns struct{ Dir string }

// Take takes a turn until release is called. ok is false when all are taken.
// In a directory of an IO container that makes no such files there is no bound.
func (t Turns) Take() (release func(), ok bool, err error) {
	for i := range RebuildsAtOnce {
		f, err := os.Open(filepath.Join(t.Dir, turnName(i)))
		if os.IsNotExist(err) {
			return func() {}, true, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("turn to rebuild: %w", err)
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return func() { f.Close() }, true, nil
		}
		f.Close()
	}
	return nil, false, nil
}
