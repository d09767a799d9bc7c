package main

import (
	"bytes"
	"context"
	"errors"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/iscsi/iscsitest"
	iscsitarget "github.com/cask-storage/cask/pkg/iscsi/target"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replica"
	"github.com/cask-storage/cask/pkg/scsi"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/memstore"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

const testSize = 16 << 20

// inMemory is where the test's replica is.
type inMemory struct{}

func (inMemory) Open() (store.Store, error) { return nil, store.ErrNotFound }

func (inMemory) Create(size uint64) (store.Store, error) {
	return memstore.New(memstore.Options{Size: size}), nil
}

// serveReplica runs a replica for as long as the test.
func serveReplica(t *testing.T) (addr string) {
	t.Helper()
	l := listenLocal(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := replica.NewServer(replica.Config{Identity: replica.Identity{Volume: "vol", Replica: "r0"}, Backing: inMemory{}})
	go func() { done <- s.Serve(ctx, l) }() // owner: the test, by the Cleanup
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func listenLocal(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// newOptions are those of a target of one replica, with a record in a file.
func newOptions(t *testing.T, frontend string) options {
	t.Helper()
	quiet(t)
	record := target.FileAuthority{Path: filepath.Join(t.TempDir(), "record.json")}
	if err := record.CreateRecord(volume.Record{Voters: []quorum.ReplicaID{"r0"}}); err != nil {
		t.Fatal(err)
	}
	l := listenLocal(t)
	l.Close()
	return options{volume: "vol", authority: "file:" + record.Path, level: "quorum", durability: "flush", size: testSize,
		replicas: map[quorum.ReplicaID]string{"r0": serveReplica(t)}, frontend: frontend, addr: l.Addr().String()}
}

// start runs a target until stop is called.
func (o options) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, o) }() // owner: the test, by stop
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the target ends: %v", err)
		}
	}
}

