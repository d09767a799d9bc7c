//go:build conformance

package nvme

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
	"github.com/cask-storage/cask/pkg/nvme/target"
	"github.com/cask-storage/cask/test/conformance/vmtest"
)

// settings of a target in a process of its own, so that it can be killed.
type settings struct {
	Listen  string
	NQN     string
	Disk    vmtest.Disk
	First   uint16 // controller identifier
	State   nvme.ANAState
	Port    uint16
	Secrets dhchap.Secrets
	Keep    string // file of the reservations; empty refuses to persist
}

// TestMain is the target when it is told to be.
func TestMain(m *testing.M) {
	log.SetFlags(log.Lmicroseconds)
	var s settings
	vmtest.Main(m, &s, func() error { return s.serve() })
}

// serve runs the target; lines on the standard input change it.
func (s settings) serve() error {
	dev, err := s.Disk.Open()
	if err != nil {
		return err
	}
	var lost atomic.Bool
	cfg := target.Config{Logf: log.Printf, PortID: s.Port, Locate: func(_ context.Context, nqn string) error {
		if lost.Load() && nqn == s.NQN {
			return target.ErrReplaced
		}
		return nil
	}}
	if s.Secrets.Host != "" {
		cfg.Authenticate = func(context.Context, string) (dhchap.Secrets, error) { return s.Secrets, nil }
	}
	t, err := target.New(cfg)
	if err != nil {
		return err
	}
	ns := target.Namespace{ID: 1, Device: dev, UUID: nvme.UUID{0xca, 0x5c, 6: 0x40, 8: 0x80, 15: 1}, ANAState: s.State}
	if s.Keep != "" {
		ns.Reservations.State, _ = os.ReadFile(s.Keep)
		ns.Reservations.Keep = func(_ context.Context, b []byte) error { return os.WriteFile(s.Keep, b, 0o600) }
	}
	sub := target.Subsystem{
		NQN: s.NQN, Namespaces: []target.Namespace{ns},
		Controllers: target.ControllerRange{First: nvme.CNTLID(s.First), Last: nvme.CNTLID(s.First + 99)},
	}
	if err := t.AddSubsystem(sub); err != nil {
		return err
	}
	l, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return err
	}
	go vmtest.Obey(func(word string, n uint64) error { // owner: the process
		if word != "lose" {
			return s.obey(t, dev, word, n)
		}
		lost.Store(true)
		sub.NQN += ":lost-7"
		return errors.Join(t.RemoveSubsystem(context.Background(), s.NQN), t.AddSubsystem(sub))
	})
	return t.Serve(context.Background(), l)
}

func (s settings) obey(t *target.Target, dev *vmtest.RAM, word string, n uint64) error {
	switch word {
	case "resize":
		dev.Resize(n)
		t.NamespaceChanged(s.NQN, 1)
	case "ana":
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return t.SetANA(ctx, s.NQN, 1, nvme.ANAState(n))
	case "add":
		return t.AddSubsystem(target.Subsystem{NQN: s.NQN + "add", Namespaces: []target.Namespace{{ID: 1, Device: dev, UUID: nvme.UUID{9}}}})
	default:
		return fmt.Errorf("the target was told %q", word)
	}
	return nil
}
