package volume

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
)

// Status is what there is to tell about the volume.
type Status struct {
	Phase   Phase
	Epoch   uint64
	Quorum  bool // a write quorum is in sync
	Level   quorum.Level
	Floor   int    // the fewest voters that failed ones may leave; 0 without a Layout
	Settled bool   // level and voters are as the Layout says
	Exposed uint64 // acknowledged operations that one voter alone has: what its loss would cost
	Change  string // the change of level or voters under way, empty when there is none
	Unclean string // not empty: reopened from the best copy, and why
	Err     error  // of Stopped
	Size    uint64 // that hosts may use, bytes; 0: not known
	// Resizing says why the size is not what it is to be, with a reason in
	// CamelCase; empty when it is.
	Resizing, ResizeReason string
	Waiting                string // for what, in the phases before Serving
	Replicas               []ReplicaStatus
	// Verified is the last verification; without Ended there was none.
	Verified  Verification
	Verifying bool
}

// ReplicaStatus is one replica.
type ReplicaStatus struct {
	ID          quorum.ReplicaID
	Voter       bool
	State       string // Offline, CatchingUp, InSync, Rebuilding, Failed
	Reason      string // CamelCase
	Text        string
	Done, Total uint64 // bytes of a rebuild
	// Damage that the replica reported since the target started, in bytes:
	// Found in all, Healed from another replica, Damaged what is left.
	Found, Healed, Damaged uint64
	Repair                 string // a late one
	Trouble                string // damage that stays
}

// Status describes the core now.
func (c *Core) Status() Status {
	s := Status{Phase: c.phase, Epoch: uint64(c.rec.Epoch), Unclean: c.unclean, Err: c.stop, Level: c.rec.Level, Exposed: c.exposed()}
	if s.Level == "" {
		s.Level = c.cfg.Level
	}
	if l := c.cfg.Layout; l != nil {
		s.Floor, s.Settled = l.Floor(), l.settled(c.rec)
	}
	if c.change != nil {
		s.Change = c.change.why
	}
	for _, p := range c.peers {
		s.Replicas = append(s.Replicas, c.describe(p))
	}
	if c.sys != nil {
		s.Quorum = c.sys.Write(c.synced)
	}
	s.Waiting = c.waitingFor()
	s.Verified, s.Verifying = c.verified, c.verify != nil
	s.Size = c.size.served
	s.ResizeReason, s.Resizing = c.resizing()
	return s
}

func (c *Core) describe(p *peer) ReplicaStatus {
	r := ReplicaStatus{ID: p.id, Voter: slices.Contains(c.voters, p), State: "CatchingUp", Text: p.text,
		Found: p.damage.found, Healed: p.damage.healed, Damaged: p.damage.all().Bytes(), Repair: p.damage.last, Trouble: p.damage.trouble(c.now)}
	for _, x := range c.repairs {
		if x.to == p {
			r.Damaged += x.extent.Len
		}
	}
	switch p.state {
	case down:
		r.State, r.Reason = "Offline", "NotConnected"
	case synced:
		r.State, r.Reason = "InSync", "InSync"
	case rebuilding, backfilling:
		r.State, r.Reason = "Rebuilding", "CopyingBlocks"
		if rb := c.rebuild; rb != nil && rb.to == p {
			r.Done, r.Total = rb.copied, rb.total
		}
	case failed:
		r.State, r.Reason = "Failed", p.reason.String()
	case heard:
		if p.turnAt != 0 {
			r.Reason, r.Text = replication.ErrTurn.String(), "it waits for its turn: its host rebuilds enough other replicas"
			break
		}
		r.Reason = "WaitsForRebuild"
	default:
		r.Reason = "Joining"
	}
	return r
}

// waitingFor says what a target that is not serving waits for.
func (c *Core) waitingFor() string {
	switch c.phase {
	case Loading, Acquiring, Breaking, Initializing:
		return "the volume's record to be read and changed"
	case Leasing:
		return "reads of an earlier target to end"
	case Fencing, Tailing, Joining:
	default:
		return ""
	}
	var missing []string
	for _, p := range c.voters {
		switch {
		case p.state == returning:
			missing = append(missing, fmt.Sprintf("%s (goes back to what it had before its rebuild)", p.id))
		case p.state < heard:
			missing = append(missing, fmt.Sprintf("%s (not connected)", p.id))
		case p.state == failed:
			missing = append(missing, fmt.Sprintf("%s (%v)", p.id, p.reason))
		case p.state == heard && p.st.Flags&replication.FlagSuspect != 0:
			missing = append(missing, fmt.Sprintf("%s (lost its memory)", p.id))
		case p.state == heard && !c.holds(p):
			missing = append(missing, fmt.Sprintf("%s (%v)", p.id, p.membership()))
		}
	}
	if len(missing) == 0 {
		return "replicas to catch up"
	}
	return "enough replicas that surely have every acknowledged write; missing: " + strings.Join(missing, ", ")
}
