package replication

import (
	"encoding/binary"
	"fmt"

	"github.com/cask-storage/cask/pkg/store"
)

const digestSize = 32

// EncodeDigests is the data of a Digests.
func EncodeDigests(ds []store.Digest) []byte {
	b := make([]byte, 0, len(ds)*digestSize)
	for _, d := range ds {
		for _, x := range []uint64{d.Sum[0], d.Sum[1], d.Held, d.Read} {
			b = binary.LittleEndian.AppendUint64(b, x)
		}
	}
	return b
}

// DigestList is the content of a Digests, which must be n.
func (m *Message) DigestList(n int) ([]store.Digest, error) {
	if len(m.Bufs) != 1 || len(m.Bufs[0]) != n*digestSize {
		return nil, fmt.Errorf("%d bytes of digests, want %d: %w", m.DataLen(), n*digestSize, ErrFrame)
	}
	b := m.Bufs[0]
	out := make([]store.Digest, n)
	for i := range out {
		word := func(k int) uint64 { return binary.LittleEndian.Uint64(b[i*digestSize+8*k:]) }
		out[i] = store.Digest{Sum: [2]uint64{word(0), word(1)}, Held: word(2), Read: word(3)}
	}
	return out, nil
}
