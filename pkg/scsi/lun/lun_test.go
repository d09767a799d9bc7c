package lun_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/scsi"
	"github.com/cask-storage/cask/pkg/scsi/lun"
)

// keeper keeps in memory, and fails on command.
type keeper struct {
	mu   sync.Mutex
	b    []byte
	fail error
}

func (k *keeper) Load() ([]byte, error) { return k.b, nil }
func (k *keeper) Save(b []byte, done func(error)) {
	k.mu.Lock()
	if k.fail == nil {
		k.b = bytes.Clone(b)
	}
	err := k.fail
	k.mu.Unlock()
	done(err)
}

type rig struct {
	m   *lun.Map
	dev *blocktest.Memory
}

func newRig(t testing.TB, o blocktest.Options, k lun.Keeper) *rig {
	t.Helper()
	dev := blocktest.NewMemory(o)
	t.Cleanup(func() { _ = dev.Close() })
	u, err := lun.New(lun.Config{Device: dev, UUID: [16]byte{1}, Keeper: k})
	if err != nil {
		t.Fatal(err)
	}
	m, err := lun.NewMap(lun.MapConfig{Port: scsi.Port{Device: "iqn.x", Name: "iqn.x,t,0x0001", Relative: 1, Group: 1}, Units: []lun.Mapping{{LUN: 0, Unit: u}}})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{m, dev}
}

// nexus is an initiator whose first unit attention is taken.
type nexus struct {
	*lun.Nexus
	t testing.TB
}

func (r *rig) nexus(t testing.TB, name string) nexus {
	n := nexus{r.m.Attach(name), t}
	if got := n.do(cdb(scsi.TestUnitReady), nil); got.code != scsi.PowerOnOrReset {
		t.Fatalf("first command: %+v", got)
	}
	return n
}

func cdb(o scsi.Opcode, rest ...byte) (c scsi.CDB) {
	c[0] = byte(o)
	copy(c[1:], rest)
	return c
}

func blocks(o scsi.Opcode, lba uint64, n uint32) scsi.CDB {
	c := scsi.CDB{byte(o)}
	c.SetRange(lba, n)
	return c
}

type result struct {
	status scsi.Status
	code   scsi.Code
	sense  scsi.Sense
	in     []byte
}

func (n nexus) do(c scsi.CDB, out []byte) result { return n.attr(c, out, lun.Simple) }

func (n nexus) attr(c scsi.CDB, out []byte, a lun.Attribute) result {
	done := make(chan struct{}, 1)
	t := lun.NewTask(func(*lun.Task) { done <- struct{}{} })
	need, ok := t.Prepare(n.Nexus, lun.Command{CDB: c, Attr: a})
	if ok {
		if int(need.Out) != len(out) {
			n.t.Errorf("%x needs %d bytes, has %d", c, need.Out, len(out))
		}
		var data [][]byte
		if half := len(out) / 2; half > 0 {
			data = [][]byte{out[:half], out[half:]}
		}
		t.Run(data)
		<-done
	}
	r := result{status: t.Status, in: bytes.Clone(t.In)}
	if t.Status == scsi.CheckCondition {
		r.code, r.sense = t.Sense.Code, t.Sense
	}
	t.Release()
	return r
}

func (n nexus) good(c scsi.CDB, out []byte) []byte {
	n.t.Helper()
	r := n.do(c, out)
	if r.status != scsi.Good {
		n.t.Fatalf("%x: %v, %v", c, r.status, r.sense)
	}
	return r.in
}

// prout is a PERSISTENT RESERVE OUT.
func prout(action uint8, kind scsi.ReserveType, l scsi.ReserveOutList) (scsi.CDB, []byte) {
	return cdb(scsi.ReserveOut, action, byte(kind), 0, 0, 0, 0, 0, scsi.ReserveOutSize), l.Append(nil)
}