// login is a session of an initiator, once the target serves.
func (o options) login(t *testing.T, initiator string) *iscsitest.Session {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s, err := iscsitest.Dial(iscsitest.Options{Addr: o.addr, Node: volume.NodeName(o.volume), Name: "iqn.2026-01.storage.cask:" + initiator})
		if err == nil {
			t.Cleanup(func() { s.Conn.Close() })
			if st := command(t, s, cdb(scsi.TestUnitReady), nil); st != scsi.CheckCondition {
				t.Fatalf("first command: %v, want a unit attention", st)
			}
			return s
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func cdb(o scsi.Opcode, rest ...byte) []byte {
	return append(append([]byte{byte(o)}, rest...), make([]byte, 15-len(rest))...)
}

// command runs one without data from the target.
func command(t *testing.T, s *iscsitest.Session, cdb, out []byte) scsi.Status {
	t.Helper()
	c := iscsitest.Command{CDB: cdb, Flags: iscsi.FlagFinal, ITT: s.CmdSN, Data: out, EDTL: uint32(len(out))}
	if len(out) > 0 {
		c.Flags |= iscsi.FlagWrite
	}
	if err := s.Send(c); err != nil {
		t.Fatal(err)
	}
	p, _, err := s.Recv()
	if err != nil || p.Opcode() != iscsi.OpResponse {
		t.Fatalf("%v, %v", p, err)
	}
	return scsi.Status(p.Header[3])
}

func prout(t *testing.T, s *iscsitest.Session, action uint8, l scsi.ReserveOutList) scsi.Status {
	t.Helper()
	return command(t, s, cdb(scsi.ReserveOut, action, byte(scsi.WriteExclusive), 0, 0, 0, 0, 0, scsi.ReserveOutSize), l.Append(nil))
}

// TestReservationsOfInitiators survive their target, when that was asked for.
func TestReservationsOfInitiators(t *testing.T) {
	o := newOptions(t, "iscsi")
	write, data := cdb(scsi.Write10, 0, 0, 0, 0, 0, 0, 0, 1), bytes.Repeat([]byte{7}, 512)
	stop := o.start(t)
	a := o.login(t, "a")
	for _, st := range []scsi.Status{
		prout(t, a, scsi.PRRegister, scsi.ReserveOutList{ActionKey: 1, APTPL: true}),
		prout(t, a, scsi.PRReserve, scsi.ReserveOutList{Key: 1}),
		command(t, a, write, data),
	} {
		if st != scsi.Good {
			t.Fatal(st)
		}
	}
	stop()
	stop = o.start(t)
	if st := command(t, o.login(t, "b"), write, data); st != scsi.ReservationConflict {
		t.Errorf("a write past the reservation: %v", st)
	}
	a = o.login(t, "a")
	if st := command(t, a, write, data); st != scsi.Good {
		t.Errorf("a write of its holder: %v", st)
	}
	if st := prout(t, a, scsi.PRRegister, scsi.ReserveOutList{Key: 1, ActionKey: 1}); st != scsi.Good { // without APTPL
		t.Error(st)
	}
	stop()
	stop = o.start(t)
	defer stop()
	if st := command(t, o.login(t, "b"), write, data); st != scsi.Good {
		t.Errorf("a write past a reservation that was not to be kept: %v", st)
	}
}

// TestSecrets: what an initiator has to prove is read at each login; without
// it nobody gets in, and no line of the log has it.
func TestSecrets(t *testing.T) {
	o := newOptions(t, "iscsi")
	var lines bytes.Buffer
	log.SetOutput(&lines)
	o.auth = t.TempDir()
	login := func() error {
		s, err := iscsitest.Dial(iscsitest.Options{Addr: o.addr, Node: volume.NodeName(o.volume)})
		if err == nil {
			s.Conn.Close()
		}
		return err
	}
	stop := o.start(t)
	var refused *iscsitest.LoginError
	for end := time.Now().Add(20 * time.Second); !errors.As(login(), &refused) && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	if refused == nil || refused.Status != iscsi.LoginUnavailable {
		t.Errorf("without secrets: %v", refused)
	}
	for name, content := range map[string]string{v1alpha1.KeyCHAPUser: "alice", v1alpha1.KeyCHAPSecret: "very secret word\n", v1alpha1.KeyCHAPMutualUser: "cask", v1alpha1.KeyCHAPMutualSecret: "another secret\n"} {
		if err := os.WriteFile(filepath.Join(o.auth, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := login(); !errors.As(err, &refused) || refused.Status != iscsi.LoginAuthFailed {
		t.Errorf("nothing proven: %v", err)
	}
	auth, err := secrets(o.auth).chap("i", "node")
	if err != nil || *auth != (iscsitarget.Auth{User: "alice", Secret: "very secret word", MutualUser: "cask", MutualSecret: "another secret"}) {
		t.Errorf("%+v, %v", auth, err)
	}
	if _, err := secrets(o.auth).dhchap(t.Context(), "h"); err == nil {
		t.Error("secrets of NVMe hosts out of nothing")
	}
	if err := os.WriteFile(filepath.Join(o.auth, v1alpha1.KeyCHAPSecret), make([]byte, v1alpha1.MaxSecret+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := secrets(o.auth).chap("i", "node"); err == nil {
		t.Error("a secret beyond the bound was taken")
	}
	stop()
	if text := lines.String(); strings.Contains(text, "secret word") || strings.Contains(text, "another secret") {
		t.Errorf("the log tells a secret: %s", text)
	}
}

// hostQueue is an I/O queue of an NVMe host.
type hostQueue struct {
	t  *testing.T
	nc net.Conn
	rd *tcp.Reader
	b  *tcp.Batch
}

func (q *hostQueue) do(c nvme.Command, data []byte) nvme.Completion {
	q.t.Helper()
	c.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: uint32(len(data))})
	var v [][]byte
	if len(data) > 0 {
		v = [][]byte{data}
	}
	q.b.Command((*[64]byte)(&c), v)
	if err := q.b.Flush(q.nc); err != nil {
		q.t.Fatal(err)
	}
	p, err := q.rd.Next()
	if err != nil || p.Type != tcp.TypeCapsuleResp {
		q.t.Fatalf("%v, %v", p, err)
	}
	return nvme.Completion(*p.CQE())
}

// connect opens a queue, once the target serves.
func (o options) connect(t *testing.T, p nvme.ConnectParams, d nvme.ConnectData) (*hostQueue, nvme.CNTLID) {
	t.Helper()
	var nc net.Conn
	var err error
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if nc, err = net.Dial("tcp", o.addr); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { nc.Close() })
	q := &hostQueue{t: t, nc: nc, b: tcp.NewBatch(), rd: tcp.NewReader(nc, tcp.Options{Role: tcp.Host, MaxData: 1 << 20})}
	_, err = nc.Write(tcp.IC{}.Append(nil, tcp.TypeICReq))
	if err == nil {
		_, err = q.rd.Next()
	}
	if err != nil {
		t.Fatal(err)
	}
	var c nvme.Command
	c.SetConnect(p)
	d.SubNQN, d.HostNQN = volume.SubsystemNQN(o.volume), "nqn.2026-01.storage.cask:host:n:a"
	e := q.do(c, d.Append(nil))
	if !e.Status().OK() {
		t.Fatal(e.Status())
	}
	return q, nvme.CNTLID(e.Result())
}

// host is an I/O queue of a host.
func (o options) host(t *testing.T, id nvme.UUID) *hostQueue {
	t.Helper()
	admin, ctrl := o.connect(t, nvme.ConnectParams{QueueDepth: 8}, nvme.ConnectData{HostID: id, CNTLID: nvme.CNTLIDDynamic})
	var set nvme.Command
	set.SetPropertySet(nvme.PropertyParams{Offset: nvme.PropCC, Value: uint64(nvme.CCEnable | nvme.CCIOSQES | nvme.CCIOCQES)})
	if e := admin.do(set, nil); !e.Status().OK() {
		t.Fatal(e.Status())
	}
	q, _ := o.connect(t, nvme.ConnectParams{QID: 1, QueueDepth: 8}, nvme.ConnectData{HostID: id, CNTLID: ctrl})
	return q
}

func (q *hostQueue) reserve(op nvme.Opcode, p nvme.ReservationParams, k nvme.ReservationKeys) nvme.Status {
	q.t.Helper()
	var c nvme.Command
	c.SetReservation(op, p)
	c.SetNSID(volume.NSID)
	data := k.Append(nil)
	if op == nvme.OpReservationRelease {
		data = data[:nvme.ReservationKeySize]
	}
	e := q.do(c, data)
	return e.Status().Code()
}

func (q *hostQueue) write() nvme.Status {
	q.t.Helper()
	var c nvme.Command
	c.SetOpcode(nvme.OpWrite)
	c.SetNSID(volume.NSID)
	c.SetRange(0, 1)
	e := q.do(c, make([]byte, 512))
	return e.Status().Code()
}

// TestReservationsOfHosts survive their target; what a target that was
// superseded is asked to change stays as it is.
func TestReservationsOfHosts(t *testing.T) {
	o := newOptions(t, "nvme")
	stop := o.start(t)
	a := o.host(t, nvme.UUID{1})
	for _, s := range []nvme.Status{
		a.reserve(nvme.OpReservationRegister, nvme.ReservationParams{Persist: nvme.PersistOn}, nvme.ReservationKeys{Other: 1}),
		a.reserve(nvme.OpReservationAcquire, nvme.ReservationParams{Type: nvme.WriteExclusive}, nvme.ReservationKeys{Current: 1}),
	} {
		if !s.OK() {
			t.Fatal(s)
		}
	}
	stop()
	stop = o.start(t)
	if s := o.host(t, nvme.UUID{2}).write(); s != nvme.ReservationConflict {
		t.Errorf("a write past the reservation: %v", s)
	}
	a = o.host(t, nvme.UUID{1})
	record := target.FileAuthority{Path: o.authority[len("file:"):]}
	rec, err := record.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := rec
	other.Epoch, other.Holder = rec.Epoch+1, "another"
	if err := record.CompareAndSwap(t.Context(), rec, other); err != nil {
		t.Fatal(err)
	}
	if s := a.reserve(nvme.OpReservationRelease, nvme.ReservationParams{Action: nvme.ReservationClear}, nvme.ReservationKeys{Current: 1}); s != nvme.InternalError {
		t.Errorf("cleared by a target that was superseded: %v", s)
	}
	if s := a.write(); !s.OK() {
		t.Errorf("the holder's write after that: %v", s)
	}
	stop()
	stop = o.start(t)
	defer stop()
	if s := o.host(t, nvme.UUID{2}).write(); s != nvme.ReservationConflict {
		t.Errorf("a write past the reservation after that: %v", s)
	}
}
