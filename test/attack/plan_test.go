package attack

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/cask-storage/cask/pkg/quorum"
)

// kind is a kind of fault.
type kind string

const (
	killReplica kind = "kill"      // the round's victim, which loses its memory
	killAll     kind = "power-cut" // every replica at once
	killTarget  kind = "kill-target"
	failover    kind = "failover"     // the target is killed, the other one started
	move        kind = "move"         // the other target is started, the old one lives
	stop        kind = "stop"         // SIGSTOP
	stopTarget  kind = "stop-target"  //
	cut         kind = "cut"          // packets from the target to a replica, back, or both
	cutHost     kind = "cut-host"     // the same between a host and the target
	isolate     kind = "isolate"      // the target from every replica
	slow        kind = "slow"         // a replica's link has a delay
	narrow      kind = "narrow"       // a replica's link has a low rate
	full        kind = "full"         // the victim's file system
	noAuthority kind = "no-authority" // the volume's record cannot be read
)

// kinds with their weights; killAll is not among them.
var kinds = []struct {
	kind   kind
	weight int
}{
	{killReplica, 4}, {killTarget, 3}, {failover, 3}, {move, 4}, {stop, 3}, {stopTarget, 2}, {cut, 4}, {cutHost, 2},
	{isolate, 2}, {slow, 2}, {narrow, 1}, {full, 1}, {noAuthority, 1},
}

// fault is one thing that goes wrong, from at on, for a while.
type fault struct {
	kind      kind
	at, lasts time.Duration
	replica   int
	host      int
	to, from  bool // cut: packets to the replica or target; from it
	delay     time.Duration
	rate      float64
	follow    [hosts]time.Duration // move, failover: when each host goes over
}

func (f fault) String() string {
	s := fmt.Sprintf("%5d ms %s", f.at.Milliseconds(), f.kind)
	switch f.kind {
	case killReplica, stop, full, slow, narrow, cut:
		s += fmt.Sprintf(" r%d", f.replica)
	case cutHost:
		s += fmt.Sprintf(" h%d", f.host)
	}
	switch f.kind {
	case cut, cutHost:
		s += map[[2]bool]string{{true, false}: " to it", {false, true}: " from it", {true, true}: " both ways"}[[2]bool{f.to, f.from}]
	case slow:
		s += fmt.Sprintf(" by %v", f.delay)
	case narrow:
		s += fmt.Sprintf(" to %.0f kB/s", f.rate/1000)
	case move, failover:
		s += fmt.Sprintf(", hosts follow after %v", f.follow)
	}
	return s + fmt.Sprintf(", for %d ms", f.lasts.Milliseconds())
}

// plan is what goes wrong in one round.
type plan struct {
	seed   uint64
	round  int
	victim int // the one replica that may lose its memory
	faults []fault
}

// roundLength is how long faults begin for.
const roundLength = 6 * time.Second

// newPlan depends on its arguments and -cuts only.
func newPlan(seed uint64, round int) plan {
	rng := rand.New(rand.NewPCG(seed, uint64(round)))
	p := plan{seed: seed, round: round, victim: rng.IntN(replicas)}
	for range 1 + rng.IntN(4) {
		p.faults = append(p.faults, p.fault(rng, pick(rng)))
	}
	if round%*cuts == 0 {
		p.faults = append(p.faults, p.fault(rng, killAll))
	}
	slices.SortStableFunc(p.faults, func(a, b fault) int { return int(a.at - b.at) })
	return p
}

func pick(rng *rand.Rand) kind {
	sum := 0
	for _, k := range kinds {
		sum += k.weight
	}
	n := rng.IntN(sum)
	for _, k := range kinds {
		if n -= k.weight; n < 0 {
			return k.kind
		}
	}
	panic("unreachable")
}

func (p plan) fault(rng *rand.Rand, k kind) fault {
	ms := func(lo, hi int) time.Duration { return time.Duration(lo+rng.IntN(hi-lo)) * time.Millisecond }
	f := fault{kind: k, at: ms(100, int(roundLength.Milliseconds())), lasts: ms(100, 1500), replica: rng.IntN(replicas), host: rng.IntN(hosts)}
	if rng.IntN(3) == 0 {
		f.lasts = ms(1500, 8000)
	}
	if way := rng.IntN(3); way != 1 {
		f.to = true
		f.from = way == 2
	} else {
		f.from = true
	}
	f.delay = ms(5, 600)
	f.rate = float64(200+rng.IntN(8000)) * 1000
	for i := range f.follow {
		f.follow[i] = ms(0, 2500)
	}
	if k == killReplica || k == full {
		f.replica = p.victim
	}
	return f
}

// cuts reports whether unflushed writes may be lost in the round: at the level
// one also by the memory of one replica.
func (p plan) cuts() bool {
	return slices.ContainsFunc(p.faults, func(f fault) bool {
		return f.kind == killAll || *level == string(quorum.One) && (f.kind == killReplica || f.kind == full)
	})
}

func (p plan) String() string {
	lines := []string{fmt.Sprintf("seed %d, round %d, victim r%d:", p.seed, p.round, p.victim)}
	for _, f := range p.faults {
		lines = append(lines, "  "+f.String())
	}
	return strings.Join(lines, "\n")
}