// TestCompareAndWriteIsAtomic: counters incremented by compare-and-write from
// many tasks lose nothing, beside writes of their neighbours and OR-writes.
func TestCompareAndWriteIsAtomic(t *testing.T) {
	const workers, rounds = 6, 60
	r := newRig(t, blocktest.Options{Workers: 3}, nil)
	var wg sync.WaitGroup
	var attempts atomic.Int64
	for w := range workers {
		n := r.nexus(t, string(rune('a'+w)))
		wg.Go(func() {
			for done := 0; done < rounds; attempts.Add(1) {
				old := n.good(blocks(scsi.Read16, 3, 1), nil)
				next := bytes.Clone(old)
				binary.BigEndian.PutUint64(next, binary.BigEndian.Uint64(old)+1)
				switch got := n.do(blocks(scsi.CompareAndWrite, 3, 1), append(old, next...)); {
				case got.status == scsi.Good:
					done++
				case got.sense.Key != scsi.Miscompare:
					t.Errorf("%v, %v", got.status, got.sense)
					return
				}
				n.good(blocks(scsi.Write16, 4, 1), make([]byte, 512))
				one := make([]byte, 512)
				one[w] = 1
				n.good(blocks(scsi.OrWrite, 5, 1), one)
			}
		})
	}
	wg.Wait()
	n := r.nexus(t, "z")
	if got := binary.BigEndian.Uint64(n.good(blocks(scsi.Read16, 3, 1), nil)); got != workers*rounds {
		t.Errorf("the counter is %d after %d increments in %d attempts", got, workers*rounds, attempts.Load())
	}
	if or := n.good(blocks(scsi.Read16, 5, 1), nil); !bytes.Equal(or[:workers], bytes.Repeat([]byte{1}, workers)) {
		t.Errorf("OR-writes were lost: %x", or[:workers])
	}
}

// TestMiscompare tells where.
func TestMiscompare(t *testing.T) {
	r := newRig(t, blocktest.Options{}, nil)
	n := r.nexus(t, "a")
	b := make([]byte, 1024)
	b[700-512] = 1
	got := n.do(blocks(scsi.CompareAndWrite, 0, 1), b)
	if got.sense.Key != scsi.Miscompare || got.sense.Info != (scsi.Info{Valid: true, Value: 188}) {
		t.Errorf("%v", got.sense)
	}
}

// TestOrdered: an ORDERED task waits for those before it, and those after it
// for it, until they are answered, however long that takes.
func TestOrdered(t *testing.T) {
	r := newRig(t, blocktest.Options{Workers: 4, Queue: 16}, nil)
	n := r.nexus(t, "a")
	r.dev.Stall()
	var order []string
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := func(name string, a lun.Attribute) {
		wg.Add(1)
		task := lun.NewTask(func(*lun.Task) {
			time.Sleep(5 * time.Millisecond)
			mu.Lock()
			order = append(order, name)
			mu.Unlock()
			wg.Done()
		})
		if _, ok := task.Prepare(n.Nexus, lun.Command{CDB: blocks(scsi.Read16, 0, 1), Attr: a}); !ok {
			t.Fatal(task.Sense)
		}
		task.Run(nil)
	}
	start("before", lun.Simple)
	start("ordered", lun.Ordered)
	start("after", lun.Simple)
	r.dev.Resume()
	wg.Wait()
	if order[0] != "before" || order[1] != "ordered" || order[2] != "after" {
		t.Error(order)
	}
}

