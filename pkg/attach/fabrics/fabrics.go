//go:build linux

// Package fabrics drives the kernel's own NVMe/TCP host: connects by writing a
// line to /dev/nvme-fabrics, finds what came of it in sysfs by subsystem and
// host NQN, disconnects through sysfs.
//
// A controller is made with ctrl_loss_tmo=-1: the kernel tries to reconnect for
// ever and holds requests meanwhile. Nothing is remembered here: connections
// are the kernel's, and outlive any process.
//
// Methods may be called from any goroutine; the agent sees to it that there is
// one call at a time for a volume.
package fabrics

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/attach/agent"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// Host is the kernel's host. Roots other than / are for tests.
type Host struct {
	Dev string // /dev
	Sys string // /sys
	// Resolve asks the target for the name by which a volume is to be
	// connected now: another one than Spec.NQN after a loss.
	Resolve func(ctx context.Context, s agent.Spec) (nqn string, err error)
}

var _ agent.Kernel = Host{}

const (
	maxQueues      = 4 // I/O queues: a volume's target has no use for more
	keepAlive      = 5 // seconds
	reconnectDelay = 1 // seconds
	poll           = 100 * time.Millisecond
	maxAnswer      = 4096
)

// Usable is nil when the kernel has NVMe over Fabrics; that it has the TCP
// transport, which it loads itself, shows at Connect only.
func (h Host) Usable() error {
	path := filepath.Join(h.Dev, "nvme-fabrics")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s does not exist (module nvme-tcp is not loaded)", path)
	}
	if err != nil {
		return fmt.Errorf("the kernel's NVMe/TCP host cannot be used: %w", err)
	}
	return f.Close()
}

// Connect connects, or finds the connection there is, and waits for the block
// device.
func (h Host) Connect(ctx context.Context, r agent.Request) (device string, err error) {
	s := r.Spec
	if dev, _, found := h.Lookup(s); found && dev != "" {
		return dev, nil
	}
	// The kernel's connect cannot be interrupted; this one can.
	nqn, err := h.Resolve(ctx, s)
	if err != nil {
		return "", fmt.Errorf("volume %s: %w: %w", s.Volume, agent.ErrUnreachable, err)
	}
	options, err := options(ctx, r, nqn)
	if err != nil {
		return "", err
	}
	if err := h.write(options); err != nil && !errors.Is(err, unix.EALREADY) {
		return "", fmt.Errorf("volume %s: %w", s.Volume, err)
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		if dev, _, found := h.Lookup(s); found && dev != "" {
			return dev, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("volume %s: namespace %d of %s did not appear: %w", s.Volume, s.NSID, s.NQN, agent.ErrUnreachable)
		}
	}
}

// write gives the kernel a line of options.
func (h Host) write(options string) error {
	f, err := os.OpenFile(filepath.Join(h.Dev, "nvme-fabrics"), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", agent.ErrNoKernel, err)
	}
	defer f.Close()
	if _, err := f.WriteString(options); err != nil {
		return classify(err)
	}
	answer := make([]byte, maxAnswer)
	if _, err := f.Read(answer); err != nil {
		return fmt.Errorf("read the kernel's answer: %w", err)
	}
	return nil
}

// classify tells a kernel that has no such transport, or knows an option not,
// from a target that cannot be reached.
func classify(err error) error {
	for _, no := range []unix.Errno{unix.EINVAL, unix.ENOENT, unix.ENODEV, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT} {
		if errors.Is(err, no) {
			return fmt.Errorf("%w: /dev/nvme-fabrics does not take an NVMe/TCP connection: %w", agent.ErrNoKernel, err)
		}
	}
	if errors.Is(err, unix.EALREADY) {
		return err
	}
	return fmt.Errorf("%w: the kernel could not connect: %w", agent.ErrUnreachable, err)
}

// options is the line that describes a connection to subsystem nqn. A kernel
// without DH-HMAC-CHAP does not know the options of its secrets, which is EINVAL.
func options(ctx context.Context, r agent.Request, nqn string) (string, error) {
	s := r.Spec
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		return "", fmt.Errorf("%w: address %q: %w", agent.ErrInvalid, s.Address, err)
	}
	if net.ParseIP(host) == nil {
		addrs, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			return "", fmt.Errorf("%w: %w", agent.ErrUnreachable, err)
		}
		host = addrs[0]
	}
	for _, v := range []string{nqn, s.HostNQN, host, port} {
		if v == "" || strings.ContainsAny(v, ", \t\r\n\"'\\") {
			return "", fmt.Errorf("%w: %q cannot be told to the kernel", agent.ErrInvalid, v)
		}
	}
	line := fmt.Sprintf("transport=tcp,traddr=%s,trsvcid=%s,nqn=%s,hostnqn=%s,hostid=%s,nr_io_queues=%d,keep_alive_tmo=%d,reconnect_delay=%d,ctrl_loss_tmo=-1",
		host, port, nqn, s.HostNQN, HostID(s.HostNQN), min(runtime.NumCPU(), maxQueues), keepAlive, reconnectDelay)
	if r.Secrets != (dhchap.Secrets{}) { // of a form without commas: Request.Validate
		line += ",dhchap_secret=" + r.Secrets.Host + ",dhchap_ctrl_secret=" + r.Secrets.Controller
	}
	return line, nil
}

