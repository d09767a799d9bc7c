// Package mutant breaks one rule of replication at a time, so that the
// simulator can show that it would notice. Without the build tag "mutants" On
// is a constant false and nothing of it is left in a program.
//
// # Concurrency
//
// Set is called before anything that asks On is started.
package mutant

// ID names a broken rule.
type ID uint8

// The mutants, by where they are.
const (
	None ID = iota

	// Acknowledging (pkg/volume, write.go, read.go).
	AckEarly       // acknowledges when one voter too few has the operation
	CatchUpCounts  // replicas that still catch up or are rebuilt count
	FlushByOne     // a flush is answered when one replica has answered
	FlushForgotten // FUA is acknowledged without a flush
	ReadUnsettled  // reads see operations that are not acknowledged
	NoLease        // reads need no lease
	LeaseFromPong  // the lease runs from the confirmation's arrival

	// Taking over (pkg/volume, core.go, recover.go).
	NoLeaseWait     // serves while an older target may still serve reads
	EpochUnswapped  // speaks for an epoch before the swap that acquires it
	EarlyRequests   // takes requests while an older target may still get writes accepted
	StaleHost       // does what hosts asked for before another target took over
	RecoverFromOne  // any one voter is enough to recover from
	SuspectCounts   // a voter that lost memory counts in recovery
	MissedAlone     // a voter that missed an epoch is not asked for although nobody is there who surely holds what that began with
	BegunAdopted    // a voter is taken to have begun the epoch that it has only adopted
	EmptyCounts     // an empty replica counts although writes were accepted
	LongestSeq      // the longest history is the one with the highest Seq, whatever its epoch
	TailForgotten   // what the best replica has and others miss is dropped
	NoInitialized   // writes are accepted before the record says they may exist
	DivergedCatchUp // a replica whose tail diverged is sent what follows

	// Rebuilding (pkg/volume, rebuild.go).
	OwnTailForgotten // what only the returning replica changed is not copied
	NoChunkLock      // writes pass a chunk that is being copied
	BeginEarly       // a replica counts before the last chunk has arrived

	// The replica (pkg/replica).
	AnyEpoch        // obeys connections of superseded epochs
	AnyConnection   // obeys an older connection of the same epoch
	PromiseInMemory // answers before the promise is stable
	UncleanUnseen   // takes a start after a crash for a clean one
	FlushInMemory   // answers a flush without one
	RebuildUnmarked // stays a member while it is rebuilt
	MarkApart       // the mark is written before the data
	AheadUnseen     // a request finds what was acknowledged not applied
	AheadDropped    // a stop in good order leaves out what was acknowledged and not applied

	// Changing voters (pkg/volume, change.go).
	ChangeEarly     // a change takes effect before the swap
	NotJoint        // while a swap is open only the old voters acknowledge
	NoChangeFlush   // a change does not wait for the new voters' stable storage
	NewVotersBehind // a change does not wait until a write quorum of the new voters is in sync
	DoubtForgotten  // a swap whose outcome is unknown is taken for refused
	TwoChanges      // a second change begins while the first is open
	LevelUnsaid     // a change of level is not recorded
	StaleAnswer     // the answer to a swap of an epoch given up is taken for the next one's
	DenialTaken     // a vote that the authority denied is taken for given

	// Rebuilds that go on where they were (pkg/volume, resume.go).
	ResumeStale    // what changed meanwhile is not copied again
	ResumeOwn      // what only the returning replica did meanwhile is not copied again
	ResumeInFlight // chunks that have not arrived count as copied
	ResumeExact    // what was copied before counts as equal before it was brought up to date
	PullUnlocked   // writes pass a chunk that a replica fetches from another
	PullOutlives   // what was fetched is applied although its connection is over
	FetchAny       // any replica is a source, whatever it holds
	TurnKept       // a turn to be rebuilt outlives the connection
	ResumeInTwo    // a diverged replica keeps what it had copied before that was made good

	// Snapshots.
	SnapshotRebuilding // a replica that is rebuilt takes snapshots of what it has
	SnapshotsForgotten // a rebuild leaves out the source's snapshots
	SnapshotsKept      // a rebuilt replica keeps snapshots that the source has dropped
	SnapshotUnlisted   // a rebuild does not look whether its list of snapshots is still true
	SnapshotLost       // a rebuilt replica does not get back what only its own tail had dropped
	SettleEarly        // a rebuilt replica takes a snapshot before its last chunk has arrived

	// Sessions after a loss (pkg/volume, session.go).
	SessionKept      // reopened from the best copy, hosts go on as if nothing had been lost
	SessionInMemory  // the record does not say that sessions are over
	SessionUnchecked // requests of sessions that are over are taken
	WaitingKept      // what waits when sessions end is done nevertheless
	// Hedged reads (pkg/volume, hedge.go).
	HedgeStale     // a read is hedged to a replica that waits to be rebuilt
	HedgeUnsettled // hedges see operations that are not acknowledged
	// Repairing (pkg/volume, repair.go; pkg/replica, damage.go).
	RepairUnlocked // writes pass an extent that is being repaired
	LostServed     // what was lost is read as zeroes
	// Lists of what changed (pkg/volume, resume.go).
	ListOfAny  // what changed is taken from a replica that does not have all of the history
	ListFailed // a replica that cannot list what changed counts as one where nothing did
	// Comparing replicas (pkg/volume, verify.go; pkg/replica, frozen.go).
	FrozenAnywhere // replicas freeze what they are to be compared by at different places of the history
	FrozenLost     // what a replica lost is compared as if it were content
	VerifyBlind    // digests that differ are not looked into
	// What a replica keeps while it is rebuilt (pkg/replica, keep.go; pkg/volume, recover.go).
	KeepForgotten    // it keeps nothing
	KeepForEver      // what it kept once stays, whatever it acknowledges later
	KeepUnreturned   // what is half rebuilt is taken for what was kept
	ReturnHalf       // it is what it was before all of it is back
	ReturnUnpromised // it forgets what it promised since
	ReturnSized      // it keeps the size that it was rebuilt to
	ReturnHistory    // it takes the history it was rebuilt to for that of what it kept

	// Resizing (pkg/volume, resize.go; pkg/replica).
	SizeEarly      // the new size is served before it is acknowledged
	SizeUnordered  // a replica takes the new size when it makes room for it
	SizeKept       // a rebuilt replica keeps the size that it had
	ResizeRoomless // the volume grows before a replica has room

	Count
)
