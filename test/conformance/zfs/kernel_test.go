//go:build conformance && cgo && linux

package zfs

import (
	"bufio"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
	"github.com/cask-storage/cask/test/conformance/vmtest"
)

//go:embed job.sh
var job string

const (
	pool   = "caskjudged"
	size   = 64 << 20
	extent = 320 << 20
)

// writer, when it is in the environment, is the extent that this process is to
// write, and end the way the rest says.
const writer = "CASK_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writer); path != "" {
		if err := write(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	m.Run()
}

// content is a volume of that seed: what was written, with holes, over what was
// there before.
func content(seed int64, b []byte, each func(off int, data []byte)) {
	rng := rand.New(rand.NewSource(seed))
	for range 600 {
		data := make([]byte, 4096<<rng.Intn(5))
		off := rng.Intn((size-len(data))/4096) * 4096
		switch rng.Intn(4) {
		case 0: // zeroes are unmapped
		case 1: // what compresses
			for i := range data {
				data[i] = byte(i >> 9)
			}
		default:
			_, _ = rng.Read(data)
		}
		copy(b[off:], data)
		if each != nil {
			each(off, data)
		}
	}
}

// write makes a volume at path: content, a snapshot, more content that is flushed.
// It closes the volume when its input ends, unless it is killed before that.
func write(path string) error {
	s, err := dmu.Create(dmu.Options{Path: path, Size: size, Pool: pool})
	if err != nil {
		return err
	}
	seq, b := history.Seq(0), make([]byte, size)
	apply := func(op store.Op) {
		seq++
		op.Seq = seq
		if err == nil {
			err = s.Apply([]store.Op{op})
		}
	}
	put := func(off int, data []byte) {
		op := store.Op{Kind: store.Write, Extent: block.Extent{Off: uint64(off), Len: uint64(len(data))}, Data: data}
		if slices.Max(data) == 0 {
			op.Kind, op.Data = store.Unmap, nil
		}
		apply(op)
	}
	content(1, b, put)
	apply(store.Op{Kind: store.Snapshot, Name: "first"})
	content(2, b, put)
	if err == nil {
		err = s.Flush()
	}
	if err != nil {
		return err
	}
	fmt.Println("flushed")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	return s.Close()
}

// TestKernel: stock ZFS imports an extent that was closed, and one whose process
// was killed, and finds in both what was written and flushed.
func TestKernel(t *testing.T) {
	dir := t.TempDir()
	clean, crashed := filepath.Join(dir, "clean"), filepath.Join(dir, "crashed")
	run(t, clean, func(cmd *exec.Cmd, stdin *os.File) error {
		_ = stdin.Close()
		return cmd.Wait()
	})
	run(t, crashed, func(cmd *exec.Cmd, _ *os.File) error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		return nil
	})
	b := make([]byte, size)
	content(1, b, nil)
	first := sha256.Sum256(b)
	content(2, b, nil)
	last := sha256.Sum256(b)
	vars := fmt.Sprintf("POOL=%s FIRST=%x CLEAN=%x CRASHED=%x\n", pool, first, last, last)
	g := vmtest.Guest{T: t, Job: vars + job, ZFS: true, Disks: []string{clean, crashed}, Least: 20, Ask: func(string) {}}
	g.Run()
}

// run has a process write an extent, and ends it.
func run(t *testing.T, path string, end func(cmd *exec.Cmd, stdin *os.File) error) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(extent); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writer+"="+path)
	cmd.Stdin, cmd.Stderr = r, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		_ = cmd.Wait()
		t.Fatalf("the writer of %s says %q: %v", path, line, err)
	}
	if err := end(cmd, w); err != nil {
		t.Fatalf("the writer of %s: %v", path, err)
	}
}
