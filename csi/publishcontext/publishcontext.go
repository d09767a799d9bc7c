// Package publishcontext is what the controller service tells the node service
// about the way to a volume. It is pure.
package publishcontext

import (
	"errors"
	"fmt"
	"strconv"
)

// ErrInvalid: not what the controller of this driver makes.
var ErrInvalid = errors.New("invalid publish context")

// Context is the way to a volume for one attachment.
type Context struct {
	Address    string // host:port of the frontend
	Frontend   string // what it speaks; NVMe/TCP when empty
	NQN        string
	NSID       uint32
	Attachment string // the attachment's ID
	ReadOnly   bool
	UID        string // of the Volume, for events; may be empty
	// Authentication is what the node has to prove: nothing when empty.
	Authentication string
}

const (
	keyAddress    = "address"
	keyNQN        = "nqn"
	keyNSID       = "nsid"
	keyAttachment = "attachment"
	keyReadOnly   = "readOnly"
	keyUID        = "uid"
	keyFrontend   = "frontend"
	keyAuth       = "authentication"
)

// NSID is the one namespace of a volume's subsystem.
const NSID = 1

const nqnPrefix = "nqn.2026-01.storage.cask:"

// VolumeNQN names a volume's subsystem.
func VolumeNQN(volume string) string { return nqnPrefix + "volume:" + volume }

// HostNQN names a node's host for one attachment.
func HostNQN(node, attachment string) string { return nqnPrefix + "host:" + node + ":" + attachment }

// Map is c as CSI carries it.
func (c Context) Map() map[string]string {
	return map[string]string{
		keyAddress: c.Address, keyNQN: c.NQN, keyNSID: strconv.FormatUint(uint64(c.NSID), 10),
		keyAttachment: c.Attachment, keyReadOnly: strconv.FormatBool(c.ReadOnly), keyUID: c.UID, keyFrontend: c.Frontend,
		keyAuth: c.Authentication,
	}
}

// Parse is the inverse of Map.
func Parse(m map[string]string) (Context, error) {
	c := Context{Address: m[keyAddress], NQN: m[keyNQN], Attachment: m[keyAttachment], UID: m[keyUID], Frontend: m[keyFrontend], Authentication: m[keyAuth]}
	for _, k := range []string{keyAddress, keyNQN, keyNSID, keyAttachment} {
		if m[k] == "" {
			return Context{}, fmt.Errorf("%w: %q is missing; was the volume attached by this driver's controller?", ErrInvalid, k)
		}
	}
	nsid, err := strconv.ParseUint(m[keyNSID], 10, 32)
	if err != nil {
		return Context{}, fmt.Errorf("%w: %s %q is no number", ErrInvalid, keyNSID, m[keyNSID])
	}
	c.NSID = uint32(nsid)
	if v := m[keyReadOnly]; v != "" {
		if c.ReadOnly, err = strconv.ParseBool(v); err != nil {
			return Context{}, fmt.Errorf("%w: %s %q is neither true nor false", ErrInvalid, keyReadOnly, v)
		}
	}
	return c, nil
}
