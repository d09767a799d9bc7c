package tcp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// FuzzReader: any stream is taken apart without a panic, without reading more
// than it has, and every error is one of the documented kinds.
func FuzzReader(f *testing.F) {
	f.Add(byte(0), IC{Digests: 3}.Append(nil, TypeICReq))
	f.Add(byte(1), IC{Max: 4096}.Append(nil, TypeICResp))
	f.Add(byte(0), Term{FES: 1, Header: make([]byte, 200)}.Append(nil, TypeH2CTermReq))
	for _, d := range []Digests{0, 1, 2, 3} {
		b := NewBatch()
		b.Digests = d
		b.Command(&[64]byte{1}, [][]byte{make([]byte, 512)})
		b.H2CData(Transfer{Len: 8}, FlagLast, [][]byte{make([]byte, 3), make([]byte, 5)})
		f.Add(byte(d)<<1, flushed(f, b))
		b.Response(&[16]byte{1})
		b.R2T(Transfer{Len: 8})
		b.C2HData(Transfer{Len: 8}, FlagLast|FlagSuccess, [][]byte{make([]byte, 8)})
		f.Add(byte(d)<<1|1, flushed(f, b))
	}
	f.Fuzz(func(t *testing.T, mode byte, stream []byte) {
		role := Controller
		if mode&1 == 1 {
			role = Host
		}
		r := NewReader(bytes.NewReader(stream), Options{Role: role, MaxCapsule: 1024, MaxData: 4096})
		r.Negotiated(Digests(mode >> 1 & 3))
		for {
			p, err := r.Next()
			if err == nil && mode&8 == 0 {
				if p.DataLen > 4096 {
					t.Fatalf("%v with %d bytes of data", p.Type, p.DataLen)
				}
				if err = r.ReadData(make([]byte, p.DataLen)); err == nil {
					err = r.EndData()
				}
				if errors.Is(err, ErrDataDigest) {
					err = nil
				}
			}
			var fatal *Error
			switch {
			case err == nil:
				continue
			case errors.As(err, &fatal):
				if fatal.FES == 0 || len(fatal.Header) > MaxTermData {
					t.Fatalf("%+v", fatal)
				}
			case err != io.EOF && err != io.ErrUnexpectedEOF:
				t.Fatal(err)
			}
			return
		}
	})
}

