//go:build linux

package fabrics

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/attach/agent"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

func spec() agent.Spec {
	return agent.Spec{
		Volume: "pvc-1", Address: "10.96.0.7:4420", NSID: 1,
		NQN: "nqn.2026-01.storage.cask:volume:pvc-1", HostNQN: "nqn.2026-01.storage.cask:host:node1:ABC",
	}
}

func TestOptions(t *testing.T) {
	got, err := options(t.Context(), agent.Request{Spec: spec()}, spec().NQN+":lost-7")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"transport=tcp", "traddr=10.96.0.7", "trsvcid=4420", "nqn=nqn.2026-01.storage.cask:volume:pvc-1:lost-7",
		"hostnqn=nqn.2026-01.storage.cask:host:node1:ABC", "hostid=" + HostID(spec().HostNQN), "ctrl_loss_tmo=-1",
	} {
		if !strings.Contains(","+got+",", ","+want+",") {
			t.Errorf("%q is not in %q", want, got)
		}
	}
}

// TestSecretOptions: as nvme-cli gives them to the kernel, when there are any.
func TestSecretOptions(t *testing.T) {
	keys := dhchap.Secrets{Host: "DHHC-1:00:aG9zdA==:", Controller: "DHHC-1:00:Y3RybA==:"}
	with, err := options(t.Context(), agent.Request{Spec: spec(), Secrets: keys}, spec().NQN)
	without, err2 := options(t.Context(), agent.Request{Spec: spec()}, spec().NQN)
	if err != nil || err2 != nil || with != without+",dhchap_secret=DHHC-1:00:aG9zdA==:,dhchap_ctrl_secret=DHHC-1:00:Y3RybA==:" {
		t.Errorf("%q, %q, %v, %v", with, without, err, err2)
	}
}

func TestOptionsCannotBeSmuggledIn(t *testing.T) {
	s := spec()
	s.HostNQN = "x,ctrl_loss_tmo=0"
	if _, err := options(t.Context(), agent.Request{Spec: s}, s.NQN); !errors.Is(err, agent.ErrInvalid) {
		t.Errorf("%v", err)
	}
}

func TestHostIDIsAUUIDOfTheNQN(t *testing.T) {
	a, b := HostID("one"), HostID("two")
	if a == b || a != HostID("one") || len(a) != 36 || a[14] != '8' || !strings.Contains("89ab", a[19:20]) {
		t.Errorf("%s %s", a, b)
	}
}

func TestHeadOf(t *testing.T) {
	for entry, want := range map[string]string{
		"nvme3n1": "nvme3n1", "nvme0c3n1": "nvme0n1", "nvme12c5n17": "nvme12n17",
		"nvme3": "", "hwmon1": "", "nvme3n1p1": "", "nvmeXn1": "", "nvme0cn1": "", "nvme3n": "",
	} {
		if got, ok := headOf(entry); got != want || ok != (want != "") {
			t.Errorf("headOf(%q) = %q, %v", entry, got, ok)
		}
	}
}

// fakeRoot is a /sys and a /dev in files.
func fakeRoot(t *testing.T) Host {
	t.Helper()
	root := t.TempDir()
	h := Host{Dev: filepath.Join(root, "dev"), Sys: filepath.Join(root, "sys")}
	put(t, filepath.Join(h.Sys, "class/nvme/nvme0/subsysnqn"), "nqn.2014-08.org.nvmexpress:local-disk\n")
	put(t, filepath.Join(h.Sys, "class/nvme/nvme0/state"), "live\n")
	put(t, filepath.Join(h.Sys, "class/nvme/nvme0/nvme0n1/nsid"), "1\n")
	return h
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func connected(t *testing.T, h Host, hostNQN, entry, state string) {
	t.Helper()
	dir := filepath.Join(h.Sys, "class/nvme/nvme3")
	put(t, filepath.Join(dir, "subsysnqn"), spec().NQN+"\n")
	put(t, filepath.Join(dir, "hostnqn"), hostNQN+"\n")
	put(t, filepath.Join(dir, "state"), state+"\n")
	put(t, filepath.Join(dir, entry, "nsid"), "1\n")
	put(t, filepath.Join(dir, "delete_controller"), "")
}

func TestLookup(t *testing.T) {
	for _, c := range []struct{ name, hostNQN, entry, state, device string }{
		{"live", spec().HostNQN, "nvme3n1", "live", "nvme3n1"},
		{"multipath", spec().HostNQN, "nvme1c3n1", "live", "nvme1n1"},
		{"reconnecting", spec().HostNQN, "nvme3n1", "connecting", "nvme3n1"},
		{"no namespace yet", spec().HostNQN, "hwmon", "live", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := fakeRoot(t)
			connected(t, h, c.hostNQN, c.entry, c.state)
			dev, link, found := h.Lookup(spec())
			if c.device != "" {
				c.device = filepath.Join(h.Dev, c.device)
			}
			if !found || dev != c.device || link.Connected != (c.state == "live") {
				t.Errorf("%q %+v %v", dev, link, found)
			}
		})
	}
	t.Run("another attachment's", func(t *testing.T) {
		h := fakeRoot(t)
		connected(t, h, spec().HostNQN+"-older", "nvme3n1", "live")
		if _, _, found := h.Lookup(spec()); found {
			t.Error("an older attachment's connection was taken for this one's")
		}
	})
}

