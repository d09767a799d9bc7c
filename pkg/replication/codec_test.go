package replication

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

func samples() []Message {
	h := history.History{{Epoch: 1, First: 1}, {Epoch: 4, First: 900}}
	return []Message{
		{Type: Hello, Epoch: 4, Volume: "pvc-1", Replica: "r0"},
		{Type: Apply, Epoch: 4, Seq: 901, Kind: 1, Extent: block.Extent{Off: 4096, Len: 4096}, Bufs: [][]byte{bytes.Repeat([]byte{7}, 4096)}},
		{Type: Ping, Epoch: 4, ID: 9},
		{Type: Begin, Epoch: 4, Seq: 899, History: h},
		{Type: State, Kind: uint8(Member), Flags: FlagSuspect, Promised: 4, Seq: 899, Tail: 800, History: h, Text: "x"},
		{Type: Extents, ID: 3, Extents: []block.Extent{{Off: 0, Len: 8192}, {Off: 1 << 20, Len: 4096}}},
		{Type: State, Kind: uint8(Rebuilding), Promised: 4, Seq: 10, Base: 10, History: h, Extent: block.Extent{Len: 1 << 20}, Floor: 700, Mark: 901},
		{Type: Pull, Epoch: 4, ID: 12, Seq: 900, Extent: block.Extent{Len: 4096}, Replica: "r1", Text: "10.0.0.1:4500"},
		{Type: Fetch, Epoch: 4, ID: 12, Seq: 900, Extent: block.Extent{Len: 4096}, Volume: "pvc-1", Replica: "r1"},
		{Type: Turn, Epoch: 4, ID: 13, Flags: FlagUrgent},
		{Type: Copied, Epoch: 4, ID: 11, Extent: block.Extent{Len: 1 << 20}},
		{Type: Damage, Extents: []block.Extent{{Off: 8192, Len: 8192}}},
		{Type: Done, ID: 8, Code: ErrNoSpace, Text: "pool is full"},
		{Type: Apply, Epoch: 4, Seq: 902, Kind: uint8(store.Snapshot), Bufs: [][]byte{[]byte("daily-1")}},
		{Type: Apply, Epoch: 4, Seq: 903, Kind: uint8(store.DropSnapshot), Base: 902},
		{Type: Apply, Epoch: 4, Seq: 905, Kind: uint8(store.Resize), Extent: block.Extent{Off: 1 << 30, Len: 1 << 30}},
		{Type: Adopt, Epoch: 4, ID: 2, History: h, Size: 1 << 30},
		{Type: Grow, Epoch: 4, ID: 14, Size: 2 << 30},
		{Type: Snapshots, Epoch: 4, ID: 10},
		{Type: Settle, Epoch: 4, ID: 11, Seq: 904, History: h, Bufs: [][]byte{[]byte("daily-2")}},
		{Type: SnapshotList, ID: 10, Seq: 903, Bufs: [][]byte{EncodeSnapshots(someSnapshots)}},
	}
}

var someSnapshots = []store.SnapshotInfo{{Name: "a", Seq: 7, Size: 1 << 40}, {Name: "b-2", Seq: 9, Size: 512}}

func TestOperations(t *testing.T) {
	for _, op := range []store.Op{
		{Kind: store.Write, Seq: 3, Extent: block.Extent{Off: 512, Len: 3}, Data: []byte("abc")},
		{Kind: store.Unmap, Seq: 3, Extent: block.Extent{Off: 512, Len: 3}},
		{Kind: store.Snapshot, Seq: 4, Name: "x"},
		{Kind: store.DropSnapshot, Seq: 5, Base: 4},
		{Kind: store.Resize, Seq: 6, Extent: block.Extent{Off: 512, Len: 1024}},
	} {
		var m Message
		m.SetOp(op)
		if got := m.Op(); !reflect.DeepEqual(got, op) {
			t.Errorf("%+v became %+v", op, got)
		}
	}
}

