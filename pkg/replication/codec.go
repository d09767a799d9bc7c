package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/history"
)

// ErrFrame is the class of every malformed frame: the connection must be
// closed.
var ErrFrame = errors.New("malformed replication frame")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendHead appends m's header and meta part, all of the frame but its data.
func AppendHead(b []byte, m *Message) ([]byte, error) {
	start := len(b)
	b = append(b, make([]byte, headerSize)...)
	if m.Type.hasMeta() {
		var err error
		if b, err = appendMeta(b, m); err != nil {
			return nil, err
		}
	}
	n := m.DataLen()
	if n > MaxData {
		return nil, fmt.Errorf("%v with %d bytes of data, at most %d: %w", m.Type, n, MaxData, ErrFrame)
	}
	h := b[start:]
	le := binary.LittleEndian
	le.PutUint32(h[0:], uint32(len(h)+n))
	h[4], h[5], h[6], h[7] = byte(m.Type), m.Flags, m.Kind, byte(m.Code)
	le.PutUint64(h[8:], uint64(m.Epoch))
	le.PutUint64(h[16:], m.ID)
	le.PutUint64(h[24:], uint64(m.Seq))
	le.PutUint64(h[32:], uint64(m.Base))
	le.PutUint64(h[40:], m.Extent.Off)
	le.PutUint64(h[48:], m.Extent.Len)
	le.PutUint32(h[56:], uint32(len(h)-headerSize))
	crc := checksum(h)
	for _, d := range m.Bufs {
		crc = crc32.Update(crc, castagnoli, d)
	}
	le.PutUint32(h[60:], crc)
	return b, nil
}

// checksum covers the header but its own field, then the rest of h.
func checksum(h []byte) uint32 {
	crc := crc32.Update(0, castagnoli, h[:60])
	return crc32.Update(crc, castagnoli, h[headerSize:])
}

func appendMeta(b []byte, m *Message) ([]byte, error) {
	if len(m.History) > MaxHistory || len(m.Extents) > MaxExtents {
		return nil, fmt.Errorf("%v with %d history entries and %d extents: %w", m.Type, len(m.History), len(m.Extents), ErrFrame)
	}
	le := binary.LittleEndian
	for _, s := range []string{m.Volume, m.Replica, m.Text} {
		s = s[:min(len(s), MaxText)]
		b = append(le.AppendUint16(b, uint16(len(s))), s...)
	}
	b = le.AppendUint16(b, uint16(len(m.History)))
	for _, e := range m.History {
		b = le.AppendUint64(le.AppendUint64(b, uint64(e.Epoch)), uint64(e.First))
	}
	b = le.AppendUint32(b, uint32(len(m.Extents)))
	for _, e := range m.Extents {
		b = le.AppendUint64(le.AppendUint64(b, e.Off), e.Len)
	}
	b = le.AppendUint64(b, uint64(m.Promised))
	b = le.AppendUint64(b, uint64(m.Tail))
	b = le.AppendUint64(b, m.Size)
	b = le.AppendUint64(b, uint64(m.Floor))
	return le.AppendUint64(b, uint64(m.Mark)), nil
}

// Decode reads one frame that fills b. The message's data aliases b.
func Decode(b []byte) (Message, error) {
	if len(b) < headerSize {
		return Message{}, fmt.Errorf("length %d: %w", len(b), ErrFrame)
	}
	return decode(b[:headerSize], b[headerSize:])
}

// decode reads a frame of head b and the rest of it.
func decode(b, rest []byte) (Message, error) {
	var m Message
	le := binary.LittleEndian
	if n := headerSize + len(rest); n > MaxFrame || le.Uint32(b) != uint32(n) {
		return m, fmt.Errorf("length %d: %w", n, ErrFrame)
	}
	meta := le.Uint32(b[56:])
	m.Type, m.Flags, m.Kind, m.Code = Type(b[4]), b[5], b[6], Code(b[7])
	if m.Type == 0 || m.Type >= typeCount || uint64(meta) > uint64(len(rest)) || (meta > 0) != m.Type.hasMeta() {
		return m, fmt.Errorf("%v with a meta part of %d bytes: %w", m.Type, meta, ErrFrame)
	}
	if got := crc32.Update(checksum(b), castagnoli, rest); got != le.Uint32(b[60:]) {
		return m, fmt.Errorf("%v fails its checksum: %w", m.Type, ErrFrame)
	}
	m.Epoch, m.ID = history.Epoch(le.Uint64(b[8:])), le.Uint64(b[16:])
	m.Seq, m.Base = history.Seq(le.Uint64(b[24:])), history.Seq(le.Uint64(b[32:]))
	m.Extent = block.Extent{Off: le.Uint64(b[40:]), Len: le.Uint64(b[48:])}
	if m.Extent.Off+m.Extent.Len < m.Extent.Off {
		return m, fmt.Errorf("%v of an extent that wraps around: %w", m.Type, ErrFrame)
	}
	data := rest[meta:]
	if len(data) > MaxData {
		return m, fmt.Errorf("%v with %d bytes of data: %w", m.Type, len(data), ErrFrame)
	}
	if len(data) > 0 {
		m.Bufs = [][]byte{data}
	}
	if meta > 0 {
		if err := decodeMeta(rest[:meta], &m); err != nil {
			return m, err
		}
	}
	return m, nil
}

