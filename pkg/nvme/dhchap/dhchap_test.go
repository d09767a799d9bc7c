package dhchap

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

var names = Names{Host: "nqn.2014-08.org.nvmexpress:uuid:1", Subsystem: "nqn.2026-01.storage.cask:volume:test"}

// Secrets made by nvme gen-dhchap-key.
const (
	plainSecret = "DHHC-1:00:Rhze4QDk83O+PsMQqqJPlM6GamZDYhQ/MI1wJO/CMIFjvAMY:"
	otherSecret = "DHHC-1:01:AXOjJdxCuyrj/wjQfFgKkbpqBTsUuoMqXeRNGAEpA1QQQEE8:"
)

// run lets a host and a controller talk until the host is done.
func run(t *testing.T, h *Host, c *Controller) error {
	t.Helper()
	out, err := h.Next(nil)
	for range 10 {
		if out != nil {
			c.Receive(append([]byte(nil), out...))
		}
		if err != nil {
			return err
		}
		if out == nil || h.Proven() {
			return nil
		}
		out, err = h.Next(c.Send())
	}
	t.Fatal("no end")
	return nil
}

func pairOf(t *testing.T, hs, cs Secrets) (*Host, *Controller) {
	t.Helper()
	h, err := NewHost(names, hs)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewController(names, cs)
	if err != nil {
		t.Fatal(err)
	}
	return h, c
}

func TestAuthentication(t *testing.T) {
	one, both := Secrets{Host: plainSecret}, Secrets{Host: plainSecret, Controller: otherSecret}
	for name, x := range map[string]struct {
		host, ctrl     Secrets
		hostOK, ctrlOK bool
	}{
		"one way":                  {one, one, true, true},
		"mutual":                   {both, both, true, true},
		"mutual, not asked":        {one, both, true, true},
		"a wrong host":             {Secrets{Host: otherSecret}, one, false, false},
		"a wrong controller":       {both, Secrets{Host: plainSecret, Controller: plainSecret}, false, false},
		"a controller that cannot": {both, one, false, false},
	} {
		h, c := pairOf(t, x.host, x.ctrl)
		err := run(t, h, c)
		if (err == nil) != x.hostOK || c.Done() != x.ctrlOK || err != nil && !errors.Is(err, ErrFailed) {
			t.Errorf("%s: host %v, controller %v, %v", name, err, c.Done(), c.Err())
		}
		if !x.ctrlOK {
			continue
		}
		again, _ := pairOf(t, x.host, x.ctrl) // authenticating anew on the same queue
		if err := run(t, again, c); err != nil || !c.Done() {
			t.Errorf("%s again: %v, %v", name, err, c.Err())
		}
	}
}

// TestGroups: every hash with every group, as offered by the host.
func TestGroups(t *testing.T) {
	for h := hashID(1); h <= 3; h++ {
		for g := groupID(0); g <= 3; g++ {
			host, ctrl := pairOf(t, Secrets{Host: plainSecret}, Secrets{Host: plainSecret})
			_, _ = host.Next(nil)
			ctrl.Receive(negotiate{tid: host.tid, hashes: []hashID{9, h}, groups: []groupID{9, g}}.append(nil))
			m, err := decodeChallenge(ctrl.out)
			if err != nil || m.hash != h || m.group != g || (g == 0) != (len(m.dh) == 0) {
				t.Fatalf("challenge %+v, %v", m, err)
			}
			out, err := host.Next(ctrl.Send())
			if err != nil {
				t.Fatal(err)
			}
			ctrl.Receive(out)
			if ctrl.Done() {
				t.Error("done before the host knows")
			}
			if _, err := host.Next(ctrl.Send()); err != nil || !ctrl.Done() || !host.Proven() {
				t.Errorf("hash %d, group %d: %v, %v", h, g, err, ctrl.Err())
			}
		}
	}
}

