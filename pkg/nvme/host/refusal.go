package host

import (
	"errors"

	"github.com/cask-storage/cask/pkg/nvme"
)

// NotAdmitted says that err, such as State's LastError, is a target's refusal
// of this host: the target is there, and the volume is not this host's now.
func NotAdmitted(err error) bool {
	var s *statusError
	return errors.As(err, &s) && s.status.Code() == nvme.ConnectInvalidHost
}
