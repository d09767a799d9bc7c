package ioc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

func imgOf(name string) string    { return name + imgSuffix }
func recordOf(name string) string { return name + recordSuffix }

// Create implements Engine.
func (e *FileEngine) Create(ctx context.Context, name string, size uint64) (string, error) {
	if err := errors.Join(checkName(name), checkSize(name, size), ctx.Err()); err != nil {
		return "", err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.verify(); err != nil {
		return "", err
	}
	if err := e.mayCreateLocked(name, size); err != nil {
		return "", err
	}
	if err := e.createLocked(name, size); err != nil {
		return "", err
	}
	return path.Join(extentsName, imgOf(name)), nil
}

// mayCreateLocked applies the limits and the one-name-one-extent rule.
func (e *FileEngine) mayCreateLocked(name string, size uint64) error {
	_, err := e.inspect(name)
	if err == nil {
		return extentError(CodeExists, name, "open it, or delete it first")
	}
	if code := CodeOf(err); code != CodeNotFound && code != CodeMissing {
		return &Error{Code: CodeExists, Object: fmt.Sprintf("extent %q", name), Detail: "it is there but unsound; delete it first", Cause: err}
	}
	st, err := e.statusLocked()
	if err != nil {
		return err
	}
	if st.Extents >= MaxExtents {
		return extentError(CodeNoSpace, name, fmt.Sprintf("pool %q on node %q holds its maximum of %d extents", st.Pool, st.Node, MaxExtents))
	}
	return e.promisable(st, name, size)
}

// promisable checks that size more bytes can be promised to an extent.
func (e *FileEngine) promisable(st Status, name string, size uint64) error {
	if size > st.Available {
		return extentError(CodeNoSpace, name, fmt.Sprintf(
			"%d bytes wanted, %d can still be promised by pool %q on node %q (%d%% reserved, %d%% overcommit); add a disk or node, or raise overcommitPercent",
			size, st.Available, st.Pool, st.Node, e.limits.ReservePercent, e.limits.OvercommitPercent))
	}
	return nil
}

// createLocked makes the content, then the record that makes it count.
func (e *FileEngine) createLocked(name string, size uint64) error {
	object := fmt.Sprintf("extent %q", name)
	if err := e.extents.Remove(trashPrefix + recordOf(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ioError(object, "cannot forget an earlier deletion", err)
	}
	if err := e.makeImage(name, size); err != nil {
		return ioError(object, "cannot make its file", err)
	}
	r := record{
		Format: recordFormat, Version: formatVersion, Name: name, Size: size,
		Created: time.Now().UTC().Truncate(time.Second),
	}
	err := e.at("image made")
	if err == nil {
		err = replaceFile(e.extents, fileNames{tmp: tmpPrefix + recordOf(name), final: recordOf(name)}, encode(r))
	}
	if err != nil {
		if e.crash == nil {
			e.extents.Remove(imgOf(name))
		}
		return ioError(object, "cannot write its record", err)
	}
	return nil
}

func (e *FileEngine) makeImage(name string, size uint64) error {
	tmp := tmpPrefix + imgOf(name)
	if err := e.fillImage(tmp, size); err != nil {
		if e.crash == nil {
			e.extents.Remove(tmp)
		}
		return err
	}
	if err := e.extents.Rename(tmp, imgOf(name)); err != nil {
		return err
	}
	return syncDir(e.extents)
}

func (e *FileEngine) fillImage(tmp string, size uint64) error {
	f, err := e.extents.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := e.at("temporary file made"); err != nil {
		return err
	}
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	if o := e.cfg.Owner; o != nil {
		if err := f.Chown(o.UID, o.GID); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return e.at("temporary file synced")
}

// Open implements Engine.
func (e *FileEngine) Open(ctx context.Context, name string) (Extent, error) {
	if err := errors.Join(checkName(name), ctx.Err()); err != nil {
		return Extent{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.verify(); err != nil {
		return Extent{}, err
	}
	x, err := e.inspect(name)
	if err != nil {
		return Extent{}, err
	}
	return x, nil
}

// List implements Engine.
func (e *FileEngine) List(ctx context.Context) ([]Extent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.verify(); err != nil {
		return nil, err
	}
	return e.scan()
}

// Status implements Engine.
func (e *FileEngine) Status(ctx context.Context) (Status, error) {
	if err := ctx.Err(); err != nil {
		return Status{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.verify(); err != nil {
		return Status{}, err
	}
	return e.statusLocked()
}

func (e *FileEngine) statusLocked() (Status, error) {
	all, err := e.scan()
	if err != nil {
		return Status{}, err
	}
	var sf syscall.Statfs_t
	if err := syscall.Fstatfs(int(e.lock.Fd()), &sf); err != nil {
		return Status{}, ioError("pool directory "+e.cfg.Dir, "cannot ask for its size", err)
	}
	unit := uint64(sf.Frsize)
	st := Status{
		Pool: e.cfg.Pool, Node: e.cfg.Node, PoolID: e.id, Engine: "file",
		Capacity: sf.Blocks * unit, Free: sf.Bavail * unit, Extents: len(all),
	}
	for _, x := range all {
		st.Promised += x.Size
		st.Allocated += x.Allocated
		if x.Fault != CodeOK {
			st.Faulty++
		}
	}
	st.Available = e.limits.Available(Usage{
		Capacity: st.Capacity, Free: st.Free, Promised: st.Promised, Allocated: st.Allocated,
	})
	return st, nil
}

// scan inspects every extent, ascending by name.
func (e *FileEngine) scan() ([]Extent, error) {
	names, err := e.entries()
	if err != nil {
		return nil, err
	}
	var all []Extent
	last := ""
	for _, entry := range names {
		name, ok := extentOf(entry)
		if !ok || name == last {
			continue
		}
		last = name
		x, err := e.inspect(name)
		x.Fault = CodeOf(err)
		all = append(all, x)
	}
	return all, nil
}

// entries lists the directory so that the two files of an extent are neighbours.
func (e *FileEngine) entries() ([]string, error) {
	d, err := e.extents.Open(".")
	if err != nil {
		return nil, ioError("pool directory "+e.cfg.Dir, "cannot open its extents", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, ioError("pool directory "+e.cfg.Dir, "cannot list its extents", err)
	}
	slices.SortFunc(names, func(a, b string) int {
		x, _ := extentOf(a)
		y, _ := extentOf(b)
		return strings.Compare(x, y)
	})
	return names, nil
}

// extentOf returns the extent a directory entry belongs to.
func extentOf(entry string) (string, bool) {
	name, ok := strings.CutSuffix(entry, imgSuffix)
	if !ok {
		name, ok = strings.CutSuffix(entry, recordSuffix)
	}
	return name, ok && checkName(name) == nil
}
