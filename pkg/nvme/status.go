package nvme

import "fmt"

// Status is the status field of a completion without the phase tag:
//
//	 7:0  status code (SC)
//	10:8  status code type (SCT)
//	12:11 command retry delay
//	13    more
//	14    do not retry (DNR)
type Status uint16

// DNR in a Status says that the same command would fail again.
const DNR Status = 1 << 14

// Generic command statuses (SCT 0).
const (
	Success               Status = 0x00
	InvalidOpcode         Status = 0x01
	InvalidField          Status = 0x02
	CIDConflict           Status = 0x03
	DataTransferError     Status = 0x04
	InternalError         Status = 0x06
	AbortRequested        Status = 0x07
	AbortedSQDeletion     Status = 0x08
	AbortedFailedFused    Status = 0x09
	AbortedMissingFused   Status = 0x0a
	InvalidNamespace      Status = 0x0b
	CommandSequenceError  Status = 0x0c
	SGLLengthInvalid      Status = 0x0f
	SGLTypeInvalid        Status = 0x11
	AtomicUnitExceeded    Status = 0x14
	SGLOffsetInvalid      Status = 0x16
	HostIDInconsistent    Status = 0x18
	KeepAliveInvalid      Status = 0x1a
	NSWriteProtected      Status = 0x20
	CommandInterrupted    Status = 0x21
	TransientTransportErr Status = 0x22
	LBAOutOfRange         Status = 0x80
	CapacityExceeded      Status = 0x81
	NamespaceNotReady     Status = 0x82
	ReservationConflict   Status = 0x83
)

// Command specific statuses (SCT 1).
const (
	AsyncLimitExceeded   Status = 0x105
	InvalidLogPage       Status = 0x109
	FeatureNotSaveable   Status = 0x10d
	FeatureNotChangeable Status = 0x10e
	CommandSizeLimit     Status = 0x183 // Copy
	ConnectIncompatible  Status = 0x180 // Fabrics
	ConnectBusy          Status = 0x181
	ConnectInvalidParam  Status = 0x182
	ConnectRestart       Status = 0x183 // Restart Discovery
	ConnectInvalidHost   Status = 0x184
	AuthRequired         Status = 0x191
)

// Media and data integrity errors (SCT 2).
const (
	WriteFault         Status = 0x280
	UnrecoveredRead    Status = 0x281
	GuardCheck         Status = 0x282
	CompareFailure     Status = 0x285
	AccessDenied       Status = 0x286
	DeallocatedOrUnwrt Status = 0x287
)

// Path related statuses (SCT 3).
const (
	InternalPathError  Status = 0x300
	ANAPersistentLoss  Status = 0x301
	ANAInaccessible    Status = 0x302
	ANATransition      Status = 0x303
	ControllerPathErr  Status = 0x360
	HostPathError      Status = 0x370
	HostAbortedCommand Status = 0x371
)

// Code is the SCT and SC of s, without its other bits: what to compare with.
func (s Status) Code() Status { return s & 0x7ff }

// OK reports success.
func (s Status) OK() bool { return s.Code() == Success }

// Type is the status code type.
func (s Status) Type() uint8 { return uint8(s>>8) & 7 }

// Retry reports whether the status allows the same command again.
func (s Status) Retry() bool { return !s.OK() && s&DNR == 0 }

func (s Status) String() string {
	retry := ""
	if s&DNR != 0 {
		retry = ", do not retry"
	}
	return fmt.Sprintf("status type %d code %#02x%s", s.Type(), uint8(s), retry)
}
