package nvme

import (
	"encoding/hex"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

// codec is a structure's decoder followed by its encoder and its decoder
// again: the two values must be equal.
type codec struct {
	name string
	size int
	// twice returns what b decodes to, and what the encoding of that
	// decodes to; ok is false when b is refused.
	twice func(b []byte) (first, second any, ok bool)
}

func page[T any](decode func(*T, []byte) error, encode func(*T, *[IdentifySize]byte)) func([]byte) (any, any, bool) {
	return func(b []byte) (any, any, bool) {
		var x, y T
		if decode(&x, b) != nil {
			return nil, nil, false
		}
		var buf [IdentifySize]byte
		encode(&x, &buf)
		err := decode(&y, buf[:])
		return x, y, err == nil
	}
}

func appended[T any](decode func([]byte) (T, error), appendTo func(T, []byte) []byte) func([]byte) (any, any, bool) {
	return func(b []byte) (any, any, bool) {
		x, err := decode(b)
		if err != nil {
			return nil, nil, false
		}
		y, err := decode(appendTo(x, nil))
		return x, y, err == nil
	}
}

var codecs = []codec{
	{"Range", RangeSize, appended(DecodeRange, Range.Append)},
	{"ConnectData", ConnectSize, appended(DecodeConnectData, ConnectData.Append)},
	{"DiscoveryEntry", DiscoveryRecord, appended(DecodeDiscoveryEntry, DiscoveryEntry.Append)},
	{"DiscoveryLog", DiscoveryHeader, appended(DecodeDiscoveryLog, func(l DiscoveryLog, b []byte) []byte { return l.Append(b) })},
	{"IdentifyController", IdentifySize, page((*IdentifyController).Decode, (*IdentifyController).Encode)},
	{"IdentifyNamespace", IdentifySize, page((*IdentifyNamespace).Decode, (*IdentifyNamespace).Encode)},
	{"IdentifyControllerNVM", IdentifySize, page((*IdentifyControllerNVM).Decode, (*IdentifyControllerNVM).Encode)},
	{"IdentifyNamespaceCommon", IdentifySize, page((*IdentifyNamespaceCommon).Decode, (*IdentifyNamespaceCommon).Encode)},
	{"Effects", LogEffectsSize, page((*Effects).Decode, (*Effects).Encode)},
	{"SMART", LogSMARTSize, func(b []byte) (any, any, bool) {
		var x, y SMART
		if x.Decode(b) != nil {
			return nil, nil, false
		}
		var buf [LogSMARTSize]byte
		x.Encode(&buf)
		err := y.Decode(buf[:])
		return x, y, err == nil
	}},
	{"CopyRange", CopyRangeSize, appended(DecodeCopyRange, CopyRange.Append)},
	{"ErrorEntry", LogErrorSize, appended(DecodeErrorEntry, ErrorEntry.Append)},
	{"ReservationKeys", ReservationKeySize, appended(DecodeReservationKeys, ReservationKeys.Append)},
	{"ReservationLog", LogReservSize, appended(DecodeReservationLog, ReservationLog.Append)},
	{"ReservationReport", 0, appended(DecodeReservationReport, func(r ReservationReport, b []byte) []byte { return r.Append(b) })},
	{"ANALog", 0, appended(DecodeANALog, func(l ANALog, b []byte) []byte { return l.Append(b) })},
	{"Controllers", 0, appended(DecodeControllers, func(ids []CNTLID, b []byte) []byte { return AppendControllers(b, ids) })},
	{"Descriptors", 0, appended(DecodeDescriptors, func(ds []Descriptor, b []byte) []byte {
		for _, d := range ds {
			b = d.Append(b)
		}
		return b
	})},
	{"NSIDs", 0, appended(func(b []byte) ([]NSID, error) { return DecodeNSIDs(b), nil }, func(ids []NSID, b []byte) []byte { return AppendNSIDs(b, ids) })},
}

func checkCodec(t *testing.T, c codec, b []byte) {
	t.Helper()
	x, y, ok := c.twice(b)
	if x == nil {
		if len(b) >= c.size && c.size > 0 && c.name != "DiscoveryLog" {
			t.Fatalf("%s refused %d bytes", c.name, len(b))
		}
		return
	}
	if !ok || !reflect.DeepEqual(x, y) {
		t.Fatalf("%s: decoded %+v, its encoding decodes to %+v", c.name, x, y)
	}
}

func TestCodecs(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{1})
	for _, c := range codecs {
		for range 200 {
			b := make([]byte, 4096)
			_, _ = rng.Read(b)
			checkCodec(t, c, b)
		}
		for n := range min(c.size, 64) {
			if x, _, _ := c.twice(make([]byte, n)); x != nil {
				t.Errorf("%s decoded %d bytes", c.name, n)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for i := range codecs {
		f.Add(byte(i), []byte{3, 16, 0, 0})
		f.Add(byte(i), make([]byte, 4096))
		f.Add(byte(i), (&ANALog{Changes: 3, Groups: []ANAGroup{{ID: 1, State: ANAOptimized, NSIDs: []NSID{1, 2}}}}).Append(nil))
		f.Add(byte(i), (&ReservationReport{Type: 1, Controllers: make([]RegisteredController, 2)}).Append(nil))
		f.Add(byte(i), (&DiscoveryLog{Generation: 1, Entries: make([]DiscoveryEntry, 2)}).Append(nil))
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		checkCodec(t, codecs[int(which)%len(codecs)], b)
	})
}

// FuzzCommand: every accessor takes any 64 bytes, and what it read, set again,
// is read again.
func FuzzCommand(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Command
		copy(c[:], b)
		same := func(name string, x, y any) {
			if !reflect.DeepEqual(x, y) {
				t.Errorf("%s: %+v, then %+v", name, x, y)
			}
		}
		var d Command
		d.SetSGL(c.SGL())
		same("SGL", c.SGL(), d.SGL())
		d = Command{}
		d.SetRange(c.SLBA(), c.Blocks())
		same("range", []any{c.SLBA(), c.Blocks()}, []any{d.SLBA(), d.Blocks()})
		d = Command{}
		d.SetConnect(c.ConnectParams())
		same("connect", c.ConnectParams(), d.ConnectParams())
		d = Command{}
		d.SetPropertySet(c.Property())
		same("property", c.Property(), d.Property())
		d = Command{}
		d.SetIdentify(c.IdentifyParams())
		same("identify", c.IdentifyParams(), d.IdentifyParams())
		d = Command{}
		d.SetLog(c.Log())
		same("log", c.Log(), d.Log())
		d = Command{}
		x := c.Feature()
		x.Select = 0
		d.SetFeature(x)
		same("feature", x, d.Feature())
		d = Command{}
		d.SetCopy(c.Copy())
		same("copy", c.Copy(), d.Copy())
		d = Command{}
		d.SetSecurity(FAuthSend, c.Security())
		same("security", c.Security(), d.Security())
		d = Command{}
		d.SetReservation(OpReservationAcquire, c.Reservation())
		same("reservation", c.Reservation(), d.Reservation())
		v := c.SLBA()
		same("queue counts", uint32(v), DecodeQueueCounts(uint32(v)).Encode())
		caps := DecodeCapabilities(v)
		same("capabilities", caps, DecodeCapabilities(caps.Encode()))
		e := DecodeAsyncEvent(v)
		same("event", e, DecodeAsyncEvent(e.Encode()))
	})
}

