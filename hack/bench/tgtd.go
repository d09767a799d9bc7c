package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/cask-storage/cask/pkg/iscsi/initiator"
	"github.com/cask-storage/cask/pkg/scsi"
)

// tgtd is one raw file behind another target, not replicated: what iSCSI itself
// takes here, in C.
type tgtd struct {
	served
	file string
	cmd  *exec.Cmd
}

const tgtdNode = "iqn.2026-01.storage.cask:tgtd"

// newTgtd starts tgtd on a file at path, past the page cache; errNotMeant where
// it is not installed.
func newTgtd(ctx context.Context, path string, o options) (*tgtd, error) {
	if _, err := exec.LookPath("tgtd"); err != nil {
		return nil, fmt.Errorf("tgtd is not installed: %w", errNotMeant)
	}
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(o.span), f.Close())
	}
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	l.Close() // tgtd takes it
	control := strconv.Itoa(os.Getpid() % 30000)
	t := &tgtd{file: path, cmd: exec.Command("tgtd", "-f", "-C", control, "--iscsi", "portal="+addr)}
	t.served = served{system: "tgtd", frontend: overISCSI, o: o}
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	t.servers = []int{t.cmd.Process.Pid}
	if err := configure(ctx, control, path); err != nil {
		return nil, errors.Join(err, t.close())
	}
	t.dev, err = initiator.Attach(ctx, initiator.Config{Addr: addr, Target: tgtdNode, Initiator: us, LUN: scsi.LUN(1)})
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// configure makes a target with one unit on the file at path.
func configure(ctx context.Context, control, path string) error {
	adm := func(args ...string) error {
		out, err := exec.CommandContext(ctx, "tgtadm", append([]string{"-C", control, "--lld", "iscsi"}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("tgtadm %v: %w: %s", args, err, out)
		}
		return nil
	}
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	var err error
	for range 100 { // until it answers
		if err = adm("--op", "new", "--mode", "target", "--tid", "1", "-T", tgtdNode); err == nil {
			break
		}
		<-again.C
	}
	if err == nil {
		err = adm("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--bstype", "aio", "-b", path)
	}
	if err == nil {
		err = adm("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
	}
	return err
}

// run leaves out flushes: this way to its file does not do them.
func (t *tgtd) run(ctx context.Context, w work) (Row, error) {
	if w.op == "flush" {
		return Row{}, errNotMeant
	}
	return t.served.run(ctx, w)
}

func (t *tgtd) close() error {
	if t.dev != nil {
		_ = t.dev.Close()
	}
	_ = t.cmd.Process.Kill()
	_ = t.cmd.Wait()
	return os.Remove(t.file)
}