func TestSnapshotList(t *testing.T) {
	b := EncodeSnapshots(someSnapshots)
	if got, err := DecodeSnapshots(b); err != nil || !reflect.DeepEqual(got, someSnapshots) {
		t.Errorf("got %v, %v", got, err)
	}
	for n := 1; n < len(b); n++ {
		if got, err := DecodeSnapshots(b[:n]); !errors.Is(err, ErrFrame) && n != 18 {
			t.Errorf("%d of %d bytes were taken: %v", n, len(b), got)
		}
	}
	many := slices.Repeat(someSnapshots[:1], store.MaxSnapshots+1)
	if _, err := DecodeSnapshots(EncodeSnapshots(many)); !errors.Is(err, ErrFrame) {
		t.Errorf("too many snapshots were taken: %v", err)
	}
}

func FuzzDecodeSnapshots(f *testing.F) {
	f.Add(EncodeSnapshots(someSnapshots))
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := DecodeSnapshots(b); err == nil && !bytes.Equal(EncodeSnapshots(list), b) {
			t.Fatalf("decode and encode differ: %x", b)
		}
	})
}

func encode(t testing.TB, ms ...Message) []byte {
	var b bytes.Buffer
	if _, err := WriteMessages(&b, ms, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	r := bytes.NewReader(encode(t, samples()...))
	for _, want := range samples() {
		got, err := ReadMessage(r)
		if err != nil {
			t.Fatalf("%v: %v", &want, err)
		}
		got.Own = nil
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %.999s\nwant %.999s", fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want))
		}
	}
	if r.Len() != 0 {
		t.Errorf("%d bytes left over", r.Len())
	}
}

// TestOwnMemory: the data of an answer to a read can be freed, that of operations
// belongs to Go, for a tail and a backlog keep it.
func TestOwnMemory(t *testing.T) {
	content := bytes.Repeat([]byte{7}, 5000)
	for typ, own := range map[Type]bool{Data: true, Apply: false, Copy: false, TailOp: false} {
		m, err := ReadMessage(bytes.NewReader(encode(t, Message{Type: typ, Bufs: [][]byte{content}})))
		if err != nil || len(m.Bufs) != 1 || !bytes.Equal(m.Bufs[0], content) {
			t.Fatalf("%v: %v, %v", typ, &m, err)
		}
		if got := m.Own != nil; got != own || got && &m.Own.B[0] != &m.Bufs[0][0] {
			t.Errorf("%v: own memory %v, want %v, that of the data", typ, got, own)
		}
	}
	if m, err := ReadMessage(bytes.NewReader(encode(t, Message{Type: Data, Code: ErrIO}))); err != nil || m.Own != nil {
		t.Errorf("an answer without data: %v, memory %v", err, m.Own)
	}
}

func TestEveryFlippedBitIsSeen(t *testing.T) {
	for _, m := range samples() {
		good := encode(t, m)
		for i := 4; i < min(len(good), 300); i++ {
			bad := bytes.Clone(good)
			bad[i] ^= 0x10
			if _, err := Decode(bad); !errors.Is(err, ErrFrame) {
				t.Fatalf("%v: flipped byte %d was taken: %v", m.Type, i, err)
			}
		}
	}
}

func TestBoundsBeforeAllocation(t *testing.T) {
	if _, err := ReadMessage(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0x7f})); !errors.Is(err, ErrFrame) {
		t.Errorf("a frame of 2 GiB was taken: %v", err)
	}
	if _, err := AppendHead(nil, &Message{Type: Apply, Bufs: [][]byte{make([]byte, MaxData+1)}}); !errors.Is(err, ErrFrame) {
		t.Errorf("too much data was sent: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range samples() {
		f.Add(encode(f, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			// The checksum hides the rest of the decoder: go on with it repaired.
			if m, err = Decode(repair(b)); err != nil {
				return
			}
			b = repair(b)
		}
		if again := encode(t, m); !bytes.Equal(again, b) {
			t.Fatalf("decode and encode differ:\n%x\n%x", b, again)
		}
	})
}

func repair(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) < headerSize {
		return b
	}
	b[0], b[1], b[2], b[3] = byte(len(b)), byte(len(b)>>8), byte(len(b)>>16), byte(len(b)>>24)
	crc := checksum(b)
	b[60], b[61], b[62], b[63] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
	return b
}
