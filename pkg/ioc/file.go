package ioc

import (
	"context"
	"os"
	"sync"
)

const (
	markerName  = "cask-pool.json"
	markerTmp   = ".cask-pool.json.tmp"
	extentsName = "extents"
	// SocketName is the server's socket in a pool directory.
	SocketName = "ioc.sock"

	imgSuffix    = ".img"
	recordSuffix = ".json"
	tmpPrefix    = ".tmp-"
	trashPrefix  = ".trash-"
)

// Owner is who may open extents: the replicas' user.
type Owner struct{ UID, GID int }

// FileConfig says which directory a FileEngine is to use, and on what terms.
type FileConfig struct {
	Dir  string // the pool directory
	Pool string // the StoragePool's name
	Node string // this node's name
	// ExpectID is the pool ID recorded elsewhere for this directory; any
	// other is refused. Empty: none is recorded.
	ExpectID string
	// FirstUse allows an empty directory to be made into a pool.
	FirstUse bool
	// Owner is given the extents; nil leaves them to this process's user.
	Owner  *Owner
	Limits Limits
}

// FileEngine keeps each extent as a sparse file.
type FileEngine struct {
	cfg     FileConfig
	id      string
	dir     *os.Root
	extents *os.Root
	lock    *os.File                 // flocked while open
	crash   func(point string) error // tests: stop at a point, as a crash would

	mu     sync.Mutex
	limits Limits
	serial int // names trash
}

// OpenFile opens a pool directory, on first use makes it one, and finishes what
// a crash left undone.
func OpenFile(ctx context.Context, cfg FileConfig) (*FileEngine, error) {
	dir, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return nil, dirError(CodeIO, cfg.Dir, "cannot open it; create it, or mount the pool's disk there: "+err.Error())
	}
	e := &FileEngine{cfg: cfg, dir: dir, limits: cfg.Limits}
	if err := e.open(ctx); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

func (e *FileEngine) open(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.flock(); err != nil {
		return err
	}
	if err := e.openMarker(); err != nil {
		return err
	}
	if err := e.openExtents(); err != nil {
		return err
	}
	return e.recover()
}

func (e *FileEngine) openExtents() error {
	err := e.dir.Mkdir(extentsName, 0o750)
	if err != nil && !os.IsExist(err) {
		return ioError("pool directory "+e.cfg.Dir, "cannot make the directory for extents", err)
	}
	if err == nil && e.cfg.Owner != nil {
		if err := e.dir.Chown(extentsName, 0, e.cfg.Owner.GID); err != nil {
			return ioError("pool directory "+e.cfg.Dir, "cannot give the extents to their group", err)
		}
	}
	if e.extents, err = e.dir.OpenRoot(extentsName); err != nil {
		return ioError("pool directory "+e.cfg.Dir, "cannot open the directory for extents", err)
	}
	if err := e.makeTurns(); err != nil {
		return err
	}
	return syncDir(e.dir)
}

// PoolID is what the directory's marker says.
func (e *FileEngine) PoolID() string { return e.id }

// SetLimits changes how much may be promised from now on.
func (e *FileEngine) SetLimits(l Limits) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.limits = l
}

// Close releases the directory; extents in use stay usable.
func (e *FileEngine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.extents != nil {
		e.extents.Close()
	}
	if e.lock != nil {
		e.lock.Close()
	}
	return e.dir.Close()
}

// at is where tests stop the engine.
func (e *FileEngine) at(point string) error {
	if e.crash == nil {
		return nil
	}
	return e.crash(point)
}
