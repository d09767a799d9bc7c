// Package iscsi is the codec of iSCSI (RFC 7143): a Reader that takes PDUs off
// a stream and checks them, a Batch that puts PDUs on one, and the text keys
// of logins. It imports the standard library and package pdu only; CDBs and
// sense data are opaque bytes to it.
//
// A PDU, frozen, big endian, every part padded to four bytes:
//
//	BHS(48)  AHS(4 × TotalAHSLength)  header digest(4)  data(DataSegmentLength)  data digest(4)
//
// The basic header segment (BHS):
//
//	 0  opcode; bit 6 (I): immediate, not counted by CmdSN
//	 1  flags; bit 7 (F): final
//	 4  TotalAHSLength, words
//	 5  DataSegmentLength(3), bytes without padding
//	 8  LUN(8), or ISID(6) and TSIH(2) of a login
//	16  initiator task tag (ITT)
//
//	                       20                24        28        32        36       40
//	SCSI command           expected length   CmdSN     ExpStatSN CDB(16)
//	SCSI response          SNACK tag         StatSN    ExpCmdSN  MaxCmdSN  ExpDataSN residual(44)
//	task management        referenced ITT    CmdSN     ExpStatSN RefCmdSN  ExpDataSN
//	  its response         -                 StatSN    ExpCmdSN  MaxCmdSN
//	Data-Out               target tag (TTT)  -         ExpStatSN -         DataSN   offset
//	Data-In                TTT               StatSN    ExpCmdSN  MaxCmdSN  DataSN   offset, residual(44)
//	R2T                    TTT               StatSN    ExpCmdSN  MaxCmdSN  R2TSN    offset, length(44)
//	login                  CID(2)            CmdSN     ExpStatSN
//	  its response         -                 StatSN    ExpCmdSN  MaxCmdSN  class, detail
//	text, NOP-Out          TTT               CmdSN     ExpStatSN
//	  responses, NOP-In    TTT               StatSN    ExpCmdSN  MaxCmdSN
//	logout                 CID(2)            CmdSN     ExpStatSN
//	  its response         -                 StatSN    ExpCmdSN  MaxCmdSN  -        wait(2), retain(2)
//	asynchronous message   -                 StatSN    ExpCmdSN  MaxCmdSN  event, code, parameters(3×2)
//	reject                 -                 StatSN    ExpCmdSN  MaxCmdSN  DataSN
//
// Digests are CRC32C, sent least significant byte first, as every
// implementation does.
//
// A Reader belongs to one goroutine and a Batch to one goroutine at a time.
package iscsi

import (
	"encoding/binary"
	"fmt"
)

var be = binary.BigEndian

// Opcode is the type of a PDU, without the immediate bit.
type Opcode uint8

// The opcodes. Frozen.
const (
	OpNopOut       Opcode = 0x00
	OpCommand      Opcode = 0x01
	OpTask         Opcode = 0x02
	OpLogin        Opcode = 0x03
	OpText         Opcode = 0x04
	OpDataOut      Opcode = 0x05
	OpLogout       Opcode = 0x06
	OpSNACK        Opcode = 0x10
	OpNopIn        Opcode = 0x20
	OpResponse     Opcode = 0x21
	OpTaskResponse Opcode = 0x22
	OpLoginResp    Opcode = 0x23
	OpTextResp     Opcode = 0x24
	OpDataIn       Opcode = 0x25
	OpLogoutResp   Opcode = 0x26
	OpR2T          Opcode = 0x31
	OpAsync        Opcode = 0x32
	OpReject       Opcode = 0x3f
)

var opcodeNames = map[Opcode]string{
	OpNopOut: "NOP-Out", OpCommand: "SCSI Command", OpTask: "Task Management", OpLogin: "Login", OpText: "Text",
	OpDataOut: "Data-Out", OpLogout: "Logout", OpSNACK: "SNACK", OpNopIn: "NOP-In", OpResponse: "SCSI Response",
	OpTaskResponse: "Task Management Response", OpLoginResp: "Login Response", OpTextResp: "Text Response",
	OpDataIn: "Data-In", OpLogoutResp: "Logout Response", OpR2T: "R2T", OpAsync: "Asynchronous Message", OpReject: "Reject",
}

