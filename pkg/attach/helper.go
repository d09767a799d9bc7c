//go:build linux

package attach

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/attach/loop"
)

// rootFD is the file system's root in a helper that binds.
const rootFD = 3

// maxHelp bounds what a helper is told.
const maxHelp = 64 << 10

// help is what a helper is asked for: one of the three.
type help struct {
	Bind  *bind              `json:"bind,omitempty"`
	Clear *loop.ClearOptions `json:"clear,omitempty"`
	Grow  *loop.Device       `json:"grow,omitempty"`
}

// bind puts a loop device on a file.
type bind struct {
	Name      string `json:"name"` // of the file, below rootFD
	BlockSize uint32 `json:"blockSize"`
	ReadOnly  bool   `json:"readOnly"`
}

// helped is its answer.
type helped struct {
	Device loop.Device `json:"device"`
	Busy   bool        `json:"busy,omitempty"`  // ErrBusy
	Other  bool        `json:"other,omitempty"` // loop.ErrOther
	Error  string      `json:"error,omitempty"`
}

// helpError keeps the class of a helper's error.
type helpError struct {
	class error // nil: none
	text  string
}

func (e helpError) Error() string { return e.text }
func (e helpError) Unwrap() error { return e.class }

// RunHelper is the whole of a helper process: it reads from in what to do and
// writes the outcome to out. See Options.Helper.
func RunHelper(in io.Reader, out io.Writer) error {
	var q help
	if err := json.NewDecoder(io.LimitReader(in, maxHelp)).Decode(&q); err != nil {
		return fmt.Errorf("attach helper: read what to do: %w", err)
	}
	var a helped
	var err error
	switch {
	case q.Bind != nil:
		a.Device, err = q.Bind.do()
	case q.Clear != nil:
		err = loop.Clear(*q.Clear)
	case q.Grow != nil:
		err = loop.Grow(*q.Grow)
	default:
		err = errors.New("nothing to do")
	}
	if err != nil {
		a.Busy, a.Other, a.Error = errors.Is(err, ErrBusy), errors.Is(err, loop.ErrOther), err.Error()
	}
	return json.NewEncoder(out).Encode(a)
}

func (b bind) do() (loop.Device, error) {
	mode := unix.O_RDWR
	if b.ReadOnly {
		mode = unix.O_RDONLY
	}
	fd, err := unix.Openat(rootFD, b.Name, mode|unix.O_CLOEXEC, 0)
	if err != nil {
		return loop.Device{}, fmt.Errorf("open the served file: %w", err)
	}
	defer unix.Close(fd)
	return loop.Configure(loop.Config{File: fd, Name: b.Name, BlockSize: b.BlockSize, ReadOnly: b.ReadOnly})
}

// helper runs another process for what may wait for this one.
type helper []string

// bind makes the loop device. The helper dies with this process: a device made
// after a server's end would be nobody's.
func (h helper) bind(root int, b bind) (loop.Device, error) {
	dup, err := unix.FcntlInt(uintptr(root), unix.F_DUPFD_CLOEXEC, rootFD)
	if err != nil {
		return loop.Device{}, fmt.Errorf("duplicate a descriptor: %w", err)
	}
	f := os.NewFile(uintptr(dup), "root")
	defer f.Close()
	cmd := h.command()
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // whose death is what Pdeathsig means
	defer runtime.UnlockOSThread()
	a, err := ask(cmd, help{Bind: &b})
	return a.Device, err
}

// clear takes the loop device away; it goes on when this process dies.
func (h helper) clear(o loop.ClearOptions) error {
	_, err := ask(h.command(), help{Clear: &o})
	return err
}

// grow has the loop device ask for the file's size.
func (h helper) grow(d loop.Device) error {
	_, err := ask(h.command(), help{Grow: &d})
	return err
}

func (h helper) command() *exec.Cmd {
	cmd := exec.Command(h[0], h[1:]...)
	cmd.Stderr = os.Stderr
	return cmd
}

func ask(cmd *exec.Cmd, q help) (helped, error) {
	raw, err := json.Marshal(q)
	if err != nil {
		return helped{}, fmt.Errorf("encode: %w", err)
	}
	cmd.Stdin = bytes.NewReader(raw)
	out, err := cmd.Output()
	if err != nil {
		return helped{}, fmt.Errorf("attach helper %v: %w", cmd.Args, err)
	}
	var a helped
	if err := json.Unmarshal(out, &a); err != nil {
		return helped{}, fmt.Errorf("attach helper %v: its answer: %w", cmd.Args, err)
	}
	switch {
	case a.Busy:
		return a, helpError{ErrBusy, a.Error}
	case a.Other:
		return a, helpError{loop.ErrOther, a.Error}
	case a.Error != "":
		return a, helpError{nil, a.Error}
	}
	return a, nil
}
