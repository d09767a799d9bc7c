package ioc

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Code is the class of an error, and what the wire carries. The numbers are
// frozen.
type Code uint16

// The codes. The Err… variables below are the same classes for errors.Is.
const (
	CodeOK          Code = 0
	CodeInvalid     Code = 1
	CodeNotFound    Code = 2
	CodeExists      Code = 3
	CodeNoSpace     Code = 4
	CodeTruncated   Code = 5
	CodeMissing     Code = 6
	CodeDamaged     Code = 7
	CodeForeign     Code = 8
	CodeBusy        Code = 9
	CodeTooNew      Code = 10
	CodeIO          Code = 11
	CodeUnavailable Code = 12
	CodeProtocol    Code = 13
)

// The error classes; test with errors.Is.
var (
	ErrInvalid     error = CodeInvalid     // a name or size outside the rules
	ErrNotFound    error = CodeNotFound    // no such extent was ever made here, or it was deleted
	ErrExists      error = CodeExists      // Create of an extent that is there
	ErrNoSpace     error = CodeNoSpace     // the pool cannot promise that much, or the file system is full
	ErrTruncated   error = CodeTruncated   // the content is shorter than the record says
	ErrMissing     error = CodeMissing     // there is a record but no content
	ErrDamaged     error = CodeDamaged     // the record is unreadable, or content has none
	ErrForeign     error = CodeForeign     // the directory is not, or no longer, this pool's
	ErrBusy        error = CodeBusy        // another process has the directory open
	ErrTooNew      error = CodeTooNew      // written by a newer version of Cask
	ErrIO          error = CodeIO          // the file system failed
	ErrUnavailable error = CodeUnavailable // the IO container does not answer, or not yet
	ErrProtocol    error = CodeProtocol    // the peer does not speak this protocol
)

var codeText = [...]string{
	CodeOK:          "no error",
	CodeInvalid:     "invalid request",
	CodeNotFound:    "extent does not exist",
	CodeExists:      "extent exists",
	CodeNoSpace:     "no space left in the pool",
	CodeTruncated:   "extent is shorter than it was made",
	CodeMissing:     "extent's file is missing",
	CodeDamaged:     "extent's record is damaged",
	CodeForeign:     "directory does not belong to this pool",
	CodeBusy:        "directory is in use by another process",
	CodeTooNew:      "format is newer than this version of Cask",
	CodeIO:          "input/output error",
	CodeUnavailable: "IO container is not available",
	CodeProtocol:    "protocol error",
}

// Error makes a Code the root of its class.
func (c Code) Error() string {
	if int(c) < len(codeText) {
		return codeText[c]
	}
	return fmt.Sprintf("error class %d", uint16(c))
}

// Error is an error of this package. Its class is Code; Detail is for people.
type Error struct {
	Code     Code
	Object   string // what it is about: extent "x", pool directory /y
	Detail   string // cause and next step
	Recorded uint64 // ErrTruncated: bytes the extent was made with
	Actual   uint64 // ErrTruncated: bytes there are
	Cause    error  // local only: not carried over the wire
}

func (e *Error) Error() string {
	s := e.Object + ": " + e.Code.Error()
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap gives errors.Is the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.Cause}
}

// CodeOf returns the class of err: CodeOK for nil, CodeIO when it has none.
func CodeOf(err error) Code {
	if err == nil {
		return CodeOK
	}
	var c Code
	if errors.As(err, &c) {
		return c
	}
	return CodeIO
}

func extentError(code Code, name, detail string) *Error {
	return &Error{Code: code, Object: fmt.Sprintf("extent %q", name), Detail: detail}
}

func dirError(code Code, dir, detail string) *Error {
	return &Error{Code: code, Object: "pool directory " + dir, Detail: detail}
}

// ioError classifies what the file system said.
func ioError(object, doing string, err error) error {
	code := CodeIO
	detail := doing + "; see the node's kernel log and the health of its disk"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		code, detail = CodeNoSpace, doing+"; free space on the pool's file system or add a node to the pool"
	}
	if errors.Is(err, fs.ErrPermission) {
		detail = doing + "; the IO container must run as root or own the directory"
	}
	return &Error{Code: code, Object: object, Detail: detail, Cause: err}
}
