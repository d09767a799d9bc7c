package target

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cask-storage/cask/pkg/volume"
)

// statusOf says in people's words what the core says.
func statusOf(s volume.Status) Status {
	out := Status{Epoch: s.Epoch, Unclean: s.Unclean, Serving: s.Phase == volume.Serving && s.Quorum}
	for _, r := range s.Replicas {
		out.Replicas = append(out.Replicas, ReplicaStatus{ID: r.ID, State: r.State, Reason: r.Reason, Message: r.Text, Done: r.Done, Total: r.Total})
	}
	switch {
	case out.Serving:
		out.Reason, out.Message = "Serving", "a write quorum of replicas is in sync"
	case s.Phase == volume.Stopped && s.Err != nil:
		out.Reason, out.Message = "Superseded", s.Err.Error()
	case s.Phase == volume.Stopped:
		out.Reason, out.Message = "Stopped", "the target was stopped"
	case s.Phase == volume.Serving:
		out.Reason, out.Message = "NoQuorum", "I/O waits for a write quorum: "+out.notInSync()
	default:
		out.Reason, out.Message = "Recovering", fmt.Sprintf("epoch %d waits for %s", s.Epoch, s.Waiting)
	}
	return out
}

func (s Status) notInSync() string {
	var out []string
	for _, r := range s.Replicas {
		if r.State != "InSync" {
			out = append(out, fmt.Sprintf("replica %s is %s (%s)", r.ID, r.State, r.Reason))
		}
	}
	return strings.Join(out, ", ")
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
		slices.EqualFunc(s.Replicas, o.Replicas, func(a, b ReplicaStatus) bool {
			return a.ID == b.ID && a.State == b.State && a.Reason == b.Reason && a.Message == b.Message
		})
}

func (s Status) line() string {
	var rs []string
	for _, r := range s.Replicas {
		x := fmt.Sprintf("%s %s", r.ID, r.State)
		if r.Message != "" {
			x += " (" + r.Message + ")"
		}
		rs = append(rs, x)
	}
	return fmt.Sprintf("epoch %d %s: %s [%s] %s", s.Epoch, s.Reason, s.Message, strings.Join(rs, ", "), s.Unclean)
}
