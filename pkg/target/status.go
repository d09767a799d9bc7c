package target

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cask-storage/cask/pkg/volume"
)

// statusOf says in people's words what the core says.
func statusOf(s volume.Status) Status {
	out := Status{Epoch: s.Epoch, Unclean: s.Unclean, Serving: s.Phase == volume.Serving && s.Quorum,
		Level: string(s.Level), Settled: s.Settled, Change: s.Change,
		Size: s.Size, Resizing: s.Resizing, Resize: s.ResizeReason}
	for _, r := range s.Replicas {
		out.Replicas = append(out.Replicas, ReplicaStatus{ID: r.ID, Voter: r.Voter, State: r.State, Reason: r.Reason, Message: r.Text, Done: r.Done, Total: r.Total,
			Found: r.Found, Healed: r.Healed, Damaged: r.Damaged, Repair: r.Repair, Trouble: r.Trouble})
	}
	switch {
	case out.Serving:
		out.Reason, out.Message = "Serving", "a write quorum of replicas is in sync"
	case s.Phase == volume.Stopped && errors.Is(s.Err, volume.ErrRecord):
		out.Reason, out.Message = ReasonRecordRefused, s.Err.Error()
	case s.Phase == volume.Stopped && s.Err != nil:
		out.Reason, out.Message = "Superseded", s.Err.Error()
	case s.Phase == volume.Stopped:
		out.Reason, out.Message = "Stopped", "the target was stopped"
	case s.Phase == volume.Serving:
		out.Reason, out.Message = "NoQuorum", out.waits(s.Floor)
	default:
		out.Reason, out.Message = "Recovering", fmt.Sprintf("epoch %d waits for %s", s.Epoch, s.Waiting)
	}
	return out
}

// waits says why writes wait, and what lets them go on.
func (s Status) waits(floor int) string {
	voters, inSync := s.Voting()
	text := fmt.Sprintf("writes wait: %d of %d voters in sync, which is too few at the level %s: %s", inSync, voters, s.Level, s.notInSync())
	switch {
	case floor == 0:
		return text
	case inSync > 0 && inSync < floor:
		return text + fmt.Sprintf("; going on without them would leave %d voters, and minVoters is %d: bring them back, "+
			"or lower spec.minVoters to %d to go on without them", inSync, floor, inSync)
	case inSync >= floor && voters > floor:
		return text + "; they stop voting in a moment, and writes go on"
	}
	return text + "; bring them back"
}

func (s Status) notInSync() string {
	var out []string
	for _, r := range s.Replicas {
		if r.Voter && r.State != "InSync" {
			out = append(out, fmt.Sprintf("replica %s is %s (%s)", r.ID, r.State, r.Reason))
		}
	}
	return strings.Join(out, ", ")
}

// Voting counts the voters, and those in sync.
func (s Status) Voting() (voters, inSync int) {
	for _, r := range s.Replicas {
		if !r.Voter {
			continue
		}
		voters++
		if r.State == "InSync" {
			inSync++
		}
	}
	return voters, inSync
}

// InSync counts the replicas in sync.
func (s Status) InSync() int {
	n := 0
	for _, r := range s.Replicas {
		if r.State == "InSync" {
			n++
		}
	}
	return n
}

// same compares all but progress.
func (s Status) same(o Status) bool {
	return s.Epoch == o.Epoch && s.Serving == o.Serving && s.Reason == o.Reason && s.Message == o.Message && s.Unclean == o.Unclean &&
		s.Level == o.Level && s.Settled == o.Settled && s.Change == o.Change && s.Exposed == o.Exposed && s.Verified.same(o.Verified) &&
		s.Size == o.Size && s.Resizing == o.Resizing &&
		slices.EqualFunc(s.Replicas, o.Replicas, func(a, b ReplicaStatus) bool {
			return a.ID == b.ID && a.Voter == b.Voter && a.State == b.State && a.Reason == b.Reason && a.Message == b.Message &&
				a.Repair == b.Repair && a.Trouble == b.Trouble
		})
}

func (s Status) line() string {
	var rs []string
	for _, r := range s.Replicas {
		x := fmt.Sprintf("%s %s", r.ID, r.State)
		if !r.Voter {
			x += " without a vote"
		}
		if r.Message != "" {
			x += " (" + r.Message + ")"
		}
		if r.Repair+r.Trouble != "" {
			x += strings.TrimRight(": "+r.Trouble+" "+r.Repair, " ")
		}
		rs = append(rs, x)
	}
	line := fmt.Sprintf("epoch %d %s: %s [%s] %s", s.Epoch, s.Reason, s.Message, strings.Join(rs, ", "), s.Unclean)
	if s.Change != "" {
		line += "; under way: " + s.Change
	}
	if s.Verified != nil {
		line += "; " + s.Verified.Text()
	}
	if s.Resizing != "" {
		line += "; its size: " + s.Resizing
	}
	return line
}
