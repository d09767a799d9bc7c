package volume

import (
	"bytes"
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/quorum"
)

// TestCompareContent: of three or more those are named that have not what most
// have, of two both; what cannot be read is nobody's difference.
func TestCompareContent(t *testing.T) {
	a := bytes.Repeat([]byte{1}, 4096)
	b, other := slices.Clone(a), slices.Clone(a)
	b[1024], other[3000] = 2, 3
	for name, x := range map[string]struct {
		data    [][]byte
		want    map[quorum.ReplicaID]block.Set
		skipped uint64
	}{
		"same":                 {data: [][]byte{a, a, a}},
		"one of three":         {data: [][]byte{a, b, a}, want: map[quorum.ReplicaID]block.Set{"1": {{Off: 9216, Len: 512}}}},
		"the first":            {data: [][]byte{b, a, a}, want: map[quorum.ReplicaID]block.Set{"0": {{Off: 9216, Len: 512}}}},
		"two":                  {data: [][]byte{a, b}, want: map[quorum.ReplicaID]block.Set{"0": {{Off: 9216, Len: 512}}, "1": {{Off: 9216, Len: 512}}}},
		"one cannot read":      {data: [][]byte{a, nil, a}, skipped: 4096},
		"two cannot read":      {data: [][]byte{a, nil, nil}, skipped: 4096},
		"two ways, one unread": {data: [][]byte{a, b, nil}, want: map[quorum.ReplicaID]block.Set{"0": {{Off: 9216, Len: 512}}, "1": {{Off: 9216, Len: 512}}}, skipped: 4096},
		"three ways": {data: [][]byte{a, b, other}, want: map[quorum.ReplicaID]block.Set{
			"0": {{Off: 9216, Len: 512}, {Off: 10752, Len: 512}}, "1": {{Off: 9216, Len: 2048}}, "2": {{Off: 9216, Len: 2048}}}},
	} {
		v := &verify{}
		for i, d := range x.data {
			v.of = append(v.of, &compared{p: &peer{id: quorum.ReplicaID(rune('0' + i))}, data: d})
		}
		v.compareContent(block.Extent{Off: 8192, Len: 4096})
		got := map[quorum.ReplicaID]block.Set{}
		for _, d := range v.Differ {
			got[d.ID] = d.Extents
		}
		if len(got) != len(x.want) || v.Skipped != x.skipped {
			t.Errorf("%s: %v, %d bytes skipped, want %v, %d", name, got, v.Skipped, x.want, x.skipped)
		}
		for id, want := range x.want {
			if !slices.Equal(got[id], want) {
				t.Errorf("%s: %s differs in %v, want %v", name, id, got[id], want)
			}
		}
	}
}
