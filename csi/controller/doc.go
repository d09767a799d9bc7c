// Package controller is the CSI Controller service: it turns calls into
// changes of Volume objects and waits for what the operator and the target
// make of them.
//
// # Concurrency
//
// Server keeps nothing between calls; the truth is the Volume. Locked gives
// one call at a time to each volume, and Server relies on the API server's
// optimistic concurrency beyond that, so a second replica is harmless.
//
// # Waiting
//
// CreateVolume waits for the Placed condition, ControllerPublishVolume for an
// address, DeleteVolume for the finalizer, each bounded; what is not there in
// time is an error that is retried and whose text, the condition's reason and
// message, ends up in the events of the PVC.
package controller
