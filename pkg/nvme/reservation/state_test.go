package reservation_test

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/reservation"
)

var a, b, c = nvme.UUID{1}, nvme.UUID{2}, nvme.UUID{3}

func register(h nvme.UUID, key uint64) reservation.Command {
	return reservation.Command{Host: h, Keys: nvme.ReservationKeys{Other: key}}
}

func acquire(h nvme.UUID, key uint64, t nvme.ReservationType) reservation.Command {
	return reservation.Command{Host: h, Params: nvme.ReservationParams{Type: t}, Keys: nvme.ReservationKeys{Current: key}}
}

// three hosts registered with keys 1, 2 and 3, and a holds.
func three(t *testing.T, typ nvme.ReservationType) *reservation.State {
	t.Helper()
	s := &reservation.State{}
	for i, h := range []nvme.UUID{a, b, c} {
		if _, st := s.Register(register(h, uint64(i+1))); !st.OK() {
			t.Fatal(st)
		}
	}
	if typ != 0 {
		if _, st := s.Acquire(acquire(a, 1, typ)); !st.OK() {
			t.Fatal(st)
		}
	}
	return s
}

// TestAccess is the specification's table of who may do what.
func TestAccess(t *testing.T) {
	stranger := nvme.UUID{9}
	for typ, want := range map[nvme.ReservationType][6]bool{ // holder, registrant, stranger: read, write each
		0:                           {true, true, true, true, true, true},
		nvme.WriteExclusive:         {true, true, true, false, true, false},
		nvme.ExclusiveAccess:        {true, true, false, false, false, false},
		nvme.WriteExclusiveRegOnly:  {true, true, true, true, true, false},
		nvme.ExclusiveAccessRegOnly: {true, true, true, true, false, false},
		nvme.WriteExclusiveAllRegs:  {true, true, true, true, true, false},
		nvme.ExclusiveAccessAllRegs: {true, true, true, true, false, false},
	} {
		s := three(t, typ)
		var got [6]bool
		for i, h := range []nvme.UUID{a, b, stranger} {
			got[2*i], got[2*i+1] = s.Allows(h, reservation.Read), s.Allows(h, reservation.Write)
		}
		if got != want {
			t.Errorf("type %d: %v, want %v", typ, got, want)
		}
	}
}

func TestRegister(t *testing.T) {
	s := three(t, 0)
	with := func(c reservation.Command, p nvme.ReservationParams, current uint64) reservation.Command {
		c.Params, c.Keys.Current = p, current
		return c
	}
	for i, x := range []struct {
		c    reservation.Command
		want nvme.Status
		gen  uint32
	}{
		{register(a, 1), nvme.Success, 4},
		{register(a, 7), nvme.ReservationConflict, 4},
		{with(register(a, 7), nvme.ReservationParams{Action: nvme.ReservationReplace}, 9), nvme.ReservationConflict, 4},
		{with(register(a, 7), nvme.ReservationParams{Action: nvme.ReservationReplace}, 1), nvme.Success, 5},
		{with(register(a, 8), nvme.ReservationParams{Action: nvme.ReservationReplace, IgnoreKey: true}, 0), nvme.Success, 6},
		{with(register(a, 0), nvme.ReservationParams{Action: nvme.ReservationUnregister}, 7), nvme.ReservationConflict, 6},
		{with(register(a, 0), nvme.ReservationParams{Action: nvme.ReservationUnregister}, 8), nvme.Success, 7},
		{with(register(a, 0), nvme.ReservationParams{Action: nvme.ReservationUnregister, IgnoreKey: true}, 8), nvme.ReservationConflict, 7},
		{with(register(a, 1), nvme.ReservationParams{Action: 5}, 0), nvme.InvalidField, 7},
		{with(register(a, 1), nvme.ReservationParams{Persist: nvme.PersistOn}, 0), nvme.InvalidField, 7},
		{with(register(a, 1), nvme.ReservationParams{Persist: 1}, 0), nvme.InvalidField, 7},
	} {
		if _, st := s.Register(x.c); st.Code() != x.want || s.Generation != x.gen {
			t.Errorf("%d: %v, generation %d, want %v, %d", i, st, s.Generation, x.want, x.gen)
		}
	}
	full := &reservation.State{}
	for i := range reservation.MaxRegistrants {
		if _, st := full.Register(register(nvme.UUID{1, byte(i)}, 1)); !st.OK() {
			t.Fatal(st)
		}
	}
	if _, st := full.Register(register(nvme.UUID{2}, 1)); st.OK() {
		t.Error("more registrants than the bound")
	}
}

