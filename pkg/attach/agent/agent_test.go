//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

func spec(volume string) Spec {
	return Spec{Volume: volume, Address: "10.0.0.1:4420", NQN: "nqn.v:" + volume, NSID: 1, HostNQN: "nqn.h:1"}
}

// fakeKernel is a kernel's host in memory.
type fakeKernel struct {
	unusable error
	refuses  error
	have     map[string]bool // by host and subsystem NQN
	busy     bool
	away     bool // connecting
	lost     bool
	connects int
	secrets  dhchap.Secrets
}

func key(s Spec) string { return s.HostNQN + " " + s.NQN }

func (k *fakeKernel) Usable() error { return k.unusable }

func (k *fakeKernel) Connect(_ context.Context, r Request) (string, error) {
	if k.refuses != nil {
		return "", k.refuses
	}
	k.have[key(r.Spec)] = true
	k.connects++
	k.secrets = r.Secrets
	return "/dev/nvme0n1", nil
}

func (k *fakeKernel) Disconnect(_ context.Context, s Spec, q DetachRequest) error {
	if k.busy && !q.Force {
		return ErrBusy
	}
	delete(k.have, key(s))
	return nil
}

func (k *fakeKernel) Lookup(s Spec) (string, Link, bool) {
	return "/dev/nvme0n1", Link{Connected: !k.away}, k.have[key(s)]
}

func (k *fakeKernel) Lost(_ context.Context, s Spec) bool { return k.lost || !k.have[key(s)] }

