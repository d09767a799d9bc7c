package local

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/cask-storage/cask/pkg/attach"
	"github.com/cask-storage/cask/pkg/nvme"
	nvmehost "github.com/cask-storage/cask/pkg/nvme/host"
	"github.com/cask-storage/cask/pkg/volume"
)

// Attach gives the volume in o.Dir a block device, from a process that o.Exe
// and o.Args start, and returns the device's path.
func Attach(ctx context.Context, o Options) (string, error) {
	st, err := ReadState(o.Dir)
	if err != nil {
		return "", err
	}
	if st.NVMe.Addr == "" {
		return "", fmt.Errorf("volume in %s speaks iSCSI, which attach does not: use an iSCSI initiator at %s, or a volume with --frontend nvme", o.Dir, st.ISCSI.Portal)
	}
	if a, err := readAttach(o.Dir); err == nil && runs(a.PID, o.Dir) {
		return a.Device, nil
	}
	if err := start(o.Dir, "attach", append([]string{o.Exe}, o.Args...)); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		st, err := readAttach(o.Dir)
		if err == nil && runs(st.PID, o.Dir) && st.Device != "" {
			return st.Device, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("volume in %s was not attached: %w; see %s", o.Dir, ctx.Err(), filepath.Join(o.Dir, "logs", "attach.log"))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// attached is DIR/attach.json, while the volume is attached.
type attached struct {
	PID    int    `json:"pid"`
	Device string `json:"device"`
}

func readAttach(dir string) (attached, error) {
	var a attached
	err := readJSON(filepath.Join(dir, "attach.json"), &a)
	return a, err
}

// ServeAttach serves the block device until ctx ends and it is not mounted.
// helper is attach.Options.Helper.
func ServeAttach(ctx context.Context, dir string, helper []string) error {
	if err := attach.PrepareProcess(); err != nil {
		log.Printf("under memory pressure this process may be slow: %v", err)
	}
	st, err := ReadState(dir)
	if err != nil {
		return err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	dev, err := nvmehost.Attach(ctx, nvmehost.Config{Addr: st.NVMe.Addr, SubsystemNQN: st.NVMe.NQN, NSID: nvme.NSID(st.NVMe.NSID),
		HostNQN: volume.HostNQN(hostname, "local"), HostID: nvme.UUID(uuid.NewSHA1(uuid.NameSpaceURL, []byte(dir))), Logf: log.Printf})
	if err != nil {
		return err
	}
	defer dev.Close()
	a, err := attach.Serve(ctx, attach.Options{Device: dev, Name: st.Name, Helper: helper, Log: slog.Default()})
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "attach.json")
	defer os.Remove(file)
	if err := writeJSON(file, attached{os.Getpid(), a.DevicePath()}); err != nil {
		return err
	}
	select {
	case <-a.Done():
		return nil
	case <-ctx.Done():
		return a.Close()
	}
}

// Detach takes the block device away.
func Detach(ctx context.Context, dir string) error {
	a, err := readAttach(dir)
	if err != nil || !runs(a.PID, dir) {
		return nil //nolint:nilerr // nothing is attached
	}
	return stop(ctx, dir, a.PID)
}
