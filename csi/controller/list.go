package controller

import (
	"context"
	"math"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/csi/capability"
)

// tokenPrefix begins a page token; the name of the last volume told follows.
const tokenPrefix = "after:"

// ListVolumes tells all volumes by name, in pages when asked so.
func (s *Server) ListVolumes(ctx context.Context, q *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	part, next, err := s.page(ctx, q)
	if err != nil {
		return nil, err
	}
	r := &csi.ListVolumesResponse{NextToken: next}
	for i := range part {
		r.Entries = append(r.Entries, &csi.ListVolumesResponse_Entry{Volume: described(&part[i])})
	}
	return r, nil
}

// ControllerListVolumeHealth tells the health of all volumes, in the same pages.
func (s *Server) ControllerListVolumeHealth(ctx context.Context, q *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	part, next, err := s.page(ctx, q)
	if err != nil {
		return nil, err
	}
	r := &csi.ControllerListVolumeHealthResponse{NextToken: next}
	for i := range part {
		r.Entries = append(r.Entries, health(&part[i]))
	}
	return r, nil
}

// paged is a request for a page.
type paged interface {
	GetMaxEntries() int32
	GetStartingToken() string
}

func (s *Server) page(ctx context.Context, q paged) (part []v1alpha1.Volume, next string, err error) {
	if q.GetMaxEntries() < 0 {
		return nil, "", invalid("max_entries is %d", q.GetMaxEntries())
	}
	after, ok := strings.CutPrefix(q.GetStartingToken(), tokenPrefix)
	if !ok && q.GetStartingToken() != "" {
		return nil, "", status.Errorf(codes.Aborted, "starting_token %q is not one of this driver; start again without one", q.GetStartingToken())
	}
	var all v1alpha1.VolumeList
	if err := s.opt.Client.List(ctx, &all); err != nil {
		return nil, "", fromAPI(err, "list volumes")
	}
	part, next = cut(all.Items, after, int(q.GetMaxEntries()))
	return part, next, nil
}

// cut is what comes after a name, at most n of it unless n is 0, and the token
// of what follows.
func cut(all []v1alpha1.Volume, after string, n int) (part []v1alpha1.Volume, next string) {
	slices.SortFunc(all, func(x, y v1alpha1.Volume) int { return strings.Compare(x.Name, y.Name) })
	start := 0
	if after != "" {
		start, _ = slices.BinarySearchFunc(all, after+"\x00", func(v v1alpha1.Volume, name string) int { return strings.Compare(v.Name, name) })
	}
	part = all[start:]
	if n > 0 && len(part) > n {
		part = part[:n]
		next = tokenPrefix + part[n-1].Name
	}
	return part, next
}

func described(v *v1alpha1.Volume) *csi.Volume {
	return &csi.Volume{VolumeId: v.Name, CapacityBytes: v.Spec.Size.Value()}
}

// ControllerGetVolume tells one volume.
func (s *Server) ControllerGetVolume(ctx context.Context, q *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	if q.GetVolumeId() == "" {
		return nil, invalid("a volume ID is wanted")
	}
	v := &v1alpha1.Volume{}
	if err := s.get(ctx, q.GetVolumeId(), v); err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeResponse{Volume: described(v), Status: &csi.ControllerGetVolumeResponse_VolumeStatus{}}, nil
}

// ControllerGetVolumeHealth tells what is wrong with one volume.
func (s *Server) ControllerGetVolumeHealth(ctx context.Context, q *csi.ControllerGetVolumeHealthRequest) (*csi.ControllerGetVolumeHealthResponse, error) {
	if q.GetVolumeId() == "" {
		return nil, invalid("a volume ID is wanted")
	}
	v := &v1alpha1.Volume{}
	if err := s.get(ctx, q.GetVolumeId(), v); err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: health(v)}, nil
}

