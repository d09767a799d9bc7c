//go:build cgo && linux

package dmu_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
	"github.com/cask-storage/cask/pkg/store/storetest"
)

const (
	crashSize = 160 << 20 // some unmaps take more than one transaction
	crashMost = 168 << 20 // it grows to that
	crashEnv  = "DMU_TEST_CRASH"
)

func TestMain(m *testing.M) {
	dmu.SetTrimInterval(time.Millisecond) // beside all that is tested
	if arg := os.Getenv(crashEnv); arg != "" {
		victim(arg)
	}
	if arg := os.Getenv(spoiledEnv); arg != "" {
		examine(arg)
	}
	os.Exit(m.Run())
}

// victim applies random operations to the store until it is killed, and says
// how far it got: "m" the mark found, "f" flushed up to here.
func victim(arg string) {
	path, pool, seed := split3(arg)
	n, err := strconv.ParseInt(seed, 10, 64)
	if err != nil {
		victimFails(err)
	}
	if path := os.Getenv(journalEnv); path != "" {
		keepJournal(path)
	}
	engines := []dmu.IO{dmu.IOAuto, dmu.IOThreads}
	s, err := dmu.Open(dmu.Options{Path: path, Pool: pool, HostID: uint32(n) | 1, IO: engines[uint64(n)%2]})
	if err != nil {
		victimFails(err)
	}
	start := s.Info().Mark
	fmt.Printf("m %d\n", start)
	g, choose := crashGen(n, s.Info(), seqs(s.Snapshots())), rand.New(rand.NewSource(n+1))
	for {
		ops := make([]store.Op, 1+choose.Intn(6))
		for i := range ops {
			ops[i] = g.Op()
		}
		if err := s.Apply(ops); err != nil {
			victimFails(err)
		}
		for i := range ops {
			ops[i].Own.Free() // another operation's, as soon as the store lets go of it
		}
		mark, err := s.Info().Mark, error(nil)
		switch k := choose.Intn(150); {
		case k == 0:
			err = s.SetMeta([]byte(fmt.Sprint(mark)))
		case k == 1:
			_, err = s.Changed(mark / 2)
		case k < 15:
			err = s.Flush()
		default:
			continue
		}
		if err != nil {
			victimFails(err)
		}
		fmt.Printf("f %d\n", mark) // a Changed has made all stable, too
	}
}

func victimFails(err error) {
	fmt.Printf("e %v\n", err)
	os.Exit(1)
}

func split3(s string) (a, b, c string) {
	f := strings.Split(s, "|")
	return f[0], f[1], f[2]
}

func crashGen(seed int64, from store.Info, live []history.Seq) *storetest.Gen {
	return &storetest.Gen{Rng: rand.New(rand.NewSource(seed)), Size: from.Size, Seq: from.Mark, Snapshots: 150, Live: live,
		Grows: 150, MaxSize: crashMost}
}

func seqs(snaps []store.SnapshotInfo) (out []history.Seq) {
	for _, x := range snaps {
		out = append(out, x.Seq)
	}
	return out
}

// crasher follows a store through its crashes with a model.
type crasher struct {
	t       *testing.T
	o       dmu.Options
	rng     *rand.Rand
	content []byte // at mark
	mark    history.Seq
	flushed history.Seq // at least this must be there
	seed    int64       // of the operations after mark
	old     []byte      // an earlier state, for Changed
	oldMark history.Seq
	life    int           // of a victim, at most, ms
	journal string        // of what a loss of power could undo; none when empty
	live    []history.Seq // snapshots, in the generator's order
	sums    map[history.Seq][sha256.Size]byte
}

// note follows the snapshots.
func (c *crasher) note(o store.Op) {
	switch o.Kind {
	case store.Snapshot:
		c.live = append(c.live, o.Seq)
		c.sums[o.Seq] = sha256.Sum256(c.content)
	case store.DropSnapshot:
		i := slices.Index(c.live, o.Base)
		c.live = slices.Delete(c.live, i, i+1)
		delete(c.sums, o.Base)
	}
}

// checkSnapshots: they are those of the prefix, each with its content.
func (c *crasher) checkSnapshots(s store.Store) {
	c.t.Helper()
	got := s.Snapshots()
	if !slices.Equal(seqs(got), c.live) {
		c.t.Fatalf("snapshots %v at mark %d, want %v", got, c.mark, c.live)
	}
	for _, x := range got {
		if sha256.Sum256(storetest.SnapshotContent(c.t, s, x)) != c.sums[x.Seq] {
			c.t.Fatalf("snapshot %v at mark %d has not the content it was taken of", x, c.mark)
		}
	}
}

