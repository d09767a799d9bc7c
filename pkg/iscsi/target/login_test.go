package target_test

import (
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/iscsi/iscsitest"
	"github.com/cask-storage/cask/pkg/iscsi/target"
	"github.com/cask-storage/cask/pkg/scsi"
)

// status of a login that is refused; 0 for one that is not.
func status(t *testing.T, o iscsitest.Options) iscsi.LoginStatus {
	t.Helper()
	s, err := iscsitest.Dial(o)
	var refused *iscsitest.LoginError
	if errors.As(err, &refused) {
		return refused.Status
	}
	must(t, err)
	s.Conn.Close()
	return iscsi.LoginSuccess
}

func TestLoginRefusals(t *testing.T) {
	r := newRig(t, target.Config{Admit: func(_ context.Context, initiator, _ string) error {
		switch {
		case strings.HasSuffix(initiator, ":stranger"):
			return fmt.Errorf("not this one: %w", target.ErrNotAdmitted)
		case strings.HasSuffix(initiator, ":unknown"):
			return errors.New("nobody to ask")
		}
		return nil
	}, Locate: func(_ context.Context, node string) error {
		switch node {
		case nodeName + ":old":
			return fmt.Errorf("%w: by another", target.ErrReplaced)
		case nodeName + ":new":
			return errors.New("not known yet")
		}
		return nil
	}}, blocktest.Options{})
	r.dial(t, iscsitest.Options{ISID: 9}) // is session 1
	for name, c := range map[string]struct {
		o    iscsitest.Options
		want iscsi.LoginStatus
	}{
		"good":              {iscsitest.Options{Node: nodeName}, iscsi.LoginSuccess},
		"no such node":      {iscsitest.Options{Node: nodeName + "x"}, iscsi.LoginNotFound},
		"replaced":          {iscsitest.Options{Node: nodeName + ":old"}, iscsi.LoginRemoved},
		"not known yet":     {iscsitest.Options{Node: nodeName + ":new"}, iscsi.LoginUnavailable},
		"no name":           {iscsitest.Options{Node: nodeName, Name: "bob"}, iscsi.LoginMissing},
		"not admitted":      {iscsitest.Options{Node: nodeName, Name: "iqn.a:stranger"}, iscsi.LoginNotAuthorized},
		"nobody knows":      {iscsitest.Options{Node: nodeName, Name: "iqn.a:unknown"}, iscsi.LoginUnavailable},
		"second connection": {iscsitest.Options{Node: nodeName, TSIH: 1}, iscsi.LoginTooMany},
		"no such session":   {iscsitest.Options{Node: nodeName, TSIH: 77}, iscsi.LoginNoSession},
		"key twice":         {iscsitest.Options{Node: nodeName, Keys: iscsi.Text{{Key: "InitialR2T", Value: "No"}, {Key: "InitialR2T", Value: "No"}}}, iscsi.LoginInitiatorError},
		"bad session type":  {iscsitest.Options{Node: nodeName, Keys: iscsi.Text{{Key: "SessionType", Value: "Fun"}}}, iscsi.LoginBadSessionType},
		"CHAP is needless": {iscsitest.Options{Node: nodeName, Security: func(iscsi.Text) iscsi.Text {
			return iscsi.Text{{Key: "AuthMethod", Value: "CHAP"}}
		}}, iscsi.LoginAuthFailed},
	} {
		c.o.Addr = r.addr
		if got := status(t, c.o); got != c.want {
			t.Errorf("%s: status %04x, want %04x", name, uint16(got), uint16(c.want))
		}
	}
}

