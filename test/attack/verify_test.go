package attack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/historytest"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/target"
)

// totals counts what hosts did.
type totals struct {
	writes, reads, flushes, repeated, undecided int
	slowest                                     time.Duration
}

func count(h historytest.History) (s totals) {
	s.flushes = len(h.Flushes)
	for _, a := range h.Accesses {
		if a.Ret == 0 {
			continue
		}
		if a.Write {
			s.writes++
		} else {
			s.reads++
		}
		s.repeated += len(a.Calls) - 1
		s.slowest = max(s.slowest, a.Ret-a.Calls[0])
	}
	return s
}

func (s *totals) add(o totals) {
	s.writes += o.writes
	s.reads += o.reads
	s.flushes += o.flushes
	s.repeated += o.repeated
	s.undecided += o.undecided
	s.slowest = max(s.slowest, o.slowest)
}

func (s totals) String() string {
	return fmt.Sprintf("%d writes, %d reads, %d flushes acknowledged, %d repeated, slowest %d ms, %d blocks undecided",
		s.writes, s.reads, s.flushes, s.repeated, s.slowest.Milliseconds(), s.undecided)
}

// checkIdentical stops the target in good order, takes its place and compares
// what the replicas hold.
func (c *cluster) checkIdentical(l *load) {
	t := c.t
	t.Helper()
	v := c.compare()
	t.Log(v.Text())
	p := c.targets[c.current()]
	p.quit(t)
	rec, err := c.record.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := rec
	next.Epoch, next.Holder = rec.Epoch+1, "attack"
	if err := c.record.CompareAndSwap(t.Context(), rec, next); err != nil {
		t.Fatal(err)
	}
	var want []byte
	var first replication.Message
	for i, r := range c.rs {
		st, got, err := c.read(r, next.Epoch)
		switch {
		case err != nil:
			t.Fatalf("read of %s: %v", r.name, err)
		case i == 0:
			first, want = st, got
		case st.Seq != first.Seq || !bytes.Equal(want, got):
			at := 0
			for at < len(want) && want[at] == got[at] {
				at++
			}
			t.Fatalf("replicas r0 and %s differ from byte %d on; they have %d and %d operations", r.name, at, first.Seq, st.Seq)
		}
	}
	released := next
	released.Holder = ""
	if err := c.record.CompareAndSwap(t.Context(), next, released); err != nil {
		t.Fatal(err)
	}
	p.start()
	c.allInSync(healWithin)
	t.Logf("the replicas are identical at operation %d, epoch %d", first.Seq, rec.Epoch)
}

// compare has the target compare the replicas by their block pointers.
func (c *cluster) compare() (v target.Verification) {
	c.t.Helper()
	long := http.Client{Transport: c.web.Transport, Timeout: 5 * time.Minute}
	resp, err := long.Post("http://"+c.targets[c.current()].node.addr(healthPort)+"/verify", "", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		c.t.Fatal(err)
	}
	if len(v.Differ) > 0 {
		c.t.Fatal(v.Text())
	}
	return v
}

// read takes a replica over for epoch and reads all of it.
func (c *cluster) read(r *process, epoch history.Epoch) (replication.Message, []byte, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	conn, err := c.lan.node("watch").dial(ctx, r.node.addr(replicaPort))
	if err != nil {
		return replication.Message{}, nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return replication.Message{}, nil, err
	}
	if _, err := io.WriteString(conn, replication.Preamble); err != nil {
		return replication.Message{}, nil, err
	}
	q := query{conn, bufio.NewReader(conn)}
	st, err := q.ask(replication.Message{Type: replication.Hello, Epoch: epoch, Volume: volumeName, Replica: r.name, Size: c.shape.size})
	if err == nil && (replication.Membership(st.Kind) != replication.Member || st.Flags != 0) {
		err = fmt.Errorf("it is not a clean member: %v", &st)
	}
	var all []byte
	const step = replication.MaxData
	for off := uint64(0); err == nil && off < c.shape.size; off += step {
		var m replication.Message
		m, err = q.ask(replication.Message{Type: replication.Read, Epoch: epoch, ID: off + 1, Extent: block.Extent{Off: off, Len: step}})
		if err == nil && (m.Code != replication.OK || m.DataLen() != step) {
			err = fmt.Errorf("answer %v of %d bytes", &m, m.DataLen())
		}
		if err == nil {
			all = append(all, m.Bufs[0]...)
		}
	}
	return st, all, err
}

// query asks one thing at a time.
type query struct {
	conn net.Conn
	r    *bufio.Reader
}

func (q query) ask(m replication.Message) (replication.Message, error) {
	if _, err := replication.WriteMessages(q.conn, []replication.Message{m}, nil); err != nil {
		return m, err
	}
	return replication.ReadMessage(q.r)
}
