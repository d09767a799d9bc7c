//go:build cgo && linux

package dmu

const (
	FaultWrites  = faultWrites
	FaultReads   = faultReads
	FaultFlushes = faultFlushes
)

var SetFaults = setFaults