func TestNegotiation(t *testing.T) {
	r := newRig(t, target.Config{}, blocktest.Options{})
	s := r.dial(t, iscsitest.Options{Keys: iscsi.Text{
		{Key: "HeaderDigest", Value: "None,CRC32C"}, {Key: "DataDigest", Value: "X-odd"}, {Key: "MaxConnections", Value: "8"},
		{Key: "ErrorRecoveryLevel", Value: "2"}, {Key: "MaxBurstLength", Value: "16776192"}, {Key: "FirstBurstLength", Value: "1"},
		{Key: "DefaultTime2Wait", Value: "5"}, {Key: "MaxOutstandingR2T", Value: "0x10"}, {Key: "X-com.example", Value: "1"},
		{Key: "DataPDUInOrder", Value: "No"}, {Key: "IFMarker", Value: "No"}, {Key: "OFMarkInt", Value: "2048"}, {Key: "TaskReporting", Value: "FastAbort,RFC3720"},
		{Key: "iSCSIProtocolLevel", Value: "2"}}})
	for key, want := range map[string]string{
		"HeaderDigest": "None", "DataDigest": "Reject", "MaxConnections": "1", "ErrorRecoveryLevel": "0",
		"MaxBurstLength": "1048576", "FirstBurstLength": "Reject", "DefaultTime2Wait": "5", "MaxOutstandingR2T": "1",
		"X-com.example": "NotUnderstood", "DataPDUInOrder": "Yes", "IFMarker": "No", "OFMarkInt": "Reject", "TaskReporting": "RFC3720",
		"iSCSIProtocolLevel": "1", "MaxRecvDataSegmentLength": "262144", "TargetPortalGroupTag": "1", "TargetAlias": "a disk",
	} {
		if got, _ := s.Answers.Get(key); got != want {
			t.Errorf("%s=%q, want %q", key, got, want)
		}
	}
}

// chapInitiator does the initiator's part.
type chapInitiator struct {
	user, secret string
	algorithms   string
	challenge    []byte // the initiator's own; none: it does not ask
	mutual       string // the secret the target must prove
	id           string // of that challenge, 9 in some form; empty is "9"
	reflect      bool   // send the target's challenge back
	t            *testing.T
}

func (c *chapInitiator) step(answer iscsi.Text) iscsi.Text {
	if answer == nil {
		return iscsi.Text{{Key: "AuthMethod", Value: "CHAP,None"}}
	}
	if _, ok := answer.Get("AuthMethod"); ok {
		return iscsi.Text{{Key: "CHAP_A", Value: c.algorithms}}
	}
	if _, ok := answer.Get("CHAP_A"); !ok {
		return nil
	}
	a, _ := answer.Get("CHAP_A")
	id, _ := answer.Get("CHAP_I")
	text, _ := answer.Get("CHAP_C")
	challenge, err := hex.DecodeString(text[2:])
	must(c.t, err)
	n, err := strconv.Atoi(id)
	must(c.t, err)
	out := iscsi.Text{{Key: "CHAP_N", Value: c.user}, {Key: "CHAP_R", Value: "0x" + respond(a, byte(n), c.secret, challenge)}}
	if c.reflect {
		c.challenge = challenge
	}
	if c.challenge != nil {
		out.Add("CHAP_I", cmp.Or(c.id, "9"))
		out.Add("CHAP_C", "0x"+hex.EncodeToString(c.challenge))
	}
	return out
}

func respond(algorithm string, id byte, secret string, challenge []byte) string {
	b := append(append([]byte{id}, secret...), challenge...)
	if algorithm == "7" {
		s := sha256.Sum256(b)
		return hex.EncodeToString(s[:])
	}
	s := md5.Sum(b)
	return hex.EncodeToString(s[:])
}

