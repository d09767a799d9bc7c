package dhchap

import (
	"crypto/hmac"
	"crypto/rand"
	"fmt"
	"slices"
)

// Controller is the controller's side of authentications on one queue.
type Controller struct {
	names         Names
	hostKey, mine []byte // mine is nil without a controller's secret

	await    byte // message expected
	out      []byte
	done     bool
	then     bool // done once out was fetched
	err      error
	asked    challenge
	exchange *exchange
}

// NewController starts a queue that is not authenticated.
func NewController(n Names, s Secrets) (*Controller, error) {
	c := &Controller{names: n}
	var err error
	if c.hostKey, err = key(s.Host, n.Host); err != nil {
		return nil, fmt.Errorf("host %s: %w", n.Host, err)
	}
	if s.Controller == "" {
		return c, nil
	}
	if c.mine, err = key(s.Controller, n.Subsystem); err != nil {
		return nil, fmt.Errorf("subsystem %s: %w", n.Subsystem, err)
	}
	return c, nil
}

// Done reports whether the host has authenticated, and has not failed since.
func (c *Controller) Done() bool { return c.done && c.err == nil }

// Err is why the authentication failed, or nil.
func (c *Controller) Err() error { return c.err }

// Send returns the message for the host; empty when there is none due.
func (c *Controller) Send() []byte {
	out := c.out
	c.out = nil
	if c.then && c.err == nil {
		c.done, c.then = true, false
	}
	return out
}

// Receive takes a message of the host, which it does not keep.
func (c *Controller) Receive(b []byte) {
	if c.err != nil {
		return
	}
	k := kindOf(b)
	c.out, c.then = nil, false
	switch {
	case k == kind{authCommon, msgNegotiate} && c.await == msgNegotiate:
		c.negotiated(b)
	case k == kind{authDHCHAP, msgReply} && c.await == msgReply:
		c.replied(b)
	case k == kind{authDHCHAP, msgSuccess2} && c.await == msgSuccess2 && le.Uint16(b[4:]) == c.asked.tid:
		c.await, c.done = msgNegotiate, true
	case k == kind{authCommon, msgFailure2}:
		c.err = fmt.Errorf("%w: the host says so, reason %d", ErrFailed, b[7])
	default:
		c.fail(badMessage, fmt.Errorf("%w: kind %v", ErrMessage, k))
	}
}

func (c *Controller) fail(why reason, err error) {
	c.err = err
	c.out = appendFailure(nil, msgFailure1, failure{c.asked.tid, why})
}

func (c *Controller) negotiated(b []byte) {
	m, err := decodeNegotiate(b)
	c.asked = challenge{tid: m.tid}
	if err != nil {
		c.fail(badPayload, err)
		return
	}
	// The host's first, of those there are.
	h := slices.IndexFunc(m.hashes, func(id hashID) bool { return hashes[id] != nil })
	g := slices.IndexFunc(preferred, func(id groupID) bool { return slices.Contains(m.groups, id) })
	switch {
	case !m.found:
		c.fail(noProtocol, fmt.Errorf("%w: the host does not offer DH-HMAC-CHAP", ErrFailed))
	case m.channel != 0:
		c.fail(noSecureChannel, fmt.Errorf("%w: the host wants a secure channel", ErrFailed))
	case h < 0:
		c.fail(noHash, fmt.Errorf("%w: no hash in common", ErrFailed))
	case g < 0:
		c.fail(noGroup, fmt.Errorf("%w: no group in common", ErrFailed))
	default:
		c.challenge(m.hashes[h], preferred[g])
	}
}

func (c *Controller) challenge(h hashID, g groupID) {
	var err error
	if c.exchange, err = newExchange(g); err != nil {
		c.fail(failed, err)
		return
	}
	var seq [4]byte
	value := make([]byte, hashes[h]().Size())
	for _, b := range [][]byte{seq[:], value} {
		if _, err := rand.Read(b); err != nil {
			c.fail(failed, err)
			return
		}
	}
	c.asked.hash, c.asked.group, c.asked.seq, c.asked.value = h, g, le.Uint32(seq[:])|1, value
	c.asked.dh = c.exchange.value()
	c.out = c.asked.append(nil)
	c.await = msgReply
}

func (c *Controller) replied(b []byte) {
	m, err := decodeReply(b)
	a := &c.asked
	if err != nil || m.tid != a.tid || len(m.response) != len(a.value) {
		c.fail(badPayload, fmt.Errorf("%w: Reply", ErrMessage))
		return
	}
	shared, ok := c.exchange.shared(m.dh)
	if !ok {
		c.fail(badPayload, fmt.Errorf("%w: Reply with a public value that is none", ErrMessage))
		return
	}
	p := proof{
		hash: hashes[a.hash], challenge: a.value, shared: shared, seq: a.seq, tid: a.tid,
		role: roleHost, name: c.names.Host, peer: c.names.Subsystem,
	}
	if !hmac.Equal(m.response, p.response(c.hostKey)) {
		c.fail(failed, fmt.Errorf("%w: host %s has another secret", ErrFailed, c.names.Host))
		return
	}
	s := success1{tid: a.tid, size: len(a.value)}
	c.await, c.then = msgNegotiate, true
	if m.asks {
		if c.mine == nil {
			c.fail(failed, fmt.Errorf("%w: host %s asks for a proof, and there is no secret of subsystem %s", ErrFailed, c.names.Host, c.names.Subsystem))
			return
		}
		p.challenge, p.seq, p.role, p.name, p.peer = m.value, m.seq, roleController, c.names.Subsystem, c.names.Host
		s.response = p.response(c.mine)
		c.await, c.then = msgSuccess2, false
	}
	c.out = s.append(nil)
}
