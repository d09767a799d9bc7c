package ioc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Delete implements Engine.
func (e *FileEngine) Delete(ctx context.Context, name string) error {
	if err := errors.Join(checkName(name), ctx.Err()); err != nil {
		return err
	}
	trash, err := e.bury(name)
	if err != nil || trash == "" {
		return err
	}
	if err := e.extents.Remove(trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ioError(fmt.Sprintf("extent %q", name), "cannot remove its content", err)
	}
	return nil
}

// bury takes the extent out of sight and returns where its content went.
func (e *FileEngine) bury(name string) (trash string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.verify(); err != nil {
		return "", err
	}
	if _, err := e.inspect(name); CodeOf(err) == CodeNotFound {
		return "", err
	}
	object := fmt.Sprintf("extent %q", name)
	deleted := trashPrefix + recordOf(name)
	if err := e.renameIfThere(recordOf(name), deleted); err != nil {
		return "", ioError(object, "cannot mark it deleted", err)
	}
	if err := e.at("deletion decided"); err != nil {
		return "", err
	}
	e.serial++
	trash = fmt.Sprintf("%s%d-%s", trashPrefix, e.serial, imgOf(name))
	if err := e.renameIfThere(imgOf(name), trash); err != nil {
		return "", ioError(object, "cannot move its content away", err)
	}
	if err := e.at("content moved"); err != nil {
		return "", err
	}
	if err := e.extents.Remove(deleted); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", ioError(object, "cannot remove its record", err)
	}
	if err := syncDir(e.extents); err != nil {
		return "", ioError(object, "cannot make its deletion durable", err)
	}
	return trash, e.at("record removed")
}

// renameIfThere renames and syncs; what is not there is no error.
func (e *FileEngine) renameIfThere(from, to string) error {
	err := e.extents.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(e.extents)
}

// recover finishes deletions and undoes creations that a crash cut short.
func (e *FileEngine) recover() error {
	names, err := e.entries()
	if err != nil {
		return err
	}
	for _, entry := range names {
		if err := e.recoverEntry(entry); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return ioError("pool directory "+e.cfg.Dir, "cannot clean up "+entry, err)
		}
	}
	return syncDir(e.extents)
}

func (e *FileEngine) recoverEntry(entry string) error {
	switch {
	case strings.HasPrefix(entry, tmpPrefix):
		return e.extents.Remove(entry)
	case strings.HasPrefix(entry, trashPrefix) && strings.HasSuffix(entry, recordSuffix):
		return e.finishDelete(entry)
	case strings.HasPrefix(entry, trashPrefix):
		return e.extents.Remove(entry)
	}
	if name, ok := extentOf(entry); ok && entry == imgOf(name) {
		return e.dropUnwritten(name)
	}
	return nil
}

func (e *FileEngine) finishDelete(entry string) error {
	name := strings.TrimSuffix(strings.TrimPrefix(entry, trashPrefix), recordSuffix)
	_, err := e.extents.Lstat(recordOf(name))
	if errors.Is(err, fs.ErrNotExist) && checkName(name) == nil {
		if err := e.extents.Remove(imgOf(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return e.extents.Remove(entry)
}

// dropUnwritten removes content that never got a record and was never written.
func (e *FileEngine) dropUnwritten(name string) error {
	if _, err := e.extents.Lstat(recordOf(name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	info, err := e.extents.Lstat(imgOf(name))
	if err != nil || !info.Mode().IsRegular() || allocated(info) != 0 {
		return err
	}
	return e.extents.Remove(imgOf(name))
}