// TestPrimes: the groups are RFC 7919's: safe primes, and the first and last
// words as printed there.
func TestPrimes(t *testing.T) {
	for id, tail := range map[groupID]string{
		1: "c58ef1837d1683b2c6f34a26c1b2effa886b423861285c97ffffffffffffffff",
		2: "b0efd1c4", // anywhere: checked by primality
		3: "c68a007e5e655f6affffffffffffffff",
	} {
		p := primes[id]()
		text := p.Text(16)
		if text[:32] != "ffffffffffffffffadf85458a2bb4a9a" || !p.ProbablyPrime(4) {
			t.Errorf("group %d: %s…", id, text[:32])
		}
		if id != 2 && text[len(text)-len(tail):] != tail {
			t.Errorf("group %d ends in %s", id, text[len(text)-len(tail):])
		}
	}
	x, err := newExchange(1)
	if err != nil {
		t.Fatal(err)
	}
	p := x.p.FillBytes(make([]byte, 256))
	one := make([]byte, 256)
	one[255] = 1
	most := append([]byte(nil), p...)
	most[255]--
	for _, bad := range [][]byte{nil, one, make([]byte, 256), p, most, p[:255]} {
		if _, ok := x.shared(bad); ok {
			t.Errorf("took %x…", bad)
		}
	}
}

