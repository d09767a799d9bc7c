package scsi

// Access is what a command does to a unit, as far as reservations care.
type Access uint8

// The kinds of access (SPC-4 table 66, SBC-3 table 15).
const (
	AccessFree  Access = iota // allowed always
	AccessRead                // conflicts with exclusive access
	AccessWrite               // conflicts with write exclusive too
)

// Command describes one operation code, or one service action of it.
type Command struct {
	Opcode  Opcode
	Action  uint8
	Actions bool // the operation code has service actions
	Access  Access
	Usage   string // CDB usage data: the bits evaluated; byte 0 is the opcode
}

// Len is the length of the CDB.
func (c *Command) Len() int { return len(c.Usage) }

// Usage data by layout; byte 0 (and the service action) are put in by usage.
const (
	use6    = "\x00\x00\x00\x00\x00\x04"
	useRW6  = "\x00\x1f\xff\xff\xff\x04"
	useRW10 = "\x00\xf8\xff\xff\xff\xff\x1f\xff\xff\x04"
	useRW12 = "\x00\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x1f\x04"
	useRW16 = "\x00\xf8\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x1f\x04"
	useVf10 = "\x00\xf6\xff\xff\xff\xff\x1f\xff\xff\x04"
	useVf12 = "\x00\xf6\xff\xff\xff\xff\xff\xff\xff\xff\x1f\x04"
	useVf16 = "\x00\xf6\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x1f\x04"
	usePf10 = "\x00\x02\xff\xff\xff\xff\x1f\xff\xff\x04"
	usePf16 = "\x00\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x1f\x04"
	useCAW  = "\x00\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\xff\x1f\x04"
	usePR   = "\x00\x1f\x00\x00\x00\x00\x00\xff\xff\x04"
	usePRO  = "\x00\x1f\xff\x00\x00\xff\xff\xff\xff\x04"
	useSA16 = "\x00\x1f\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x04"
)

// Commands are all commands of a logical unit here, by operation code.
var Commands = []Command{
	{Opcode: TestUnitReady, Usage: use6},
	{Opcode: RequestSense, Usage: "\x00\x01\x00\x00\xff\x04"},
	{Opcode: Read6, Access: AccessRead, Usage: useRW6},
	{Opcode: Write6, Access: AccessWrite, Usage: useRW6},
	{Opcode: Inquiry, Usage: "\x00\x01\xff\xff\xff\x04"},
	{Opcode: ModeSelect6, Access: AccessWrite, Usage: "\x00\x11\x00\x00\xff\x04"},
	{Opcode: Reserve6, Usage: use6},
	{Opcode: Release6, Usage: use6},
	{Opcode: ModeSense6, Access: AccessRead, Usage: "\x00\x08\xff\xff\xff\x04"},
	{Opcode: StartStopUnit, Access: AccessWrite, Usage: "\x00\x01\x00\x0f\xf7\x04"},
	{Opcode: PreventAllow, Usage: "\x00\x00\x00\x00\x03\x04"},
	{Opcode: ReadCapacity10, Usage: "\x00\x00\xff\xff\xff\xff\x00\x00\x01\x04"},
	{Opcode: Read10, Access: AccessRead, Usage: useRW10},
	{Opcode: Write10, Access: AccessWrite, Usage: useRW10},
	{Opcode: WriteVerify10, Access: AccessWrite, Usage: useVf10},
	{Opcode: Verify10, Access: AccessRead, Usage: useVf10},
	{Opcode: Prefetch10, Access: AccessRead, Usage: usePf10},
	{Opcode: SynchronizeCache10, Access: AccessWrite, Usage: usePf10},
	{Opcode: WriteSame10, Access: AccessWrite, Usage: useRW10},
	{Opcode: Unmap, Access: AccessWrite, Usage: "\x00\x01\x00\x00\x00\x00\x1f\xff\xff\x04"},
	{Opcode: ModeSelect10, Access: AccessWrite, Usage: "\x00\x11\x00\x00\x00\x00\x00\xff\xff\x04"},
	{Opcode: ModeSense10, Access: AccessRead, Usage: "\x00\x18\xff\xff\x00\x00\x00\xff\xff\x04"},
	{Opcode: ReserveIn, Action: PRReadKeys, Actions: true, Usage: usePR},
	{Opcode: ReserveIn, Action: PRReadReservation, Actions: true, Usage: usePR},
	{Opcode: ReserveIn, Action: PRReportCapability, Actions: true, Usage: usePR},
	{Opcode: ReserveIn, Action: PRReadFullStatus, Actions: true, Usage: usePR},
	{Opcode: ReserveOut, Action: PRRegister, Actions: true, Usage: usePRO},
	{Opcode: ReserveOut, Action: PRReserve, Actions: true, Usage: usePRO},
	{Opcode: ReserveOut, Action: PRRelease, Actions: true, Usage: usePRO},
	{Opcode: ReserveOut, Action: PRClear, Actions: true, Usage: usePRO},
	{Opcode: ReserveOut, Action: PRPreempt, Actions: true, Usage: usePRO},
	{Opcode: ReserveOut, Action: PRPreemptAndAbort, Actions: true, Usage: usePRO},
	{Opcode: ReserveOut, Action: PRRegisterAndIgnore, Actions: true, Usage: usePRO},
	{Opcode: Read16, Access: AccessRead, Usage: useRW16},
	{Opcode: CompareAndWrite, Access: AccessWrite, Usage: useCAW},
	{Opcode: Write16, Access: AccessWrite, Usage: useRW16},
	{Opcode: OrWrite, Access: AccessWrite, Usage: useRW16},
	{Opcode: WriteVerify16, Access: AccessWrite, Usage: useVf16},
	{Opcode: Verify16, Access: AccessRead, Usage: useVf16},
	{Opcode: Prefetch16, Access: AccessRead, Usage: usePf16},
	{Opcode: SynchronizeCache16, Access: AccessWrite, Usage: usePf16},
	{Opcode: WriteSame16, Access: AccessWrite, Usage: "\x00\xf9\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x1f\x04"},
	{Opcode: ServiceIn16, Action: SAReadCapacity16, Actions: true, Usage: useSA16},
	{Opcode: ServiceIn16, Action: SAGetLBAStatus, Actions: true, Access: AccessRead,
		Usage: "\x00\x1f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x04"},
	{Opcode: ReportLUNs, Usage: "\x00\x00\xff\x00\x00\x00\xff\xff\xff\xff\x00\x04"},
	{Opcode: MaintenanceIn, Action: SATargetPortGroups, Actions: true, Usage: "\x00\xff\x00\x00\x00\x00\xff\xff\xff\xff\x00\x04"},
	{Opcode: MaintenanceIn, Action: SASupportedOpcodes, Actions: true, Usage: "\x00\x1f\x87\xff\xff\xff\xff\xff\xff\xff\x00\x04"},
	{Opcode: MaintenanceIn, Action: SASupportedTMFs, Actions: true, Usage: "\x00\x1f\x80\x00\x00\x00\xff\xff\xff\xff\x00\x04"},
	{Opcode: Read12, Access: AccessRead, Usage: useRW12},
	{Opcode: Write12, Access: AccessWrite, Usage: useRW12},
	{Opcode: WriteVerify12, Access: AccessWrite, Usage: useVf12},
	{Opcode: Verify12, Access: AccessRead, Usage: useVf12},
}