func TestAcquireRelease(t *testing.T) {
	s := three(t, nvme.WriteExclusive)
	for i, x := range []struct {
		c    reservation.Command
		want nvme.Status
	}{
		{acquire(a, 1, nvme.WriteExclusive), nvme.Success},              // again
		{acquire(a, 1, nvme.ExclusiveAccess), nvme.ReservationConflict}, // another type
		{acquire(b, 2, nvme.WriteExclusive), nvme.ReservationConflict},
		{acquire(a, 9, nvme.WriteExclusive), nvme.ReservationConflict}, // wrong key
		{acquire(nvme.UUID{9}, 0, nvme.WriteExclusive), nvme.ReservationConflict},
		{acquire(a, 1, 0), nvme.InvalidField},
		{acquire(a, 1, 7), nvme.InvalidField},
	} {
		if _, st := s.Acquire(x.c); st.Code() != x.want {
			t.Errorf("acquire %d: %v, want %v", i, st, x.want)
		}
	}
	if _, st := s.Release(acquire(b, 2, nvme.WriteExclusive)); !st.OK() || s.Type == 0 {
		t.Errorf("release by a registrant that holds nothing: %v, type %d", st, s.Type)
	}
	if _, st := s.Release(acquire(a, 1, nvme.ExclusiveAccess)); st.Code() != nvme.InvalidField {
		t.Errorf("release of another type: %v", st)
	}
	if n, st := s.Release(acquire(a, 1, nvme.WriteExclusive)); !st.OK() || len(n) != 0 || s.Type != 0 {
		t.Errorf("release: %v, %v, type %d", st, n, s.Type)
	}
	s = three(t, nvme.WriteExclusiveRegOnly)
	n, st := s.Release(acquire(a, 1, nvme.WriteExclusiveRegOnly))
	if want := []reservation.Notice{{Host: b, What: nvme.ReservationReleased}, {Host: c, What: nvme.ReservationReleased}}; !st.OK() || !reflect.DeepEqual(n, want) {
		t.Errorf("release of a shared type: %v, %v", st, n)
	}
	s = three(t, nvme.ExclusiveAccess)
	clear := acquire(b, 2, 0)
	clear.Params.Action = nvme.ReservationClear
	n, st = s.Release(clear)
	if !st.OK() || len(n) != 2 || n[0].What != nvme.ReservationPreempted || s.Type != 0 || len(s.Registrants) != 0 || s.Generation != 4 {
		t.Errorf("clear: %v, %v, %+v", st, n, s)
	}
}

// TestUnregister: the holder's going releases, of all registrants the last's.
func TestUnregister(t *testing.T) {
	bye := func(s *reservation.State, h nvme.UUID) []reservation.Notice {
		c := register(h, 0)
		c.Params = nvme.ReservationParams{Action: nvme.ReservationUnregister, IgnoreKey: true}
		n, st := s.Register(c)
		if !st.OK() {
			t.Fatal(st)
		}
		return n
	}
	s := three(t, nvme.ExclusiveAccessRegOnly)
	if n := bye(s, b); len(n) != 0 || s.Type == 0 {
		t.Errorf("a registrant went: %v, type %d", n, s.Type)
	}
	if n := bye(s, a); len(n) != 1 || n[0].Host != c || s.Type != 0 {
		t.Errorf("the holder went: %v, type %d", n, s.Type)
	}
	s = three(t, nvme.ExclusiveAccessAllRegs)
	bye(s, a)
	bye(s, b)
	if s.Type == 0 || !s.Holds(c) {
		t.Errorf("type %d with a registrant left", s.Type)
	}
	bye(s, c)
	if s.Type != 0 {
		t.Errorf("type %d without registrants", s.Type)
	}
}