func TestSecrets(t *testing.T) {
	for _, s := range []string{"", "DHHC-1", "DHHC-1:00::", "DHHC-1:04:" + plainSecret[10:], "DHHC-1:00:AAAA:", plainSecret + "x",
		"DHHC-1:00:Shze4QDk83O+PsMQqqJPlM6GamZDYhQ/MI1wJO/CMIFjvAMY:"} {
		if _, err := key(s, "x"); !errors.Is(err, ErrSecret) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if k, err := key(plainSecret, "x"); err != nil || len(k) != 32 {
		t.Errorf("%x, %v", k, err)
	}
}

// TestOutOfTurn: anything else than the message expected fails, and stays so.
func TestOutOfTurn(t *testing.T) {
	host, ctrl := pairOf(t, Secrets{Host: plainSecret}, Secrets{Host: plainSecret})
	offer, _ := host.Next(nil)
	for name, msgs := range map[string][][]byte{
		"nothing":         {nil},
		"reply first":     {reply{response: make([]byte, 32)}.append(nil)},
		"success2 first":  {appendSuccess2(nil, host.tid)},
		"offer twice":     {offer, offer},
		"empty reply":     {offer, reply{tid: host.tid}.append(nil)},
		"cut reply":       {offer, reply{tid: host.tid, response: make([]byte, 32)}.append(nil)[:20]},
		"another's reply": {offer, reply{tid: host.tid + 1, response: make([]byte, 32)}.append(nil)},
		"failure":         {offer, appendFailure(nil, msgFailure2, failure{host.tid, failed})},
		"no protocol":     {append([]byte{0, 0, 0, 0, 1, 0, 0, 1}, make([]byte, 64)...)},
		"cut offer":       {offer[:20]},
		"secure channel":  {negotiate{channel: 1, hashes: []hashID{1}, groups: []groupID{0}}.append(nil)},
		"no hash":         {negotiate{hashes: []hashID{9}, groups: []groupID{0}}.append(nil)},
		"no group":        {negotiate{hashes: []hashID{1}, groups: []groupID{9}}.append(nil)},
	} {
		c := *ctrl
		for _, m := range msgs {
			c.Receive(m)
		}
		if c.Err() == nil || c.Done() {
			t.Errorf("%s: %v, done %v", name, c.Err(), c.Done())
		}
		if out := c.Send(); name != "failure" && (len(out) != 8 || out[1] != msgFailure1) {
			t.Errorf("%s: sent %x", name, out)
		}
		c.Receive(offer)
		if c.Err() == nil || c.Done() {
			t.Errorf("%s: recovered", name)
		}
	}
}

// TestGolden pins the messages.
func TestGolden(t *testing.T) {
	for want, got := range map[string][]byte{
		"01010000" + "0700" + "0200" + "0101" + "0100" + "09000000" + "aabb" + "cc":          challenge{tid: 7, hash: 1, group: 1, seq: 9, value: []byte{0xaa, 0xbb}, dh: []byte{0xcc}}.append(nil),
		"01020000" + "0700" + "0200" + "0100" + "0100" + "09000000" + "aabb" + "0102" + "cc": reply{tid: 7, seq: 9, asks: true, response: []byte{0xaa, 0xbb}, value: []byte{1, 2}, dh: []byte{0xcc}}.append(nil),
		"01030000" + "0700" + "0200" + "01" + "00000000000000" + "aabb":                      success1{tid: 7, size: 2, response: []byte{0xaa, 0xbb}}.append(nil),
		"01040000" + "0700" + "00000000000000000000":                                         appendSuccess2(nil, 7),
		"00f00000" + "0700" + "0106":                                                         appendFailure(nil, msgFailure1, failure{7, badPayload}),
	} {
		if hex.EncodeToString(got) != want {
			t.Errorf("\n got %x\nwant %s", got, want)
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(negotiate{tid: 1, hashes: []hashID{1}, groups: []groupID{0, 1}}.append(nil))
	f.Add(challenge{value: make([]byte, 32), dh: make([]byte, 8)}.append(nil))
	f.Add(reply{response: make([]byte, 32), asks: true}.append(nil))
	f.Add(success1{size: 32, response: make([]byte, 32)}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeNegotiate(b); err == nil && m.found {
			if n, err := decodeNegotiate(m.append(nil)); err != nil || !reflect.DeepEqual(m, n) {
				t.Fatalf("%+v, %+v, %v", m, n, err)
			}
		}
		if m, err := decodeChallenge(b); err == nil {
			if n, err := decodeChallenge(m.append(nil)); err != nil || !reflect.DeepEqual(m, n) {
				t.Fatalf("%+v, %+v, %v", m, n, err)
			}
		}
		if m, err := decodeReply(b); err == nil {
			if n, err := decodeReply(m.append(nil)); err != nil || !reflect.DeepEqual(m, n) {
				t.Fatalf("%+v, %+v, %v", m, n, err)
			}
		}
		if m, err := decodeSuccess1(b); err == nil {
			if n, err := decodeSuccess1(m.append(nil)); err != nil || !reflect.DeepEqual(m, n) {
				t.Fatalf("%+v, %+v, %v", m, n, err)
			}
		}
	})
}

// FuzzController: no sequence of messages authenticates without the secret.
func FuzzController(f *testing.F) {
	offer := negotiate{tid: 1, hashes: []hashID{1}, groups: []groupID{0}}.append(nil)
	f.Add(uint64(1), offer, reply{tid: 1, response: make([]byte, 32)}.append(nil))
	f.Fuzz(func(t *testing.T, seed uint64, a, b []byte) {
		_, c := pairOf(t, Secrets{Host: plainSecret}, Secrets{Host: plainSecret})
		rng := rand.New(rand.NewPCG(seed, 1))
		for range 8 {
			switch rng.IntN(4) {
			case 0:
				c.Receive(a)
			case 1:
				c.Receive(b)
			case 2:
				c.Receive(offer)
			default:
				if len(c.Send()) > MaxMessage {
					t.Fatal("too long")
				}
			}
			if c.Done() {
				t.Fatalf("authenticated by %x, %x", a, b)
			}
		}
	})
}

// TestNewSecrets: what is made can be proven, is not made twice, and is not
// printed.
func TestNewSecrets(t *testing.T) {
	s, err := NewSecrets()
	if err != nil || s.Check() != nil {
		t.Fatal(err, s.Check())
	}
	h, c := pairOf(t, s, s)
	if err := run(t, h, c); err != nil || !c.Done() {
		t.Errorf("%v, %v", err, c.Err())
	}
	other, err := NewSecrets()
	if err != nil || s.Host == s.Controller || s.Host == other.Host || s.Controller == other.Controller {
		t.Errorf("made twice, %v", err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, struct{ S Secrets }{s}); strings.Contains(text, "DHHC") {
			t.Errorf("%s prints %s", format, text)
		}
	}
	broken := s
	broken.Controller = s.Controller[:20] + "\n" + s.Controller[20:]
	for _, bad := range []Secrets{{}, {Host: s.Host}, {Controller: s.Controller}, broken, {Host: s.Host + "\n", Controller: s.Controller}} {
		if err := bad.Check(); !errors.Is(err, ErrSecret) || strings.Contains(err.Error(), s.Host[10:30]) {
			t.Errorf("%q %q: %v", bad.Host, bad.Controller, err)
		}
	}
}
