package dhchap

import (
	"crypto/hmac"
	"crypto/rand"
	"fmt"
)

// Host is the host's side of one authentication.
type Host struct {
	names        Names
	mine, theirs []byte // theirs is nil when the controller need not prove itself
	tid          uint16
	await        byte
	proof        proof // of the controller
}

// NewHost prepares an authentication. With a Controller secret the controller
// must prove itself too.
func NewHost(n Names, s Secrets) (*Host, error) {
	h := &Host{names: n}
	var err error
	if h.mine, err = key(s.Host, n.Host); err != nil {
		return nil, fmt.Errorf("host %s: %w", n.Host, err)
	}
	if s.Controller != "" {
		if h.theirs, err = key(s.Controller, n.Subsystem); err != nil {
			return nil, fmt.Errorf("subsystem %s: %w", n.Subsystem, err)
		}
	}
	var b [2]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	h.tid = le.Uint16(b[:])
	return h, nil
}

// Next takes the controller's message, nil to begin, and returns the one to
// send; after a nil one, with a nil error, the authentication is done. A message
// that is returned along with an error is to be sent and ends it.
func (h *Host) Next(in []byte) (out []byte, err error) {
	k := kindOf(in)
	switch {
	case in == nil:
		h.await = msgChallenge
		return negotiate{tid: h.tid, hashes: []hashID{1, 2, 3}, groups: []groupID{0, 1, 2, 3}}.append(nil), nil
	case k == kind{authCommon, msgFailure1}:
		return nil, fmt.Errorf("%w: subsystem %s says so, reason %d: is the host's secret right?", ErrFailed, h.names.Subsystem, in[7])
	case k == kind{authDHCHAP, msgChallenge} && h.await == msgChallenge:
		return h.answer(in)
	case k == kind{authDHCHAP, msgSuccess1} && h.await == msgSuccess1:
		return h.check(in)
	}
	return h.fail(badMessage, fmt.Errorf("%w: kind %v", ErrMessage, k))
}

func (h *Host) fail(why reason, err error) ([]byte, error) {
	return appendFailure(nil, msgFailure2, failure{h.tid, why}), err
}

func (h *Host) answer(in []byte) ([]byte, error) {
	m, err := decodeChallenge(in)
	switch {
	case err != nil:
		return h.fail(badPayload, err)
	case m.tid != h.tid:
		return h.fail(badPayload, fmt.Errorf("%w: Challenge of another authentication", ErrMessage))
	case hashes[m.hash] == nil || len(m.value) != hashes[m.hash]().Size():
		return h.fail(noHash, fmt.Errorf("%w: Challenge with hash %d of %d bytes", ErrMessage, m.hash, len(m.value)))
	case m.group != 0 && primes[m.group] == nil:
		return h.fail(noGroup, fmt.Errorf("%w: Challenge with group %d", ErrMessage, m.group))
	}
	x, err := newExchange(m.group)
	if err != nil {
		return nil, err
	}
	shared, ok := x.shared(m.dh)
	if !ok {
		return h.fail(badPayload, fmt.Errorf("%w: Challenge with a public value that is none", ErrMessage))
	}
	p := proof{
		hash: hashes[m.hash], challenge: m.value, shared: shared, seq: m.seq, tid: h.tid,
		role: roleHost, name: h.names.Host, peer: h.names.Subsystem,
	}
	out := reply{tid: h.tid, response: p.response(h.mine), dh: x.value()}
	if h.theirs != nil {
		out.asks, out.value = true, make([]byte, len(m.value))
		if _, err := rand.Read(out.value); err != nil {
			return nil, err
		}
		out.seq = m.seq + 1 | 1
		h.proof = p
		h.proof.challenge, h.proof.seq, h.proof.role = out.value, out.seq, roleController
		h.proof.name, h.proof.peer = h.names.Subsystem, h.names.Host
	}
	h.await = msgSuccess1
	return out.append(nil), nil
}

func (h *Host) check(in []byte) ([]byte, error) {
	m, err := decodeSuccess1(in)
	if err != nil || m.tid != h.tid {
		return h.fail(badPayload, fmt.Errorf("%w: Success1", ErrMessage))
	}
	h.await = msgFailure1
	if h.theirs == nil {
		return nil, nil
	}
	if !hmac.Equal(m.response, h.proof.response(h.theirs)) {
		return h.fail(failed, fmt.Errorf("%w: subsystem %s has another secret than this host was given", ErrFailed, h.names.Subsystem))
	}
	return appendSuccess2(nil, h.tid), nil
}

// Proven reports whether the last message that Next returned ends the
// authentication well.
func (h *Host) Proven() bool { return h.await == msgFailure1 }
