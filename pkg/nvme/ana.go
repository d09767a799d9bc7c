package nvme

// ANAState is how a controller reaches the namespaces of an ANA group.
type ANAState uint8

// The states. Frozen.
const (
	ANAOptimized    ANAState = 0x1
	ANANonOptimized ANAState = 0x2
	ANAUnreachable  ANAState = 0x3 // "inaccessible": not here, not now
	ANALost         ANAState = 0x4 // "persistent loss": never again here
	ANAChanging     ANAState = 0xf
)

var anaNames = map[ANAState]string{
	ANAOptimized: "optimized", ANANonOptimized: "non-optimized", ANAUnreachable: "inaccessible",
	ANALost: "persistent-loss", ANAChanging: "change",
}

func (s ANAState) String() string { return anaNames[s] }

// Valid reports whether s is one of the states.
func (s ANAState) Valid() bool { return anaNames[s] != "" }

// Status is what a command for a namespace in a group of the state is answered
// with: Success where it can be executed.
func (s ANAState) Status() Status {
	switch s {
	case ANAUnreachable:
		return ANAInaccessible
	case ANALost:
		return ANAPersistentLoss
	case ANAChanging:
		return ANATransition
	}
	return Success
}

// ANAGroup is a descriptor of the ANA log page: group (4), number of NSIDs
// (4), change count (8), state (1), reserved (15), then the NSIDs.
type ANAGroup struct {
	ID      uint32
	Changes uint64
	State   ANAState
	NSIDs   []NSID
}

// ANALog is the ANA log page: change count (8), number of groups (2), reserved
// (6), then the groups.
type ANALog struct {
	Changes uint64
	Groups  []ANAGroup
}

// Append encodes l at the end of b.
func (l *ANALog) Append(b []byte) []byte {
	b = le.AppendUint64(b, l.Changes)
	b = le.AppendUint16(b, uint16(len(l.Groups)))
	b = append(b, make([]byte, 6)...)
	for _, g := range l.Groups {
		b = le.AppendUint32(b, g.ID)
		b = le.AppendUint32(b, uint32(len(g.NSIDs)))
		b = le.AppendUint64(b, g.Changes)
		b = append(b, byte(g.State))
		b = append(b, make([]byte, 15)...)
		b = AppendNSIDs(b, g.NSIDs)
	}
	return b
}

// DecodeANALog reads a whole ANA log page.
func DecodeANALog(b []byte) (ANALog, error) {
	if len(b) < ANAHeader {
		return ANALog{}, ErrShort
	}
	l := ANALog{Changes: le.Uint64(b)}
	n := int(le.Uint16(b[8:]))
	b = b[ANAHeader:]
	for range n {
		if len(b) < ANAGroupHeader {
			return ANALog{}, ErrShort
		}
		g := ANAGroup{ID: le.Uint32(b), Changes: le.Uint64(b[8:]), State: ANAState(b[16] & 0xf)}
		ids := le.Uint32(b[4:])
		b = b[ANAGroupHeader:]
		if uint64(ids) > uint64(len(b)/4) {
			return ANALog{}, ErrShort
		}
		for i := range int(ids) {
			g.NSIDs = append(g.NSIDs, NSID(le.Uint32(b[4*i:])))
		}
		b = b[4*ids:]
		l.Groups = append(l.Groups, g)
	}
	return l, nil
}

// ErrorEntry is an entry of the error log, 64 bytes: error count (8), SQID
// (2), CID (2), status with phase (2), parameter error location (2), LBA (8),
// NSID (4).
type ErrorEntry struct {
	Count  uint64 // 1 is the first ever; 0 is no entry
	QID    QID
	CID    CID
	Status Status
	LBA    uint64
	NSID   NSID
}

// Append encodes e at the end of b.
func (e ErrorEntry) Append(b []byte) []byte {
	n := len(b)
	b = append(b, make([]byte, LogErrorSize)...)
	p := b[n:]
	le.PutUint64(p, e.Count)
	le.PutUint16(p[8:], uint16(e.QID))
	le.PutUint16(p[10:], uint16(e.CID))
	le.PutUint16(p[12:], uint16(e.Status)<<1)
	le.PutUint16(p[14:], 0xffff) // no parameter in particular
	le.PutUint64(p[16:], e.LBA)
	le.PutUint32(p[24:], uint32(e.NSID))
	return b
}

// DecodeErrorEntry reads the entry at the start of b.
func DecodeErrorEntry(b []byte) (ErrorEntry, error) {
	if len(b) < LogErrorSize {
		return ErrorEntry{}, ErrShort
	}
	return ErrorEntry{
		Count: le.Uint64(b), QID: QID(le.Uint16(b[8:])), CID: CID(le.Uint16(b[10:])),
		Status: Status(le.Uint16(b[12:]) >> 1), LBA: le.Uint64(b[16:]), NSID: NSID(le.Uint32(b[24:])),
	}, nil
}