func (o Opcode) String() string {
	if n, ok := opcodeNames[o]; ok {
		return n
	}
	return fmt.Sprintf("PDU opcode %#02x", uint8(o))
}

// fromInitiator reports whether initiators send such PDUs.
func (o Opcode) fromInitiator() bool { return o <= OpLogout || o == OpSNACK }

// Sizes, bytes. Frozen.
const (
	HeaderSize = 48
	DigestSize = 4
	CDBSize    = 16
	MaxName    = 223 // of a node or an initiator
	maxAHS     = 255 * 4
)

// NoTag is the tag that refers to nothing.
const NoTag uint32 = 0xffffffff

// Flags of byte 1.
const (
	FlagFinal      uint8 = 0x80 // all
	FlagRead       uint8 = 0x40 // SCSI command
	FlagWrite      uint8 = 0x20
	MaskAttribute  uint8 = 0x07
	FlagContinue   uint8 = 0x40 // text, login
	FlagTransit    uint8 = 0x80 // login
	FlagAck        uint8 = 0x40 // Data-In
	FlagOverflow   uint8 = 0x04 // response, Data-In
	FlagUnderflow  uint8 = 0x02
	FlagStatus     uint8 = 0x01 // Data-In carries the status
	FlagImmediate  uint8 = 0x40 // of byte 0
	MaskReasonTask uint8 = 0x7f
)

// TaskFunction is a task management function.
type TaskFunction uint8

// The functions. Frozen.
const (
	AbortTask       TaskFunction = 1
	AbortTaskSet    TaskFunction = 2
	ClearACA        TaskFunction = 3
	ClearTaskSet    TaskFunction = 4
	LUNReset        TaskFunction = 5
	TargetWarmReset TaskFunction = 6
	TargetColdReset TaskFunction = 7
	TaskReassign    TaskFunction = 8
)

// TaskResponse is the outcome of a task management function.
type TaskResponse uint8

// The outcomes. Frozen.
const (
	TaskComplete       TaskResponse = 0
	TaskUnknown        TaskResponse = 1
	TaskNoLUN          TaskResponse = 2
	TaskNoReassign     TaskResponse = 4
	TaskNotSupported   TaskResponse = 5
	TaskNotAuthorized  TaskResponse = 6
	TaskFunctionReject TaskResponse = 255
)

// Reason says why a PDU was rejected.
type Reason uint8

// The reasons. Frozen.
const (
	ReasonDataDigest   Reason = 0x02
	ReasonSNACK        Reason = 0x03
	ReasonProtocol     Reason = 0x04
	ReasonNotSupported Reason = 0x05
	ReasonImmediate    Reason = 0x06
	ReasonInProgress   Reason = 0x07
	ReasonInvalidField Reason = 0x09
	ReasonNoResources  Reason = 0x0a
)

// AsyncEvent is the event of an asynchronous message.
type AsyncEvent uint8

// The events. Frozen.
const (
	AsyncSCSI           AsyncEvent = 0
	AsyncLogout         AsyncEvent = 1 // the initiator is to log out
	AsyncDropConnection AsyncEvent = 2
	AsyncDropSession    AsyncEvent = 3
	AsyncNegotiate      AsyncEvent = 4
)

// LoginStatus is class (high byte) and detail of a login response.
type LoginStatus uint16

// The statuses. Frozen.
const (
	LoginSuccess          LoginStatus = 0x0000
	LoginMovedTemporarily LoginStatus = 0x0101
	LoginInitiatorError   LoginStatus = 0x0200
	LoginAuthFailed       LoginStatus = 0x0201
	LoginNotAuthorized    LoginStatus = 0x0202
	LoginNotFound         LoginStatus = 0x0203
	LoginRemoved          LoginStatus = 0x0204
	LoginBadVersion       LoginStatus = 0x0205
	LoginTooMany          LoginStatus = 0x0206
	LoginMissing          LoginStatus = 0x0207
	LoginCannotInclude    LoginStatus = 0x0208
	LoginBadSessionType   LoginStatus = 0x0209
	LoginNoSession        LoginStatus = 0x020a
	LoginInvalidRequest   LoginStatus = 0x020b
	LoginTargetError      LoginStatus = 0x0300
	LoginUnavailable      LoginStatus = 0x0301
	LoginNoResources      LoginStatus = 0x0302
)

