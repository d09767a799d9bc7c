// Package attack attacks a volume of real processes on the real engine: a
// seeded schedule of kills, stops, partitions, slow links, full disks, lost
// authority and moved targets, under the load of two hosts whose history must be
// linearizable, and durable after a flush. `make attack ROUNDS=n SEED=s`;
// `make measure-replication` takes the numbers users ask for.
//
// # Isolation
//
// The test runs itself again as the first process of its own PID, mount and
// network namespaces: whatever way it ends, the kernel takes its processes,
// mounts and networks with it. Each process of the volume has a network
// namespace of its own with one TUN device; the switch between them is a
// goroutine of the test, which drops, delays and counts packets (lan_test.go).
// Nothing is left but a directory cask-attack-… in the temporary directory when
// the outer process is killed; the next run removes it.
//
// # A round
//
// A round's plan depends on the seed and its number only (plan_test.go): up to
// four faults that overlap, among them memory lost by at most one replica (or,
// in a round of its own kind, by all: then only flushed writes must survive).
// Then everything heals, all requests must complete, all replicas must be in
// sync, and the round's history is judged.
package attack
