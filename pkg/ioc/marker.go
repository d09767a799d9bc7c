package ioc

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// flock keeps a second process away from the directory.
func (e *FileEngine) flock() error {
	f, err := e.dir.Open(".")
	if err != nil {
		return ioError("pool directory "+e.cfg.Dir, "cannot open it", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return dirError(CodeBusy, e.cfg.Dir,
				"another IO container has it; wait for it to end, or give each node and pool a directory of its own")
		}
		return ioError("pool directory "+e.cfg.Dir, "cannot lock it", err)
	}
	e.lock = f
	return nil
}

// openMarker reads the marker, or on first use writes it, and judges it.
func (e *FileEngine) openMarker() error {
	m, err := readMarker(e.dir, e.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := e.firstUse(); err != nil {
			return err
		}
		m, err = readMarker(e.dir, e.cfg.Dir)
	}
	if err != nil {
		return err
	}
	if err := e.judge(m); err != nil {
		return err
	}
	e.id = m.PoolID
	return nil
}

// judge returns nil for the marker this pool and node must find.
func (e *FileEngine) judge(m marker) error {
	switch {
	case e.cfg.ExpectID != "" && m.PoolID != e.cfg.ExpectID:
		return dirError(CodeForeign, e.cfg.Dir, fmt.Sprintf(
			"it holds pool ID %s, but %s is recorded for node %s; mount the right disk there", m.PoolID, e.cfg.ExpectID, e.cfg.Node))
	case m.Pool != e.cfg.Pool:
		return dirError(CodeForeign, e.cfg.Dir, fmt.Sprintf(
			"it belongs to StoragePool %q, not %q; give each pool a directory of its own", m.Pool, e.cfg.Pool))
	case m.Node != e.cfg.Node:
		return dirError(CodeForeign, e.cfg.Dir, fmt.Sprintf(
			"it was made on node %q, this is %q; if the node was renamed, correct \"node\" in %s, else mount this node's own disk",
			m.Node, e.cfg.Node, filepath.Join(e.cfg.Dir, markerName)))
	}
	return nil
}

func (e *FileEngine) firstUse() error {
	if e.cfg.ExpectID != "" || !e.cfg.FirstUse {
		recorded := ""
		if e.cfg.ExpectID != "" {
			recorded = " (" + e.cfg.ExpectID + ")"
		}
		return dirError(CodeForeign, e.cfg.Dir,
			"the marker "+markerName+" of a pool used before"+recorded+" is not there; most likely the disk is not mounted: mount it")
	}
	if err := e.mustBeEmpty(); err != nil {
		return err
	}
	if err := e.openToOwner(); err != nil {
		return ioError("pool directory "+e.cfg.Dir, "cannot let the replicas' group in", err)
	}
	m := marker{
		Format: markerFormat, Version: formatVersion, PoolID: newUUID(),
		Pool: e.cfg.Pool, Node: e.cfg.Node, Created: time.Now().UTC().Truncate(time.Second),
	}
	if err := replaceFile(e.dir, fileNames{tmp: markerTmp, final: markerName}, encode(m)); err != nil {
		return ioError("pool directory "+e.cfg.Dir, "cannot write "+markerName, err)
	}
	return nil
}

// mustBeEmpty allows what a new file system or this process puts there.
func (e *FileEngine) mustBeEmpty() error {
	d, err := e.dir.Open(".")
	if err != nil {
		return ioError("pool directory "+e.cfg.Dir, "cannot list it", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(64)
	if len(names) == 0 || err != nil {
		return nil
	}
	ours := []string{"lost+found", SocketName, SocketName + socketTmp, markerTmp}
	names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(ours, n) })
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return dirError(CodeForeign, e.cfg.Dir, fmt.Sprintf(
		"it is to be used for the first time but is not empty (%.200s); empty it or name another directory",
		strings.Join(names[:min(len(names), 3)], ", ")))
}

// openToOwner lets the replicas' group pass through the directory.
func (e *FileEngine) openToOwner() error {
	if e.cfg.Owner == nil {
		return nil
	}
	info, err := e.dir.Stat(".")
	if err != nil {
		return err
	}
	if err := e.dir.Chown(".", -1, e.cfg.Owner.GID); err != nil {
		return err
	}
	return e.dir.Chmod(".", info.Mode().Perm()|0o050)
}

// verify checks, before anything is promised, that the path still leads to the
// directory that was opened and that it is still marked.
func (e *FileEngine) verify() error {
	held, err := e.dir.Stat(".")
	if err != nil {
		return ioError("pool directory "+e.cfg.Dir, "cannot read it", err)
	}
	now, err := os.Stat(e.cfg.Dir)
	if err != nil || !os.SameFile(held, now) {
		return dirError(CodeForeign, e.cfg.Dir, "it was replaced, mounted over or unmounted since it was opened; mount the pool's disk")
	}
	m, err := readMarker(e.dir, e.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return dirError(CodeForeign, e.cfg.Dir, "its marker "+markerName+" was removed; restore it with pool ID "+e.id)
	}
	if err != nil {
		return err
	}
	if m.PoolID != e.id {
		return dirError(CodeForeign, e.cfg.Dir, fmt.Sprintf("its pool ID changed from %s to %s; restore %s", e.id, m.PoolID, markerName))
	}
	return nil
}

func readMarker(dir *os.Root, path string) (marker, error) {
	b, err := readBounded(dir, markerName)
	if errors.Is(err, fs.ErrNotExist) {
		return marker{}, err
	}
	if err != nil {
		return marker{}, ioError("pool directory "+path, "cannot read "+markerName, err)
	}
	m, err := decodeMarker(b)
	if err == nil {
		return m, nil
	}
	code := CodeForeign
	if errors.Is(err, errNewer) {
		code = CodeTooNew
	}
	return marker{}, &Error{Code: code, Object: "pool directory " + path, Detail: markerName, Cause: err}
}

// newUUID returns a random (version 4) UUID.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