// Stage is a stage of the login phase.
type Stage uint8

// The stages. Frozen.
const (
	StageSecurity    Stage = 0
	StageOperational Stage = 1
	StageFullFeature Stage = 3
)

// Header is a basic header segment.
type Header [HeaderSize]byte

// Opcode of the PDU.
func (h *Header) Opcode() Opcode { return Opcode(h[0] & 0x3f) }

// SetOpcode sets the opcode and clears the immediate bit.
func (h *Header) SetOpcode(o Opcode) { h[0] = byte(o) }

// Immediate reports whether the PDU is for immediate delivery.
func (h *Header) Immediate() bool { return h[0]&FlagImmediate != 0 }

// Flags is byte 1.
func (h *Header) Flags() uint8 { return h[1] }

// Final reports whether the F bit is set.
func (h *Header) Final() bool { return h[1]&FlagFinal != 0 }

// DataLen is DataSegmentLength.
func (h *Header) DataLen() uint32 { return uint32(h[5])<<16 | uint32(h[6])<<8 | uint32(h[7]) }

func (h *Header) setDataLen(n uint32) { h[5], h[6], h[7] = byte(n>>16), byte(n>>8), byte(n) }

func (h *Header) ahsLen() int { return int(h[4]) * 4 }

// LUN is the LUN field.
func (h *Header) LUN() [8]byte { return [8]byte(h[8:16]) }

// SetLUN sets the LUN field.
func (h *Header) SetLUN(l [8]byte) { copy(h[8:16], l[:]) }

// ITT is the initiator task tag.
func (h *Header) ITT() uint32 { return be.Uint32(h[16:]) }

// SetITT sets the initiator task tag.
func (h *Header) SetITT(v uint32) { be.PutUint32(h[16:], v) }

// Uint32 reads the word at a position of the drawing above.
func (h *Header) Uint32(at int) uint32 { return be.Uint32(h[at:]) }

// SetUint32 sets it.
func (h *Header) SetUint32(at int, v uint32) { be.PutUint32(h[at:], v) }

// Uint16 reads the half word at a position of the drawing above.
func (h *Header) Uint16(at int) uint16 { return be.Uint16(h[at:]) }

// SetUint16 sets it.
func (h *Header) SetUint16(at int, v uint16) { be.PutUint16(h[at:], v) }

// Positions of words in a Header. Frozen.
const (
	AtExpectedLen = 20 // SCSI command
	AtTTT         = 20
	AtReferenced  = 20 // task management
	AtCID         = 20
	AtCmdSN       = 24
	AtStatSN      = 24
	AtExpStatSN   = 28
	AtExpCmdSN    = 28
	AtCDB         = 32
	AtRefCmdSN    = 32
	AtMaxCmdSN    = 32
	AtDataSN      = 36
	AtLoginStatus = 36
	AtAsyncEvent  = 36
	AtParameters  = 38 // asynchronous message, three half words
	AtOffset      = 40
	AtLength      = 44 // R2T
	AtResidual    = 44
)

// CDB is the command descriptor block of a SCSI command.
func (h *Header) CDB() *[CDBSize]byte { return (*[CDBSize]byte)(h[AtCDB:]) }

// ISID is the initiator part of the session identifier, of a login.
func (h *Header) ISID() [6]byte { return [6]byte(h[8:14]) }

// TSIH is the target's session handle, of a login.
func (h *Header) TSIH() uint16 { return be.Uint16(h[14:]) }

// Stages are the current and the next stage of a login.
func (h *Header) Stages() (csg, nsg Stage) { return Stage(h[1] >> 2 & 3), Stage(h[1] & 3) }

// Serial is a serial number (RFC 1982) such as CmdSN.
type Serial uint32

// Before reports whether s comes before o.
func (s Serial) Before(o Serial) bool { return int32(s-o) < 0 }

// pad is the padding behind n bytes.
func pad(n uint32) uint32 { return -n & 3 }

// The layout is frozen: these fail to compile when a size changes.
var (
	_ [48]byte = Header{}
	_ [16]byte = [CDBSize]byte{}
)