func TestCHAP(t *testing.T) {
	auth := &target.Auth{User: "alice", Secret: "a secret of alice", MutualUser: "cask", MutualSecret: "a secret of cask"}
	oneWay := &target.Auth{User: "alice", Secret: "a secret of alice"}
	same := &target.Auth{User: "alice", Secret: "a secret of alice", MutualUser: "cask", MutualSecret: "a secret of alice"}
	for name, c := range map[string]struct {
		auth *target.Auth
		i    chapInitiator
		want iscsi.LoginStatus
	}{
		"MD5":                {oneWay, chapInitiator{user: "alice", secret: oneWay.Secret, algorithms: "5"}, iscsi.LoginSuccess},
		"SHA-256":            {oneWay, chapInitiator{user: "alice", secret: oneWay.Secret, algorithms: "99,7,5"}, iscsi.LoginSuccess},
		"wrong secret":       {oneWay, chapInitiator{user: "alice", secret: "other", algorithms: "5"}, iscsi.LoginAuthFailed},
		"wrong user":         {oneWay, chapInitiator{user: "bob", secret: oneWay.Secret, algorithms: "5"}, iscsi.LoginAuthFailed},
		"no algorithm":       {oneWay, chapInitiator{user: "alice", secret: oneWay.Secret, algorithms: "99"}, iscsi.LoginAuthFailed},
		"mutual":             {auth, chapInitiator{user: "alice", secret: auth.Secret, algorithms: "5", challenge: []byte("who?"), mutual: auth.MutualSecret}, iscsi.LoginSuccess},
		"mutual, hex":        {auth, chapInitiator{user: "alice", secret: auth.Secret, algorithms: "5", challenge: []byte("who?"), id: "0x9", mutual: auth.MutualSecret}, iscsi.LoginSuccess},
		"mutual, no number":  {auth, chapInitiator{user: "alice", secret: auth.Secret, algorithms: "5", challenge: []byte("who?"), id: "9th"}, iscsi.LoginAuthFailed},
		"mutual, no secret":  {oneWay, chapInitiator{user: "alice", secret: auth.Secret, algorithms: "5", challenge: []byte("who?")}, iscsi.LoginAuthFailed},
		"mutual, one secret": {same, chapInitiator{user: "alice", secret: same.Secret, algorithms: "5", challenge: []byte("who?")}, iscsi.LoginAuthFailed},
		"mutual, reflection": {auth, chapInitiator{user: "alice", secret: auth.Secret, algorithms: "5", reflect: true}, iscsi.LoginAuthFailed},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, target.Config{Auth: func(string, string) (*target.Auth, error) { return c.auth, nil }}, blocktest.Options{})
			c.i.t = t
			proof := ""
			got := status(t, iscsitest.Options{Addr: r.addr, Node: nodeName, Security: func(a iscsi.Text) iscsi.Text {
				if p, ok := a.Get("CHAP_R"); ok {
					proof = p
				}
				return c.i.step(a)
			}})
			if got != c.want {
				t.Errorf("status %04x, want %04x", uint16(got), uint16(c.want))
			}
			if want := "0x" + respond("5", 9, c.i.mutual, c.i.challenge); c.i.mutual != "" && proof != want {
				t.Errorf("the target proves itself with %s, want %s", proof, want)
			}
		})
	}
	r := newRig(t, target.Config{Auth: func(string, string) (*target.Auth, error) { return oneWay, nil }}, blocktest.Options{})
	if got := status(t, iscsitest.Options{Addr: r.addr, Node: nodeName}); got != iscsi.LoginAuthFailed {
		t.Errorf("without a security stage: status %04x", uint16(got))
	}
	if got := status(t, iscsitest.Options{Addr: r.addr, Node: nodeName, Security: func(iscsi.Text) iscsi.Text {
		return iscsi.Text{{Key: "AuthMethod", Value: "None"}}
	}}); got != iscsi.LoginAuthFailed {
		t.Errorf("without authentication: status %04x", uint16(got))
	}
}

