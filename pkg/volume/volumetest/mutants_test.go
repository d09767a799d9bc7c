//go:build mutants

package volumetest

import (
	"flag"
	"fmt"
	"testing"

	"github.com/cask-storage/cask/pkg/internal/mutant"
)

var only = flag.Uint("mutant", 0, "try this one only")

// mutants are all of package mutant, with the rule of the contract (DESIGN,
// section 2) that each breaks.
var mutants = []struct {
	id    mutant.ID
	name  string
	rule  string
	plans []uint64 // to hunt in, all when nil
	focus []string // of Options
}{
	{mutant.AckEarly, "AckEarly", "3 write quorum", nil, nil},
	{mutant.CatchUpCounts, "CatchUpCounts", "8 a replica never counts before it is complete", []uint64{0}, []string{"outgrow", "rebuild"}},
	{mutant.FlushByOne, "FlushByOne", "6 durability", []uint64{5}, []string{"slow"}},
	{mutant.FlushForgotten, "FlushForgotten", "6 durability", []uint64{5}, []string{"slow"}},
	{mutant.ReadUnsettled, "ReadUnsettled", "10 linearizable registers", []uint64{0}, []string{"minority"}},
	{mutant.NoLease, "NoLease", "7 reads within a lease", []uint64{0}, []string{"zombie"}},
	{mutant.LeaseFromPong, "LeaseFromPong", "7 reads within a lease", []uint64{0}, []string{"lag"}},
	{mutant.NoLeaseWait, "NoLeaseWait", "7 reads within a lease", nil, nil},
	{mutant.EpochUnswapped, "EpochUnswapped", "2 an epoch is acquired before it is used", nil, nil},
	{mutant.EarlyRequests, "EarlyRequests", "2 a superseded target gets no write accepted", []uint64{0, 2, 3}, []string{"flap"}},
	{mutant.StaleHost, "StaleHost", "2 a superseded target gets no write accepted", nil, nil},
	{mutant.RecoverFromOne, "RecoverFromOne", "4 recovery meets every write quorum", nil, nil},
	{mutant.SuspectCounts, "SuspectCounts", "6 unclean starts", nil, nil},
	{mutant.MissedAlone, "MissedAlone", "4 recovery meets every write quorum", []uint64{5}, []string{"miss"}},
	{mutant.BegunAdopted, "BegunAdopted", "4 recovery meets every write quorum", []uint64{5}, []string{"miss"}},
	{mutant.EmptyCounts, "EmptyCounts", "6 unclean starts", []uint64{0, 3}, []string{"disk", "kill", "isolate"}},
	{mutant.LongestSeq, "LongestSeq", "4 the longest history by (epoch, Seq)", []uint64{0}, []string{"outlive"}},
	{mutant.TailForgotten, "TailForgotten", "4 the longest history by (epoch, Seq)", nil, nil},
	{mutant.NoInitialized, "NoInitialized", "6 unclean starts", nil, nil},
	{mutant.DivergedCatchUp, "DivergedCatchUp", "4 diverged tails are found", []uint64{0}, []string{"outlive", "split"}},
	{mutant.OwnTailForgotten, "OwnTailForgotten", "8 what changed on both sides", nil, nil},
	{mutant.NoChunkLock, "NoChunkLock", "8 resync", []uint64{0}, []string{"chunks", "overwrite", "outgrow"}},
	{mutant.BeginEarly, "BeginEarly", "8 a replica never counts before it is complete", nil, nil},
	{mutant.AnyEpoch, "AnyEpoch", "2 lower epochs are refused for ever", nil, nil},
	{mutant.AnyConnection, "AnyConnection", "1 one order", []uint64{0}, []string{"outgrow", "rebuild", "late"}},
	{mutant.PromiseInMemory, "PromiseInMemory", "2 the promise is persistent", []uint64{0}, []string{"interrupt"}},
	{mutant.UncleanUnseen, "UncleanUnseen", "6 unclean starts", nil, nil},
	{mutant.FlushInMemory, "FlushInMemory", "6 durability", nil, nil},
	{mutant.RebuildUnmarked, "RebuildUnmarked", "8 a replica never counts before it is complete", nil, nil},
	{mutant.MarkApart, "MarkApart", "1 the Seq is in the TXG of the data", nil, nil},
	{mutant.AheadUnseen, "AheadUnseen", "10 linearizable registers", nil, nil},
	{mutant.AheadDropped, "AheadDropped", "6 unclean starts", nil, nil},
	{mutant.ChangeEarly, "ChangeEarly", "5 swapped before it takes effect", []uint64{8, 9, 10}, nil},
	{mutant.NotJoint, "NotJoint", "5 swapped before it takes effect", []uint64{8, 9, 10}, []string{"doubt"}},
	{mutant.NoChangeFlush, "NoChangeFlush", "6 durability", []uint64{7}, []string{"levels"}},
	{mutant.NewVotersBehind, "NewVotersBehind", "4 recovery meets every write quorum", []uint64{8, 9, 10}, []string{"slow", "isolate", "kill"}},
	{mutant.DoubtForgotten, "DoubtForgotten", "5 compare-and-swap under the epoch", []uint64{8, 9, 10}, []string{"doubt"}},
	{mutant.TwoChanges, "TwoChanges", "5 voters change one at a time", []uint64{8, 9, 10}, nil},
	{mutant.LevelUnsaid, "LevelUnsaid", "3 the quorum is that of the record", []uint64{8, 9, 10}, nil},
	{mutant.HedgeStale, "HedgeStale", "7 a replica that has every acknowledged write", []uint64{0}, []string{"outgrow", "slow", "oneway"}},
	{mutant.HedgeUnsettled, "HedgeUnsettled", "10 linearizable registers", []uint64{0}, []string{"minority", "hedge"}},
	{mutant.StaleAnswer, "StaleAnswer", "2 an epoch is acquired before it is used", []uint64{8, 9, 10}, []string{"late"}},
	{mutant.ResumeStale, "ResumeStale", "8 resumable: what changed meanwhile", []uint64{0, 1, 2, 3}, []string{"rebuild", "crash", "kill", "disk"}},
	{mutant.ResumeOwn, "ResumeOwn", "8 resumable: on both sides", []uint64{0, 1, 2, 3}, []string{"rebuild", "disown", "outgrow", "disk"}},
	{mutant.ResumeInFlight, "ResumeInFlight", "8 resumable: what has arrived", []uint64{0, 1, 2, 3}, []string{"rebuild", "crash", "kill", "disk"}},
	{mutant.ResumeExact, "ResumeExact", "8 resumable: made good first", []uint64{0, 1, 2, 3}, []string{"rebuild", "crash", "kill", "disk"}},
	{mutant.ResumeInTwo, "ResumeInTwo", "8 resumable: a diverged replica", []uint64{0, 1, 2, 3}, []string{"rebuild", "disown", "outgrow", "disk"}},
	{mutant.SessionKept, "SessionKept", "6 a new session is required after a loss", []uint64{5}, []string{"power", "silence"}},
	{mutant.SessionInMemory, "SessionInMemory", "6 a new session is required after a loss", []uint64{5}, []string{"power", "silence", "unclean"}},
	{mutant.SessionUnchecked, "SessionUnchecked", "6 a new session is required after a loss", []uint64{5}, []string{"power", "silence"}},
	{mutant.WaitingKept, "WaitingKept", "6 a new session is required after a loss", []uint64{5}, []string{"power", "silence"}},
	{mutant.SnapshotRebuilding, "SnapshotRebuilding", "10 snapshots are exact prefixes", nil, nil},
	{mutant.RepairUnlocked, "RepairUnlocked", "7 repaired in place", []uint64{0}, []string{"rot", "slow"}},
	{mutant.LostServed, "LostServed", "7 a checksum error is answered from another", []uint64{0}, []string{"rot"}},
	{mutant.DenialTaken, "DenialTaken", "5 compare-and-swap under the epoch", []uint64{8, 9, 10}, []string{"deny"}},
	{mutant.SnapshotsForgotten, "SnapshotsForgotten", "8 full resync copies snapshots", nil, nil},
	{mutant.SnapshotsKept, "SnapshotsKept", "8 full resync copies snapshots", nil, nil},
	{mutant.SnapshotUnlisted, "SnapshotUnlisted", "8 full resync copies snapshots", []uint64{0}, []string{"chunks", "snapshot", "outgrow"}},
	{mutant.SnapshotLost, "SnapshotLost", "4 diverged tails are found", []uint64{0}, []string{"drop", "minority"}},
	{mutant.SettleEarly, "SettleEarly", "10 snapshots are exact prefixes", nil, nil},
	{mutant.PullUnlocked, "PullUnlocked", "8 replica to replica", []uint64{0, 1, 2, 3}, []string{"chunks", "overwrite", "outgrow", "disk"}},
	{mutant.PullOutlives, "PullOutlives", "8 replica to replica", []uint64{0, 1, 2, 3}, []string{"chunks", "outlast", "outgrow", "disk"}},
	{mutant.FetchAny, "FetchAny", "8 replica to replica", []uint64{0, 1}, []string{"chunks", "forget", "outgrow"}},
	{mutant.ListOfAny, "ListOfAny", "8 what changed on both sides", nil, nil},
	{mutant.ListFailed, "ListFailed", "8 what changed on both sides", nil, nil},
	{mutant.FrozenAnywhere, "FrozenAnywhere", "8 replicas in sync are identical", nil, nil},
	{mutant.FrozenLost, "FrozenLost", "8 replicas in sync are identical", []uint64{0}, []string{"rot"}},
	{mutant.VerifyBlind, "VerifyBlind", "8 replicas in sync are identical", nil, nil},
	{mutant.SizeEarly, "SizeEarly", "10 the size is as durable as what is in it", []uint64{0}, []string{"resize", "split", "minority"}},
	{mutant.SizeUnordered, "SizeUnordered", "1 the Seq is in the TXG of the data", []uint64{0}, []string{"resize"}},
	{mutant.SizeKept, "SizeKept", "8 a replica never counts before it is complete", []uint64{0}, []string{"resize", "crash", "outgrow", "disk"}},
	{mutant.ResizeRoomless, "ResizeRoomless", "1 every replica has room first", []uint64{0}, []string{"resize", "full"}},
	{mutant.TurnKept, "TurnKept", "8 rebuilds do not storm", nil, nil},
	{mutant.KeepForgotten, "KeepForgotten", "10 nothing is lost while fewer than W voters fail", []uint64{0, 3}, bereft},
	{mutant.KeepForEver, "KeepForEver", "10 nothing is lost while fewer than W voters fail", []uint64{0, 3}, bereft},
	{mutant.KeepUnreturned, "KeepUnreturned", "8 a replica never counts before it is complete", []uint64{3}, bereft},
	{mutant.ReturnHalf, "ReturnHalf", "8 a replica never counts before it is complete", []uint64{3}, bereft},
	{mutant.ReturnUnpromised, "ReturnUnpromised", "2 the promise is persistent", []uint64{3}, bereft},
	{mutant.ReturnSized, "ReturnSized", "8 a replica never counts before it is complete", []uint64{3}, append([]string{"resize"}, bereft...)},
	{mutant.ReturnHistory, "ReturnHistory", "4 diverged tails are found", []uint64{3}, bereft},
}