// advance takes the model to mark, which must be the result of a prefix.
func (c *crasher) advance(mark history.Seq) {
	c.t.Helper()
	if mark < c.flushed {
		c.t.Fatalf("mark %d after the crash, %d was flushed", mark, c.flushed)
	}
	g := crashGen(c.seed, store.Info{Mark: c.mark, Size: uint64(len(c.content))}, slices.Clone(c.live))
	for c.mark < mark {
		o := g.Op()
		switch o.Kind {
		case store.Write:
			copy(c.content[o.Extent.Off:o.Extent.End()], o.Data)
		case store.Unmap:
			clear(c.content[o.Extent.Off:o.Extent.End()])
		default:
			c.content = storetest.Resized(c.content, &o)
		}
		c.note(o)
		c.mark = o.Seq
	}
	if c.mark != mark {
		c.t.Fatalf("mark %d after the crash is not that of an operation, the next is %d", mark, c.mark)
	}
}

// run starts a victim, kills it after a random time and takes in what it said.
func (c *crasher) run() {
	c.t.Helper()
	seed := c.rng.Int63()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%d", crashEnv, c.o.Path, c.o.Pool, seed), journalEnv+"="+c.journal)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	life := time.Duration(c.rng.Intn(c.life)) * time.Millisecond
	timer := time.AfterFunc(life, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	c.listen(out, seed)
	err = cmd.Wait()
	if how, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || how.Signal() != syscall.SIGKILL {
		c.t.Fatalf("the victim ended by itself: %v", err)
	}
}

func (c *crasher) listen(out io.Reader, seed int64) {
	c.t.Helper()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		what, text, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.ParseUint(text, 10, 64)
		if what == "e" || err != nil {
			c.t.Fatalf("the victim says: %s", lines.Text())
		}
		if what == "m" {
			c.advance(history.Seq(n))
			c.seed = seed
		}
		c.flushed = history.Seq(n)
	}
}

// check opens the store and compares everything with the model.
func (c *crasher) check() {
	c.t.Helper()
	s := open(c.t, c.o)
	found := s.Info().Mark
	c.advance(found)
	c.flushed = found
	if size := s.Info().Size; size != uint64(len(c.content)) {
		c.t.Fatalf("size at mark %d is %d, want %d", found, size, len(c.content))
	}
	if at := storetest.FirstDiff(storetest.Content(c.t, s), c.content); at >= 0 {
		c.t.Fatalf("content at mark %d differs from the model first at byte %d", found, at)
	}
	c.checkSnapshots(s)
	ext, err := s.Changed(c.oldMark)
	if err != nil {
		c.t.Fatal(err)
	}
	if off, ok := storetest.Covers(ext, c.old, c.content); !ok {
		c.t.Fatalf("changed from %d to %d lacks byte %d", c.oldMark, c.mark, off)
	}
	if c.rng.Intn(3) == 0 {
		c.old, c.oldMark = append([]byte(nil), c.content...), c.mark
	}
	if err := s.Close(); err != nil {
		c.t.Fatal(err)
	}
}

// TestKill9: whenever the process is killed, the store comes back as the
// result of a prefix of the operations, at least of the flushed ones, and the
// mark says which. DMU_TEST_CRASH_ROUNDS makes it longer.
func TestKill9(t *testing.T) { newCrasher(t).rounds(16, func() {}) }

func newCrasher(t *testing.T) *crasher {
	seed := time.Now().UnixNano()
	if n, err := strconv.ParseInt(os.Getenv("STORETEST_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("STORETEST_SEED=%d", seed)
	c := &crasher{t: t, life: 700, o: extent(t, crashSize), rng: rand.New(rand.NewSource(seed)),
		content: make([]byte, crashSize), old: make([]byte, crashSize), sums: map[history.Seq][sha256.Size]byte{}}
	if c.rng.Intn(2) == 0 { // large enough for the log to have a metaslab of its own
		if err := os.Truncate(c.o.Path, 1344*mib); err != nil {
			t.Fatal(err)
		}
	}
	if err := create(t, c.o).Close(); err != nil {
		t.Fatal(err)
	}
	return c
}

// rounds crashes the store n times, each followed by after.
func (c *crasher) rounds(n int, after func()) {
	t := c.t
	t.Helper()
	if long, err := strconv.Atoi(os.Getenv("DMU_TEST_CRASH_ROUNDS")); err == nil {
		n = long
	}
	for round := range n {
		c.run()
		after()
		if round == n-1 || c.rng.Intn(3) > 0 {
			c.check()
		}
	}
	t.Logf("mark %d and %d resizes after %d rounds", c.mark, (len(c.content)-crashSize)/storetest.GrowStep, n)
	if out := zdb(t, c.o, "-bcc", c.o.Pool); !bytes.Contains(out, []byte("No leaks")) {
		t.Errorf("zdb -bcc: %s", out)
	}
	out := zdb(t, c.o, "-d", c.o.Pool)
	for _, seq := range c.live {
		if !bytes.Contains(out, fmt.Appendf(nil, "@s-%d ", seq)) {
			t.Errorf("snapshot %d is not among what zdb shows: %s", seq, out)
		}
	}
	if n := bytes.Count(out, []byte("@")); n != len(c.live) {
		t.Errorf("%d snapshots, want %d: %s", n, len(c.live), out)
	}
}