func TestDiscovery(t *testing.T) {
	r := newRig(t, target.Config{Advertise: "192.0.2.1:3260"}, blocktest.Options{})
	other := blocktest.NewMemory(blocktest.Options{})
	defer other.Close()
	for i := range 40 { // more than one segment of text
		m := blocktest.NewMemory(blocktest.Options{})
		defer m.Close()
		must(t, r.AddNode(target.Node{Name: fmt.Sprintf("iqn.2026-01.storage.cask:more:%03d", i), Units: []target.Unit{{Device: m, UUID: [16]byte{byte(i + 1)}}}}))
	}
	s, err := iscsitest.Dial(iscsitest.Options{Addr: r.addr, Keys: iscsi.Text{{Key: "MaxRecvDataSegmentLength", Value: "512"}, {Key: "MaxConnections", Value: "2"}}})
	must(t, err)
	defer s.Conn.Close()
	if a, _ := s.Answers.Get("MaxConnections"); a != "Irrelevant" {
		t.Errorf("MaxConnections=%s in discovery", a)
	}
	ask := func(value string) iscsi.Text {
		var all []byte
		ttt := iscsi.NoTag
		for {
			h := s.Request(iscsi.OpText, 5)
			h.SetUint32(iscsi.AtTTT, ttt)
			var text iscsi.Text
			if ttt == iscsi.NoTag {
				text.Add("SendTargets", value)
			}
			must(t, s.SendNow(text.Append(nil)))
			s.CmdSN++
			p, data, err := s.Recv()
			must(t, err)
			all = append(all, data...)
			if p.Final() {
				break
			}
			ttt = p.Uint32(iscsi.AtTTT)
		}
		out, err := iscsi.ParseText(all)
		must(t, err)
		return out
	}
	all := ask("All")
	if len(all) != 2*41 || all[1] != (iscsi.Pair{Key: "TargetAddress", Value: "192.0.2.1:3260,1"}) {
		t.Errorf("SendTargets=All: %d keys, %v", len(all), all[:2])
	}
	if one := ask(nodeName); len(one) != 2 || one[0].Value != nodeName {
		t.Errorf("SendTargets=%s: %v", nodeName, one)
	}
	if none := ask("iqn.none"); len(none) != 0 {
		t.Errorf("SendTargets of no node: %v", none)
	}
	if err := s.Send(iscsitest.Command{CDB: cdb(scsi.TestUnitReady), Flags: iscsi.FlagFinal, ITT: 8}); err != nil {
		t.Fatal(err)
	}
	if p, _, err := s.Recv(); err != nil || p.Opcode() != iscsi.OpReject {
		t.Errorf("a SCSI command in discovery: %v, %v", p, err)
	}
}

