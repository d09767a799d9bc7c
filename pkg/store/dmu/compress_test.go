//go:build cgo && linux

package dmu_test

import (
	"bytes"
	"fmt"
	"math/rand"
	"testing"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
)

// text is n bytes that look like a log, a different one for each seed.
func text(n int, seed int64) []byte {
	rng := rand.New(rand.NewSource(seed))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "2026-11-26T%02d:%02d INFO request %d from 10.%d.%d.%d took %d ms\n", rng.Intn(24), rng.Intn(60), rng.Int63(), rng.Intn(256), rng.Intn(256), rng.Intn(256), rng.Intn(1000))
	}
	return b.Bytes()[:n]
}

// TestCompression: what each kind takes of the extent for the same content, which
// reads the same; and zstd stays within the memory of the process.
func TestCompression(t *testing.T) {
	alone(t)
	const span = 16 * mib
	data := text(span, 1)
	taken := map[string]int64{}
	for _, how := range []string{"off", "lz4", "zstd"} {
		o := extent(t, 64*mib)
		o.Compression, o.BlockSize = how, 32<<10
		s := create(t, o)
		for off := uint64(0); off < span; off += mib {
			if err := s.Apply([]store.Op{writeOp(history.Seq(off/mib+1), off, data[off:][:mib])}); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, mib)
		for off := uint64(0); off < span; off += mib {
			if err := s.ReadAt(got, off); err != nil || !bytes.Equal(got, data[off:][:mib]) {
				t.Fatalf("%s: read of %d: %v", how, off, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		taken[how] = allocated(t, o.Path)
		if out := zdb(t, o, "-bcc", o.Pool); !bytes.Contains(out, []byte("No leaks")) {
			t.Errorf("%s: zdb -bcc: %s", how, out)
		}
	}
	t.Logf("%d bytes of text take %v; %s", span, taken, peak(t, dmu.DefaultMemory))
	if taken["lz4"] >= taken["off"]*3/4 || taken["zstd"] >= taken["lz4"]*9/10 {
		t.Errorf("compression saves too little: %v", taken)
	}
}
