// Package kube connects a target to its Volume in a cluster: it keeps the
// volume's record in the Volume's status (volume.Authority), and the reservations
// of its hosts (target.Keeper), reports what the target sees (target.Reporter),
// and admits the hosts of the one attachment the Volume names (target.Access).
//
// Every write is an update of the status that carries the resourceVersion it was
// decided on, so it takes effect on exactly the state that was read or not at
// all; conflicts are retried from a fresh read for as long as the decision
// stands. Fields of others are never touched, and after another target has
// acquired an epoch nothing is written any more.
//
// # What status.target.attachment promises
//
// The operator lets Kubernetes move a volume from a failed node when
// status.target.attachment is not that node's any more. So its value covers every
// host that may be connected, at all times:
//
//   - Acquiring an epoch writes the attachment of the same version of the
//     object, before the target has any host.
//   - Admit publishes an attachment before it admits the first host of it.
//   - Settle publishes a change only after the target has asked again about
//     every host, and only if nothing was admitted meanwhile.
//
// This needs one thing of the target: a host that Admit is being asked about is
// already among those that recheck asks about. Otherwise one could slip in
// between the two.
//
// # A record that was edited by hand
//
// The target knows what it wrote. So whenever a version of the object is observed
// that is the target's own to judge, its record is compared with that, and if it is
// another the condition Recorded is False, with an Event: which fields, what they
// are, and the command that puts them back. In the same update status.refused keeps
// every later target from the record. The target itself goes on: it never reads what
// was written there. Nobody repairs anything but the person who did it.
//
// What makes this never a false alarm:
//
//   - From before a swap is sent until the next one begins both its records are
//     the target's own, unless it was answered: then it is the new one alone. The
//     core takes no other step while an outcome is not known.
//   - An acquisition has the target own nothing until it is known to have
//     succeeded, and giving the epoch back has it own nothing from then on.
//   - A higher epoch of another holder is a newer target: nothing is judged then.
//   - What is told is told in an update of the version that was judged, and a
//     record is known as the target's own before a version can hold it. So a swap
//     that is faster makes that a conflict, and the next version is judged.
//
// What it cannot tell: an edit while there is no target, and one to a higher epoch and
// another holder. Replicas refuse those whose epoch they have outlived; otherwise the
// next target goes by them.
//
// # Concurrency
//
// All methods may be called from any goroutine. Volume.mu guards what is known of
// the object and is never held across a call to the API server; the semaphore
// publishing is, so that changes of the published attachment come one after the
// other. Lock order: publishing, then mu. Run is the only goroutine; its caller
// waits for it.
package kube

// A role cannot name one volume's object without being made for that volume, and
// an operator that may make roles and bindings is worse than targets that can
// write each other's status: so all targets share one service account.
//
// +kubebuilder:rbac:groups=cask.storage,resources=volumes,verbs=get;list;watch
// +kubebuilder:rbac:groups=cask.storage,resources=volumes/status,verbs=update
// +kubebuilder:rbac:groups="",resources=events,verbs=create
