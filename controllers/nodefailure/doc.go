// Package nodefailure takes a failed node out of service, so that Kubernetes
// moves the pods that use Cask's volumes there to other nodes in seconds
// instead of never.
//
// Kubernetes detaches a volume from a node that does not answer only when
// somebody vouches that nothing writes there any more, by the taint
// node.kubernetes.io/out-of-service. For Cask's volumes the operator can vouch,
// in this order, each step recorded before the next:
//
//  1. A node with volumes is not ready for longer than a grace period. The
//     attachment of each of its volumes is withdrawn (spec.attachment), and kept
//     in an annotation.
//  2. A target that is not on that node acquires the volume's epoch, if it had
//     been there, which fences the old target at the replicas; the live target
//     cuts off the hosts of the withdrawn attachment and only then says so in
//     status.target.attachment.
//  3. When that holds for every volume of the node, the node is tainted.
//  4. The node's pods that the taint has told to end are deleted, as the pod
//     garbage collector would up to 20 s later.
//  5. When the node is ready again the taint is removed, and a withdrawn
//     attachment that Kubernetes still counts on is given back.
//
// The node is not tainted while other CSI drivers have volumes attached there:
// nobody has fenced those.
//
// Each pass is gather (past the cache), decide (pure) and apply. Concurrency: one
// pass for each Node at a time, by controller-runtime; Reconciler.mu guards what
// was said last.
package nodefailure

// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;delete
// +kubebuilder:rbac:groups=cask.storage,resources=volumes,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=storage.k8s.io,resources=volumeattachments,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