func flushed(t testing.TB, b *Batch) []byte {
	var buf bytes.Buffer
	if err := b.Flush(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// FuzzRoundTrip: what a Batch writes, a Reader reads.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint64(1), byte(3), byte(0))
	f.Fuzz(func(t *testing.T, seed uint64, digests, align byte) { roundTrip(t, seed, Digests(digests&3), align%32) })
}

func TestRoundTrip(t *testing.T) {
	for seed := range uint64(200) {
		roundTrip(t, seed, Digests(seed&3), byte(seed%32))
	}
}

func roundTrip(t *testing.T, seed uint64, d Digests, align byte) {
	rng := rand.New(rand.NewPCG(seed, 0))
	b := NewBatch()
	b.Digests, b.Align = d, 4*(uint32(align)+1)
	type sent struct {
		typ   Type
		flags Flags
		x     Transfer
		head  []byte
		data  []byte
	}
	var list []sent
	var stream bytes.Buffer
	for range rng.IntN(200) {
		data := make([]byte, 1+rng.IntN(300))
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		cut := rng.IntN(len(data))
		vec := [][]byte{data[:cut], data[cut:]}
		s := sent{x: Transfer{CCCID: uint16(rng.Uint32()), Offset: rng.Uint32(), Len: uint32(len(data))}, data: data}
		switch rng.IntN(3) {
		case 0:
			s.typ, s.data, s.x = TypeCapsuleResp, nil, Transfer{}
			s.head = data[:min(16, len(data))]
			var cqe [16]byte
			copy(cqe[:], s.head)
			b.Response(&cqe)
		case 1:
			s.typ, s.flags = TypeC2HData, FlagLast
			b.C2HData(s.x, s.flags, vec)
		case 2:
			s.typ, s.data = TypeR2T, nil
			s.x.TTAG = uint16(rng.Uint32())
			b.R2T(s.x)
		}
		list = append(list, s)
		if b.Full() || rng.IntN(10) == 0 {
			if err := b.Flush(&stream); err != nil {
				t.Fatal(err)
			}
		}
	}
	stream.Write(flushed(t, b))
	if !b.Empty() {
		t.Fatal("not empty after Flush")
	}
	r := NewReader(&stream, Options{Role: Host, MaxData: 4096})
	r.Negotiated(d)
	for i, s := range list {
		p, err := r.Next()
		if err != nil {
			t.Fatalf("PDU %d: %v", i, err)
		}
		if p.Type != s.typ || p.Flags&^(FlagHDGST|FlagDDGST) != s.flags || p.DataLen != uint32(len(s.data)) {
			t.Fatalf("PDU %d: %v %v %d, want %+v", i, p.Type, p.Flags, p.DataLen, s)
		}
		if s.typ == TypeCapsuleResp {
			if !bytes.HasPrefix(p.CQE()[:], s.head) {
				t.Fatalf("PDU %d: CQE %x", i, p.CQE())
			}
		} else if p.Transfer() != s.x {
			t.Fatalf("PDU %d: %+v, want %+v", i, p.Transfer(), s.x)
		}
		if i%3 == 0 {
			continue // the next Next skips the data
		}
		got := make([]byte, p.DataLen)
		half := len(got) / 2
		if err := errors.Join(r.ReadData(got[:half]), r.ReadData(got[half:]), r.EndData()); err != nil || !bytes.Equal(got, s.data) {
			t.Fatalf("PDU %d: data differs, %v", i, err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("at the end: %v", err)
	}
}

// TestGolden pins the wire format, its digests included (computed by hand
// with another implementation of CRC32C).
func TestGolden(t *testing.T) {
	b := NewBatch()
	b.Digests = HeaderDigest | DataDigest
	b.C2HData(Transfer{CCCID: 0x1234, Offset: 512, Len: 9}, FlagLast|FlagSuccess, [][]byte{[]byte("123456789")})
	head := "070f181c29000000" + "34120000" + "00020000" + "09000000" + "00000000"
	raw, _ := hex.DecodeString(head)
	want := head + fmt.Sprintf("%08x", crcSwapped(raw)) + hex.EncodeToString([]byte("123456789")) + "839206e3"
	if got := hex.EncodeToString(flushed(t, b)); got != want {
		t.Errorf("C2HData\n got %s\nwant %s", got, want)
	}
	ic := IC{Align: 3, Digests: 2, Max: 0x100000}.Append(nil, TypeICResp)
	if got, want := hex.EncodeToString(ic), "0100800080000000"+"0000030200001000"+strings.Repeat("00", 112); got != want {
		t.Errorf("ICResp\n got %s\nwant %s", got, want)
	}
	term := Term{FES: FESDataRange, FEI: 12, Header: []byte{6, 0}}.Append(nil, TypeC2HTermReq)
	if got, want := hex.EncodeToString(term), "030018001a000000"+"04000c000000"+strings.Repeat("00", 10)+"0600"; got != want {
		t.Errorf("C2HTermReq\n got %s\nwant %s", got, want)
	}
}

// crcSwapped is a bit by bit CRC32C, as the bytes appear on the wire.
func crcSwapped(b []byte) uint32 {
	crc := ^uint32(0)
	for _, x := range b {
		crc ^= uint32(x)
		for range 8 {
			crc = crc>>1 ^ 0x82f63b78&-(crc&1)
		}
	}
	crc = ^crc
	return crc<<24 | crc>>24 | crc<<8&0xff0000 | crc>>8&0xff00
}

func TestReaderMisuse(t *testing.T) {
	b := NewBatch()
	b.C2HData(Transfer{Len: 8}, FlagLast, [][]byte{make([]byte, 8)})
	r := NewReader(bytes.NewReader(flushed(t, b)), Options{Role: Host, MaxData: 8})
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if err := r.ReadData(make([]byte, 9)); err == nil {
		t.Error("read more than the PDU has")
	}
}

func TestStrings(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{TypeR2T.String(), "R2T"}, {Type(8).String(), "PDU type 0x08"}, {FESSequence.String(), "PDU sequence error"},
		{FES(99).String(), "fatal error status 99"}, {(&Error{FES: 3, Detail: "x"}).Error(), "NVMe/TCP: header digest error: x"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
