package zvol

import (
	"bytes"
	"errors"
	"hash/crc32"
	"reflect"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

func someRecords() map[string]record {
	return map[string]record{
		"write":      {kind: kind(store.Write), incarnation: 3, number: 9, seq: 7, extent: block.Extent{Off: 512, Len: 1024}, payload: bytes.Repeat([]byte{5}, 1024)},
		"unmap":      {kind: kind(store.Unmap), number: 1, extent: block.Extent{Off: 0, Len: 1 << 40}},
		"rebase":     {kind: kind(store.Rebase), number: 1, seq: 1 << 40, base: 12, extent: block.Extent{Len: 1 << 30}},
		"snapshot":   {kind: kind(store.Snapshot), number: 1, taken: true, slot: 77, seq: 2, payload: []byte("a-name")},
		"not taken":  {kind: kind(store.Snapshot), number: 1, seq: 2, payload: []byte("a-name")},
		"drop":       {kind: kind(store.DropSnapshot), number: 1, base: 2},
		"resize":     {kind: kind(store.Resize), number: 1, seq: 8, extent: block.Extent{Off: 1 << 20, Len: 1 << 20}},
		"meta":       {kind: kindMeta, number: 1, payload: bytes.Repeat([]byte{9}, store.MaxMeta)},
		"empty meta": {kind: kindMeta, number: 1},
		"keep":       {kind: kindKeep, number: 1, slot: 4},
		"return":     {kind: kindReturn, number: 1},
		"drop kept":  {kind: kindDropKept, number: 1},
		"pad":        {kind: kindPad, incarnation: 1, number: 1 << 60},
	}
}

func TestRecord(t *testing.T) {
	for name, r := range someRecords() {
		t.Run(name, func(t *testing.T) {
			b := r.encode([]byte("before"))[6:]
			if uint64(len(b)) != r.size() || len(b)%sector != 0 {
				t.Fatalf("%d bytes, and size says %d", len(b), r.size())
			}
			got, err := decodeRecord(b)
			if err != nil || !reflect.DeepEqual(got, r) {
				t.Fatalf("decodes to %+v, %v, want %+v", got, err, r)
			}
			for _, at := range []int{4, 8, 24, 30, 64, 100, headerLen - 1, headerLen + len(r.payload) - 1} {
				bad := bytes.Clone(b)
				bad[at] ^= 1
				if _, err := decodeRecord(bad); err == nil {
					t.Errorf("byte %d spoiled, and it decodes", at)
				}
			}
			for _, n := range []int{0, 1, headerLen - 1, headerLen + len(r.payload) - 1} {
				if _, err := decodeRecord(b[:n]); err == nil {
					t.Errorf("cut to %d bytes, and it decodes", n)
				}
			}
		})
	}
}

func TestRecordRefused(t *testing.T) {
	for name, r := range map[string]record{
		"unknown kind":        {kind: 33},
		"kind after the last": {kind: kindDropKept + 1},
		"short data":          {kind: kind(store.Write), extent: block.Extent{Len: 1024}, payload: make([]byte, 512)},
		"long name":           {kind: kind(store.Snapshot), payload: make([]byte, store.MaxName+1)},
		"long meta":           {kind: kindMeta, payload: make([]byte, store.MaxMeta+1)},
		"overflow":            {kind: kind(store.Unmap), extent: block.Extent{Off: 1 << 63, Len: 1<<63 + 1}},
	} {
		if _, err := decodeRecord(r.encode(nil)); !errors.Is(err, store.ErrFormat) {
			t.Errorf("%s: %v, want store.ErrFormat", name, err)
		}
	}
}

func someState() *state {
	st := &state{size: 5 << 20, mark: 9, meta: []byte("meta"), snaps: []snapshot{
		{store.SnapshotInfo{Name: "a", Seq: 2, Size: 4 << 20}, 12, 0},
		{store.SnapshotInfo{Name: "b", Seq: 4, Size: 5 << 20}, 14, 3},
	}}
	st.kept = &kept{Kept: store.Kept{Mark: 3, Size: 4 << 20}, id: 13, slot: 1, snaps: st.snaps[:1:1]}
	st.table.fit(st.size)
	st.table.raise(block.Extent{Off: 1<<20 - 1, Len: 2}, 7)
	return st
}

func TestCheckpoint(t *testing.T) {
	plain := &state{size: 1 << 20}
	plain.table.fit(plain.size)
	for _, st := range []*state{plain, someState()} {
		got, err := decodeState(st.encode())
		if err != nil || !reflect.DeepEqual(got, st) {
			t.Errorf("decodes to %+v, %v, want %+v", got, err, st)
		}
		b := st.encode()
		for n := range b {
			if _, err := decodeState(b[:n]); !errors.Is(err, store.ErrFormat) {
				t.Fatalf("cut to %d of %d bytes: %v, want store.ErrFormat", n, len(b), err)
			}
		}
	}
	s := super{generation: 1, incarnation: 2, number: 3, pos: 512, ring: 1 << 20, blockSize: 4096, length: 5, sum: 6}
	if got, err := decodeSuper(s.encode()); err != nil || got != s {
		t.Errorf("superblock decodes to %+v, %v, want %+v", got, err, s)
	}
	slot := slotTable{mark: 4, table: someState().table}
	if got, err := decodeSlot(slot.encode()); err != nil || !reflect.DeepEqual(got, slot) {
		t.Errorf("slot decodes to %+v, %v, want %+v", got, err, slot)
	}
}

// The largest of all that is bounded has room where it goes.
func TestLargest(t *testing.T) {
	st := &state{size: 1 << 50, meta: make([]byte, store.MaxMeta)}
	for range store.MaxSnapshots {
		st.snaps = append(st.snaps, snapshot{SnapshotInfo: store.SnapshotInfo{Name: string(make([]byte, store.MaxName))}})
	}
	st.kept = &kept{Kept: store.Kept{Meta: st.meta}, snaps: st.snaps}
	st.table.fit(st.size)
	if n := len(st.encode()); n > areaLen {
		t.Errorf("checkpoint of %d bytes, there is room for %d", n, areaLen)
	}
	slot := slotTable{table: st.table}
	if n := len(slot.encode()); n > slotLen {
		t.Errorf("slot of %d bytes, there is room for %d", n, slotLen)
	}
	largest := record{payload: make([]byte, store.MaxOp)}
	if j := (journal{ring: defaultLog}); largest.size() > j.largest() {
		t.Errorf("record of %d bytes, there is room for %d", largest.size(), j.largest())
	}
}

func FuzzRecord(f *testing.F) {
	for _, r := range someRecords() {
		f.Add(r.encode(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, n, err := decodeHeader(b); err == nil && headerLen+n <= len(b) { // or nothing gets past it
			b = bytes.Clone(b)
			le.PutUint32(b[4:], crc32.Checksum(b[8:headerLen+n], castagnoli))
		}
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		again, err := decodeRecord(r.encode(nil))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%+v becomes %+v, %v", r, again, err)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	f.Add(someState().encode())
	slot := slotTable{table: someState().table}
	f.Add(slot.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeSuper(b)
		_, _ = decodeSlot(b)
		if st, err := decodeState(b); err == nil {
			if got, err := decodeState(st.encode()); err != nil || !reflect.DeepEqual(got, st) {
				t.Fatalf("%+v becomes %+v, %v", st, got, err)
			}
		}
	})
}

func TestTable(t *testing.T) {
	var a table
	a.fit(10 << 20)
	a.raise(block.Extent{Off: 0, Len: 512}, 3)
	a.raise(block.Extent{Off: 2<<20 - 512, Len: 1024}, 5)
	a.raise(block.Extent{Off: 9 << 20, Len: 0}, 9)
	for _, c := range []struct {
		since history.Seq
		size  uint64
		want  []block.Extent
	}{
		{0, 10 << 20, []block.Extent{{Off: 0, Len: 3 << 20}}},
		{3, 10 << 20, []block.Extent{{Off: 1 << 20, Len: 2 << 20}}},
		{3, 2<<20 + 512, []block.Extent{{Off: 1 << 20, Len: 1<<20 + 512}}},
		{5, 10 << 20, nil},
	} {
		if got := a.since(c.since, c.size); !reflect.DeepEqual(got, c.want) {
			t.Errorf("since %d in %d: %v, want %v", c.since, c.size, got, c.want)
		}
	}
	a.fit(maxRegions<<minShift + 1) // each region is two now
	if got, want := a.since(3, 1<<40), []block.Extent{{Off: 0, Len: 4 << 20}}; !reflect.DeepEqual(got, want) {
		t.Errorf("coarser: %v, want %v", got, want)
	}
	a.rebase(4, 8)
	if got := a.since(8, 1<<40); len(got) != 1 {
		t.Errorf("rebased: %v", got)
	}
}
