package controller

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/csi/capability"
	"github.com/cask-storage/cask/csi/identity"
)

const (
	mib         = 1 << 20
	defaultSize = 1 << 30
	maxSize     = 1 << 50
	maxCSIName  = 128
	// maxObjectName leaves room in a Service's name for what the operator
	// appends.
	maxObjectName = 52
)

// NameAnnotation holds the CSI name of a Volume whose object name is not it.
const NameAnnotation = "cask.storage/csi-name"

var objectNameShape = regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)

// objectName is the CSI name itself where it can be, as all that the
// provisioner makes are (pvc-<uid>), and a hash of it otherwise.
func objectName(name string) string {
	if len(name) <= maxObjectName && objectNameShape.MatchString(name) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "cask-" + hex.EncodeToString(sum[:16])
}

// wanted is a CreateVolume request, checked.
type wanted struct {
	name        string // of the object
	csiName     string
	params      Params
	size, limit int64 // size rounded up; limit 0: none
	required    int64
	preferred   string // node
	claim       claim
}

// claim is the PVC, when the provisioner says so.
type claim struct{ namespace, name string }

func (c claim) String() string {
	if c.name == "" {
		return ""
	}
	return c.namespace + "/" + c.name
}

func parseCreate(q *csi.CreateVolumeRequest) (wanted, error) {
	w := wanted{csiName: q.GetName(), name: objectName(q.GetName())}
	if q.GetName() == "" || len(q.GetName()) > maxCSIName {
		return w, invalid("a volume name of 1 to %d bytes is wanted, this one has %d", maxCSIName, len(q.GetName()))
	}
	if err := capability.Check(q.GetVolumeCapabilities()); err != nil {
		return w, invalid("volume %s: %v", w.csiName, err)
	}
	if q.GetVolumeContentSource() != nil {
		return w, invalid("volume %s: snapshots and clones are not supported yet; leave the data source out of the PVC", w.csiName)
	}
	var err error
	if w.params, err = ParseParams(q.GetParameters(), q.GetMutableParameters()); err != nil {
		return w, invalid("volume %s: %v", w.csiName, err)
	}
	if w.params.NodesProve == v1alpha1.AuthenticationNodes && w.name != w.csiName {
		return w, invalid("volume %s: with parameter %q its object must have the same name, for the StorageClass names the Secret by it; have it begin with "+
			"a letter, of at most %d lower-case letters, digits and -, or leave the parameter out", w.csiName, ParamNodesProve, maxObjectName)
	}
	if err := w.capacity(q.GetCapacityRange()); err != nil {
		return w, err
	}
	w.preferred = preferredNode(q.GetAccessibilityRequirements())
	w.claim = claim{q.GetParameters()[sidecarPrefix+"pvc/namespace"], q.GetParameters()[sidecarPrefix+"pvc/name"]}
	return w, nil
}

func (w *wanted) capacity(r *csi.CapacityRange) error {
	w.required, w.limit = r.GetRequiredBytes(), r.GetLimitBytes()
	if w.required < 0 || w.limit < 0 || (w.limit > 0 && w.limit < w.required) {
		return status.Errorf(codes.OutOfRange, "volume %s: a capacity range of %d to %d bytes is empty", w.csiName, w.required, w.limit)
	}
	w.size = w.required
	if w.size == 0 {
		w.size = defaultSize
		if w.limit > 0 {
			w.size = min(w.size, w.limit/mib*mib)
		}
	}
	if w.size > maxSize {
		return status.Errorf(codes.OutOfRange, "volume %s: %d bytes are more than the largest volume, %d", w.csiName, w.size, int64(maxSize))
	}
	w.size = (w.size + mib - 1) / mib * mib
	if w.size == 0 || (w.limit > 0 && w.size > w.limit) {
		return status.Errorf(codes.OutOfRange, "volume %s: no multiple of 1Mi lies between %d and %d bytes; raise the limit", w.csiName, w.required, w.limit)
	}
	return nil
}

func preferredNode(r *csi.TopologyRequirement) string {
	for _, t := range r.GetPreferred() {
		if n := t.GetSegments()[identity.TopologyKey]; n != "" {
			return n
		}
	}
	return ""
}

// object is the Volume to create.
func (w wanted) object() *v1alpha1.Volume {
	v := &v1alpha1.Volume{ObjectMeta: metav1.ObjectMeta{Name: w.name}}
	if w.csiName != w.name {
		v.Annotations = map[string]string{NameAnnotation: w.csiName}
	}
	v.Spec = v1alpha1.VolumeSpec{
		Size:          *resource.NewQuantity(w.size, resource.BinarySI),
		Durability:    w.params.Durability,
		Compression:   w.params.Compression,
		RecordSize:    w.params.RecordSize,
		Frontend:      w.params.Frontend,
		Initiators:    w.params.Initiators,
		Pool:          w.params.Pool,
		PreferredNode: w.preferred,
		Claim:         w.claim.String(),
	}
	w.params.into(&v.Spec)
	v.Spec.AuthenticationSecret = w.params.AuthSecret
	if w.params.NodesProve != v1alpha1.AuthenticationNone {
		v.Spec.Authentication = w.params.NodesProve
	}
	if w.params.PoolSelector != nil {
		v.Spec.PoolSelector = &metav1.LabelSelector{MatchLabels: w.params.PoolSelector}
	}
	return v
}

// differs names the first thing that keeps v from being what is wanted.
func (w wanted) differs(v *v1alpha1.Volume) string {
	size := v.Spec.Size.Value()
	if size < w.required || (w.limit > 0 && size > w.limit) {
		return fmt.Sprintf("its size is %d bytes, wanted are %d to %d", size, w.required, w.limit)
	}
	if own := v.Annotations[NameAnnotation]; own != "" && own != w.csiName {
		return fmt.Sprintf("it was made for the name %s", own)
	}
	have := paramsOf(&v.Spec)
	if !maps.Equal(have.PoolSelector, w.params.PoolSelector) {
		return fmt.Sprintf("its %s is %v, wanted is %v", ParamPoolSelector, have.PoolSelector, w.params.PoolSelector)
	}
	for _, c := range []struct{ what, have, want string }{
		{ParamReplicas, fmt.Sprint(have.Replicas), fmt.Sprint(w.params.Replicas)},
		{ParamConsistency, have.Consistency, w.params.Consistency},
		{ParamZones, have.Zones, w.params.Zones},
		{ParamMinVoters, fmt.Sprint(have.MinVoters), fmt.Sprint(w.params.MinVoters)},
		{ParamReplaceAfter, have.ReplaceAfter.String(), w.params.ReplaceAfter.String()},
		{ParamDurability, have.Durability, w.params.Durability},
		{ParamCompression, have.Compression, w.params.Compression},
		{ParamRecordSize, have.RecordSize, w.params.RecordSize},
		{ParamFrontend, have.Frontend, w.params.Frontend},
		{ParamAuth, have.AuthSecret, w.params.AuthSecret},
		{ParamNodesProve, have.NodesProve, w.params.NodesProve},
		{ParamPool, have.Pool, w.params.Pool},
	} {
		if c.have != c.want {
			return fmt.Sprintf("its %s is %q, wanted is %q", c.what, c.have, c.want)
		}
	}
	return ""
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}
