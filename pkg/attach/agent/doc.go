//go:build linux

// Package agent attaches volumes on a node, each in a process of its own, and
// is told to by others (the CSI node plugin) over a unix socket.
//
//	CSI node plugin ─ HTTP+JSON ─► agent ─┬─ child: block.Device ─ FUSE ─ /dev/loop0
//	                                      ├─ child: …
//	                                      └─ kernel NVMe/TCP: no child at all
//
// # What survives what
//
// Attachments survive the node plugin: it only asks. They survive the agent
// too, for a child is a session of its own with a socket of its own, recorded
// in the run directory: an agent that starts adopts the children that answer.
// What it cannot adopt it cleans up by recorded state, and nothing else is
// ever touched: a loop device only if the recorded file is behind it, a
// process only if its start time is the recorded one, nothing at all from
// before the last boot. In a container the children end with it, so Supervise
// is process 1 there and the agent its child.
//
// What a host proves itself with (Request.Secrets) goes from the agent to a
// child by a pipe and stays in its memory, or to the kernel, which keeps it with
// the connection. Both reconnect with it, whatever becomes of the agent, and it is
// on no disk: an attachment that has ended is asked for again by who has them.
//
// # Run directory
//
//	agent.sock            the agent's socket
//	lock                  held by the running agent
//	<volume>/state.json   the record (version 1), replaced by rename
//	<volume>/sock         the child's socket
//
// # Protocol
//
// POST /v1/attach Request → Info, POST /v1/detach DetachRequest, GET
// /v1/attachments → []Info. A failure is an HTTP status, which is its class
// (errors.go), and {"error": text}. Requests and answers are bounded by
// maxBody.
//
// # Concurrency
//
// One operation at a time for each volume, any number for different volumes.
// Lock order: a volume's lock, then Agent.mu. Each child has one goroutine
// that watches it, which Close ends and waits for.
package agent
