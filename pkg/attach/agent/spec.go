//go:build linux

package agent

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// Spec says what to attach.
type Spec struct {
	Volume   string `json:"volume"`
	Address  string `json:"address"` // host:port of the frontend
	NQN      string `json:"nqn"`     // of the subsystem
	NSID     uint32 `json:"nsid"`
	HostNQN  string `json:"hostNQN"` // new for each attachment
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Frontend is what the target speaks: NVMe/TCP when empty. The names of
	// iSCSI are the NQNs' by IQN.
	Frontend string `json:"frontend,omitempty"`
}

// Request is a Spec and what its host and target prove themselves with, by
// DH-HMAC-CHAP; zero when the target asks for nothing. That is in no record and
// no Info: it is with who connects, a child or the kernel.
type Request struct {
	Spec
	Secrets dhchap.Secrets `json:"secrets,omitzero"`
}

// Validate checks what a caller sent.
func (r Request) Validate() error {
	if err := r.Spec.Validate(); err != nil || r.Secrets == (dhchap.Secrets{}) {
		return err
	}
	if r.Frontend != "" {
		return fmt.Errorf("%w: volume %s: keys of DH-HMAC-CHAP for frontend %s", ErrInvalid, r.Volume, r.Frontend)
	}
	if err := r.Secrets.Check(); err != nil {
		return fmt.Errorf("%w: volume %s: its keys: %w", ErrInvalid, r.Volume, err)
	}
	return nil
}

// FrontendISCSI is the one other Spec.Frontend.
const FrontendISCSI = "iscsi"

// IQN is the iSCSI name of who has an NQN: the same with the prefix of iSCSI.
func IQN(nqn string) string { return "iqn" + strings.TrimPrefix(nqn, "nqn") }

const (
	maxNQN     = 223 // of the NVMe specification
	maxVolumes = 1024
)

var volumeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

// Validate checks what a caller sent.
func (s Spec) Validate() error {
	if !volumeName.MatchString(s.Volume) {
		return fmt.Errorf("%w: volume name %q: lower-case letters, digits, - and . are wanted", ErrInvalid, s.Volume)
	}
	if _, _, err := net.SplitHostPort(s.Address); err != nil {
		return fmt.Errorf("%w: volume %s: address %q: host:port is wanted", ErrInvalid, s.Volume, s.Address)
	}
	for what, nqn := range map[string]string{"nqn": s.NQN, "hostNQN": s.HostNQN} {
		if nqn == "" || len(nqn) > maxNQN {
			return fmt.Errorf("%w: volume %s: %s of %d bytes: 1 to %d are wanted", ErrInvalid, s.Volume, what, len(nqn), maxNQN)
		}
	}
	if s.Frontend != "" && s.Frontend != FrontendISCSI {
		return fmt.Errorf("%w: volume %s: frontend %q", ErrInvalid, s.Volume, s.Frontend)
	}
	if s.NSID == 0 || s.NSID == 0xffffffff {
		return fmt.Errorf("%w: volume %s: namespace %#x", ErrInvalid, s.Volume, s.NSID)
	}
	return nil
}

// The paths an attachment can take.
const (
	PathUser   = "user-space"      // FUSE and a loop device
	PathKernel = "kernel-nvme-tcp" // the kernel's own host
)

// Link is the state of the connection to the target.
type Link struct {
	// Connected is false while requests wait for the target.
	Connected bool `json:"connected"`
	// Refused says that the target is there and does not admit this host:
	// the volume was given to another.
	Refused bool `json:"refused,omitempty"`
	// Lost says that all I/O fails for good: what was written may be lost, or
	// the connection is gone. The volume is to be detached and attached anew.
	Lost    bool      `json:"lost,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Message string    `json:"message,omitempty"`
}

// Info is one attachment.
type Info struct {
	Spec   Spec   `json:"spec"`
	Device string `json:"device"`
	Path   string `json:"path"`
	// Why this path was taken.
	Why  string `json:"why"`
	Link Link   `json:"link"`
	PID  int    `json:"pid,omitempty"`
}

// DetachRequest names a volume to detach.
type DetachRequest struct {
	Volume string `json:"volume"`
	// HostNQN, if not empty, is the attachment's that is meant: another one of
	// the volume is left alone.
	HostNQN string `json:"hostNQN,omitempty"`
	// Force fails every request in flight and takes the device away from
	// under whoever still uses it.
	Force bool `json:"force,omitempty"`
}
