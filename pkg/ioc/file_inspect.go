package ioc

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"syscall"
)

// inspect judges one extent; on error the Extent says what is known of it.
func (e *FileEngine) inspect(name string) (Extent, error) {
	x := Extent{Name: name, Path: path.Join(extentsName, imgOf(name))}
	rec, recErr := e.readRecord(name)
	x.Size, x.Created = rec.Size, rec.Created
	info, imgErr := e.extents.Lstat(imgOf(name))
	if imgErr == nil {
		x.Allocated = allocated(info)
	}
	noRecord, noImage := errors.Is(recErr, fs.ErrNotExist), errors.Is(imgErr, fs.ErrNotExist)
	switch {
	case noRecord && noImage:
		return x, extentError(CodeNotFound, name, fmt.Sprintf("there is none of this name in pool %q on node %q", e.cfg.Pool, e.cfg.Node))
	case noRecord:
		return x, extentError(CodeDamaged, name, "there is content but no record of it; restore "+recordOf(name)+" or delete the extent")
	case recErr != nil:
		return x, recErr
	case noImage:
		return x, extentError(CodeMissing, name, "its record is there but "+imgOf(name)+" is gone; the replica has to be rebuilt from the others")
	case imgErr != nil:
		return x, ioError(fmt.Sprintf("extent %q", name), "cannot look at its file", imgErr)
	case !info.Mode().IsRegular():
		return x, extentError(CodeDamaged, name, imgOf(name)+" is not a regular file")
	case uint64(info.Size()) < rec.Size:
		err := extentError(CodeTruncated, name, fmt.Sprintf("%d of %d bytes are there; the replica has to be rebuilt from the others", info.Size(), rec.Size))
		err.Recorded, err.Actual = rec.Size, uint64(info.Size())
		return x, err
	}
	return x, nil
}

func (e *FileEngine) readRecord(name string) (record, error) {
	b, err := readBounded(e.extents, recordOf(name))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, err
	}
	if err != nil {
		return record{}, ioError(fmt.Sprintf("extent %q", name), "cannot read its record", err)
	}
	r, err := decodeRecord(b, name)
	if err == nil {
		return r, nil
	}
	out := extentError(CodeDamaged, name, "cannot make sense of "+recordOf(name))
	out.Cause = err
	if errors.Is(err, errNewer) {
		out.Code = CodeTooNew
	}
	return record{}, out
}

// allocated returns the bytes the file system spent on a file.
func allocated(info fs.FileInfo) uint64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return uint64(info.Size())
	}
	return uint64(st.Blocks) * 512
}
