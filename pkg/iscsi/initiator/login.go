package initiator

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/iscsi"
)

// params are the operational parameters of a session, as the target answered.
type params struct {
	digests    iscsi.Digests
	segment    uint32 // the target's MaxRecvDataSegmentLength
	firstBurst uint32
	immediate  bool
	initialR2T bool
	cmdSN      uint32 // of the first command
	expStatSN  uint32
	maxCmdSN   uint32
}

// login is the login of one connection.
type login struct {
	cfg   *Config
	rw    io.ReadWriter
	rd    *iscsi.Reader
	batch *iscsi.Batch
	steps int
	params
}

func newLogin(cfg *Config, rw io.ReadWriter) *login {
	return &login{cfg: cfg, rw: rw, batch: iscsi.NewBatch(),
		rd:     iscsi.NewReader(rw, iscsi.Options{Role: iscsi.Initiator, MaxData: segmentSize, Buffer: readBuffer}),
		params: params{segment: 8192, firstBurst: 65536, immediate: true, initialR2T: true, cmdSN: 1}}
}

// dial connects and logs in; discovery is a session without a node.
func dial(ctx context.Context, cfg *Config, target string) (net.Conn, *login, error) {
	connecting, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := cfg.Dial(connecting, "tcp", cfg.Addr)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancelLogin := context.WithTimeout(ctx, cfg.LoginTimeout)
	defer cancelLogin()
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	l := newLogin(cfg, nc)
	err = l.run(target)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, nil, errors.Join(err, nc.Close())
	}
	return nc, l, nil
}

// run logs in to a node, or for discovery when it has no name.
func (l *login) run(target string) error {
	text := iscsi.Text{{Key: "InitiatorName", Value: l.cfg.Initiator}}
	if target == "" {
		text.Add("SessionType", "Discovery")
	} else {
		text.Add("SessionType", "Normal")
		text.Add("TargetName", target)
		if l.cfg.Secrets.Secret != "" {
			if err := l.prove(text); err != nil {
				return err
			}
			text = nil
		}
	}
	text = append(text, l.offer()...)
	answers, err := l.step(iscsi.StageOperational, iscsi.StageFullFeature, text)
	if err != nil {
		return err
	}
	return l.adopt(answers)
}

// offer is what we would like.
func (l *login) offer() iscsi.Text {
	digest := func(want bool) string {
		if want {
			return "CRC32C"
		}
		return "None"
	}
	return iscsi.Text{
		{Key: "HeaderDigest", Value: digest(l.cfg.HeaderDigest)}, {Key: "DataDigest", Value: digest(l.cfg.DataDigest)},
		{Key: "InitialR2T", Value: "No"}, {Key: "ImmediateData", Value: "Yes"},
		{Key: "MaxRecvDataSegmentLength", Value: strconv.Itoa(segmentSize)},
		{Key: "MaxBurstLength", Value: strconv.Itoa(burstSize)}, {Key: "FirstBurstLength", Value: strconv.Itoa(burstSize)},
		{Key: "MaxConnections", Value: "1"}, {Key: "MaxOutstandingR2T", Value: "1"}, {Key: "ErrorRecoveryLevel", Value: "0"},
		{Key: "DataPDUInOrder", Value: "Yes"}, {Key: "DataSequenceInOrder", Value: "Yes"},
		{Key: "DefaultTime2Wait", Value: "0"}, {Key: "DefaultTime2Retain", Value: "0"},
	}
}

// adopt makes the target's answers effective, and refuses those that were not
// offered.
func (l *login) adopt(answers iscsi.Text) error {
	for _, p := range answers {
		if p.Value == "Irrelevant" || p.Value == "NotUnderstood" || p.Value == "Reject" {
			continue // the default holds
		}
		n, err := strconv.ParseUint(p.Value, 0, 32)
		ok := true
		switch p.Key {
		case "HeaderDigest":
			l.digests.Header = p.Value == "CRC32C"
			ok = l.digests.Header == l.cfg.HeaderDigest || !l.digests.Header
		case "DataDigest":
			l.digests.Data = p.Value == "CRC32C"
			ok = l.digests.Data == l.cfg.DataDigest || !l.digests.Data
		case "InitialR2T":
			l.initialR2T = p.Value != "No"
		case "ImmediateData":
			l.immediate = p.Value == "Yes"
		case "FirstBurstLength":
			l.firstBurst = uint32(n)
			ok = err == nil && n >= 512 && n <= burstSize
		case "MaxBurstLength":
			ok = err == nil && n >= 512 && n <= burstSize
		case "MaxRecvDataSegmentLength":
			l.segment = uint32(n)
			ok = err == nil && n >= 512 && n < 1<<24
		case "ErrorRecoveryLevel":
			ok = p.Value == "0"
		case "DataPDUInOrder", "DataSequenceInOrder":
			ok = p.Value == "Yes"
		}
		if !ok {
			return fmt.Errorf("the target answers %s=%.64s, which was not offered", p.Key, p.Value)
		}
	}
	l.batch.Digests = l.digests
	l.rd.SetDigests(l.digests)
	return nil
}