// newAgent's children fail.
func newAgent(t *testing.T, dir string, k *fakeKernel) *Agent {
	t.Helper()
	a, err := New(t.Context(), Options{
		RunDir: dir, Choose: ChooseAuto, Kernel: k, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Child: func(string) *exec.Cmd { return exec.Command("/bin/false") },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func TestKernelPath(t *testing.T) {
	dir, k := t.TempDir(), &fakeKernel{have: map[string]bool{}}
	a := newAgent(t, dir, k)
	for range 2 {
		i, err := a.Attach(t.Context(), Request{Spec: spec("v")})
		if err != nil || i.Path != PathKernel || i.Device != "/dev/nvme0n1" || i.Why == "" {
			t.Fatalf("%+v, %v", i, err)
		}
	}
	if err := a.Drain(t.Context()); err != nil {
		t.Errorf("the kernel's connections were waited for: %v", err)
	}
	// Another agent finds the connection.
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b := newAgent(t, dir, k)
	if l := b.List(t.Context()); len(l) != 1 || l[0].Device != "/dev/nvme0n1" {
		t.Errorf("adopted %+v", l)
	}
	k.busy = true
	if err := b.Detach(t.Context(), DetachRequest{Volume: "v"}); !errors.Is(err, ErrBusy) {
		t.Errorf("detach while mounted: %v", err)
	}
	newer := spec("v")
	newer.HostNQN = "nqn.h:2"
	if _, err := b.Attach(t.Context(), Request{Spec: newer}); !errors.Is(err, ErrBusy) {
		t.Errorf("another attachment while mounted: %v", err)
	}
	k.busy = false
	if _, err := b.Attach(t.Context(), Request{Spec: newer}); err != nil {
		t.Errorf("another attachment: %v", err)
	}
	if k.have[key(spec("v"))] {
		t.Error("the older attachment is still connected")
	}
	for range 2 {
		if err := b.Detach(t.Context(), DetachRequest{Volume: "v"}); err != nil {
			t.Error(err)
		}
	}
	if entries, _ := filepath.Glob(filepath.Join(dir, "v")); len(entries) != 0 || len(k.have) != 0 {
		t.Errorf("left: %v %v", entries, k.have)
	}
}

// The choice of a path, and what is left when neither works.
func TestFallsBackToUserSpace(t *testing.T) {
	dir := t.TempDir()
	k := &fakeKernel{have: map[string]bool{}, unusable: errors.New("no module")}
	a := newAgent(t, dir, k)
	if _, err := a.Attach(t.Context(), Request{Spec: spec("v")}); !errors.Is(err, ErrInternal) { // the child of this test fails
		t.Errorf("%v", err)
	}
	k.unusable, k.refuses = nil, fmt.Errorf("%w: EINVAL", ErrNoKernel)
	if _, err := a.Attach(t.Context(), Request{Spec: spec("v")}); !errors.Is(err, ErrInternal) {
		t.Errorf("%v", err)
	}
	k.refuses = ErrUnreachable
	if _, err := a.Attach(t.Context(), Request{Spec: spec("v")}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("an unreachable target is no reason for another path: %v", err)
	}
	a.opt.Choose, k.refuses = ChooseKernel, fmt.Errorf("%w: EINVAL", ErrNoKernel)
	if _, err := a.Attach(t.Context(), Request{Spec: spec("v")}); !errors.Is(err, ErrNoKernel) {
		t.Errorf("the kernel's path only: %v", err)
	}
	if entries, _ := filepath.Glob(filepath.Join(dir, "v*")); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestTwoAgentsExcludeEachOther(t *testing.T) {
	dir := t.TempDir()
	newAgent(t, dir, &fakeKernel{})
	if _, err := New(t.Context(), Options{RunDir: dir, Kernel: &fakeKernel{}, Log: slog.Default()}); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("%v", err)
	}
}

func TestTakeOver(t *testing.T) {
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		rec  record
		left bool
	}{
		"an earlier boot":   {record{Version: stateVersion, BootID: "earlier", PID: os.Getpid()}, false},
		"never served":      {record{Version: stateVersion, BootID: boot}, false},
		"PID used again":    {record{Version: stateVersion, BootID: boot, PID: os.Getppid(), Started: 1, Device: "/dev/loop999"}, false},
		"a newer agent's":   {record{Version: stateVersion + 1, BootID: boot}, true},
		"kernel's, gone":    {record{Version: stateVersion, BootID: boot, Path: PathKernel}, false},
		"not ours to judge": {record{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			sub := filepath.Join(dir, "v")
			if err := os.Mkdir(sub, 0o700); err != nil {
				t.Fatal(err)
			}
			c.rec.Spec = spec("v")
			if err := c.rec.write(sub); err != nil {
				t.Fatal(err)
			}
			a := newAgent(t, dir, &fakeKernel{})
			if l := a.List(t.Context()); len(l) != 0 {
				t.Errorf("adopted %+v", l)
			}
			if _, err := os.Stat(sub); (err == nil) != c.left {
				t.Errorf("left: %v, want %v", err == nil, c.left)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	if err := spec("pvc-1").Validate(); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*Spec){
		"path in the name": func(s *Spec) { s.Volume = "../x" },
		"empty name":       func(s *Spec) { s.Volume = "" },
		"dots":             func(s *Spec) { s.Volume = ".." },
		"no port":          func(s *Spec) { s.Address = "10.0.0.1" },
		"long NQN":         func(s *Spec) { s.NQN = strings.Repeat("n", 224) },
		"no host":          func(s *Spec) { s.HostNQN = "" },
		"namespace 0":      func(s *Spec) { s.NSID = 0 },
		"all namespaces":   func(s *Spec) { s.NSID = 0xffffffff },
	} {
		s := spec("pvc-1")
		change(&s)
		if err := s.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestDirNameFitsASocket(t *testing.T) {
	long := strings.Repeat("a", 200)
	if got := dirName(long); len(got) > maxDirName || got == dirName(long+"b") {
		t.Errorf("%q", got)
	}
	if got := dirName("pvc-b2ad2975-0c54-4cb9-a9e8-3acb5dfdda65"); got != "pvc-b2ad2975-0c54-4cb9-a9e8-3acb5dfdda65" {
		t.Errorf("%q", got)
	}
}

// Classes survive the socket.
func TestErrorsOverTheWire(t *testing.T) {
	for _, class := range []error{ErrInvalid, ErrBusy, ErrRefused, ErrUnreachable, ErrInternal} {
		if got := errorOf(statusOf(fmt.Errorf("x: %w", class))); !errors.Is(got, class) {
			t.Errorf("%v became %v", class, got)
		}
	}
}

func TestRequestsAreBounded(t *testing.T) {
	a := newAgent(t, t.TempDir(), &fakeKernel{})
	for what, body := range map[string]string{
		"garbage":       "{",
		"unknown field": `{"volume":"v","force":true,"evil":1}`,
		"too large":     `{"volume":"` + strings.Repeat("v", maxBody) + `"}`,
	} {
		w := httptest.NewRecorder()
		a.routes().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/detach", strings.NewReader(body)))
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
	}
}

func TestParseStartTime(t *testing.T) {
	fields := "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"
	if n, err := parseStartTime([]byte("7 (a ) b) " + fields)); err != nil || n != 4242 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := startTime(os.Getpid()); err != nil {
		t.Error(err)
	}
}

func FuzzParseStartTime(f *testing.F) {
	f.Add([]byte("7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"))
	f.Add([]byte(")"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseStartTime(b) })
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"spec":{"volume":"v","address":"a:1","nqn":"n","nsid":1,"hostNQN":"h"}}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r record
		if err := decodeRecord(b, &r); err == nil && (r.Version != stateVersion || r.Spec.Validate() != nil) {
			t.Errorf("%q was taken", b)
		}
	})
}

func FuzzParseStarted(f *testing.F) {
	f.Add([]byte(`{"status":200}`))
	f.Add([]byte(`{"status":409,"error":"x"}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = parseStarted(b) })
}

// TestLostIsReplaced: what will never be connected again is attached anew, in
// use or not; what is only away is left alone.
func TestLostIsReplaced(t *testing.T) {
	k := &fakeKernel{have: map[string]bool{}, busy: true}
	a := newAgent(t, t.TempDir(), k)
	attach := func() Info {
		t.Helper()
		i, err := a.Attach(t.Context(), Request{Spec: spec("v")})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	attach()
	k.away = true
	if i := attach(); i.Link.Connected || i.Link.Lost {
		t.Fatalf("away: %+v", i.Link)
	}
	k.lost = true
	if l := a.List(t.Context()); !l[0].Link.Lost {
		t.Fatalf("lost: %+v", l[0].Link)
	}
	connects := k.connects
	attach()
	if k.connects != connects+1 {
		t.Fatal("an attachment that is lost was not made anew")
	}
	k.away, k.lost = false, false
	delete(k.have, key(spec("v"))) // the kernel gave up by itself
	if l := a.List(t.Context()); !l[0].Link.Lost || l[0].Link.Connected || l[0].Link.Message == "" {
		t.Fatalf("gone: %+v", l[0].Link)
	}
}
