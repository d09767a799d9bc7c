package nvme

// ReservationType is who may do what beside a reservation's holder.
type ReservationType uint8

// The types. Frozen.
const (
	WriteExclusive          ReservationType = 1
	ExclusiveAccess         ReservationType = 2
	WriteExclusiveRegOnly   ReservationType = 3
	ExclusiveAccessRegOnly  ReservationType = 4
	WriteExclusiveAllRegs   ReservationType = 5
	ExclusiveAccessAllRegs  ReservationType = 6
	RESCAPAll                               = 0xfe // every type, and the IEKEY of NVMe 1.3
	RESCAPPersist                           = 0x01
	ReservationKeysSize                     = 16 // data of register and acquire
	ReservationKeySize                      = 8  // data of release
	ReservationReportHeader                 = 64 // with extended data structures
	ReservationReportEntry                  = 64
)

// Actions of the reservation commands (RREGA, RACQA, RRELA).
const (
	ReservationRegister   = 0
	ReservationUnregister = 1
	ReservationReplace    = 2

	ReservationAcquire      = 0
	ReservationPreempt      = 1
	ReservationPreemptAbort = 2

	ReservationRelease = 0
	ReservationClear   = 1
)

// Values of CPTPL in a Reservation Register.
const (
	PersistNoChange = 0
	PersistOff      = 2
	PersistOn       = 3
)

// ReservationParams are the fields of a Reservation Register, Acquire or
// Release.
type ReservationParams struct {
	Action    uint8
	IgnoreKey bool
	Type      ReservationType // acquire, release
	Persist   uint8           // register: CPTPL
}

// Reservation reads a Reservation Register, Acquire or Release.
func (c *Command) Reservation() ReservationParams {
	d := c.DW(10)
	return ReservationParams{
		Action: uint8(d) & 7, IgnoreKey: d>>3&1 == 1, Type: ReservationType(d >> 8), Persist: uint8(d >> 30),
	}
}

// SetReservation makes c a reservation command of the opcode.
func (c *Command) SetReservation(o Opcode, p ReservationParams) {
	c.SetOpcode(o)
	d := uint32(p.Action&7) | uint32(p.Type)<<8 | uint32(p.Persist&3)<<30
	if p.IgnoreKey {
		d |= 1 << 3
	}
	c.SetDW(10, d)
}

// ReservationKeys are the data of a reservation command: the current key, and
// the new key of a register or the key to preempt of an acquire.
type ReservationKeys struct{ Current, Other uint64 }

// DecodeReservationKeys reads 8 or 16 bytes of data.
func DecodeReservationKeys(b []byte) (ReservationKeys, error) {
	if len(b) < ReservationKeySize {
		return ReservationKeys{}, ErrShort
	}
	k := ReservationKeys{Current: le.Uint64(b)}
	if len(b) >= ReservationKeysSize {
		k.Other = le.Uint64(b[8:])
	}
	return k, nil
}

// Append encodes k, 16 bytes, at the end of b.
func (k ReservationKeys) Append(b []byte) []byte {
	return le.AppendUint64(le.AppendUint64(b, k.Current), k.Other)
}

// RegisteredController is an entry of a reservation report: controller (2),
// holder (1), reserved (5), key (8), host identifier (16), reserved (32).
type RegisteredController struct {
	CNTLID CNTLID // CNTLIDDynamic: a registrant that is not connected
	Holder bool
	Key    uint64
	Host   UUID
}

// ReservationReport is the data of a Reservation Report with extended data
// structures: generation (4), type (1), registered controllers (2), reserved
// (2), persistence (1), reserved (54), then the entries.
type ReservationReport struct {
	Generation  uint32
	Type        ReservationType // 0 is none
	Persist     bool
	Controllers []RegisteredController
}

// Append encodes r at the end of b.
func (r *ReservationReport) Append(b []byte) []byte {
	n := len(b)
	b = append(b, make([]byte, ReservationReportHeader)...)
	le.PutUint32(b[n:], r.Generation)
	b[n+4] = byte(r.Type)
	le.PutUint16(b[n+5:], uint16(len(r.Controllers)))
	if r.Persist {
		b[n+9] = 1
	}
	for _, c := range r.Controllers {
		e := make([]byte, ReservationReportEntry)
		le.PutUint16(e, uint16(c.CNTLID))
		if c.Holder {
			e[2] = 1
		}
		le.PutUint64(e[8:], c.Key)
		copy(e[16:32], c.Host[:])
		b = append(b, e...)
	}
	return b
}

// DecodeReservationReport reads a whole report.
func DecodeReservationReport(b []byte) (ReservationReport, error) {
	if len(b) < ReservationReportHeader {
		return ReservationReport{}, ErrShort
	}
	r := ReservationReport{Generation: le.Uint32(b), Type: ReservationType(b[4]), Persist: b[9]&1 == 1}
	n := int(le.Uint16(b[5:]))
	b = b[ReservationReportHeader:]
	if n > len(b)/ReservationReportEntry {
		return ReservationReport{}, ErrShort
	}
	for range n {
		r.Controllers = append(r.Controllers, RegisteredController{
			CNTLID: CNTLID(le.Uint16(b)), Holder: b[2]&1 == 1, Key: le.Uint64(b[8:]), Host: UUID(b[16:32]),
		})
		b = b[ReservationReportEntry:]
	}
	return r, nil
}

// ReservationNotice is what a registrant is told of a change by another host.
type ReservationNotice uint8

// The notices. Frozen.
const (
	RegistrationPreempted ReservationNotice = 1
	ReservationReleased   ReservationNotice = 2
	ReservationPreempted  ReservationNotice = 3
)

// ReservationLog is the reservation notification log page, 64 bytes: count
// (8), type (1), further pages (1), reserved (2), NSID (4).
type ReservationLog struct {
	Count  uint64
	Notice ReservationNotice // 0 is an empty page
	More   uint8
	NSID   NSID
}

// Append encodes l at the end of b.
func (l ReservationLog) Append(b []byte) []byte {
	n := len(b)
	b = append(b, make([]byte, LogReservSize)...)
	le.PutUint64(b[n:], l.Count)
	b[n+8], b[n+9] = byte(l.Notice), l.More
	le.PutUint32(b[n+12:], uint32(l.NSID))
	return b
}

// DecodeReservationLog reads the page at the start of b.
func DecodeReservationLog(b []byte) (ReservationLog, error) {
	if len(b) < LogReservSize {
		return ReservationLog{}, ErrShort
	}
	return ReservationLog{
		Count: le.Uint64(b), Notice: ReservationNotice(b[8]), More: b[9], NSID: NSID(le.Uint32(b[12:])),
	}, nil
}