// TestLost: only the target's word that it serves another name makes a
// connection that is not live a lost one.
func TestLost(t *testing.T) {
	h := fakeRoot(t)
	now, away := spec().NQN, error(nil)
	h.Resolve = func(context.Context, agent.Spec) (string, error) { return now, away }
	if !h.Lost(t.Context(), spec()) {
		t.Error("a connection that is gone is not lost")
	}
	connected(t, h, spec().HostNQN, "nvme3n1", "connecting")
	if h.Lost(t.Context(), spec()) {
		t.Error("a connection is lost whose name is still served")
	}
	now = spec().NQN + ":lost-7"
	if !h.Lost(t.Context(), spec()) {
		t.Error("a connection is not lost whose name is served no more")
	}
	away = errors.New("no route")
	if h.Lost(t.Context(), spec()) {
		t.Error("a connection is lost although nobody said so")
	}
	put(t, filepath.Join(h.Sys, "class/nvme/nvme3/subsysnqn"), now+"\n")
	if _, _, found := h.Lookup(spec()); !found {
		t.Error("the connection to the name after a loss is not found")
	}
	away = nil
	if h.Lost(t.Context(), spec()) {
		t.Error("the connection to the name after a loss is lost")
	}
	put(t, filepath.Join(h.Sys, "class/nvme/nvme3/subsysnqn"), spec().NQN+"0\n")
	if _, _, found := h.Lookup(spec()); found {
		t.Error("another volume's connection was taken for this one's")
	}
}

func TestUsable(t *testing.T) {
	h := fakeRoot(t)
	if err := h.Usable(); err == nil || !strings.Contains(err.Error(), "nvme-fabrics") {
		t.Errorf("without the device: %v", err)
	}
	put(t, filepath.Join(h.Dev, "nvme-fabrics"), "")
	if err := h.Usable(); err != nil {
		t.Errorf("with it: %v", err)
	}
}

func TestDisconnect(t *testing.T) {
	h := fakeRoot(t)
	if err := h.Disconnect(t.Context(), spec(), agent.DetachRequest{}); err != nil {
		t.Errorf("of nothing: %v", err)
	}
	connected(t, h, spec().HostNQN, "nvme3n1", "live")
	ctx, cancel := context.WithTimeout(t.Context(), 3*poll)
	defer cancel()
	if err := h.Disconnect(ctx, spec(), agent.DetachRequest{}); !errors.Is(err, agent.ErrBusy) {
		t.Errorf("of a controller that stays: %v", err)
	}
	dir := filepath.Join(h.Sys, "class/nvme/nvme3")
	if raw, err := os.ReadFile(filepath.Join(dir, "delete_controller")); err != nil || string(raw) != "1" {
		t.Errorf("delete_controller holds %q, %v", raw, err)
	}
	time.AfterFunc(2*poll, func() { _ = os.RemoveAll(dir) })
	if err := h.Disconnect(t.Context(), spec(), agent.DetachRequest{}); err != nil {
		t.Errorf("of a controller that goes: %v", err)
	}
}

func TestClassify(t *testing.T) {
	for errno, want := range map[unix.Errno]error{
		unix.EINVAL: agent.ErrNoKernel, unix.ENODEV: agent.ErrNoKernel,
		unix.ECONNREFUSED: agent.ErrUnreachable, unix.EIO: agent.ErrUnreachable, unix.EALREADY: unix.EALREADY,
	} {
		if err := classify(&os.PathError{Op: "write", Err: errno}); !errors.Is(err, want) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}
