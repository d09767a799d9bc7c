package poolnode

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/internal/members"
	"github.com/cask-storage/cask/pkg/ioc"
)

// AnnotationReplaceDisk on a StoragePool lists, separated by commas, the pool
// IDs of disks that are gone for good: where one of them is recorded, an empty
// directory is accepted in its place. The name of a node in the list accepts an
// empty directory there when no ID is recorded though Volumes have replicas on
// it.
const AnnotationReplaceDisk = "cask.storage/replace-disk"

// Reasons of a node's entry.
const (
	ReasonReady     = "Ready"
	ReasonFaulty    = "FaultyExtents"
	ReasonOrphans   = "OrphanedExtents"
	ReasonLowSpace  = "LowSpace"
	ReasonDirectory = "WrongDirectory"
	ReasonBusy      = "DirectoryInUse"
	ReasonTooNew    = "NewerFormat"
	ReasonStarting  = "Starting"
	ReasonIO        = "InputOutputError"
	ReasonNoSpace   = "NoSpace"
)

// terms are what the StoragePool and the Volumes say about opening the
// directory.
func terms(base ioc.FileConfig, pool *v1alpha1.StoragePool, volumes []v1alpha1.Volume) ioc.FileConfig {
	cfg := base
	cfg.Limits = limits(pool)
	replaced := strings.Split(pool.Annotations[AnnotationReplaceDisk], ",")
	for i := range replaced {
		replaced[i] = strings.TrimSpace(replaced[i])
	}
	recorded := entry(pool, base.Node).PoolID
	switch {
	case recorded != "" && slices.Contains(replaced, recorded):
		cfg.FirstUse = true
	case recorded != "":
		cfg.ExpectID = recorded
	default:
		cfg.FirstUse = !hasReplica(volumes, base) || slices.Contains(replaced, base.Node)
	}
	return cfg
}

func limits(pool *v1alpha1.StoragePool) ioc.Limits {
	l := ioc.DefaultLimits
	if p := pool.Spec.ReservePercent; p != nil && *p >= 0 {
		l.ReservePercent = uint32(*p)
	}
	if p := pool.Spec.OvercommitPercent; p != nil && *p >= 0 {
		l.OvercommitPercent = uint32(*p)
	}
	return l
}

// entry returns the node's entry, empty when there is none.
func entry(pool *v1alpha1.StoragePool, node string) v1alpha1.PoolNode {
	for _, n := range pool.Status.Nodes {
		if n.Name == node {
			return n
		}
	}
	return v1alpha1.PoolNode{}
}

func hasReplica(volumes []v1alpha1.Volume, at ioc.FileConfig) bool {
	return slices.ContainsFunc(volumes, func(v v1alpha1.Volume) bool {
		return slices.ContainsFunc(v.Status.Replicas, func(r v1alpha1.VolumeReplica) bool {
			return r.Node == at.Node && r.Pool == at.Pool && !r.Released
		})
	})
}

// observed is what the directory says of itself.
type observed struct {
	status  ioc.Status
	extents []ioc.Extent
	problem error // why it cannot be used; the rest is then empty
}

// describe makes the entry to report. The recorded pool ID stays when the
// directory could not be opened: it is what the right disk is known by.
func describe(cfg ioc.FileConfig, recordedID string, o observed, volumes []v1alpha1.Volume) v1alpha1.PoolNode {
	n := v1alpha1.PoolNode{Name: cfg.Node, PoolID: recordedID}
	if o.problem != nil {
		n.Reason, n.Message = reasonOf(ioc.CodeOf(o.problem)), o.problem.Error()
		return n
	}
	n.Ready, n.PoolID, n.Extents = true, o.status.PoolID, int32(o.status.Extents)
	n.Capacity, n.Free = bytes(o.status.Capacity), bytes(o.status.Free)
	n.Promised, n.Available = bytes(o.status.Promised), bytes(o.status.Available)
	n.Reason, n.Message = remark(cfg, o, volumes)
	return n
}

// remark says what a person should know of a directory that works.
func remark(cfg ioc.FileConfig, o observed, volumes []v1alpha1.Volume) (reason, message string) {
	var faulty, orphans []string
	for _, x := range o.extents {
		switch {
		case x.Fault != ioc.CodeOK:
			faulty = append(faulty, x.Name+" ("+x.Fault.Error()+")")
		case !owned(x.Name, volumes):
			orphans = append(orphans, x.Name)
		}
	}
	switch {
	case len(faulty) > 0:
		return ReasonFaulty, fmt.Sprintf("%d extents are unsound and their replicas have to be rebuilt: %s", len(faulty), few(faulty))
	case o.status.Free < o.status.Capacity/100*uint64(cfg.Limits.ReservePercent):
		return ReasonLowSpace, fmt.Sprintf("less than the reserve of %d%% is free in %s; free space or add nodes to the pool",
			cfg.Limits.ReservePercent, cfg.Dir)
	case len(orphans) > 0:
		return ReasonOrphans, fmt.Sprintf("%d extents belong to no Volume and are kept: %s; once they are known to be useless, delete their files in %s/extents",
			len(orphans), few(orphans), cfg.Dir)
	}
	return ReasonReady, ""
}

func owned(extent string, volumes []v1alpha1.Volume) bool {
	cut := max(strings.LastIndexByte(extent, '-'), 0)
	volume, id := extent[:cut], strings.TrimPrefix(extent[cut:], "-")
	return slices.ContainsFunc(volumes, func(v v1alpha1.Volume) bool {
		return v.Name == volume && slices.ContainsFunc(v.Status.Replicas, func(r v1alpha1.VolumeReplica) bool { return r.ID == id })
	})
}

func few(names []string) string {
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

func bytes(n uint64) resource.Quantity {
	return *resource.NewQuantity(int64(min(n, 1<<63-1)), resource.BinarySI)
}

func reasonOf(c ioc.Code) string {
	switch c {
	case ioc.CodeForeign:
		return ReasonDirectory
	case ioc.CodeBusy:
		return ReasonBusy
	case ioc.CodeTooNew:
		return ReasonTooNew
	case ioc.CodeUnavailable:
		return ReasonStarting
	case ioc.CodeNoSpace:
		return ReasonNoSpace
	}
	return ReasonIO
}

// worthReporting keeps status to transitions: space counts when it moved by a
// hundredth of the capacity.
func worthReporting(old, now v1alpha1.PoolNode) bool {
	same := old.Name == now.Name && old.Ready == now.Ready && old.PoolID == now.PoolID &&
		old.Reason == now.Reason && old.Message == now.Message && old.Extents == now.Extents &&
		old.Capacity.Equal(now.Capacity) && old.Promised.Equal(now.Promised)
	step := now.Capacity.Value() / 100
	return !same || distance(old.Free, now.Free) > step || distance(old.Available, now.Available) > step
}

func distance(a, b resource.Quantity) int64 {
	d := a.Value() - b.Value()
	return max(d, -d)
}

// toRelease lists the replicas whose extents this node and pool must delete
// now, and those it has released before.
func toRelease(v *v1alpha1.Volume, at ioc.FileConfig) (now, before []string) {
	for _, r := range v.Status.Replicas {
		switch {
		case r.Node != at.Node || r.Pool != at.Pool:
		case r.Released:
			before = append(before, r.ID)
		case v.Releasing() || r.Releasing && members.Left(&v.Status, r):
			now = append(now, r.ID)
		}
	}
	return now, before
}
