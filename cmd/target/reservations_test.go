package main

import (
	"context"
	"errors"
	"io"
	"log"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

// fakeKeeper fails as it is told.
type fakeKeeper struct {
	b    []byte
	errs []error
}

func (k *fakeKeeper) next() (err error) {
	if len(k.errs) > 0 {
		err, k.errs = k.errs[0], k.errs[1:]
	}
	return err
}

func (k *fakeKeeper) Kept(context.Context) ([]byte, error) { return k.b, k.next() }

func (k *fakeKeeper) Keep(_ context.Context, holder string, b []byte) error {
	if holder != "me" {
		return volume.ErrSuperseded
	}
	k.b = b // even if it fails: that is not known
	return k.next()
}

// quiet drops the log until the test ends.
func quiet(t *testing.T) {
	w := log.Writer()
	log.SetOutput(io.Discard)
	t.Cleanup(func() { log.SetOutput(w) })
}

// TestKeep: tries that fail are repeated until one succeeds, but not by a
// target that was superseded, nor for ever.
func TestKeep(t *testing.T) {
	quiet(t)
	away := errors.New("the API server is away")
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKeeper{errs: []error{away, away}}
		r := reservations{keeper: k, volume: "v", frontend: "nvme", holder: "me"}
		if err := r.keep(t.Context(), []byte(`{"a":1}`)); err != nil {
			t.Fatal(err)
		}
		k.errs = []error{away, away}
		if b, err := r.load(t.Context()); err != nil || string(b) != `{"a":1}` {
			t.Errorf("loaded %s, %v", b, err)
		}
		k.errs = []error{target.ErrTooLarge}
		if err := r.keep(t.Context(), []byte("{}")); !errors.Is(err, target.ErrTooLarge) {
			t.Errorf("too large: %v", err)
		}
		for range 1000 {
			k.errs = append(k.errs, away)
		}
		ctx, cancel := context.WithTimeout(t.Context(), keepTime)
		defer cancel()
		if err := r.keep(ctx, []byte("{}")); !errors.Is(err, away) {
			t.Errorf("away for ever: %v", err)
		}
		if _, err := r.load(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("away for ever: %v", err)
		}
		k.errs = nil
		r.holder = "another"
		if err := r.keep(t.Context(), []byte("{}")); !errors.Is(err, volume.ErrSuperseded) {
			t.Errorf("superseded: %v", err)
		}
	})
}

// TestKeptOfAnother: what a frontend cannot honour it does not ignore.
func TestKeptOfAnother(t *testing.T) {
	k := &fakeKeeper{}
	nvme, iscsi := reservations{k, "v", "nvme", "me"}, reservations{k, "v", "iscsi", "me"}
	if err := nvme.keep(t.Context(), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if _, err := iscsi.load(t.Context()); err == nil || !strings.Contains(err.Error(), "frontend nvme") {
		t.Errorf("reservations of NVMe hosts: %v", err)
	}
	if err := nvme.keep(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if b, err := iscsi.load(t.Context()); err != nil || len(b) > 0 {
		t.Errorf("after their release: %s, %v", b, err)
	}
	for _, bad := range []string{"x", `{"version":2,"frontend":"nvme","state":{}}`} {
		k.b = []byte(bad)
		if _, err := nvme.load(t.Context()); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// TestOneFrontend: a target does not take two.
func TestOneFrontend(t *testing.T) {
	var o options
	if err := o.setFrontend("scsi"); err == nil {
		t.Error("an unknown frontend was taken")
	}
	if err := o.setFrontend("iscsi"); err != nil {
		t.Fatal(err)
	}
	for _, second := range []string{"nvme", "iscsi"} {
		if err := o.setFrontend(second); err == nil {
			t.Errorf("%s was taken as a second frontend", second)
		}
	}
}