// step sends text in a stage and returns the answer, once the target goes to
// the next stage.
func (l *login) step(now, next iscsi.Stage, text iscsi.Text) (iscsi.Text, error) {
	var all iscsi.Text
	for {
		answer, transit, err := l.exchange(iscsi.FlagTransit|byte(now)<<2|byte(next), text)
		if err != nil {
			return nil, err
		}
		if all = append(all, answer...); len(all) > 4*len(l.offer()) {
			return nil, errors.New("the target answers more keys than were offered")
		}
		if transit {
			return all, nil
		}
		text = nil
	}
}

// exchange sends one login request and collects its answer.
func (l *login) exchange(flags byte, text iscsi.Text) (answer iscsi.Text, transit bool, err error) {
	data := text.Append(nil)
	var got []byte
	for {
		if l.steps++; l.steps > maxSteps {
			return nil, false, fmt.Errorf("the login takes more than %d steps", maxSteps)
		}
		if err := l.request(flags, data); err != nil {
			return nil, false, err
		}
		p, more, err := l.response()
		if err != nil {
			return nil, false, err
		}
		f := p.Flags()
		if (f^flags)&0x0c != 0 || f&iscsi.FlagTransit != 0 && (f^flags)&0x83 != 0 {
			return nil, false, fmt.Errorf("the target answers with stages and flags %#02x to %#02x", f, flags)
		}
		if got = append(got, more...); len(got) > maxText {
			return nil, false, fmt.Errorf("the target's answer has more than %d bytes", maxText)
		}
		if f&iscsi.FlagContinue == 0 {
			answer, err := iscsi.ParseText(got)
			return answer, f&iscsi.FlagTransit != 0, err
		}
		flags, data = flags&^iscsi.FlagTransit, nil
	}
}

func (l *login) request(flags byte, data []byte) error {
	h := l.batch.Begin(iscsi.OpLogin)
	h[0] |= iscsi.FlagImmediate
	h[1] = flags
	isid := l.cfg.isid()
	copy(h[8:], isid[:])
	h.SetUint32(iscsi.AtCmdSN, l.cmdSN)
	h.SetUint32(iscsi.AtExpStatSN, l.expStatSN)
	l.batch.End(data)
	return l.batch.Flush(l.rw)
}

func (l *login) response() (*iscsi.PDU, []byte, error) {
	p, err := l.rd.Next()
	if err != nil {
		return nil, nil, err
	}
	if p.Opcode() != iscsi.OpLoginResp {
		return nil, nil, fmt.Errorf("%v instead of a login response", p.Opcode())
	}
	if st := iscsi.LoginStatus(p.Uint16(iscsi.AtLoginStatus)); st != iscsi.LoginSuccess {
		return nil, nil, &LoginError{l.cfg.Target, st}
	}
	l.expStatSN, l.maxCmdSN = p.Uint32(iscsi.AtStatSN)+1, p.Uint32(iscsi.AtMaxCmdSN)
	data := make([]byte, p.DataLen())
	if err := l.rd.ReadData(data); err != nil {
		return nil, nil, err
	}
	return p, data, l.rd.EndData()
}

// prove runs the security stage with the text that begins a login.
func (l *login) prove(first iscsi.Text) error {
	s := l.cfg.Secrets
	methods := "CHAP,None"
	if s.MutualSecret != "" {
		methods = "CHAP"
	}
	const stay = byte(iscsi.StageSecurity)<<2 | byte(iscsi.StageOperational)
	first.Add("AuthMethod", methods)
	a, transit, err := l.exchange(iscsi.FlagTransit|stay, first)
	if err != nil {
		return err
	}
	switch method, _ := a.Get("AuthMethod"); {
	case method == "None" && s.MutualSecret == "" && transit:
		return nil
	case method != "CHAP" || transit:
		return fmt.Errorf("%s chooses the authentication %.64q, offered was %s", l.cfg.Target, method, methods)
	}
	if a, transit, err = l.exchange(stay, iscsi.Text{{Key: "CHAP_A", Value: iscsi.CHAPAlgorithms}}); err != nil {
		return err
	}
	answer, own, err := l.respond(a)
	if err != nil || transit {
		return errors.Join(err, errors.New("the target's challenge is not well formed"))
	}
	if a, err = l.step(iscsi.StageSecurity, iscsi.StageOperational, answer); err != nil {
		return err
	}
	return l.checkProof(a, own)
}