// TestAccessMatrix holds each type of reservation against SPC-4: what another
// initiator may do, registered and not.
func TestAccessMatrix(t *testing.T) {
	type may struct{ regRead, regWrite, read, write bool }
	for kind, want := range map[scsi.ReserveType]may{
		scsi.WriteExclusive: {true, false, true, false}, scsi.ExclusiveAccess: {},
		scsi.WriteExclusiveRegs: {true, true, true, false}, scsi.ExclusiveAccessRegs: {true, true, false, false},
		scsi.WriteExclusiveAll: {true, true, true, false}, scsi.ExclusiveAccessAll: {true, true, false, false},
	} {
		r := newRig(t, blocktest.Options{}, nil)
		holder, reg, out := r.nexus(t, "h"), r.nexus(t, "r"), r.nexus(t, "o")
		for i, n := range []nexus{holder, reg} {
			n.good(prout(scsi.PRRegister, 0, scsi.ReserveOutList{ActionKey: uint64(i) + 1}))
		}
		holder.good(prout(scsi.PRReserve, kind, scsi.ReserveOutList{Key: 1}))
		can := func(n nexus, c scsi.CDB, out []byte) bool {
			got := n.do(c, out)
			if got.status != scsi.Good && got.status != scsi.ReservationConflict {
				t.Errorf("type %d: %v, %v", kind, got.status, got.sense)
			}
			return got.status == scsi.Good
		}
		read, write, data := blocks(scsi.Read10, 0, 1), blocks(scsi.Write10, 0, 1), make([]byte, 512)
		got := may{can(reg, read, nil), can(reg, write, data), can(out, read, nil), can(out, write, data)}
		if got != want {
			t.Errorf("type %d: %+v, want %+v", kind, got, want)
		}
		if !can(holder, read, nil) || !can(holder, write, data) || !can(out, cdb(scsi.TestUnitReady), nil) {
			t.Errorf("type %d: the holder, or TEST UNIT READY, is kept out", kind)
		}
	}
}

// TestStartThroughReservations: a start is allowed by every reservation, a stop
// by none (SBC-3 table 13).
func TestStartThroughReservations(t *testing.T) {
	r := newRig(t, blocktest.Options{}, nil)
	holder, other := r.nexus(t, "h"), r.nexus(t, "o")
	holder.good(prout(scsi.PRRegister, 0, scsi.ReserveOutList{ActionKey: 1}))
	holder.good(prout(scsi.PRReserve, scsi.ExclusiveAccess, scsi.ReserveOutList{Key: 1}))
	for byte4, want := range map[byte]scsi.Status{0x01: scsi.Good, 0x00: scsi.ReservationConflict, 0x11: scsi.ReservationConflict} {
		if got := other.do(cdb(scsi.StartStopUnit, 0, 0, 0, byte4), nil); got.status != want {
			t.Errorf("START STOP UNIT with %#02x: %v, want %v", byte4, got.status, want)
		}
	}
}

