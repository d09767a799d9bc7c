package ioc

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Grow implements Engine.
func (e *FileEngine) Grow(ctx context.Context, name string, size uint64) error {
	if err := errors.Join(checkName(name), checkSize(name, size), ctx.Err()); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.verify(); err != nil {
		return err
	}
	x, err := e.inspect(name)
	if err != nil || size <= x.Size {
		return err
	}
	st, err := e.statusLocked()
	if err != nil {
		return err
	}
	if err := e.promisable(st, name, size-x.Size); err != nil {
		return err
	}
	return e.growLocked(x, size)
}

// growLocked makes the content longer, then the record: one that is longer than
// its record is sound.
func (e *FileEngine) growLocked(x Extent, size uint64) error {
	object := fmt.Sprintf("extent %q", x.Name)
	if err := e.lengthen(x.Name, size); err != nil {
		return ioError(object, "cannot make its file longer", err)
	}
	err := e.at("image grown")
	if err == nil {
		r := record{Format: recordFormat, Version: formatVersion, Name: x.Name, Size: size, Created: x.Created}
		err = replaceFile(e.extents, fileNames{tmp: tmpPrefix + recordOf(x.Name), final: recordOf(x.Name)}, encode(r))
	}
	if err != nil {
		return ioError(object, "cannot write its record", err)
	}
	return nil
}

// lengthen makes an extent's file at least size bytes long, and that stable.
func (e *FileEngine) lengthen(name string, size uint64) error {
	f, err := e.extents.OpenFile(imgOf(name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if uint64(info.Size()) < size { //nolint:gosec // not negative
		if err := f.Truncate(int64(size)); err != nil { //nolint:gosec // checkSize
			return err
		}
	}
	return f.Sync()
}