// HostID is the one host identifier of a host NQN, as a UUID: the kernel
// refuses one identifier for two NQNs.
func HostID(hostNQN string) string {
	b := HostIDBytes(hostNQN)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// HostIDBytes is HostID's value.
func HostIDBytes(hostNQN string) [16]byte {
	sum := sha256.Sum256([]byte(hostNQN))
	b := [16]byte(sum[:16])
	b[6] = b[6]&0x0f | 0x80 // version 8: made by ourselves
	b[8] = b[8]&0x3f | 0x80
	return b
}

// controller is one of sysfs.
type controller struct{ name, dir, nqn, state string }

// find looks for the controller of s.
func (h Host) find(s agent.Spec) (controller, bool) {
	dirs, err := filepath.Glob(filepath.Join(h.Sys, "class", "nvme", "nvme*"))
	if err != nil {
		return controller{}, false
	}
	for _, dir := range dirs {
		nqn := attribute(dir, "subsysnqn")
		if (nqn == s.NQN || strings.HasPrefix(nqn, s.NQN+":")) && attribute(dir, "hostnqn") == s.HostNQN {
			return controller{name: filepath.Base(dir), dir: dir, nqn: nqn, state: attribute(dir, "state")}, true
		}
	}
	return controller{}, false
}

func attribute(dir, name string) string {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// Lookup finds the connection of s; device is empty while the namespace has not
// appeared.
func (h Host) Lookup(s agent.Spec) (device string, link agent.Link, found bool) {
	c, found := h.find(s)
	if !found {
		return "", agent.Link{}, false
	}
	link.Connected = c.state == "live"
	if !link.Connected {
		link.Message = fmt.Sprintf("controller %s is %s", c.name, c.state)
	}
	if name, ok := c.namespace(s.NSID); ok {
		device = filepath.Join(h.Dev, name)
	}
	return device, link, true
}

// Lost reports whether the connection of s is gone, or is to a name by which
// its target does not serve the volume any more.
func (h Host) Lost(ctx context.Context, s agent.Spec) bool {
	c, found := h.find(s)
	if !found || c.state == "live" {
		return !found
	}
	now, err := h.Resolve(ctx, s)
	return err == nil && now != c.nqn
}

// namespace is the block device of a namespace: the controller's own without
// multipath (nvme3n1), the subsystem's with it (nvme0c3n1 is a path of nvme0n1).
func (c controller) namespace(nsid uint32) (string, bool) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return "", false
	}
	for _, e := range entries {
		name, ok := headOf(e.Name())
		if ok && attribute(filepath.Join(c.dir, e.Name()), "nsid") == strconv.FormatUint(uint64(nsid), 10) {
			return name, true
		}
	}
	return "", false
}

// headOf makes the block device's name of a namespace's entry in its
// controller.
func headOf(entry string) (string, bool) {
	rest, ok := strings.CutPrefix(entry, "nvme")
	if !ok {
		return "", false
	}
	left, n, ok := strings.Cut(rest, "n")
	if !ok || !digits(n) {
		return "", false
	}
	instance, path, multipath := strings.Cut(left, "c")
	if !digits(instance) || (multipath && !digits(path)) {
		return "", false
	}
	return "nvme" + instance + "n" + n, true
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// Disconnect deletes the controller of s and waits until it is gone.
func (h Host) Disconnect(ctx context.Context, s agent.Spec, q agent.DetachRequest) error {
	c, found := h.find(s)
	if !found {
		return nil
	}
	if name, ok := c.namespace(s.NSID); ok && !q.Force {
		if err := unused(filepath.Join(h.Dev, name)); err != nil {
			return fmt.Errorf("volume %s: %w", s.Volume, err)
		}
	}
	err := os.WriteFile(filepath.Join(c.dir, "delete_controller"), []byte("1"), 0o200)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("volume %s: delete controller %s: %w", s.Volume, c.name, err)
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		if _, found := h.find(s); !found {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("volume %s: controller %s still ends: %w", s.Volume, c.name, agent.ErrBusy)
		}
	}
}

// unused says that nobody has mounted the device.
func unused(device string) error {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%s is mounted; unmount it first: %w", device, agent.ErrBusy)
	}
	if err == nil {
		unix.Close(fd)
	}
	return nil
}
