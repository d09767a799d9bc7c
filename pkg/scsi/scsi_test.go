package scsi_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/cask-storage/cask/pkg/scsi"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

// TestSenseBytes holds both formats against bytes written down from SPC-4.
func TestSenseBytes(t *testing.T) {
	field := scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.InvalidFieldInCDB, Field: scsi.CDBField(2, 5)}
	miscompare := scsi.Sense{Key: scsi.Miscompare, Code: scsi.MiscompareDuringCheck, Info: scsi.Info{Valid: true, Value: 0x1234}}
	for _, c := range []struct {
		s    scsi.Sense
		f    scsi.Format
		want string
	}{
		{field, scsi.FixedSense, "70 00 05 00000000 0a 00000000 24 00 00 cd 0002"},
		{field, scsi.DescriptorSense, "72 05 24 00 000000 08  02 06 0000 cd 0002 00"},
		{miscompare, scsi.FixedSense, "f0 00 0e 00001234 0a 00000000 1d 00 00 00 0000"},
		{miscompare, scsi.DescriptorSense, "72 0e 1d 00 000000 0c  00 0a 80 00 0000000000001234"},
		{scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.InvalidFieldInList, Field: scsi.ListField(20)}, scsi.FixedSense, "70 00 05 00000000 0a 00000000 26 00 00 80 0014"},
	} {
		got := c.s.Append(nil, c.f)
		if !bytes.Equal(got, unhex(c.want)) {
			t.Errorf("%v: %x, want %s", c.s, got, c.want)
		}
		if back, err := scsi.DecodeSense(got); err != nil || back != c.s {
			t.Errorf("%v came back as %v, %v", c.s, back, err)
		}
		if len(got) > scsi.MaxSense {
			t.Errorf("%d bytes", len(got))
		}
	}
}

func TestRanges(t *testing.T) {
	for _, c := range []struct {
		cdb    string
		lba    uint64
		blocks uint32
	}{
		{"08 1f ff ff 00 00", 0x1fffff, 256},
		{"2a 00 01020304 00 0506 00", 0x01020304, 0x0506},
		{"aa 00 01020304 05060708 00 00", 0x01020304, 0x05060708},
		{"8a 00 0102030405060708 090a0b0c 00 00", 0x0102030405060708, 0x090a0b0c},
		{"89 00 0000000000000007 000000 05 00 00", 7, 5},
	} {
		var d scsi.CDB
		copy(d[:], unhex(c.cdb))
		if lba, blocks := d.Range(); lba != c.lba || blocks != c.blocks {
			t.Errorf("%s: %#x+%#x", c.cdb, lba, blocks)
		}
		e := scsi.CDB{d[0]}
		e.SetRange(c.lba, c.blocks)
		if e != d {
			t.Errorf("%s was made again as %x", c.cdb, e)
		}
	}
}

// TestCommands: the table is sorted, and its usage data fits its commands.
func TestCommands(t *testing.T) {
	for i := range scsi.Commands {
		c := &scsi.Commands[i]
		d := scsi.CDB{byte(c.Opcode), c.Action}
		if d.Len() != c.Len() {
			t.Errorf("%#02x has %d bytes of usage data, its group %d", c.Opcode, c.Len(), d.Len())
		}
		if got, known := scsi.Lookup(&d); got != c || !known {
			t.Errorf("%#02x/%#02x is not found", c.Opcode, c.Action)
		}
		usage := c.AppendUsage(nil)
		if usage[0] != byte(c.Opcode) || c.Actions && usage[1]&0x1f != c.Action {
			t.Errorf("%#02x/%#02x: usage %x", c.Opcode, c.Action, usage)
		}
		if usage[len(usage)-1] != scsi.ControlNACA {
			t.Errorf("%#02x: control byte %#02x", c.Opcode, usage[len(usage)-1])
		}
	}
	if _, known := scsi.LookupAction(0xff, 0); known {
		t.Error("operation code FFh is known")
	}
	if c, known := scsi.LookupAction(scsi.ServiceIn16, 1); c != nil || !known {
		t.Error("SERVICE ACTION IN(16)/01h")
	}
}

