package iscsi_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/cask-storage/cask/pkg/iscsi"
)

func command(b *iscsi.Batch, n int) {
	h := b.Begin(iscsi.OpCommand)
	h[1] = iscsi.FlagFinal | iscsi.FlagWrite
	h.SetITT(7)
	h.SetLUN([8]byte{0, 3})
	h.SetUint32(iscsi.AtExpectedLen, uint32(n))
	b.End(bytes.Repeat([]byte{0xa5}, n))
}

// TestRoundTrip: what a Batch writes a Reader reads, with each combination of
// digests and padding.
func TestRoundTrip(t *testing.T) {
	for _, d := range []iscsi.Digests{{}, {Header: true}, {Data: true}, {Header: true, Data: true}} {
		var wire bytes.Buffer
		b := iscsi.NewBatch()
		b.Digests = d
		sizes := []int{0, 1, 2, 3, 4, 511, 512}
		for _, n := range sizes {
			command(b, n)
		}
		if err := b.Flush(&wire); err != nil {
			t.Fatal(err)
		}
		r := iscsi.NewReader(&wire, iscsi.Options{Role: iscsi.Target, MaxData: 512})
		r.SetDigests(d)
		for _, n := range sizes {
			p, err := r.Next()
			if err != nil {
				t.Fatalf("%+v, %d bytes: %v", d, n, err)
			}
			got := make([]byte, p.DataLen())
			if err := errors.Join(r.ReadData(got), r.EndData()); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{0xa5}, n)) {
				t.Errorf("%+v: %d bytes: %v", d, n, err)
			}
			if p.ITT() != 7 || p.LUN() != [8]byte{0, 3} || p.Uint32(iscsi.AtExpectedLen) != uint32(n) || !p.Final() {
				t.Errorf("%+v: header %x", d, p.Header)
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	}
}

// TestKnownBytes is a PDU with both digests, computed by another program.
func TestKnownBytes(t *testing.T) {
	b := iscsi.NewBatch()
	b.Digests = iscsi.Digests{Header: true, Data: true}
	h := b.Begin(iscsi.OpNopOut)
	h[1] = iscsi.FlagFinal
	b.End(make([]byte, 32))
	var wire bytes.Buffer
	if err := b.Flush(&wire); err != nil {
		t.Fatal(err)
	}
	// RFC 7143, appendix A.4: the CRC of 32 bytes of zeroes is aa 36 91 8a.
	if got := wire.Bytes()[wire.Len()-4:]; !bytes.Equal(got, []byte{0xaa, 0x36, 0x91, 0x8a}) {
		t.Errorf("data digest %x", got)
	}
}

func TestSerial(t *testing.T) {
	for _, c := range []struct {
		a, b iscsi.Serial
		want bool
	}{{1, 2, true}, {2, 1, false}, {2, 2, false}, {0xffffffff, 0, true}, {0, 0xffffffff, false}} {
		if got := c.a.Before(c.b); got != c.want {
			t.Errorf("%d before %d: %v", c.a, c.b, got)
		}
	}
}

func TestText(t *testing.T) {
	in := iscsi.Text{{Key: "A", Value: "1"}, {Key: "B", Value: ""}, {Key: "C", Value: "x=y"}}
	out, err := iscsi.ParseText(in.Append(nil))
	if err != nil || len(out) != 3 || out[2].Value != "x=y" {
		t.Errorf("%v, %v", out, err)
	}
	for _, bad := range []string{"novalue", "=1", string(bytes.Repeat([]byte("k"), 64)) + "=1"} {
		if _, err := iscsi.ParseText([]byte(bad)); !errors.Is(err, iscsi.ErrText) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	for _, d := range []iscsi.Digests{{}, {Header: true, Data: true}} {
		b := iscsi.NewBatch()
		b.Digests = d
		command(b, 37)
		command(b, 0)
		var wire bytes.Buffer
		_ = b.Flush(&wire) // a Buffer takes everything
		f.Add(wire.Bytes(), d.Header, d.Data)
	}
	f.Fuzz(func(t *testing.T, in []byte, header, data bool) {
		r := iscsi.NewReader(bytes.NewReader(in), iscsi.Options{Role: iscsi.Target, MaxData: 1 << 16})
		d := iscsi.Digests{Header: header, Data: data}
		r.SetDigests(d)
		for {
			p, err := r.Next()
			if err != nil {
				return
			}
			if p.DataLen() > 1<<16 {
				t.Fatalf("%d bytes of data were let in", p.DataLen())
			}
			got := make([]byte, p.DataLen())
			if r.ReadData(got) != nil || r.EndData() != nil || len(p.AHS) > 0 {
				continue
			}
			// Encoding it again gives a PDU that decodes to the same.
			b := iscsi.NewBatch()
			b.Digests = d
			*b.Begin(p.Opcode()) = p.Header
			b.End(got)
			var wire bytes.Buffer
			_ = b.Flush(&wire)
			again := iscsi.NewReader(&wire, iscsi.Options{Role: iscsi.Target, MaxData: 1 << 16})
			again.SetDigests(d)
			q, err := again.Next()
			if err != nil || q.Header != p.Header {
				t.Fatalf("%x became %v, %v", p.Header, q, err)
			}
		}
	})
}

func FuzzText(f *testing.F) {
	f.Add([]byte("InitiatorName=iqn.x\x00SessionType=Discovery\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		text, err := iscsi.ParseText(in)
		if err != nil {
			return
		}
		again, err := iscsi.ParseText(text.Append(nil))
		if err != nil || len(again) != len(text) {
			t.Fatalf("%v became %v, %v", text, again, err)
		}
	})
}