// TestTaskFunctions: REPD asks for the timeouts, too.
func TestTaskFunctions(t *testing.T) {
	a := newRig(t, blocktest.Options{}, nil).nexus(t, "a")
	for repd, want := range map[byte][]byte{
		0x00: {0xda, 0, 0, 0},
		0x80: {0xda, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		if got := a.good(cdb(scsi.MaintenanceIn, scsi.SASupportedTMFs, repd, 0, 0, 0, 0, 0, 0, 255), nil); !bytes.Equal(got, want) {
			t.Errorf("REPD %#02x: %x, want %x", repd, got, want)
		}
	}
}

func TestReservationsAreKept(t *testing.T) {
	k := &keeper{}
	r := newRig(t, blocktest.Options{}, k)
	a, b := r.nexus(t, "a"), r.nexus(t, "b")
	a.good(prout(scsi.PRRegister, 0, scsi.ReserveOutList{ActionKey: 7, APTPL: true}))
	a.good(prout(scsi.PRReserve, scsi.ExclusiveAccess, scsi.ReserveOutList{Key: 7}))
	if got := b.do(blocks(scsi.Read10, 0, 1), nil); got.status != scsi.ReservationConflict {
		t.Errorf("before: %v", got.status)
	}
	r = newRig(t, blocktest.Options{}, k) // the target was restarted
	a, b = r.nexus(t, "a"), r.nexus(t, "b")
	if got := b.do(blocks(scsi.Read10, 0, 1), nil); got.status != scsi.ReservationConflict {
		t.Errorf("after a restart: %v", got.status)
	}
	a.good(blocks(scsi.Read10, 0, 1), nil)
	k.fail = errors.New("no disk")
	c, list := prout(scsi.PRRelease, scsi.ExclusiveAccess, scsi.ReserveOutList{Key: 7})
	if got := a.do(c, list); got.sense.Key != scsi.HardwareError {
		t.Errorf("a change that cannot be kept: %v, %v", got.status, got.sense)
	}
	if got := b.do(blocks(scsi.Read10, 0, 1), nil); got.status != scsi.ReservationConflict {
		t.Errorf("and yet it was made: %v", got.status)
	}
	k.b = []byte(`{"version":2}`)
	if _, err := lun.New(lun.Config{Device: r.dev, UUID: [16]byte{1}, Keeper: k}); err == nil {
		t.Error("a format of the future was taken")
	}
}

// TestAPTPLWithoutKeeper is refused, not promised.
func TestAPTPLWithoutKeeper(t *testing.T) {
	r := newRig(t, blocktest.Options{}, nil)
	a := r.nexus(t, "a")
	c, list := prout(scsi.PRRegister, 0, scsi.ReserveOutList{ActionKey: 7, APTPL: true})
	if got := a.do(c, list); got.code != scsi.InvalidFieldInList {
		t.Errorf("%v, %v", got.status, got.sense)
	}
	if caps := a.good(cdb(scsi.ReserveIn, scsi.PRReportCapability, 0, 0, 0, 0, 0, 0, 8), nil); caps[2]&1 != 0 {
		t.Errorf("capabilities %x", caps)
	}
}

// TestPreemptAndAbort takes the reservation, tells the loser, and names its
// nexus for the transport to abort.
func TestPreemptAndAbort(t *testing.T) {
	r := newRig(t, blocktest.Options{}, nil)
	a, b := r.nexus(t, "a"), r.nexus(t, "b")
	a.good(prout(scsi.PRRegister, 0, scsi.ReserveOutList{ActionKey: 1}))
	b.good(prout(scsi.PRRegister, 0, scsi.ReserveOutList{ActionKey: 2}))
	a.good(prout(scsi.PRReserve, scsi.WriteExclusive, scsi.ReserveOutList{Key: 1}))
	c, list := prout(scsi.PRPreemptAndAbort, scsi.ExclusiveAccess, scsi.ReserveOutList{Key: 2, ActionKey: 1})
	done := make(chan struct{}, 1)
	task := lun.NewTask(func(*lun.Task) { done <- struct{}{} })
	if _, ok := task.Prepare(b.Nexus, lun.Command{CDB: c}); !ok {
		t.Fatal(task.Sense)
	}
	task.Run([][]byte{list})
	<-done
	if task.Status != scsi.Good || len(task.Preempted) != 1 || task.Preempted[0] != a.Nexus {
		t.Errorf("%v, %v, preempted %v", task.Status, task.Sense, task.Preempted)
	}
	if got := a.do(blocks(scsi.Read10, 0, 1), nil); got.code != scsi.RegistrationsPreempt {
		t.Errorf("the loser is told %v, %v", got.status, got.sense)
	}
	if got := a.do(blocks(scsi.Read10, 0, 1), nil); got.status != scsi.ReservationConflict {
		t.Errorf("and then %v", got.status)
	}
}

func TestAccessStates(t *testing.T) {
	r := newRig(t, blocktest.Options{}, nil)
	a := r.nexus(t, "a")
	for state, code := range map[scsi.AccessState]scsi.Code{
		scsi.Standby: scsi.AccessStandby, scsi.Unavailable: scsi.AccessUnavailable, scsi.Transitioning: scsi.AccessTransition,
	} {
		r.m.SetAccess(state)
		if got := a.do(cdb(scsi.TestUnitReady), nil); got.code != scsi.AccessStateChanged {
			t.Errorf("state %d: told %v, %v", state, got.status, got.sense)
		}
		if got := a.do(blocks(scsi.Read10, 0, 1), nil); got.sense.Key != scsi.NotReady || got.code != code {
			t.Errorf("state %d: %v, %v", state, got.status, got.sense)
		}
		groups := a.good(cdb(scsi.MaintenanceIn, scsi.SATargetPortGroups, 0, 0, 0, 0, 0, 0, 255), nil)
		if scsi.AccessState(groups[4]) != state {
			t.Errorf("state %d is reported as %x", state, groups)
		}
	}
}

// TestWriteCache: with WCE off every write is stable when it is acknowledged,
// and the others are told of the change.
func TestWriteCache(t *testing.T) {
	r := newRig(t, blocktest.Options{}, nil)
	a, b := r.nexus(t, "a"), r.nexus(t, "b")
	a.good(blocks(scsi.Write10, 0, 1), make([]byte, 512))
	if n := r.dev.Counts().FUA; n != 0 {
		t.Errorf("%d writes with FUA", n)
	}
	page := a.good(cdb(scsi.ModeSense6, 0x08, byte(scsi.ModeCaching), 0, 255), nil)
	page[0], page[6] = 0, page[6]&^0x04
	a.good(cdb(scsi.ModeSelect6, 0x10, 0, 0, byte(len(page))), page)
	a.good(blocks(scsi.Write10, 0, 1), make([]byte, 512))
	if n := r.dev.Counts().FUA; n != 1 {
		t.Errorf("%d writes with FUA", n)
	}
	if got := b.do(cdb(scsi.TestUnitReady), nil); got.code != scsi.ModeChanged {
		t.Errorf("the other is told %v, %v", got.status, got.sense)
	}
}

// TestWriteCacheOff: what was written with the cache on is stable, too, when the
// cache is said to be off; when that fails, it is not off.
func TestWriteCacheOff(t *testing.T) {
	r := newRig(t, blocktest.Options{}, nil)
	a := r.nexus(t, "a")
	page := a.good(cdb(scsi.ModeSense6, 0x08, byte(scsi.ModeCaching), 0, 255), nil)
	list := bytes.Clone(page)
	list[0], list[6] = 0, list[6]&^0x04
	off := cdb(scsi.ModeSelect6, 0x10, 0, 0, byte(len(list)))
	a.good(blocks(scsi.Write10, 0, 1), make([]byte, 512))
	r.dev.Inject(blocktest.Fault{Op: block.OpFlush, Err: block.ErrIO, Times: 1})
	if got := a.do(off, list); got.sense.Key != scsi.HardwareError {
		t.Errorf("with a flush that fails: %v, %v", got.status, got.sense)
	}
	if now := a.good(cdb(scsi.ModeSense6, 0x08, byte(scsi.ModeCaching), 0, 255), nil); !bytes.Equal(now, page) {
		t.Errorf("after a flush that failed: %x, want %x", now, page)
	}
	a.good(off, list)
	if n := r.dev.Counts().Flushes; n != 1 {
		t.Errorf("%d flushes when the cache was turned off", n)
	}
	a.good(off, list)
	if n := r.dev.Counts().Flushes; n != 1 {
		t.Errorf("%d flushes, the cache was off before", n)
	}
}

// TestBeyondLimits: what is too long or too far is refused before anything is
// held for it.
func TestBeyondLimits(t *testing.T) {
	r := newRig(t, blocktest.Options{}, nil)
	a := r.nexus(t, "a")
	big := blocks(scsi.Write16, 0, 1<<22)
	caw := blocks(scsi.CompareAndWrite, 0, 129)
	same := blocks(scsi.WriteSame16, 0, 1<<22)
	for name, c := range map[string]struct {
		cdb  scsi.CDB
		want scsi.Code
	}{
		"long write": {big, scsi.LBAOutOfRange}, "long transfer": {blocks(scsi.Read16, 0, 4096), scsi.InvalidFieldInCDB},
		"compare": {caw, scsi.InvalidFieldInCDB}, "write same": {same, scsi.LBAOutOfRange},
		"wrapping": {blocks(scsi.Read16, ^uint64(0), 2), scsi.LBAOutOfRange},
		"opcode":   {cdb(0xff), scsi.InvalidOpcode}, "NACA": {cdb(scsi.TestUnitReady, 0, 0, 0, 0, 4), scsi.InvalidFieldInCDB},
		"copy": {cdb(0x83), scsi.InvalidOpcode}, "parameter list": {cdb(scsi.ReserveOut, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff), scsi.ParameterListLength},
	} {
		if got := a.do(c.cdb, nil); got.code != c.want {
			t.Errorf("%s: %v, %v", name, got.status, got.sense)
		}
	}
}

// FuzzTask runs any command with any data: done is called once, nothing grows
// beyond what was said, and the unit stays usable.
func FuzzTask(f *testing.F) {
	for i := range scsi.Commands {
		c := &scsi.Commands[i]
		d := scsi.CDB{byte(c.Opcode), c.Action}
		d.SetRange(1, 8)
		f.Add(d[:], []byte{1, 2, 3}, uint8(0))
		f.Add(d[:], scsi.AppendUnmap(nil, []scsi.BlockRange{{LBA: 3, Blocks: 4}}), uint8(1))
		f.Add(d[:], scsi.ReserveOutList{ActionKey: 5}.Append(nil), uint8(0))
	}
	r := newRig(f, blocktest.Options{Geometry: block.Geometry{Size: 8 << 20}}, &keeper{})
	nexuses := []*lun.Nexus{r.m.Attach("a"), r.m.Attach("b")}
	f.Fuzz(func(t *testing.T, c, data []byte, attr uint8) {
		calls := 0
		task := lun.NewTask(func(*lun.Task) { calls++ })
		n := nexuses[attr>>7]
		var d scsi.CDB
		copy(d[:], c)
		need, ok := task.Prepare(n, lun.Command{CDB: d, Attr: lun.Attribute(attr & 7)})
		if !ok {
			if task.Status == scsi.Good {
				t.Fatal("refused with GOOD")
			}
			return
		}
		if need.Bytes() > 3<<20 {
			t.Fatalf("%x needs %d bytes", d, need.Bytes())
		}
		out := make([]byte, need.Out)
		copy(out, data)
		task.Run([][]byte{out})
		if calls != 1 || len(task.In) > int(need.In) || task.Gone != nil {
			t.Fatalf("%x: done %d times, %d bytes of %d, %v", d, calls, len(task.In), need.In, task.Gone)
		}
		if s := task.AppendSense(nil); len(s) > scsi.MaxSense {
			t.Fatalf("%d bytes of sense", len(s))
		}
		task.Release()
	})
}

// TestOrWriteLosesNothing: each worker's block is written by that worker only,
// while the others put back what they read of it with OR-writes of zeroes. An
// OR-write that ran beside a write would undo it.
func TestOrWriteLosesNothing(t *testing.T) {
	const workers = 8
	r := newRig(t, blocktest.Options{Workers: 4}, nil)
	var wg sync.WaitGroup
	for w := range uint64(workers) {
		n := r.nexus(t, string(rune('a'+w)))
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(w, 3))
			for i := range 300 {
				mine := bytes.Repeat([]byte{byte(i)}, 512)
				n.attr(blocks(scsi.Write16, w, 1), mine, lun.Attribute(rng.IntN(3)))
				n.good(blocks(scsi.OrWrite, 0, workers), make([]byte, workers*512))
				if got := n.good(blocks(scsi.Read16, w, 1), nil); !bytes.Equal(got, mine) {
					t.Errorf("block %d is %d after %d was written", w, got[0], mine[0])
					return
				}
			}
		})
	}
	wg.Wait()
}