// TestGolden pins the wire format.
func TestGolden(t *testing.T) {
	var c Command
	c.SetOpcode(OpRead)
	c.SetCID(0x1234)
	c.SetNSID(1)
	c.SetSGL(SGL{Type: SGLTransport, Len: 4096})
	c.SetRange(0x10, 8)
	var connect Command
	connect.SetConnect(ConnectParams{QID: 1, QueueDepth: 128, NoSQFlow: true, KATO: 5000})
	var get Command
	get.SetPropertyGet(PropertyParams{Wide: true, Offset: PropCAP})
	var set Command
	set.SetPropertySet(PropertyParams{Offset: PropCC, Value: uint64(CCEnable | CCIOSQES | CCIOCQES)})
	var log Command
	log.SetLog(LogParams{LID: LogDiscovery, Len: 1 << 20, Offset: 1 << 33, Retain: true})
	var done Completion
	done.SetResult(0x1122334455667788)
	done.SetSQHead(3)
	done.SetCID(0x1234)
	done.SetStatus(LBAOutOfRange | DNR)
	for _, g := range []struct {
		name string
		got  []byte
		want string
	}{
		{"read", c[:], "0240341201000000" + strings.Repeat("00", 16) + "0000000000000000001000000000005a" + "10000000000000000700000000000000" + "0000000000000000"},
		{"connect", connect[:], "7f00000001" + strings.Repeat("00", 35) + "000001007f00040088130000" + strings.Repeat("00", 12)},
		{"property get", get[:], "7f00000004" + strings.Repeat("00", 35) + "0100000000000000" + strings.Repeat("00", 16)},
		{"property set", set[:], "7f000000" + strings.Repeat("00", 36) + "0000000014000000" + "0100460000000000" + strings.Repeat("00", 8)},
		{"log", log[:], "02" + strings.Repeat("00", 39) + "7080ffff" + "03000000" + "0000000002000000" + strings.Repeat("00", 8)},
		{"completion", done[:], "8877665544332211" + "0300" + "0000" + "3412" + "0081"},
	} {
		if got := hex.EncodeToString(g.got); got != g.want {
			t.Errorf("%s:\n got %s\nwant %s", g.name, got, g.want)
		}
	}
	if done.Status() != LBAOutOfRange|DNR || done.Status().Retry() || done.Status().Code() != LBAOutOfRange {
		t.Errorf("status %v", done.Status())
	}
}

func TestMDTS(t *testing.T) {
	for n, want := range map[uint32]uint32{8192: 8192, 1 << 20: 1 << 20, 1<<20 - 1: 1 << 19, 100000: 65536} {
		if got := (&IdentifyController{MDTS: MDTSFor(n)}).MaxTransfer(); got != want {
			t.Errorf("%d: %d, want %d", n, got, want)
		}
	}
}

func TestNQN(t *testing.T) {
	for s, ok := range map[string]bool{
		DiscoveryNQN: true, "": false, "nqn": false, "nqn.": false, "iqn.2026": false,
		"nqn." + strings.Repeat("x", 219): true, "nqn." + strings.Repeat("x", 220): false,
	} {
		if err := CheckNQN(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}
