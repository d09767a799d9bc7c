package main

import (
	"bytes"
	"context"
	"errors"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
	"github.com/cask-storage/cask/pkg/nvme/host"
	"github.com/cask-storage/cask/pkg/volume"
)

// TestKeys: a target with a folder of keys lets in who proves to have them, and
// nobody while the folder is empty; no line of the log has one.
func TestKeys(t *testing.T) {
	o := newOptions(t, "nvme")
	var lines bytes.Buffer
	log.SetOutput(&lines)
	o.auth = t.TempDir()
	keys, err := dhchap.NewSecrets()
	if err != nil {
		t.Fatal(err)
	}
	attach := func(with dhchap.Secrets, within time.Duration) (*host.Device, error) {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return host.Attach(ctx, host.Config{Addr: o.addr, SubsystemNQN: volume.SubsystemNQN(o.volume), HostNQN: "nqn.2026-01.storage.cask:host:n:1",
			HostID: nvme.UUID{1}, Secrets: with})
	}
	stop := o.start(t)
	if d, err := attach(keys, 2*time.Second); err == nil {
		t.Error("attached to a target without keys")
		_ = d.Close()
	}
	for name, key := range map[string]string{v1alpha1.KeyDHCHAPHost: keys.Host, v1alpha1.KeyDHCHAPController: keys.Controller} {
		if err := os.WriteFile(filepath.Join(o.auth, name), []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := attach(keys, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for what, with := range map[string]dhchap.Secrets{"none": {}, "the other way round": {Host: keys.Controller, Controller: keys.Host}} {
		if x, err := attach(with, 500*time.Millisecond); !errors.Is(err, dhchap.ErrFailed) {
			t.Errorf("with keys %s: %v", what, err)
			if err == nil {
				_ = x.Close()
			}
		}
	}
	if err := blocktest.Flush(d); err != nil || d.State().Sessions != 1 {
		t.Errorf("who had the volume was disturbed: %v, %+v", err, d.State())
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	stop()
	if text := lines.String(); strings.Contains(text, "DHHC") {
		t.Errorf("the log tells a key: %s", text)
	}
}