func TestPreempt(t *testing.T) {
	for name, x := range map[string]struct {
		held    nvme.ReservationType
		by      reservation.Command
		key     uint64
		want    nvme.Status
		typ     nvme.ReservationType
		holder  nvme.UUID
		left    int
		notices int
	}{
		"the holder":         {nvme.WriteExclusive, acquire(b, 2, nvme.ExclusiveAccess), 1, 0, nvme.ExclusiveAccess, b, 2, 1},
		"the holder, shared": {nvme.WriteExclusiveRegOnly, acquire(b, 2, nvme.ExclusiveAccess), 1, 0, nvme.ExclusiveAccess, b, 2, 2},
		"a registrant":       {nvme.WriteExclusive, acquire(b, 2, nvme.ExclusiveAccess), 3, 0, nvme.WriteExclusive, a, 2, 1},
		"nobody":             {nvme.WriteExclusive, acquire(b, 2, nvme.ExclusiveAccess), 9, nvme.ReservationConflict, nvme.WriteExclusive, a, 3, 0},
		"key 0":              {nvme.WriteExclusive, acquire(b, 2, nvme.ExclusiveAccess), 0, nvme.InvalidField, nvme.WriteExclusive, a, 3, 0},
		"itself":             {nvme.WriteExclusive, acquire(a, 1, nvme.ExclusiveAccess), 1, 0, nvme.ExclusiveAccess, a, 3, 0},
		"no reservation":     {0, acquire(b, 2, nvme.WriteExclusive), 1, 0, 0, nvme.UUID{}, 2, 1},
		"all registrants":    {nvme.WriteExclusiveAllRegs, acquire(b, 2, nvme.WriteExclusive), 0, 0, nvme.WriteExclusive, b, 1, 2},
		"one of all":         {nvme.WriteExclusiveAllRegs, acquire(b, 2, nvme.WriteExclusive), 1, 0, nvme.WriteExclusiveAllRegs, a, 2, 1},
		"by a wrong key":     {nvme.WriteExclusive, acquire(b, 3, nvme.WriteExclusive), 1, nvme.ReservationConflict, nvme.WriteExclusive, a, 3, 0},
	} {
		s := three(t, x.held)
		x.by.Params.Action = nvme.ReservationPreempt
		x.by.Keys.Other = x.key
		n, st := s.Acquire(x.by)
		if st.Code() != x.want || s.Type != x.typ || s.Holder != x.holder || len(s.Registrants) != x.left || len(n) != x.notices {
			t.Errorf("%s: %v, %v, %+v", name, st, n, s)
		}
	}
}

func TestReport(t *testing.T) {
	s := three(t, nvme.WriteExclusive)
	r := s.Report(func(h nvme.UUID) []nvme.CNTLID {
		if h == a {
			return []nvme.CNTLID{4, 5}
		}
		return nil
	})
	if len(r.Controllers) != 4 || !r.Controllers[0].Holder || r.Controllers[1].CNTLID != 5 || r.Controllers[2].CNTLID != nvme.CNTLIDDynamic || r.Controllers[3].Key != 3 {
		t.Errorf("%+v", r)
	}
}

// TestInvariants runs random commands: a holder is a registrant, a reservation
// has one, keeping and reading back changes nothing, a failure changes nothing.
func TestInvariants(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	s := &reservation.State{}
	for n := range 20000 {
		x := reservation.Command{
			Host:       nvme.UUID{byte(1 + rng.IntN(4))},
			Keys:       nvme.ReservationKeys{Current: rng.Uint64N(3), Other: rng.Uint64N(3)},
			Params:     nvme.ReservationParams{Action: uint8(rng.IntN(4)), IgnoreKey: rng.IntN(6) == 0, Type: nvme.ReservationType(rng.IntN(8)), Persist: uint8(rng.IntN(4))},
			CanPersist: true,
		}
		before := s.Clone()
		var st nvme.Status
		switch rng.IntN(3) {
		case 0:
			_, st = s.Register(x)
		case 1:
			_, st = s.Acquire(x)
		case 2:
			_, st = s.Release(x)
		}
		if !st.OK() && !reflect.DeepEqual(before, s) {
			t.Fatalf("seed %d, %d: %v changed %+v to %+v", seed, n, st, before, s)
		}
		holders := 0
		for _, r := range s.Registrants {
			if s.Holds(r.Host) {
				holders++
			}
		}
		if (s.Type != 0) != (holders > 0) {
			t.Fatalf("seed %d, %d: type %d with %d holders", seed, n, s.Type, holders)
		}
		got, err := reservation.Decode(s.Encode())
		if err != nil || s.Persist && !(reflect.DeepEqual(got, s) || len(s.Registrants) == 0) {
			t.Fatalf("seed %d, %d: %+v kept as %s, read as %+v, %v", seed, n, s, s.Encode(), got, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1,"type":1,"holder":"01000000000000000000000000000000","persist":true,"registrants":[{"host":"01000000000000000000000000000000","key":1}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := reservation.Decode(b)
		switch {
		case errors.Is(err, reservation.ErrFormat):
			return
		case err != nil:
			t.Fatal(err)
		}
		again, err := reservation.Decode(s.Encode())
		if err != nil || s.Persist && !reflect.DeepEqual(s, again) {
			t.Fatalf("%+v, then %+v, %v", s, again, err)
		}
	})
}
