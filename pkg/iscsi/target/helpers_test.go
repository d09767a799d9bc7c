package target_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/iscsi/iscsitest"
	"github.com/cask-storage/cask/pkg/iscsi/target"
	"github.com/cask-storage/cask/pkg/scsi"
)

const nodeName = "iqn.2026-01.storage.cask:node"

// rig is a target with a disk in memory.
type rig struct {
	*target.Target
	dev  *blocktest.Memory
	addr string
}

func newRig(t testing.TB, cfg target.Config, o blocktest.Options) *rig {
	t.Helper()
	if cfg.Logf == nil {
		cfg.Logf = func(string, ...any) {}
	}
	tg, err := target.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Target: tg, dev: blocktest.NewMemory(o)}
	if err := tg.AddNode(target.Node{Name: nodeName, Alias: "a disk",
		Units: []target.Unit{{Device: r.dev, UUID: [16]byte{7}}}}); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	done := make(chan error, 1)
	go func() { done <- tg.Serve(context.Background(), ln) }() // owner: the test, by the Cleanup
	t.Cleanup(func() {
		r.dev.Resume()
		if err := errors.Join(tg.Close(), <-done, r.dev.Close()); err != nil {
			t.Error(err)
		}
	})
	return r
}

// dial logs in, and takes the unit attention of a new session.
func (r *rig) dial(t testing.TB, o iscsitest.Options) *iscsitest.Session {
	t.Helper()
	o.Addr = r.addr
	if o.Node == "" {
		o.Node = nodeName
	}
	s, err := iscsitest.Dial(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Conn.Close() })
	if st, sense := run(t, s, iscsitest.Command{CDB: cdb(scsi.TestUnitReady)}); st != scsi.CheckCondition || sense.Code != scsi.PowerOnOrReset {
		t.Fatalf("first command: %v, %v, want a unit attention", st, sense)
	}
	return s
}

// cdb makes a CDB of an operation code and the bytes behind it.
func cdb(o scsi.Opcode, rest ...byte) []byte {
	b := make([]byte, 16)
	b[0] = byte(o)
	copy(b[1:], rest)
	return b
}

// blocks makes a CDB that addresses blocks.
func blocks(o scsi.Opcode, lba uint64, n uint32) []byte {
	c := scsi.CDB{byte(o)}
	c.SetRange(lba, n)
	return c[:]
}

// run sends one command without R2Ts and returns its outcome.
func run(t testing.TB, s *iscsitest.Session, c iscsitest.Command) (scsi.Status, scsi.Sense) {
	t.Helper()
	c.Flags |= iscsi.FlagFinal
	c.ITT = s.CmdSN
	if err := s.Send(c); err != nil {
		t.Fatal(err)
	}
	st, sense, _ := outcome(t, s)
	return st, sense
}

// outcome reads up to a status and returns it with the data that came before.
func outcome(t testing.TB, s *iscsitest.Session) (scsi.Status, scsi.Sense, []byte) {
	t.Helper()
	var in []byte
	for {
		p, data, err := s.Recv()
		if err != nil {
			t.Fatalf("waiting for a status: %v", err)
		}
		switch p.Opcode() {
		case iscsi.OpDataIn:
			in = append(in, data...)
			if p.Flags()&iscsi.FlagStatus != 0 {
				return scsi.Status(p.Header[3]), scsi.Sense{}, in
			}
		case iscsi.OpResponse:
			var sense scsi.Sense
			if len(data) > 2 {
				if sense, err = scsi.DecodeSense(data[2:]); err != nil {
					t.Fatal(err)
				}
			}
			return scsi.Status(p.Header[3]), sense, in
		case iscsi.OpReject:
		default:
			t.Fatalf("%v while waiting for a status", p.Opcode())
		}
	}
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8) ^ byte(i) ^ seed
	}
	return b
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var keysByName = map[string]iscsi.Text{
	"all by itself": iscsitest.Keys(),
	"R2T only":      {{Key: "InitialR2T", Value: "Yes"}, {Key: "ImmediateData", Value: "No"}, {Key: "MaxBurstLength", Value: "16384"}, {Key: "FirstBurstLength", Value: "4096"}},
	"digests": {{Key: "HeaderDigest", Value: "CRC32C,None"}, {Key: "DataDigest", Value: "CRC32C"}, {Key: "InitialR2T", Value: "No"},
		{Key: "MaxRecvDataSegmentLength", Value: "4096"}, {Key: "FirstBurstLength", Value: "8192"}},
	"smallest": {{Key: "MaxRecvDataSegmentLength", Value: "512"}, {Key: "MaxBurstLength", Value: "512"}, {Key: "FirstBurstLength", Value: "512"}, {Key: "InitialR2T", Value: "No"}},
	"defaults": {},
}

// TestDevice holds a session, as a block device, against the contract of
// package block, over each way data can go.
func TestDevice(t *testing.T) {
	for name, keys := range keysByName {
		if testing.Short() && name != "digests" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			blocktest.Run(t, func(t *testing.T) block.Device {
				r := newRig(t, target.Config{Logf: t.Logf}, blocktest.Options{Workers: 2})
				s, err := iscsitest.Dial(iscsitest.Options{Addr: r.addr, Node: nodeName, Keys: keys})
				must(t, err)
				d, err := s.Start()
				must(t, err)
				return d
			})
		})
	}
}
