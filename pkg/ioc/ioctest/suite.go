// Package ioctest holds the conformance suite of ioc.Engine: every
// implementation passes Run. It is used by tests only; each call of open must
// return an engine over an empty pool of at least 64 MiB.
package ioctest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/cask-storage/cask/pkg/ioc"
)

const mib = 1 << 20

// Run runs the suite.
func Run(t *testing.T, open func(t *testing.T) ioc.Engine) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, e ioc.Engine)
	}{
		{"CreateOpenDelete", createOpenDelete},
		{"Names", names},
		{"Sizes", sizes},
		{"Exists", exists},
		{"Promises", promises},
		{"Grow", grow},
		{"Concurrent", concurrent},
		{"Cancelled", cancelled},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

func want(t *testing.T, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("got error %v, want class %v", err, class)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func createOpenDelete(t *testing.T, e ioc.Engine) {
	ctx := t.Context()
	_, err := e.Open(ctx, "pvc-1-r0")
	want(t, err, ioc.ErrNotFound)
	path, err := e.Create(ctx, "pvc-1-r0", 2*mib)
	must(t, err)
	x, err := e.Open(ctx, "pvc-1-r0")
	must(t, err)
	if x.Name != "pvc-1-r0" || x.Path != path || x.Size != 2*mib || x.Created.IsZero() || x.Fault != ioc.CodeOK {
		t.Fatalf("opened %+v, created at %q", x, path)
	}
	all, err := e.List(ctx)
	must(t, err)
	if len(all) != 1 || all[0].Name != x.Name || all[0].Size != x.Size {
		t.Fatalf("listed %+v", all)
	}
	must(t, e.Delete(ctx, "pvc-1-r0"))
	want(t, e.Delete(ctx, "pvc-1-r0"), ioc.ErrNotFound)
	_, err = e.Open(ctx, "pvc-1-r0")
	want(t, err, ioc.ErrNotFound)
	_, err = e.Create(ctx, "pvc-1-r0", mib)
	must(t, err)
}

func names(t *testing.T, e ioc.Engine) {
	long := fmt.Sprintf("%0*d", ioc.MaxName, 0)
	for _, bad := range []string{"", ".", "..", "a/b", "/a", "../a", "-a", "a-", ".tmp-a", "a.", "A", "a b", "a\x00", "a\n", "é", long + "0"} {
		_, err := e.Create(t.Context(), bad, mib)
		want(t, err, ioc.ErrInvalid)
		_, err = e.Open(t.Context(), bad)
		want(t, err, ioc.ErrInvalid)
		want(t, e.Delete(t.Context(), bad), ioc.ErrInvalid)
	}
	for _, good := range []string{"a", "0", "a.b-c", "a..b", "a.json", "a.img", long} {
		_, err := e.Create(t.Context(), good, mib)
		must(t, err)
		_, err = e.Open(t.Context(), good)
		must(t, err)
	}
	all, err := e.List(t.Context())
	must(t, err)
	if len(all) != 7 {
		t.Fatalf("listed %+v", all)
	}
}

func sizes(t *testing.T, e ioc.Engine) {
	for _, bad := range []uint64{0, 1, 4095, mib + 512, ioc.MaxSize + ioc.SizeUnit, 1 << 63} {
		_, err := e.Create(t.Context(), "a", bad)
		want(t, err, ioc.ErrInvalid)
	}
}

func exists(t *testing.T, e ioc.Engine) {
	_, err := e.Create(t.Context(), "a", mib)
	must(t, err)
	_, err = e.Create(t.Context(), "a", 2*mib)
	want(t, err, ioc.ErrExists)
	x, err := e.Open(t.Context(), "a")
	must(t, err)
	if x.Size != mib {
		t.Fatalf("the second creation changed it: %+v", x)
	}
}

func promises(t *testing.T, e ioc.Engine) {
	before, err := e.Status(t.Context())
	must(t, err)
	if before.PoolID == "" || before.Extents != 0 || before.Promised != 0 || before.Available > before.Capacity {
		t.Fatalf("empty pool: %+v", before)
	}
	_, err = e.Create(t.Context(), "a", 32*mib)
	must(t, err)
	after, err := e.Status(t.Context())
	must(t, err)
	if after.Extents != 1 || after.Promised != 32*mib || after.PoolID != before.PoolID {
		t.Fatalf("after one creation: %+v", after)
	}
	_, err = e.Create(t.Context(), "b", ioc.MaxSize)
	want(t, err, ioc.ErrNoSpace)
	must(t, e.Delete(t.Context(), "a"))
	after, err = e.Status(t.Context())
	must(t, err)
	if after.Promised != 0 || after.Extents != 0 {
		t.Fatalf("after deletion: %+v", after)
	}
}

// grow: what is promised grows, never shrinks, and not beyond what there is.
func grow(t *testing.T, e ioc.Engine) {
	ctx := t.Context()
	want(t, e.Grow(ctx, "a", mib), ioc.ErrNotFound)
	_, err := e.Create(ctx, "a", 2*mib)
	must(t, err)
	for _, c := range []struct{ ask, get uint64 }{{2 * mib, 2 * mib}, {mib, 2 * mib}, {8 * mib, 8 * mib}, {8 * mib, 8 * mib}} {
		must(t, e.Grow(ctx, "a", c.ask))
		x, err := e.Open(ctx, "a")
		must(t, err)
		st, err := e.Status(ctx)
		must(t, err)
		if x.Size != c.get || st.Promised != c.get || x.Created.IsZero() {
			t.Fatalf("grown to %d: %+v, %d promised", c.ask, x, st.Promised)
		}
	}
	want(t, e.Grow(ctx, "a", ioc.MaxSize), ioc.ErrNoSpace)
	want(t, e.Grow(ctx, "a", 4095), ioc.ErrInvalid)
	want(t, e.Grow(ctx, "A", 16*mib), ioc.ErrInvalid)
	x, err := e.Open(ctx, "a")
	must(t, err)
	if x.Size != 8*mib {
		t.Fatalf("after a refusal: %+v", x)
	}
}

// concurrent creations of one name have one winner, and names do not disturb
// each other.
func concurrent(t *testing.T, e ioc.Engine) {
	var wg sync.WaitGroup
	won := make(chan string, 64)
	for i := range 16 {
		wg.Go(func() {
			_, err := e.Create(t.Context(), "same", mib)
			if err == nil {
				won <- "same"
			} else if !errors.Is(err, ioc.ErrExists) {
				t.Error(err)
			}
			own := fmt.Sprintf("own-%d", i)
			_, err = e.Create(t.Context(), own, mib)
			if err == nil {
				err = e.Delete(t.Context(), own)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d creations of one name succeeded", len(won))
	}
	all, err := e.List(t.Context())
	must(t, err)
	if len(all) != 1 || all[0].Name != "same" {
		t.Fatalf("left: %+v", all)
	}
}

func cancelled(t *testing.T, e ioc.Engine) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Create(ctx, "a", mib); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	_, err := e.Open(t.Context(), "a")
	want(t, err, ioc.ErrNotFound)
}
