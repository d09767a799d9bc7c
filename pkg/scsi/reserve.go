package scsi

// ReserveType is the type of a persistent reservation.
type ReserveType uint8

// The types. Frozen.
const (
	NoReservation         ReserveType = 0
	WriteExclusive        ReserveType = 1
	ExclusiveAccess       ReserveType = 3
	WriteExclusiveRegs    ReserveType = 5 // registrants only
	ExclusiveAccessRegs   ReserveType = 6
	WriteExclusiveAll     ReserveType = 7 // all registrants
	ExclusiveAccessAll    ReserveType = 8
	ReserveOutSize                    = 24
	reserveScopeLU                    = 0
	capabilityPersistence             = 0x01 // PTPL_C and PTPL_A
)

// Known reports whether t is a type.
func (t ReserveType) Known() bool {
	switch t {
	case WriteExclusive, ExclusiveAccess, WriteExclusiveRegs, ExclusiveAccessRegs, WriteExclusiveAll, ExclusiveAccessAll:
		return true
	case NoReservation:
	}
	return false
}

// AllRegistrants reports whether every registrant holds it.
func (t ReserveType) AllRegistrants() bool { return t == WriteExclusiveAll || t == ExclusiveAccessAll }

// RegistrantsMay reports whether registrants have access.
func (t ReserveType) RegistrantsMay() bool { return t >= WriteExclusiveRegs }

// ReadsMay reports whether anyone may read.
func (t ReserveType) ReadsMay() bool {
	return t == WriteExclusive || t == WriteExclusiveRegs || t == WriteExclusiveAll
}

// ReserveOutList is the parameter list of PERSISTENT RESERVE OUT.
type ReserveOutList struct {
	Key, ActionKey   uint64
	SpecIPT, AllTgPt bool
	APTPL            bool
}

// DecodeReserveOut reads the parameter list.
func DecodeReserveOut(b []byte) (ReserveOutList, error) {
	if len(b) < ReserveOutSize {
		return ReserveOutList{}, ErrShort
	}
	return ReserveOutList{
		Key: be.Uint64(b), ActionKey: be.Uint64(b[8:]),
		SpecIPT: b[20]&0x08 != 0, AllTgPt: b[20]&0x04 != 0, APTPL: b[20]&0x01 != 0,
	}, nil
}

// Append encodes the parameter list.
func (l ReserveOutList) Append(b []byte) []byte {
	b = be.AppendUint64(b, l.Key)
	b = be.AppendUint64(b, l.ActionKey)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	flags := &b[len(b)-4]
	for i, on := range []bool{l.APTPL, false, l.AllTgPt, l.SpecIPT} {
		if on {
			*flags |= 1 << i
		}
	}
	return b
}

// Registration is one registered I_T nexus.
type Registration struct {
	Key    uint64
	Holder bool
	Port   uint16 // relative target port
	Name   string // of the initiator port: NAME,i,0xISID
}

// Reservations is what PERSISTENT RESERVE IN tells.
type Reservations struct {
	Generation uint32
	Type       ReserveType
	HolderKey  uint64 // 0 for the all registrants types
	Registered []Registration
	Persistent bool // APTPL is active
	CanPersist bool
}

// AppendKeys encodes READ KEYS.
func (r *Reservations) AppendKeys(b []byte) []byte {
	b = be.AppendUint32(b, r.Generation)
	b = be.AppendUint32(b, uint32(8*len(r.Registered)))
	for _, g := range r.Registered {
		b = be.AppendUint64(b, g.Key)
	}
	return b
}

// AppendReservation encodes READ RESERVATION.
func (r *Reservations) AppendReservation(b []byte) []byte {
	b = be.AppendUint32(b, r.Generation)
	if r.Type == NoReservation {
		return be.AppendUint32(b, 0)
	}
	b = be.AppendUint32(b, 16)
	b = be.AppendUint64(b, r.HolderKey)
	return append(b, 0, 0, 0, 0, 0, reserveScopeLU<<4|byte(r.Type), 0, 0)
}

// AppendCapabilities encodes REPORT CAPABILITIES: every type; RESERVE(6) is
// handled compatibly (CRH); TEST UNIT READY is allowed through reservations.
func (r *Reservations) AppendCapabilities(b []byte) []byte {
	var c, a byte = 0x10, 0x90
	if r.CanPersist {
		c |= capabilityPersistence
	}
	if r.Persistent {
		a |= capabilityPersistence
	}
	return append(b, 0, 8, c, a, 0xea, 0x01, 0, 0)
}

// AppendFullStatus encodes READ FULL STATUS.
func (r *Reservations) AppendFullStatus(b []byte) []byte {
	at := len(b)
	b = be.AppendUint32(b, r.Generation)
	b = append(b, 0, 0, 0, 0)
	for _, g := range r.Registered {
		b = be.AppendUint64(b, g.Key)
		var flags, kind byte
		if g.Holder {
			flags, kind = 1, byte(r.Type)
		}
		b = append(b, 0, 0, 0, 0, flags, kind, 0, 0, 0, 0)
		b = be.AppendUint16(b, g.Port)
		id := transportID(g.Name)
		b = be.AppendUint32(b, uint32(len(id)))
		b = append(b, id...)
	}
	be.PutUint32(b[at+4:], uint32(len(b)-at-8))
	return b
}

// transportID encodes the TransportID of an iSCSI initiator port.
func transportID(name string) []byte {
	n := nameString(name)
	if len(n) < 20 {
		n = append(n, make([]byte, 20-len(n))...)
	}
	b := []byte{0x45, 0}
	b = be.AppendUint16(b, uint16(len(n)))
	return append(b, n...)
}