// cursor consumes bytes; once short it stays short.
type cursor struct {
	b     []byte
	short bool
}

func (c *cursor) take(n int) []byte {
	if c.short || n > len(c.b) {
		c.short = true
		return make([]byte, min(n, 8))
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) u16() int    { return int(binary.LittleEndian.Uint16(c.take(2))) }
func (c *cursor) u32() int    { return int(binary.LittleEndian.Uint32(c.take(4))) }
func (c *cursor) u64() uint64 { return binary.LittleEndian.Uint64(c.take(8)) }

// count reads how many 16-byte items follow and checks that they do.
func (c *cursor) count(n, most int) int {
	if n > most || n*16 > len(c.b) {
		c.short = true
	}
	if c.short {
		return 0
	}
	return n
}

func decodeMeta(b []byte, m *Message) error {
	c := &cursor{b: b}
	for _, s := range []*string{&m.Volume, &m.Replica, &m.Text} {
		n := c.u16()
		if n > MaxText {
			c.short = true
			break
		}
		if v := c.take(n); !c.short {
			*s = string(v)
		}
	}
	for n := c.count(c.u16(), MaxHistory); n > 0; n-- {
		m.History = append(m.History, history.Entry{Epoch: history.Epoch(c.u64()), First: history.Seq(c.u64())})
	}
	if n := c.count(c.u32(), MaxExtents); n > 0 {
		m.Extents = make([]block.Extent, n)
		for i := range m.Extents {
			m.Extents[i] = block.Extent{Off: c.u64(), Len: c.u64()}
		}
	}
	m.Promised, m.Tail, m.Size = history.Epoch(c.u64()), history.Seq(c.u64()), c.u64()
	m.Floor, m.Mark = history.Seq(c.u64()), history.Seq(c.u64())
	if c.short || len(c.b) != 0 || (len(m.History) > 0 && !m.History.Valid()) {
		return fmt.Errorf("meta part of %v: %w", m.Type, ErrFrame)
	}
	for _, e := range m.Extents {
		if e.Off+e.Len < e.Off {
			return fmt.Errorf("extent %v of %v wraps around: %w", e, m.Type, ErrFrame)
		}
	}
	return nil
}

// pooled says whether n bytes of a message's data are to be in memory that is used
// again. What a tail holds of it is to be as large as it says.
func pooled(t Type, n uint32) bool {
	switch t {
	case Data:
		return n > 0
	case Apply, Copy:
		return n >= 4<<10 && n&(n-1) == 0
	}
	return false
}

// ReadMessage reads one frame into memory of its own, which is to be freed where
// the message says so.
func ReadMessage(r io.Reader) (Message, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r, head[:4]); err != nil {
		return Message{}, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n < headerSize || n > MaxFrame {
		return Message{}, fmt.Errorf("length %d: %w", n, ErrFrame)
	}
	if _, err := io.ReadFull(r, head[4:]); err != nil {
		return Message{}, err
	}
	n -= headerSize
	var own *buffer.Buffer
	var rest []byte
	if pooled(Type(head[4]), n) {
		own = buffer.Get(int(n))
		rest = own.B
	} else {
		rest = make([]byte, n)
	}
	if _, err := io.ReadFull(r, rest); err != nil {
		return Message{}, err
	}
	m, err := decode(head[:], rest)
	m.Own = own
	return m, err
}

// WriteMessages sends ms in order with as few system calls as the connection
// allows; head is scratch space that is returned for the next call.
func WriteMessages(w io.Writer, ms []Message, head []byte) ([]byte, error) {
	head = head[:0]
	ends := make([]int, len(ms))
	for i := range ms {
		var err error
		if head, err = AppendHead(head, &ms[i]); err != nil {
			return head, err
		}
		ends[i] = len(head)
	}
	bufs := make(net.Buffers, 0, 2*len(ms))
	from := 0
	for i := range ms {
		if len(ms[i].Bufs) == 0 && i+1 < len(ms) {
			continue // one slice for the heads of messages without data
		}
		bufs = append(bufs, head[from:ends[i]])
		bufs = append(bufs, ms[i].Bufs...)
		from = ends[i]
	}
	_, err := bufs.WriteTo(w)
	return head, err
}