// bereft are faults that take the source of a rebuild.
var bereft = []string{"rebuild", "bereave", "minority", "split", "outgrow", "kill"}

const row = "%-17s %-50s %-9s %-13s %s\n"

// TestMutants: each is caught within -seeds runs, or the simulator could not
// see that rule break; the same run without it breaks nothing.
func TestMutants(t *testing.T) {
	defer mutant.Set(mutant.None)
	fmt.Printf(row, "MUTANT", "RULE", "AT SEED", "BY CHECK", "SECONDS")
	for _, m := range mutants {
		if *only != 0 && mutant.ID(*only) != m.id {
			continue
		}
		mutant.Set(m.id)
		opt := func(seed uint64) Options {
			o := options(seed)
			if m.plans != nil {
				o = plan(seed, m.plans[seed%uint64(len(m.plans))])
			}
			o.Focus = m.focus
			return o
		}
		found := Hunt{From: *first, To: *first + *seeds - 1, Options: opt}.Run()
		seconds := fmt.Sprintf("%.1f", found.Elapsed.Seconds())
		if found.Broken == nil {
			t.Errorf("mutant %s (%d) survived %d seeds", m.name, m.id, found.Seeds)
			fmt.Printf(row, m.name, m.rule, "SURVIVED", "", seconds)
			continue
		}
		fmt.Printf(row, m.name, m.rule, fmt.Sprint(found.Broken.Seed), found.Broken.Check, seconds)
		mutant.Set(mutant.None)
		if _, broken := Run(opt(found.Broken.Seed)); broken != nil {
			t.Errorf("mutant %s (%d) is not what breaks %v", m.name, m.id, broken)
		}
	}
}
