package accept

import "time"

// Clock counts nanoseconds of the monotonic clock, which nobody sets.
type Clock struct{ began time.Time }

// NewClock returns a Clock that begins now.
func NewClock() Clock { return Clock{time.Now()} }

// At is what the clock shows at now; never 0 from the beginning on.
func (c Clock) At(now time.Time) int64 { return int64(now.Sub(c.began)) + 1 }
