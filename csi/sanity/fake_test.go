//go:build linux

package sanity

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cask-storage/cask/csi/internal/mount"
	"github.com/cask-storage/cask/pkg/attach/agent"
)

// fakeAttacher attaches in memory.
type fakeAttacher struct {
	mu   sync.Mutex
	have map[string]agent.Info
	last agent.Request
}

func (f *fakeAttacher) Attach(_ context.Context, r agent.Request) (agent.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.have == nil {
		f.have = map[string]agent.Info{}
	}
	f.last = r
	f.have[r.Volume] = agent.Info{Spec: r.Spec, Device: "/dev/fake/" + r.Volume, Path: agent.PathUser, Link: agent.Link{Connected: true}}
	return f.have[r.Volume], nil
}

func (f *fakeAttacher) Detach(_ context.Context, q agent.DetachRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.have, q.Volume)
	return nil
}

func (f *fakeAttacher) Get(_ context.Context, volume string) (agent.Info, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, ok := f.have[volume]
	return i, ok, nil
}

func (f *fakeAttacher) List(context.Context) ([]agent.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.have)), nil
}

// fakeMounts is a mount table in memory; mount points are real.
type fakeMounts struct {
	mu   sync.Mutex
	at   map[string]mount.Mount
	devs map[string]mount.Device
}

func (f *fakeMounts) At(path string) (mount.Mount, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, ok := f.at[path]
	return m, ok, nil
}

func (f *fakeMounts) DeviceOf(path string) (mount.Device, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.deviceLocked(path), nil
}

func (f *fakeMounts) deviceLocked(path string) mount.Device {
	if f.devs == nil {
		f.devs = map[string]mount.Device{}
	}
	d, ok := f.devs[path]
	if !ok {
		d = mount.Device{Major: 7, Minor: uint32(len(f.devs) + 1)}
		f.devs[path] = d
	}
	return d
}

func (f *fakeMounts) put(path string, m mount.Mount) error {
	if f.at == nil {
		f.at = map[string]mount.Mount{}
	}
	f.at[path] = m
	return os.MkdirAll(path, 0o750)
}

func (f *fakeMounts) FormatAndMount(r mount.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.put(r.Target, mount.Mount{Device: f.deviceLocked(r.Source), FSType: r.FSType, ReadOnly: r.ReadOnly})
}

func (f *fakeMounts) Bind(r mount.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.at[r.Source]
	m.ReadOnly = m.ReadOnly || r.ReadOnly
	if err := os.MkdirAll(filepath.Dir(r.Target), 0o750); err != nil {
		return err
	}
	return f.put(r.Target, m)
}

func (f *fakeMounts) Remove(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.at, path)
	return os.RemoveAll(path)
}

// Size and Grow make it a node.Grower too: of devices that are large enough.
func (f *fakeMounts) Size(string) (int64, error) { return 1 << 50, nil }

func (f *fakeMounts) Grow(mount.Request) error { return nil }

func (f *fakeMounts) Published(device string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var at []string
	for path, m := range f.at {
		if m.Device == f.deviceLocked(device) {
			at = append(at, path)
		}
	}
	return at, nil
}
