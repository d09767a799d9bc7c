package ioc

import (
	"io"
	"os"
)

// fileNames are where a file is written and where it then belongs.
type fileNames struct{ tmp, final string }

// replaceFile puts content in place so that a crash leaves the old file or the
// new one.
func replaceFile(dir *os.Root, n fileNames, content []byte) error {
	f, err := dir.OpenFile(n.tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = dir.Rename(n.tmp, n.final)
	}
	if err != nil {
		dir.Remove(n.tmp)
		return err
	}
	return syncDir(dir)
}

func syncDir(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// readBounded reads a small file; what is beyond the bound makes it invalid.
func readBounded(dir *os.Root, name string) ([]byte, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRecord+1))
}
