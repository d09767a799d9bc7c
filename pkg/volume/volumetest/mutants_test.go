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
	id   mutant.ID
	name string
	rule string
}{
	{mutant.AckEarly, "AckEarly", "3 write quorum"},
	{mutant.CatchUpCounts, "CatchUpCounts", "8 a replica never counts before it is complete"},
	{mutant.FlushByOne, "FlushByOne", "6 durability"},
	{mutant.FlushForgotten, "FlushForgotten", "6 durability"},
	{mutant.ReadUnsettled, "ReadUnsettled", "10 linearizable registers"},
	{mutant.NoLease, "NoLease", "7 reads within a lease"},
	{mutant.LeaseFromPong, "LeaseFromPong", "7 reads within a lease"},
	{mutant.NoLeaseWait, "NoLeaseWait", "7 reads within a lease"},
	{mutant.EpochUnswapped, "EpochUnswapped", "2 an epoch is acquired before it is used"},
	{mutant.EarlyRequests, "EarlyRequests", "2 a superseded target gets no write accepted"},
	{mutant.StaleHost, "StaleHost", "2 a superseded target gets no write accepted"},
	{mutant.RecoverFromOne, "RecoverFromOne", "4 recovery meets every write quorum"},
	{mutant.SuspectCounts, "SuspectCounts", "6 unclean starts"},
	{mutant.EmptyCounts, "EmptyCounts", "6 unclean starts"},
	{mutant.LongestSeq, "LongestSeq", "4 the longest history by (epoch, Seq)"},
	{mutant.TailForgotten, "TailForgotten", "4 the longest history by (epoch, Seq)"},
	{mutant.NoInitialized, "NoInitialized", "6 unclean starts"},
	{mutant.DivergedCatchUp, "DivergedCatchUp", "4 diverged tails are found"},
	{mutant.OwnTailForgotten, "OwnTailForgotten", "8 what changed on both sides"},
	{mutant.NoChunkLock, "NoChunkLock", "8 resync"},
	{mutant.BeginEarly, "BeginEarly", "8 a replica never counts before it is complete"},
	{mutant.AnyEpoch, "AnyEpoch", "2 lower epochs are refused for ever"},
	{mutant.AnyConnection, "AnyConnection", "1 one order"},
	{mutant.PromiseInMemory, "PromiseInMemory", "2 the promise is persistent"},
	{mutant.UncleanUnseen, "UncleanUnseen", "6 unclean starts"},
	{mutant.FlushInMemory, "FlushInMemory", "6 durability"},
	{mutant.RebuildUnmarked, "RebuildUnmarked", "8 a replica never counts before it is complete"},
	{mutant.MarkApart, "MarkApart", "1 the Seq is in the TXG of the data"},
	{mutant.ChangeEarly, "ChangeEarly", "5 swapped before it takes effect"},
	{mutant.NotJoint, "NotJoint", "5 swapped before it takes effect"},
	{mutant.NoChangeFlush, "NoChangeFlush", "6 durability"},
	{mutant.NewVotersBehind, "NewVotersBehind", "4 recovery meets every write quorum"},
	{mutant.DoubtForgotten, "DoubtForgotten", "5 compare-and-swap under the epoch"},
	{mutant.TwoChanges, "TwoChanges", "5 voters change one at a time"},
	{mutant.LevelUnsaid, "LevelUnsaid", "3 the quorum is that of the record"},
	{mutant.StaleAnswer, "StaleAnswer", "2 an epoch is acquired before it is used"},
}

const row = "%-17s %-50s %-9s %-13s %s\n"

// TestMutants: each is caught within -seeds runs, or the simulator could not
// see that rule break.
func TestMutants(t *testing.T) {
	defer mutant.Set(mutant.None)
	fmt.Printf(row, "MUTANT", "RULE", "AT SEED", "BY CHECK", "SECONDS")
	for _, m := range mutants {
		if *only != 0 && mutant.ID(*only) != m.id {
			continue
		}
		mutant.Set(m.id)
		found := Hunt{From: *first, To: *first + *seeds - 1, Options: options}.Run()
		seconds := fmt.Sprintf("%.1f", found.Elapsed.Seconds())
		if found.Broken == nil {
			t.Errorf("mutant %s (%d) survived %d seeds", m.name, m.id, found.Seeds)
			fmt.Printf(row, m.name, m.rule, "SURVIVED", "", seconds)
			continue
		}
		fmt.Printf(row, m.name, m.rule, fmt.Sprint(found.Broken.Seed), found.Broken.Check, seconds)
	}
}