// index finds commands: by opcode, the position of the first in Commands plus
// one, and how many there are.
var index = func() (t [256]struct{ first, n uint8 }) {
	for i, c := range Commands {
		if t[c.Opcode].n == 0 {
			t[c.Opcode].first = uint8(i)
		}
		t[c.Opcode].n++
	}
	return t
}()

// Lookup finds the command of a CDB. known says whether the operation code
// exists; when it does and the command is nil, its service action does not.
func Lookup(c *CDB) (cmd *Command, known bool) {
	return LookupAction(c.Opcode(), c.ServiceAction())
}

// LookupAction is Lookup without a CDB.
func LookupAction(o Opcode, action uint8) (cmd *Command, known bool) {
	e := index[o]
	if e.n == 0 {
		return nil, false
	}
	list := Commands[e.first:][:e.n]
	if !list[0].Actions {
		return &list[0], true
	}
	for i := range list {
		if list[i].Action == action {
			return &list[i], true
		}
	}
	return nil, true
}

// AppendUsage adds the CDB usage data of the command.
func (c *Command) AppendUsage(b []byte) []byte {
	at := len(b)
	b = append(b, c.Usage...)
	b[at] = byte(c.Opcode)
	if c.Actions {
		b[at+1] = b[at+1]&^0x1f | c.Action
	}
	return b
}

// timeouts is a command timeouts descriptor that promises nothing.
var timeouts = []byte{0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// OpcodeOptions choose what REPORT SUPPORTED OPERATION CODES reports.
type OpcodeOptions struct {
	Timeouts bool // RCTD: with timeout descriptors
}

// AppendAllOpcodes encodes the list of all commands (SPC-4 6.35.2).
func AppendAllOpcodes(b []byte, o OpcodeOptions) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	for i := range Commands {
		c := &Commands[i]
		var d [8]byte
		d[0] = byte(c.Opcode)
		if c.Actions {
			be.PutUint16(d[2:], uint16(c.Action))
			d[5] |= 1
		}
		if o.Timeouts {
			d[5] |= 2
		}
		be.PutUint16(d[6:], uint16(c.Len()))
		b = append(b, d[:]...)
		if o.Timeouts {
			b = append(b, timeouts...)
		}
	}
	be.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// AppendOneOpcode encodes the answer about one command, nil for one that is
// not supported (SPC-4 6.35.3).
func AppendOneOpcode(b []byte, c *Command, o OpcodeOptions) []byte {
	if c == nil {
		return append(b, 0, 1, 0, 0)
	}
	flags := byte(3)
	if o.Timeouts {
		flags |= 0x80
	}
	b = append(b, 0, flags)
	b = be.AppendUint16(b, uint16(c.Len()))
	b = c.AppendUsage(b)
	if o.Timeouts {
		b = append(b, timeouts...)
	}
	return b
}