func TestLUNs(t *testing.T) {
	for _, l := range []scsi.LUN{0, 1, 255, 256, scsi.MaxLUN} {
		if got := scsi.DecodeLUN(l.Encode()); got != l {
			t.Errorf("LUN %d came back as %d", l, got)
		}
	}
	for _, b := range [][8]byte{{0, 1, 0, 1}, {0x80, 1}, {0xc1, 1}, {1, 1}} {
		if got := scsi.DecodeLUN(b); got != scsi.NoLUN {
			t.Errorf("%x is LUN %d", b, got)
		}
	}
}

func TestModePages(t *testing.T) {
	v := scsi.ModeDefaults
	all := scsi.ModeSense{Page: scsi.ModeAll}.Append(nil, v, scsi.Capacity{Blocks: 100, BlockSize: 512})
	if int(all[0]) != len(all)-1 || all[3] != 8 {
		t.Errorf("header %x of %d bytes", all[:4], len(all))
	}
	list := append([]byte(nil), all...)
	for i := 12; i < len(list); i += 2 + int(list[i+1]) {
		switch scsi.ModePage(list[i]) {
		case scsi.ModeCaching:
			list[i+2] &^= 0x04
		case scsi.ModeControl:
			list[i+2] |= 0x04
			if list[i+5] != 0x40 {
				t.Errorf("TAS is not set: %x", list[i:])
			}
		}
	}
	got, err := v.ModeSelect(list, scsi.ModeSelect6, 512)
	if err != nil || got != (scsi.ModeValues{DescriptorSense: true}) {
		t.Errorf("%+v, %v", got, err)
	}
	list[len(list)-1] = 1 // a byte of the last page that cannot be changed
	var bad *scsi.ModeError
	if _, err := v.ModeSelect(list, scsi.ModeSelect6, 512); !errors.As(err, &bad) || int(bad.At) != len(list)-1 {
		t.Errorf("a byte that cannot be changed: %v", err)
	}
	if _, err := v.ModeSelect(all[:len(all)-1], scsi.ModeSelect6, 512); !errors.Is(err, scsi.ErrShort) {
		t.Errorf("a page cut short: %v", err)
	}
}

func FuzzDecoders(f *testing.F) {
	f.Add(scsi.Sense{Key: 5, Info: scsi.Info{Valid: true, Value: 9}}.Append(nil, scsi.DescriptorSense))
	f.Add(scsi.AppendUnmap(nil, []scsi.BlockRange{{LBA: 1, Blocks: 2}}))
	f.Add(scsi.ReserveOutList{Key: 1, ActionKey: 2, APTPL: true}.Append(nil))
	f.Add(scsi.ModeSense{Page: scsi.ModeAll}.Append(nil, scsi.ModeDefaults, scsi.Capacity{BlockSize: 512}))
	f.Fuzz(func(t *testing.T, in []byte) {
		if s, err := scsi.DecodeSense(in); err == nil {
			format := scsi.FixedSense
			if in[0]&0x7f >= 0x72 {
				format = scsi.DescriptorSense
			}
			if back, err := scsi.DecodeSense(s.Append(nil, format)); err != nil || back != s {
				t.Errorf("%v came back as %v, %v", s, back, err)
			}
		}
		if r, err := scsi.DecodeUnmap(nil, in); err == nil {
			if len(r)*scsi.UnmapRange > len(in) {
				t.Errorf("%d ranges in %d bytes", len(r), len(in))
			}
			if back, err := scsi.DecodeUnmap(nil, scsi.AppendUnmap(nil, r)); err != nil || len(back) != len(r) {
				t.Errorf("%v came back as %v, %v", r, back, err)
			}
		}
		if l, err := scsi.DecodeReserveOut(in); err == nil {
			if back, err := scsi.DecodeReserveOut(l.Append(nil)); err != nil || back != l {
				t.Errorf("%+v came back as %+v, %v", l, back, err)
			}
		}
		for _, op := range []scsi.Opcode{scsi.ModeSelect6, scsi.ModeSelect10} {
			_, _ = scsi.ModeDefaults.ModeSelect(in, op, 512)
		}
		_, _ = scsi.DecodeCapacity(in)
		_, _ = scsi.DecodeLimits(in)
		if name, err := scsi.DecodeUnitName(in); err == nil && len(name) > 2*len(in) {
			t.Errorf("a name of %d bytes in %d", len(name), len(in))
		}
	})
}
