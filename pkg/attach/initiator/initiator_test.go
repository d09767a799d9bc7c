//go:build linux

package initiator

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/attach/agent"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
	"github.com/cask-storage/cask/pkg/nvme/target"
)

// TestKeys: who does not prove itself is refused, not taken for one who cannot
// reach the target; and no error tells a key.
func TestKeys(t *testing.T) {
	keys, err := dhchap.NewSecrets()
	if err != nil {
		t.Fatal(err)
	}
	tgt, err := target.New(target.Config{Authenticate: func(context.Context, string) (dhchap.Secrets, error) { return keys, nil }})
	if err != nil {
		t.Fatal(err)
	}
	dev := blocktest.NewMemory(blocktest.Options{})
	defer dev.Close()
	const nqn = "nqn.2026-01.storage.cask:volume:keys"
	if err := tgt.AddSubsystem(target.Subsystem{NQN: nqn, Namespaces: []target.Namespace{{ID: 1, Device: dev, UUID: nvme.UUID{1}}}}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- tgt.Serve(context.Background(), l) }() // ends with the target's Close below
	defer func() {
		_ = tgt.Close()
		<-served
	}()
	for what, c := range map[string]struct {
		with dhchap.Secrets
		want error
	}{
		"the keys":            {keys, nil},
		"none":                {dhchap.Secrets{}, agent.ErrRefused},
		"another host's":      {dhchap.Secrets{Host: keys.Controller, Controller: keys.Controller}, agent.ErrRefused},
		"of another target's": {dhchap.Secrets{Host: keys.Host, Controller: keys.Host}, agent.ErrRefused},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		if c.want == nil {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
		}
		r := agent.Request{Spec: agent.Spec{Volume: "keys", Address: l.Addr().String(), NQN: nqn, NSID: 1, HostNQN: "nqn.2026-01.storage.cask:host:n:1"}, Secrets: c.with}
		opened, err := Opener(slog.New(slog.NewTextHandler(io.Discard, nil)))(ctx, r)
		cancel()
		if err == nil {
			_ = opened.Device.Close()
		}
		if !errors.Is(err, c.want) || err != nil && strings.Contains(err.Error(), "DHHC") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
