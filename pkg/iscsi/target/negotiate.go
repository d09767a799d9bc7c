package target

import (
	"strconv"
	"strings"

	"github.com/cask-storage/cask/pkg/iscsi"
)

// params are the operational parameters of a session, from the target's view.
type params struct {
	digests    iscsi.Digests
	segment    uint32 // the initiator's MaxRecvDataSegmentLength
	maxBurst   uint32
	firstBurst uint32
	initialR2T bool
	immediate  bool
}

// defaultParams hold for who negotiates nothing (RFC 7143 13).
func defaultParams() params {
	return params{segment: 8192, maxBurst: 262144, firstBurst: 65536, initialR2T: true, immediate: true}
}

// The words of negotiations.
const (
	reject        = "Reject"
	irrelevant    = "Irrelevant"
	notUnderstood = "NotUnderstood"
)

// negotiation is the operational negotiation of one login: pure.
type negotiation struct {
	params
	lim       Limits
	discovery bool
	declared  bool // our MaxRecvDataSegmentLength was sent
}

// numeric reads a number in decimal or hexadecimal.
func numeric(v string, low, high uint64) (uint64, bool) {
	n, err := strconv.ParseUint(v, 0, 64)
	return n, err == nil && n >= low && n <= high
}

// answer is the reply to one offered key; an empty one is none.
//
//lint:dispatch one case for each key
func (n *negotiation) answer(key, v string) string {
	switch v {
	case reject, irrelevant, notUnderstood:
		return ""
	}
	if n.discovery && ofSessions(key) {
		return irrelevant
	}
	switch key {
	case "HeaderDigest":
		return digest(v, &n.digests.Header)
	case "DataDigest":
		return digest(v, &n.digests.Data)
	case "MaxRecvDataSegmentLength":
		s, ok := numeric(v, 512, 1<<24-1)
		if !ok {
			return reject
		}
		n.segment = uint32(s)
		return ""
	case "MaxBurstLength":
		return least(v, uint64(n.lim.MaxBurst), &n.maxBurst)
	case "FirstBurstLength":
		return least(v, uint64(n.lim.FirstBurst), &n.firstBurst)
	case "InitialR2T":
		return boolean(v, &n.initialR2T)
	case "ImmediateData":
		return boolean(v, &n.immediate)
	case "MaxConnections", "MaxOutstandingR2T":
		return fixed(v, 1, 65535, func(uint64) uint64 { return 1 })
	case "ErrorRecoveryLevel":
		return fixed(v, 0, 2, func(uint64) uint64 { return 0 })
	case "DefaultTime2Wait":
		return fixed(v, 0, 3600, func(o uint64) uint64 { return o })
	case "DefaultTime2Retain":
		return fixed(v, 0, 3600, func(uint64) uint64 { return 0 })
	case "DataPDUInOrder", "DataSequenceInOrder":
		in := true
		if boolean(v, &in) == reject {
			return reject
		}
		return "Yes"
	case "IFMarker", "OFMarker":
		return "No"
	case "IFMarkInt", "OFMarkInt": // obsolete, and yet understood (RFC 7143 13.25)
		return reject
	case "TaskReporting":
		return pick(v, "RFC3720")
	case "iSCSIProtocolLevel":
		return fixed(v, 0, 31, func(o uint64) uint64 { return min(o, 1) })
	case "SessionType", "InitiatorName", "TargetName", "InitiatorAlias", "TargetAddress", "TargetAlias", "TargetPortalGroupTag":
		return ""
	}
	return notUnderstood
}

// ofSessions reports keys without a meaning in a discovery session.
func ofSessions(key string) bool {
	switch key {
	case "MaxConnections", "InitialR2T", "ImmediateData", "MaxBurstLength", "FirstBurstLength", "MaxOutstandingR2T",
		"DataPDUInOrder", "DataSequenceInOrder":
		return true
	}
	return false
}

func digest(v string, on *bool) string {
	for _, d := range strings.Split(v, ",") {
		switch d {
		case "CRC32C":
			*on = true
			return d
		case "None":
			*on = false
			return d
		}
	}
	return reject
}

// least is the smaller of the offer and ours.
func least(v string, ours uint64, p *uint32) string {
	o, ok := numeric(v, 512, 1<<24-1)
	if !ok {
		return reject
	}
	*p = uint32(min(o, ours))
	return strconv.FormatUint(uint64(*p), 10)
}

// boolean takes what is offered: of InitialR2T we want No (OR), of
// ImmediateData Yes (AND).
func boolean(v string, p *bool) string {
	if v != "Yes" && v != "No" {
		return reject
	}
	*p = v == "Yes"
	return v
}

func fixed(v string, low, high uint64, f func(uint64) uint64) string {
	o, ok := numeric(v, low, high)
	if !ok {
		return reject
	}
	return strconv.FormatUint(f(o), 10)
}

// pick answers a list with the one value we have.
func pick(v, ours string) string {
	for _, o := range strings.Split(v, ",") {
		if o == ours {
			return ours
		}
	}
	return reject
}

// run answers a whole text and declares our segment once.
func (n *negotiation) run(in iscsi.Text) iscsi.Text {
	var out iscsi.Text
	for _, p := range in {
		if a := n.answer(p.Key, p.Value); a != "" {
			out.Add(p.Key, a)
		}
	}
	if !n.declared {
		n.declared = true
		out.Add("MaxRecvDataSegmentLength", strconv.Itoa(n.lim.Segment))
	}
	n.firstBurst = min(n.firstBurst, n.maxBurst)
	return out
}
