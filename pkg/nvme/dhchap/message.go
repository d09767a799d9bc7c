package dhchap

import "fmt"

const (
	headerSize   = 16
	protocolSize = 64
	maxProtocols = 8
)

// negotiate is what a host offers.
type negotiate struct {
	tid     uint16
	channel uint8
	hashes  []hashID
	groups  []groupID
	found   bool // DH-HMAC-CHAP is among the protocols
}

func (m negotiate) append(b []byte) []byte {
	b = append(b, authCommon, msgNegotiate, 0, 0)
	b = le.AppendUint16(b, m.tid)
	b = append(b, m.channel, 1)
	p := make([]byte, protocolSize)
	p[0], p[2], p[3] = 1, uint8(len(m.hashes)), uint8(len(m.groups))
	for i, h := range m.hashes {
		p[4+i] = byte(h)
	}
	for i, g := range m.groups {
		p[34+i] = byte(g)
	}
	return append(b, p...)
}

func decodeNegotiate(b []byte) (m negotiate, err error) {
	if len(b) < 8 || b[7] == 0 || b[7] > maxProtocols || len(b) < 8+protocolSize*int(b[7]) {
		return m, fmt.Errorf("%w: Negotiate of %d bytes", ErrMessage, len(b))
	}
	m.tid, m.channel = le.Uint16(b[4:]), b[6]
	for i := range int(b[7]) {
		p := b[8+protocolSize*i:][:protocolSize]
		if p[0] != 1 || m.found {
			continue
		}
		if p[2] > 30 || p[3] > 30 {
			return m, fmt.Errorf("%w: Negotiate with %d hashes and %d groups", ErrMessage, p[2], p[3])
		}
		m.found = true
		for _, h := range p[4:][:p[2]] {
			m.hashes = append(m.hashes, hashID(h))
		}
		for _, g := range p[34:][:p[3]] {
			m.groups = append(m.groups, groupID(g))
		}
	}
	return m, nil
}

// challenge is what a controller asks.
type challenge struct {
	tid   uint16
	hash  hashID
	group groupID
	seq   uint32
	value []byte
	dh    []byte
}

func (m challenge) append(b []byte) []byte {
	b = append(b, authDHCHAP, msgChallenge, 0, 0)
	b = le.AppendUint16(b, m.tid)
	b = append(b, uint8(len(m.value)), 0, byte(m.hash), byte(m.group))
	b = le.AppendUint16(b, uint16(len(m.dh)))
	b = le.AppendUint32(b, m.seq)
	return append(append(b, m.value...), m.dh...)
}

func decodeChallenge(b []byte) (m challenge, err error) {
	if len(b) < headerSize {
		return m, fmt.Errorf("%w: Challenge of %d bytes", ErrMessage, len(b))
	}
	n, d := int(b[6]), int(le.Uint16(b[10:]))
	if len(b) < headerSize+n+d {
		return m, fmt.Errorf("%w: Challenge of %d bytes with values of %d and %d", ErrMessage, len(b), n, d)
	}
	return challenge{
		tid: le.Uint16(b[4:]), hash: hashID(b[8]), group: groupID(b[9]), seq: le.Uint32(b[12:]),
		value: b[headerSize:][:n:n], dh: b[headerSize+n:][:d:d],
	}, nil
}

// reply is a host's answer, and its own challenge if it asks one.
type reply struct {
	tid      uint16
	seq      uint32
	response []byte
	asks     bool
	value    []byte // as long as response, meaningful when asks
	dh       []byte
}

func (m reply) append(b []byte) []byte {
	b = append(b, authDHCHAP, msgReply, 0, 0)
	b = le.AppendUint16(b, m.tid)
	asks := byte(0)
	if m.asks {
		asks = 1
	}
	b = append(b, uint8(len(m.response)), 0, asks, 0)
	b = le.AppendUint16(b, uint16(len(m.dh)))
	b = le.AppendUint32(b, m.seq)
	b = append(b, m.response...)
	b = append(b, append(m.value, make([]byte, len(m.response)-len(m.value))...)...)
	return append(b, m.dh...)
}

func decodeReply(b []byte) (m reply, err error) {
	if len(b) < headerSize {
		return m, fmt.Errorf("%w: Reply of %d bytes", ErrMessage, len(b))
	}
	n, d := int(b[6]), int(le.Uint16(b[10:]))
	if len(b) < headerSize+2*n+d {
		return m, fmt.Errorf("%w: Reply of %d bytes with values of %d and %d", ErrMessage, len(b), n, d)
	}
	return reply{
		tid: le.Uint16(b[4:]), asks: b[8] == 1, seq: le.Uint32(b[12:]),
		response: b[headerSize:][:n:n], value: b[headerSize+n:][:n:n], dh: b[headerSize+2*n:][:d:d],
	}, nil
}

// success1 ends what the controller has to say; response is nil unless asked.
type success1 struct {
	tid      uint16
	size     int // HL
	response []byte
}

func (m success1) append(b []byte) []byte {
	b = append(b, authDHCHAP, msgSuccess1, 0, 0)
	b = le.AppendUint16(b, m.tid)
	b = append(b, uint8(m.size), 0)
	valid := byte(0)
	if m.response != nil {
		valid = 1
	}
	b = append(b, valid, 0, 0, 0, 0, 0, 0, 0)
	return append(b, append(m.response, make([]byte, m.size-len(m.response))...)...)
}

func decodeSuccess1(b []byte) (m success1, err error) {
	if len(b) < headerSize || b[8] == 1 && len(b) < headerSize+int(b[6]) {
		return m, fmt.Errorf("%w: Success1 of %d bytes", ErrMessage, len(b))
	}
	m = success1{tid: le.Uint16(b[4:]), size: int(b[6])}
	if b[8] == 1 {
		m.response = b[headerSize:][:m.size:m.size]
	}
	return m, nil
}

func appendSuccess2(b []byte, tid uint16) []byte {
	b = append(b, authDHCHAP, msgSuccess2, 0, 0)
	return append(le.AppendUint16(b, tid), make([]byte, 10)...)
}

func appendFailure(b []byte, id byte, m failure) []byte {
	b = append(b, authCommon, id, 0, 0)
	return append(le.AppendUint16(b, m.tid), 1, byte(m.why))
}

type failure struct {
	tid uint16
	why reason
}

// kind is a message's type and identifier.
type kind struct{ auth, id byte }

func kindOf(b []byte) kind {
	if len(b) < 8 {
		return kind{0xff, 0xff}
	}
	return kind{b[0], b[1]}
}
