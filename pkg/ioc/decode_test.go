package ioc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func FuzzName(f *testing.F) {
	for _, s := range []string{"pvc-1-r0", "..", "a/../b", ".trash-a", "a.json", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if checkName(name) != nil {
			return
		}
		for _, file := range []string{imgOf(name), recordOf(name)} {
			if !filepath.IsLocal(file) || filepath.Base(file) != file || strings.HasPrefix(file, ".") || len(file) > 255 {
				t.Fatalf("%q becomes file %q", name, file)
			}
			if back, ok := extentOf(file); !ok || back != name {
				t.Fatalf("%q becomes file %q of extent %q", name, file, back)
			}
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"format":"cask-extent","version":1,"name":"a","size":4096,"created":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"format":"cask-extent","version":2,"name":"a","size":4096}`))
	f.Add([]byte(`{"format":"cask-extent","version":1,"name":"a","size":4096}{}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b, "a")
		if err != nil {
			return
		}
		if r.Name != "a" || r.Size == 0 || r.Size > MaxSize {
			t.Fatalf("accepted %+v", r)
		}
		again, err := decodeRecord(encode(r), "a")
		if err != nil || !again.Created.Equal(r.Created) || again.Size != r.Size {
			t.Fatalf("%+v, then %+v, %v", r, again, err)
		}
	})
}

func FuzzMarker(f *testing.F) {
	f.Add([]byte(`{"format":"cask-pool","version":1,"poolID":"x","pool":"p","node":"n","created":"2026-01-02T03:04:05Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMarker(b)
		if err != nil {
			return
		}
		again, err := decodeMarker(encode(m))
		if err != nil || again.PoolID != m.PoolID || again.Pool != m.Pool || again.Node != m.Node {
			t.Fatalf("%+v, then %+v, %v", m, again, err)
		}
	})
}

// recorder accepts everything and checks what it was given.
type recorder struct{ t *testing.T }

func (r recorder) Create(_ context.Context, name string, size uint64) (string, error) {
	return "extents/x.img", errors.Join(checkName(name), checkSize(name, size))
}
func (r recorder) Open(_ context.Context, name string) (Extent, error) {
	return Extent{}, checkName(name)
}
func (r recorder) Grow(_ context.Context, name string, size uint64) error {
	return errors.Join(checkName(name), checkSize(name, size))
}
func (r recorder) Delete(_ context.Context, name string) error { return checkName(name) }
func (r recorder) List(context.Context) ([]Extent, error)      { return nil, nil }
func (r recorder) Status(context.Context) (Status, error)      { return Status{}, nil }

func FuzzRequest(f *testing.F) {
	f.Add("POST", "/v1/extents", []byte(`{"name":"a","size":4096}`))
	f.Add("GET", "/v1/extents/a", []byte{})
	f.Add("DELETE", "/v1/extents/..%2fa", []byte{})
	f.Add("PUT", "/v1/extents/a", []byte(`{"size":8192}`))
	f.Add("PATCH", "/v2", []byte{})
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		req, err := http.NewRequest(method, "http://ioc"+path, bytes.NewReader(body))
		if err != nil || req.URL.Host != "ioc" {
			return
		}
		w := httptest.NewRecorder()
		NewHandler(recorder{t}).ServeHTTP(w, req)
		if w.Code/100 == 2 || w.Code/100 == 3 {
			return
		}
		var we wireError
		if err := json.Unmarshal(w.Body.Bytes(), &we); err != nil || we.Code == CodeOK {
			t.Fatalf("%s %s: %d %q", method, path, w.Code, w.Body)
		}
	})
}

func TestRequestBounds(t *testing.T) {
	body := `{"name":"a","size":4096,"x":"` + strings.Repeat("y", maxRequest) + `"}`
	for _, b := range []string{body, `{"name":"a","size":-1}`, `{"name":"a","size":4096,"mode":1}`, `{"name":"a","size":4096} x`, ``} {
		w := httptest.NewRecorder()
		NewHandler(recorder{t}).ServeHTTP(w, httptest.NewRequest("POST", extentsPath, strings.NewReader(b)))
		var we wireError
		if err := json.Unmarshal(w.Body.Bytes(), &we); err != nil || we.Code != CodeProtocol {
			t.Errorf("%.40s: %d %s", b, w.Code, w.Body)
		}
	}
}

func TestErrorsSurviveTheWire(t *testing.T) {
	in := &Error{Code: CodeTruncated, Object: `extent "a"`, Detail: "why", Recorded: 2, Actual: 1, Cause: errors.New("deep")}
	out := toWire(in).toError()
	var e *Error
	if !errors.As(out, &e) || !errors.Is(out, ErrTruncated) || errors.Is(out, ErrIO) || e.Recorded != 2 || e.Actual != 1 {
		t.Fatalf("%#v", out)
	}
	if out.Error() != in.Error() {
		t.Fatalf("%q became %q", in, out)
	}
	if !errors.Is(toWire(errors.New("plain")).toError(), ErrIO) {
		t.Fatal("an error without a class is not ErrIO")
	}
	if CodeOf(Code(999)) != Code(999) || Code(999).Error() != "error class 999" {
		t.Fatal("a class of a newer peer is lost")
	}
}

// TestAvailable checks the arithmetic against floating point.
func TestAvailable(t *testing.T) {
	for range 10000 {
		l := Limits{ReservePercent: rand.Uint32N(101), OvercommitPercent: 100 + rand.Uint32N(9901)}
		u := Usage{Capacity: rand.Uint64N(1 << 50)}
		if u.Capacity > 0 {
			u.Free = rand.Uint64N(u.Capacity)
			u.Allocated = rand.Uint64N(u.Capacity - u.Free)
		}
		u.Promised = rand.Uint64N(1 << 50)
		want := (float64(u.Free+u.Allocated)-float64(u.Capacity)*float64(l.ReservePercent)/100)*float64(l.OvercommitPercent)/100 - float64(u.Promised)
		got := float64(l.Available(u))
		if want = max(want, 0); got-want > 1000 || want-got > 1000 {
			t.Fatalf("%+v %+v: %g, want %g", l, u, got, want)
		}
	}
	if scale(1<<60, 10000) != ^uint64(0) {
		t.Fatal("does not saturate")
	}
}

func TestMetrics(t *testing.T) {
	var b strings.Builder
	must(t, WriteMetrics(&b, Status{Pool: "p", Node: "n", Capacity: 7, Extents: 2}, nil))
	for _, want := range []string{`cask_ioc_ready{pool="p",node="n"} 1`, `cask_ioc_capacity_bytes{pool="p",node="n"} 7`, "# TYPE cask_ioc_extents gauge"} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, b.String())
		}
	}
	b.Reset()
	must(t, WriteMetrics(&b, Status{Pool: "p", Node: "n"}, ErrForeign))
	if !strings.Contains(b.String(), "cask_ioc_ready{pool=\"p\",node=\"n\"} 0\n") || strings.Contains(b.String(), "capacity") {
		t.Errorf("refused:\n%s", b.String())
	}
}

func TestRecordGolden(t *testing.T) {
	r := record{Format: recordFormat, Version: 1, Name: "a", Size: 4096, Created: time.Unix(1700000000, 0).UTC()}
	want := `{"format":"cask-extent","version":1,"name":"a","size":4096,"created":"2023-11-14T22:13:20Z"}` + "\n"
	if got := string(encode(r)); got != want {
		t.Fatalf("the frozen format changed:\n%s%s", got, want)
	}
}