// severity is what a condition that is False means to the volume.
var severity = map[string]csi.VolumeHealthErrorType{
	v1alpha1.ConditionPlaced:   csi.VolumeHealthErrorType_INACCESSIBLE,
	v1alpha1.ConditionServing:  csi.VolumeHealthErrorType_INACCESSIBLE,
	v1alpha1.ConditionIntact:   csi.VolumeHealthErrorType_DEGRADED,
	v1alpha1.ConditionHealthy:  csi.VolumeHealthErrorType_DEGRADED,
	v1alpha1.ConditionRecorded: csi.VolumeHealthErrorType_DEGRADED, // no other target could take over
	v1alpha1.ConditionSame:     csi.VolumeHealthErrorType_DEGRADED,
	v1alpha1.ConditionPrefix:   csi.VolumeHealthErrorType_DATA_LOSS,
}

func health(v *v1alpha1.Volume) *csi.VolumeHealth {
	h := &csi.VolumeHealth{VolumeId: v.Name}
	seen := map[string]bool{}
	for _, c := range v.Status.Conditions {
		what, known := severity[c.Type]
		if c.Type == v1alpha1.ConditionPlaced && len(v.Status.Replicas) > 0 {
			what = csi.VolumeHealthErrorType_DEGRADED // a further replica has no place
		}
		key := what.String() + c.Reason
		if !known || c.Status != metav1.ConditionFalse || seen[key] {
			continue
		}
		seen[key] = true
		h.HealthStatuses = append(h.HealthStatuses, &csi.VolumeHealth_VolumeHealthEntry{Status: what, Reason: c.Reason, Message: c.Message})
	}
	return h
}

// GetCapacity tells the largest volume that could be placed now.
func (s *Server) GetCapacity(ctx context.Context, q *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	if len(q.GetVolumeCapabilities()) > 0 && capability.Check(q.GetVolumeCapabilities()) != nil {
		return &csi.GetCapacityResponse{}, nil
	}
	p, err := ParseParams(q.GetParameters(), nil)
	if err != nil {
		return nil, invalid("%v", err)
	}
	var pools v1alpha1.StoragePoolList
	opts := []client.ListOption{}
	if p.PoolSelector != nil {
		opts = append(opts, client.MatchingLabelsSelector{Selector: labels.SelectorFromSet(p.PoolSelector)})
	}
	if err := s.opt.Client.List(ctx, &pools, opts...); err != nil {
		return nil, fromAPI(err, "list storage pools")
	}
	largest := largestVolume(pools.Items, p)
	return &csi.GetCapacityResponse{AvailableCapacity: largest, MaximumVolumeSize: wrapperspb.Int64(largest), MinimumVolumeSize: wrapperspb.Int64(mib)}, nil
}

// An extent is larger than the volume: room for ZFS's own.
const (
	extentOverheadPercent = 5
	extentOverhead        = 256 * mib
)

// largestVolume is what the replicas' nodes, each the emptiest it can be,
// could all hold.
func largestVolume(pools []v1alpha1.StoragePool, p Params) int64 {
	free := map[string]int64{} // by node, in its best pool
	for i := range pools {
		if p.Pool != "" && pools[i].Name != p.Pool {
			continue
		}
		for _, n := range pools[i].Status.Nodes {
			if n.Ready {
				free[n.Name] = max(free[n.Name], promisable(pools[i].Spec, n))
			}
		}
	}
	sizes := make([]int64, 0, len(free))
	for _, f := range free {
		sizes = append(sizes, f)
	}
	if len(sizes) < int(p.Replicas) {
		return 0
	}
	slices.Sort(sizes)
	extent := sizes[len(sizes)-int(p.Replicas)]
	return max(0, (extent-extentOverhead)/(100+extentOverheadPercent)*100/mib*mib)
}

// promisable is what a node's part of a pool may still promise.
func promisable(s v1alpha1.StoragePoolSpec, n v1alpha1.PoolNode) int64 {
	reserve, over := int64(10), int64(100)
	if s.ReservePercent != nil {
		reserve = int64(*s.ReservePercent)
	}
	if s.OvercommitPercent != nil {
		over = int64(*s.OvercommitPercent)
	}
	usable := n.Capacity.Value() / 100 * (100 - reserve)
	if usable > math.MaxInt64/over {
		return math.MaxInt64 - n.Promised.Value()
	}
	return max(0, usable*over/100-n.Promised.Value())
}
