//go:build cgo && linux

package dmu_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
)

const (
	spoiledEnv  = "DMU_TEST_SPOILED"
	spoiledOps  = 160             // each writes its own piece
	spoiledPart = 48 << 10        // of the volume
	spoiledSnap = spoiledOps - 20 // the operation that takes the snapshot
	dataBegins  = 4 << 20         // in the extent; ZFS's offsets count from here
)

// piece is what operation seq wrote.
func piece(seq history.Seq) []byte {
	p := make([]byte, spoiledPart-8<<10)
	rand.New(rand.NewSource(int64(seq))).Read(p)
	return p
}

// wantAt is the content of piece seq when the mark is mark.
func wantAt(seq, mark history.Seq) []byte {
	out := make([]byte, spoiledPart)
	if seq <= mark && seq != spoiledSnap {
		copy(out, piece(seq))
	}
	return out
}

// spoilable makes a volume whose state at each mark is known.
func spoilable(t *testing.T) dmu.Options {
	o := extent(t, spoiledOps*spoiledPart+mib)
	o.Size -= o.Size % (8 << 10)
	s := create(t, o)
	for seq := history.Seq(1); seq <= spoiledOps; seq++ {
		op := writeOp(seq, uint64(seq-1)*spoiledPart, piece(seq))
		if seq == spoiledSnap {
			op = snapshotOp(seq, "s")
		}
		mustApply(t, s, op)
	}
	if err := s.SetMeta([]byte("kept")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return o
}

// examine opens a spoiled extent in a process of its own, reads all of it, changes it and
// says what it found, a word a line: "open" failed, "found" an error that names rot,
// "old" mark, "failed" otherwise, and "served" what was never written.
func examine(arg string) {
	path, pool, _ := split3(arg)
	say := func(word string, err error) { fmt.Printf("%s %v\n", word, err) }
	s, err := dmu.Open(dmu.Options{Path: path, Pool: pool})
	if err != nil {
		say("open", err)
		os.Exit(0)
	}
	note := func(err error) {
		if errors.Is(err, store.ErrCorrupt) {
			say("found", err)
		} else if err != nil {
			say("failed", err)
		}
	}
	mark := s.Info().Mark
	if mark < spoiledOps {
		say("old", fmt.Errorf("mark %d", mark))
	}
	compare(s.ReadAt, mark, note, say)
	for _, x := range s.Snapshots() {
		compare(func(p []byte, off uint64) error { return s.ReadSnapshot(x.Seq, p, off) }, spoiledSnap, note, say)
	}
	if m := string(s.Meta()); m != "kept" && mark == spoiledOps {
		say("served", fmt.Errorf("metadata %q", m))
	}
	_, err = s.Changed(mark / 2)
	note(err)
	for seq := mark + 1; seq < mark+8; seq++ {
		off := uint64(rand.Intn(spoiledOps*spoiledPart/512)) * 512
		if err = s.Apply([]store.Op{writeOp(seq, off, random(12<<10))}); err != nil {
			note(err)
			break
		}
	}
	note(s.Flush())
	note(s.BeginScrub())
	for range 200 {
		if st, err := s.Scrubbing(); err != nil || !st.Running && !st.Ended.IsZero() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if es, others, err := s.Rotten(); err == nil && (len(es) > 0 || others > 0) {
		say("found", fmt.Errorf("%d bytes and %d other blocks by the scrub", es.Bytes(), others))
	}
	note(s.Close())
	os.Exit(0)
}

func compare(read func([]byte, uint64) error, mark history.Seq, note func(error), say func(string, error)) {
	got := make([]byte, 8<<10)
	for seq := history.Seq(1); seq <= spoiledOps; seq++ {
		want := wantAt(seq, mark)
		for at := 0; at < spoiledPart; at += len(got) {
			if err := read(got, uint64(seq-1)*spoiledPart+uint64(at)); err != nil {
				note(err)
			} else if !bytes.Equal(got, want[at:][:len(got)]) {
				say("served", fmt.Errorf("piece %d at %d, mark %d", seq, at, mark))
			}
		}
	}
}

// place is where a block, all copies of it, or a part of a label is.
type place struct {
	at  []int64
	len int
}

var (
	zdbDataset = regexp.MustCompile(`^Dataset (\S+) \[`)
	zdbRoot    = regexp.MustCompile(`DVA\[\d\]=<0:([0-9a-f]+):([0-9a-f]+)`)
	zdbBlock   = regexp.MustCompile(`^\s+[0-9a-f]+\s+L(\d)\s`)
	zdbDVA     = regexp.MustCompile(`\s0:([0-9a-f]+):([0-9a-f]+)`)
	zdbObject  = regexp.MustCompile(`^\s+\d+\s+\d+\s+[\d.]+[KMG]?\s.*%?\s\s(\S.*)$`)
)

// places lists the blocks of a pool by what they hold, from zdb's walk.
func places(t *testing.T, o dmu.Options) map[string][]place {
	out := map[string][]place{}
	dataset, object := "", ""
	add := func(what string, dvas [][][]byte) {
		var p place
		for _, d := range dvas {
			off, err := strconv.ParseInt(string(d[1]), 16, 64)
			n, err2 := strconv.ParseInt(string(d[2]), 16, 64)
			if err = errors.Join(err, err2); err != nil {
				t.Fatal(err)
			}
			p.at, p.len = append(p.at, off+dataBegins), int(n)
		}
		if len(p.at) > 0 {
			out[what] = append(out[what], p)
		}
	}
	for _, line := range bytes.Split(zdb(t, o, "-dddddd", o.Pool), []byte("\n")) {
		if m := zdbDataset.FindSubmatch(line); m != nil {
			dataset = strings.TrimPrefix(string(m[1]), o.Pool+"/")
			add(dataset+" objset", zdbRoot.FindAllSubmatch(line, -1))
		} else if m := zdbBlock.FindSubmatch(line); m != nil {
			add(fmt.Sprintf("%s %s L%s", dataset, object, m[1]), zdbDVA.FindAllSubmatch(line, -1))
		} else if m := zdbObject.FindSubmatch(line); m != nil {
			object, _, _ = strings.Cut(string(m[1]), " (")
		}
	}
	st, err := os.Stat(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	const label = 256 << 10
	ends := []int64{0, label, st.Size()/label*label - 2*label, st.Size()/label*label - label}
	for _, e := range ends {
		out["one label"] = append(out["one label"], place{[]int64{e + 16<<10}, 8 << 10})
		out["one label's uberblocks"] = append(out["one label's uberblocks"], place{[]int64{e + 128<<10}, 128 << 10})
	}
	all := func(off int64, n int) []place {
		var p place
		for _, e := range ends {
			p.at = append(p.at, e+off)
		}
		p.len = n
		return []place{p}
	}
	out["all labels"], out["all uberblocks"] = all(16<<10, 8<<10), all(128<<10, 128<<10)
	return out
}

// spoil changes a few bytes in each copy, or all of it.
func (p place) spoil(t *testing.T, path string, rng *rand.Rand) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	whole, at := rng.Intn(2) == 0, rng.Intn(max(p.len-8, 1))
	for _, off := range p.at {
		junk, off := make([]byte, 8), off+int64(at)
		if whole {
			junk, off = make([]byte, p.len), off-int64(at)
		}
		rng.Read(junk)
		if _, err := f.WriteAt(junk, off); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSpoiled: bytes of the extent change anywhere, in all copies of a block too. What was
// never written is never served; the store says what it found, or does not open and says why;
// where ZFS gives up the process, it ends with a reason. DMU_TEST_SPOIL makes it longer.
func TestSpoiled(t *testing.T) {
	seed, n := time.Now().UnixNano(), 30
	if s, err := strconv.ParseInt(os.Getenv("STORETEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	if long, err := strconv.Atoi(os.Getenv("DMU_TEST_SPOIL")); err == nil {
		n = long
	}
	t.Logf("STORETEST_SEED=%d", seed)
	rng := rand.New(rand.NewSource(seed))
	o := spoilable(t)
	blocks := places(t, o)
	kinds := make([]string, 0, len(blocks))
	for what := range blocks {
		kinds = append(kinds, what)
	}
	slices.Sort(kinds)
	if len(kinds) < 20 {
		t.Fatalf("zdb shows too few kinds of blocks: %v", kinds)
	}
	rng.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	count := map[string]int{}
	for i := range n {
		what := kinds[i%len(kinds)]
		p := blocks[what][rng.Intn(len(blocks[what]))]
		if rng.Intn(4) == 0 { // one copy only: it heals
			p.at = p.at[:1]
		}
		copied := o
		copied.Path = o.Path + ".spoiled"
		if out, err := exec.Command("cp", "--sparse=always", o.Path, copied.Path).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v: %s", err, out)
		}
		p.spoil(t, copied.Path, rng)
		how := outcome(t, copied, what)
		t.Logf("%s, %d of its copies: %s", what, len(p.at), how)
		count[strings.Fields(how)[0]]++
	}
	var sum []string
	for how, n := range count {
		sum = append(sum, fmt.Sprintf("%s %d", how, n))
	}
	sort.Strings(sum)
	t.Logf("%d places: %s", n, strings.Join(sum, ", "))
}

// outcome is the worst that examining the extent showed, in one word and a reason.
func outcome(t *testing.T, o dmu.Options, what string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|0", spoiledEnv, o.Path, o.Pool))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		t.Errorf("%s spoiled: the store hangs: %s", what, out)
		return "hung"
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for _, word := range []string{"served", "open", "found", "failed", "old"} {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, word+" ") })
		if i < 0 {
			continue
		}
		if word == "served" || word == "open" && !strings.Contains(lines[i], store.ErrCorrupt.Error()) {
			t.Errorf("%s spoiled: %s", what, lines[i])
		}
		if err == nil {
			return lines[i]
		}
	}
	if err != nil {
		reason := gaveUp.FindString(stderr.String())
		if reason == "" {
			t.Errorf("%s spoiled: the process ended without a reason: %v: %.300s", what, err, stderr.String())
		}
		return "ended " + reason
	}
	return "healed or not needed"
}

// gaveUp is how ZFS says why it ends the process.
var gaveUp = regexp.MustCompile(`(?m)^(ASSERT.*\n)?(.*\n)?ZFS cannot go on with this extent.*$`)
