package nvme

// FID identifies a feature.
type FID uint8

// The features used.
const (
	FeatArbitration     FID = 0x01
	FeatPowerManagement FID = 0x02
	FeatTemperature     FID = 0x04
	FeatErrorRecovery   FID = 0x05
	FeatWriteCache      FID = 0x06
	FeatNumberOfQueues  FID = 0x07
	FeatWriteAtomicity  FID = 0x0a
	FeatAsyncEvents     FID = 0x0b
	FeatKeepAlive       FID = 0x0f
	FeatHostID          FID = 0x81

	FeatReservationMask    FID = 0x82 // notices of reservations not wanted
	FeatReservationPersist FID = 0x83
)

// FeatureSelect says which value of a feature Get Features returns.
type FeatureSelect uint8

// Values of FeatureSelect.
const (
	SelectCurrent   FeatureSelect = 0
	SelectDefault   FeatureSelect = 1
	SelectSaved     FeatureSelect = 2
	SelectSupported FeatureSelect = 3
)

// FeatureParams are the fields of Get Features and Set Features.
type FeatureParams struct {
	FID    FID
	Select FeatureSelect // Get
	Save   bool          // Set
	Value  uint32        // CDW11
}

// Feature reads a Get Features or Set Features command.
func (c *Command) Feature() FeatureParams {
	d := c.DW(10)
	return FeatureParams{FID: FID(d), Select: FeatureSelect(d>>8) & 7, Save: d>>31 == 1, Value: c.DW(11)}
}

// SetFeature makes c a Set Features command.
func (c *Command) SetFeature(p FeatureParams) {
	c.SetOpcode(OpSetFeatures)
	d := uint32(p.FID)
	if p.Save {
		d |= 1 << 31
	}
	c.SetDW(10, d)
	c.SetDW(11, p.Value)
}

// QueueCounts is the value of FeatNumberOfQueues: I/O submission and
// completion queues, 0's based on the wire. Count is 1 to 65536.
type QueueCounts struct{ Submission, Completion uint32 }

// Encode builds the feature's value.
func (q QueueCounts) Encode() uint32 {
	return uint32(uint16(q.Submission-1)) | uint32(uint16(q.Completion-1))<<16
}

// DecodeQueueCounts reads the feature's value.
func DecodeQueueCounts(v uint32) QueueCounts {
	return QueueCounts{Submission: uint32(uint16(v)) + 1, Completion: v>>16 + 1}
}