// TestReinstatement: a new login of the same initiator port ends the old
// session, and is answered when what that had submitted has completed.
func TestReinstatement(t *testing.T) {
	r := newRig(t, target.Config{}, blocktest.Options{Workers: 1})
	old := r.dial(t, iscsitest.Options{})
	r.dev.Stall()
	must(t, old.Send(iscsitest.Command{CDB: blocks(scsi.Write10, 0, 1), Flags: iscsi.FlagFinal | iscsi.FlagWrite, EDTL: 512, Data: pattern(512, 1), ITT: 50}))
	eventually(t, "the write reaches the device", func() bool { return len(r.Sessions()) == 1 })
	time.Sleep(50 * time.Millisecond)
	logged := make(chan error, 1)
	go func() { // ends with the login
		s, err := iscsitest.Dial(iscsitest.Options{Addr: r.addr, Node: nodeName})
		if err == nil {
			s.Conn.Close()
		}
		logged <- err
	}()
	select {
	case err := <-logged:
		t.Fatalf("logged in while the old write was under way: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	r.dev.Resume()
	must(t, <-logged)
}

func TestRecheck(t *testing.T) {
	var refuse atomic.Bool
	r := newRig(t, target.Config{Admit: func(context.Context, string, string) error {
		if refuse.Load() {
			return target.ErrNotAdmitted
		}
		return nil
	}}, blocktest.Options{})
	s := r.dial(t, iscsitest.Options{})
	must(t, r.Recheck(t.Context()))
	if n := len(r.Sessions()); n != 1 {
		t.Fatalf("%d sessions", n)
	}
	refuse.Store(true)
	must(t, r.Recheck(t.Context()))
	if n := len(r.Sessions()); n != 0 {
		t.Errorf("%d sessions after the refusal", n)
	}
	p, _, err := s.Recv()
	if err != nil || p.Opcode() != iscsi.OpAsync || p.Header[iscsi.AtAsyncEvent] != byte(iscsi.AsyncDropSession) {
		t.Errorf("the initiator was not told: %v, %v", p, err)
	}
}

// TestManySessions: who opens more than is allowed is refused, and what the
// target holds stays bounded.
func TestManySessions(t *testing.T) {
	r := newRig(t, target.Config{Limits: target.Limits{Connections: 20, Sessions: 10, Handshake: 3 * time.Second}}, blocktest.Options{})
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	refused, full := 0, 0
	for i := range 40 {
		s, err := iscsitest.Dial(iscsitest.Options{Addr: r.addr, Node: nodeName, ISID: byte(i)})
		var e *iscsitest.LoginError
		switch {
		case err == nil:
			open = append(open, s.Conn)
		case errors.As(err, &e) && e.Status == iscsi.LoginNoResources:
			full++
		default:
			refused++
		}
	}
	if len(open) != 10 || full == 0 {
		t.Errorf("%d sessions were opened, %d refused as too many, %d otherwise", len(open), full, refused)
	}
	idle := 0
	visitors := 10000
	if testing.Short() {
		visitors = 500
	}
	for range visitors { // say nothing, or are closed at once
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		if idle++; idle <= 30 {
			open = append(open, c)
		} else {
			c.Close()
		}
	}
	eventually(t, "the silent ones are closed", func() bool {
		s, err := iscsitest.Dial(iscsitest.Options{Addr: r.addr})
		if err == nil {
			s.Conn.Close()
		}
		return err == nil
	})
}

// TestTextInPieces: a text request is answered when all of it has come, and a
// new one forgets what was left of the one before (RFC 7143 11.10).
func TestTextInPieces(t *testing.T) {
	r := newRig(t, target.Config{}, blocktest.Options{})
	s, err := iscsitest.Dial(iscsitest.Options{Addr: r.addr})
	must(t, err)
	defer s.Conn.Close()
	ask := func(flags uint8, ttt uint32, text string) (uint8, uint32, string) {
		t.Helper()
		h := s.Request(iscsi.OpText, 5)
		h[1] = flags
		h.SetUint32(iscsi.AtTTT, ttt)
		must(t, s.SendNow([]byte(text)))
		s.CmdSN++
		p, data, err := s.Recv()
		must(t, err)
		if p.Opcode() != iscsi.OpTextResp {
			t.Fatalf("%v, want a text response", p.Opcode())
		}
		return p.Flags(), p.Uint32(iscsi.AtTTT), string(data)
	}
	whole := "TargetName=" + nodeName + "\x00TargetAddress=" + r.addr + ",1\x00"
	for name, first := range map[string]struct {
		flags uint8
		text  string
	}{"more of a key comes": {iscsi.FlagContinue, "SendTar"}, "more keys come": {0, "SendTargets=All\x00"}} {
		rest := "SendTargets=All\x00"[len(first.text):]
		flags, ttt, got := ask(first.flags, iscsi.NoTag, first.text)
		if flags != 0 || ttt == iscsi.NoTag || got != "" {
			t.Errorf("%s: answered with flags %#x, tag %#x and %q before all has come", name, flags, ttt, got)
			continue
		}
		if flags, ttt, got = ask(iscsi.FlagFinal, ttt, rest); flags != iscsi.FlagFinal || ttt != iscsi.NoTag || got != whole {
			t.Errorf("%s: flags %#x, tag %#x, %q, want %q", name, flags, ttt, got, whole)
		}
	}
	ask(iscsi.FlagContinue, iscsi.NoTag, "SendTargets=nob")
	if flags, _, got := ask(iscsi.FlagFinal, iscsi.NoTag, "SendTargets=All\x00"); flags != iscsi.FlagFinal || got != whole {
		t.Errorf("after a request that was left: flags %#x, %q, want %q", flags, got, whole)
	}
}
