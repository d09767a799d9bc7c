package pdu_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/cask-storage/cask/pkg/pdu"
)

// add writes a PDU of 4 header bytes, data, 1 byte of padding and a digest.
func add(b *pdu.Batch, data []byte) {
	copy(b.Grow(4), "head")
	b.Refer(data)
	b.Digest(pdu.Sum(pdu.Sum(0, data), b.Grow(1)))
}

var shape = pdu.Shape{Data: 5, Pad: 1, Digest: true}

func next(t *testing.T, r *pdu.Reader) {
	t.Helper()
	head := make([]byte, 4)
	if err := errors.Join(r.Skip(), r.Start(head)); err != nil || string(head) != "head" {
		t.Fatalf("header %q, %v", head, err)
	}
	r.Expect(shape)
}

// TestRoundTrip: data is taken whole, in part or not at all, damaged or not,
// and the next PDU is found behind it each time.
func TestRoundTrip(t *testing.T) {
	b := pdu.NewBatch(13)
	var wire bytes.Buffer
	for range 5 {
		add(&b, []byte("hello"))
	}
	if err := b.Flush(&wire); err != nil || !b.Empty() || wire.Len() != 5*14 {
		t.Fatalf("%d bytes, %v", wire.Len(), err)
	}
	wire.Bytes()[14+5] ^= 1   // data of the second
	wire.Bytes()[2*14+9] ^= 1 // padding of the third
	r := pdu.NewReader(&wire, 16)
	got := make([]byte, 5)
	for i, want := range []error{nil, pdu.ErrDataDigest, pdu.ErrDataDigest} {
		next(t, &r)
		if err := errors.Join(r.ReadData(got[:2]), r.ReadData(got[2:])); err != nil {
			t.Fatal(err)
		}
		if err := r.EndData(); !errors.Is(err, want) {
			t.Errorf("PDU %d: %v, want %v", i, err, want)
		}
	}
	next(t, &r)
	if err := errors.Join(r.ReadData(got[:1]), r.EndData()); err != nil {
		t.Errorf("data taken in part: %v", err)
	}
	next(t, &r)
	if err := r.Skip(); err != nil {
		t.Error(err)
	}
	if err := r.Start(got); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// TestLies: the reader gives no more than the header said, and a stream that
// ends within a PDU is not its end.
func TestLies(t *testing.T) {
	r := pdu.NewReader(bytes.NewReader([]byte("headhel")), 16)
	next(t, &r)
	if err := r.ReadData(make([]byte, 6)); !errors.Is(err, io.ErrShortBuffer) {
		t.Errorf("read of more than there is: %v", err)
	}
	if err := r.ReadData(make([]byte, 5)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a stream that was cut: %v", err)
	}
	if err := r.Skip(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("skipping what was cut: %v", err)
	}
}

// TestFull: what a Batch holds and refers to is bounded.
func TestFull(t *testing.T) {
	b := pdu.NewBatch(13)
	n := 0
	for ; !b.Full(); n++ {
		add(&b, []byte("hello"))
	}
	if n*9+13 > 16<<10+9 {
		t.Errorf("%d PDUs", n)
	}
	if err := b.Flush(io.Discard); err != nil || b.Full() {
		t.Error(err)
	}
	b.Refer(make([]byte, 1<<20))
	if !b.Full() {
		t.Error("not full with 1 MiB of data")
	}
}

// pieces counts writes.
type pieces struct{ n int }

func (p *pieces) Write(b []byte) (int, error) { p.n++; return len(b), nil }

// TestNeighbours: what is beside each other in memory goes out as one piece.
func TestNeighbours(t *testing.T) {
	b := pdu.NewBatch(13)
	for range 3 {
		add(&b, nil)
	}
	add(&b, []byte("hello"))
	var p pieces
	if err := b.Flush(&p); err != nil || p.n != 3 {
		t.Errorf("%d pieces, %v, want headers, data, digest", p.n, err)
	}
}