// respond answers a challenge, with one of our own when the target is to prove
// itself.
func (l *login) respond(a iscsi.Text) (answer iscsi.Text, own iscsi.CHAP, err error) {
	algorithm, _ := a.Get("CHAP_A")
	id, _ := a.Get("CHAP_I")
	text, _ := a.Get("CHAP_C")
	n, err := strconv.ParseUint(id, 0, 8)
	if err != nil || !iscsi.KnownCHAP(algorithm) {
		return nil, own, fmt.Errorf("CHAP algorithm %.16q with identifier %.16q", algorithm, id)
	}
	challenge, err := iscsi.DecodeBinary(text)
	if err != nil {
		return nil, own, fmt.Errorf("CHAP challenge: %w", err)
	}
	if len(challenge) == 0 {
		return nil, own, errors.New("CHAP challenge: empty")
	}
	s := l.cfg.Secrets
	c := iscsi.CHAP{Algorithm: algorithm, ID: byte(n), Challenge: challenge}
	answer = iscsi.Text{{Key: "CHAP_N", Value: s.User}, {Key: "CHAP_R", Value: iscsi.EncodeBinary(c.Respond(s.Secret))}}
	if s.MutualSecret == "" {
		return answer, own, nil
	}
	own = iscsi.CHAP{Algorithm: algorithm, ID: byte(n) + 1, Challenge: make([]byte, 32)}
	if _, err := rand.Read(own.Challenge); err != nil {
		return nil, own, fmt.Errorf("make a challenge: %w", err)
	}
	answer.Add("CHAP_I", strconv.Itoa(int(own.ID)))
	answer.Add("CHAP_C", iscsi.EncodeBinary(own.Challenge))
	return answer, own, nil
}

// checkProof checks the target's response to our challenge, if there was one.
func (l *login) checkProof(a iscsi.Text, own iscsi.CHAP) error {
	s := l.cfg.Secrets
	if s.MutualSecret == "" {
		return nil
	}
	name, _ := a.Get("CHAP_N")
	text, _ := a.Get("CHAP_R")
	got, err := iscsi.DecodeBinary(text)
	if err != nil || subtle.ConstantTimeCompare(got, own.Respond(s.MutualSecret)) != 1 || s.MutualUser != "" && name != s.MutualUser {
		return fmt.Errorf("%s has not proven that it is %.64q: compare the mutual secrets of both sides", l.cfg.Target, s.MutualUser)
	}
	return nil
}

// Discover lists the names of the nodes that a target offers.
func Discover(ctx context.Context, cfg Config) ([]string, error) {
	cfg.setDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	nc, l, err := dial(ctx, &cfg, "")
	if err != nil {
		return nil, fmt.Errorf("iscsi initiator: discovery at %s: %w", cfg.Addr, err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	names, err := l.sendTargets()
	if err != nil {
		return nil, fmt.Errorf("iscsi initiator: discovery at %s: %w", cfg.Addr, err)
	}
	return names, nil
}

func (l *login) sendTargets() ([]string, error) {
	var got bytes.Buffer
	ttt, text := iscsi.NoTag, []byte("SendTargets=All\x00")
	for range maxSteps {
		h := l.batch.Begin(iscsi.OpText)
		h[1] = iscsi.FlagFinal
		h.SetUint32(iscsi.AtTTT, ttt)
		h.SetUint32(iscsi.AtCmdSN, l.cmdSN)
		h.SetUint32(iscsi.AtExpStatSN, l.expStatSN)
		l.cmdSN++
		l.batch.End(text)
		if err := l.batch.Flush(l.rw); err != nil {
			return nil, err
		}
		p, err := l.rd.Next()
		if err != nil {
			return nil, err
		}
		if p.Opcode() != iscsi.OpTextResp || got.Len()+int(p.DataLen()) > maxText {
			return nil, fmt.Errorf("%v of %d bytes in answer to SendTargets", p.Opcode(), p.DataLen())
		}
		final, data := p.Final(), make([]byte, p.DataLen())
		ttt, text, l.expStatSN = p.Uint32(iscsi.AtTTT), nil, p.Uint32(iscsi.AtStatSN)+1
		if err := errors.Join(l.rd.ReadData(data), l.rd.EndData()); err != nil {
			return nil, err
		}
		got.Write(data)
		if final {
			return targetNames(got.Bytes())
		}
	}
	return nil, fmt.Errorf("the answer to SendTargets takes more than %d steps", maxSteps)
}

func targetNames(b []byte) (names []string, err error) {
	text, err := iscsi.ParseText(b)
	for _, p := range text {
		if p.Key == "TargetName" {
			names = append(names, p.Value)
		}
	}
	return names, err
}

// Resolve is the name by which the node that cfg names is to be logged in to
// now: its own, or that of the one that has taken its place, which begins with
// it and a colon.
func Resolve(ctx context.Context, cfg Config) (string, error) {
	offered, err := Discover(ctx, cfg)
	if err != nil {
		return "", err
	}
	name, err := ride.Successor(cfg.Target, offered)
	if err != nil {
		return "", fmt.Errorf("iscsi initiator: at %s %w", cfg.Addr, err)
	}
	return name, nil
}
