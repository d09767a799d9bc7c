package resources

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

func volume(replicas int) *v1alpha1.Volume {
	v := &v1alpha1.Volume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-1", UID: "uid"},
		Spec: v1alpha1.VolumeSpec{
			Size: resource.MustParse("1Gi"), Consistency: "quorum", Durability: "flush", Compression: "lz4", PreferredNode: "node0",
		},
	}
	v.Status.State = v1alpha1.VolumeHealthy
	for _, id := range []string{"r0", "r1", "r2", "r3", "r4"}[:replicas] {
		v.Status.Replicas = append(v.Status.Replicas, v1alpha1.VolumeReplica{
			ID: id, Node: "node" + id[1:], Pool: "pool", Address: "10.96.0.1" + id[1:] + ":4500", State: v1alpha1.ReplicaInSync,
		})
		v.Status.Voters = append(v.Status.Voters, id)
	}
	return v
}

func TestTarget(t *testing.T) {
	d := DefaultSettings().Target(volume(3), "")
	c := d.Spec.Template.Spec.Containers[0]
	want := []string{
		"--volume=pvc-1", "--authority=kube", "--durability=flush", "--listen=:4420", "--health=:9500",
	}
	if !slices.Equal(c.Args, want) {
		t.Errorf("args %q", c.Args)
	}
	if d.Name != "pvc-1-ctrl" || c.Image != "localhost/cask-target:dev" {
		t.Errorf("name %s, image %s", d.Name, c.Image)
	}
	for _, tol := range d.Spec.Template.Spec.Tolerations {
		if tol.TolerationSeconds == nil || *tol.TolerationSeconds != 0 {
			t.Errorf("toleration %+v keeps the target on a lost node", tol)
		}
	}
}

// TestTargetOfISCSI: another port, and the Secret, which the process can read.
func TestTargetOfISCSI(t *testing.T) {
	v := volume(1)
	v.Spec.Frontend, v.Spec.AuthenticationSecret = v1alpha1.FrontendISCSI, "chap"
	s := DefaultSettings()
	pod := s.Target(v, "").Spec.Template.Spec
	c := pod.Containers[0]
	for _, want := range []string{"--frontend=iscsi", "--listen=:3260", "--auth=/auth"} {
		if !slices.Contains(c.Args, want) {
			t.Errorf("no %s in %q", want, c.Args)
		}
	}
	if m := c.VolumeMounts; len(m) != 1 || m[0].MountPath != "/auth" || !m[0].ReadOnly || m[0].Name != pod.Volumes[0].Name {
		t.Errorf("mounts %+v", m)
	}
	if src := pod.Volumes[0].Secret; src.SecretName != "chap" || *src.DefaultMode != 0o440 || *pod.SecurityContext.FSGroup != *pod.SecurityContext.RunAsGroup {
		t.Errorf("volume %+v, %+v", src, pod.SecurityContext)
	}
	if p := s.TargetService(v).Spec.Ports[0]; p.Port != 3260 || p.TargetPort.StrVal != c.Ports[0].Name {
		t.Errorf("service port %+v, container port %+v", p, c.Ports[0])
	}
}

// TestTargetWithKeys: the Secret that the StorageClass names too, whose change is
// another target.
func TestTargetWithKeys(t *testing.T) {
	v, s := volume(1), DefaultSettings()
	plain := s.Target(v, "")
	v.Spec.Authentication = v1alpha1.AuthenticationNodes
	d, next := s.Target(v, "u1"), s.Target(v, "u2")
	pod := d.Spec.Template.Spec
	if src := pod.Volumes[0].Secret; src.SecretName != "pvc-1-auth" || *src.DefaultMode != 0o440 || *pod.SecurityContext.FSGroup != *pod.SecurityContext.RunAsGroup {
		t.Errorf("volume %+v, %+v", src, pod.SecurityContext)
	}
	if !slices.Contains(pod.Containers[0].Args, "--auth=/auth") || pod.Containers[0].VolumeMounts[0].MountPath != "/auth" {
		t.Errorf("%+v", pod.Containers[0])
	}
	if a, b, c := plain.Annotations[AnnotationHash], d.Annotations[AnnotationHash], next.Annotations[AnnotationHash]; a == b || b == c {
		t.Errorf("hashes %s %s %s", a, b, c)
	}
	secret := s.AuthSecret(v, dhchap.Secrets{Host: "h", Controller: "c"})
	if secret.Name != "pvc-1-auth" || secret.Namespace != v1alpha1.Namespace || !*secret.Immutable || secret.OwnerReferences[0].Name != "pvc-1" ||
		secret.StringData["dhchap.host"] != "h" || secret.StringData["dhchap.controller"] != "c" {
		t.Errorf("%+v", secret.ObjectMeta)
	}
}

func TestReplica(t *testing.T) {
	v := volume(3)
	d := DefaultSettings().Replica(v, v.Status.Replicas[1], "/data/cask")
	pod := d.Spec.Template.Spec
	want := []string{
		"--volume=pvc-1", "--replica=r1", "--listen=:4500", "--ioc=/pool/ioc.sock", "--pool-dir=/pool",
		"--memory=402653184", "--compression=lz4", "--block-size=8192", "--health=:9500",
	}
	if !slices.Equal(pod.Containers[0].Args, want) {
		t.Errorf("args %q", pod.Containers[0].Args)
	}
	v.Spec.RecordSize = "16Ki"
	if args := DefaultSettings().Replica(v, v.Status.Replicas[1], "/data/cask").Spec.Template.Spec.Containers[0].Args; !slices.Contains(args, "--block-size=16384") {
		t.Errorf("args %q", args)
	}
	term := pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(term) != 1 || term[0].MatchFields[0].Values[0] != "node1" {
		t.Errorf("pinned to %+v", term)
	}
	if h := pod.Volumes[0].HostPath; h.Path != "/data/cask" || *h.Type != corev1.HostPathDirectory {
		t.Errorf("pool %+v", h)
	}
	for _, tol := range pod.Tolerations {
		if tol.TolerationSeconds != nil {
			t.Errorf("toleration %+v ends", tol)
		}
	}
}

// TestLeastPrivilege: no pod of a volume has a right on its node.
func TestLeastPrivilege(t *testing.T) {
	v := volume(1)
	s := DefaultSettings()
	for _, d := range []*appsv1.Deployment{s.Target(v, ""), s.Replica(v, v.Status.Replicas[0], "/data")} {
		pod := d.Spec.Template.Spec
		if !*pod.SecurityContext.RunAsNonRoot || pod.HostNetwork || pod.HostPID || pod.HostIPC || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: %+v", d.Name, pod.SecurityContext)
		}
		for _, c := range pod.Containers {
			sc := c.SecurityContext
			if *sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem || sc.Privileged != nil || len(sc.Capabilities.Add) > 0 || sc.Capabilities.Drop[0] != "ALL" {
				t.Errorf("%s: %+v", d.Name, sc)
			}
			if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Memory().IsZero() || c.LivenessProbe == nil || c.ReadinessProbe == nil {
				t.Errorf("%s: no limit or probe", d.Name)
			}
		}
		if d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType || *d.Spec.Replicas != 1 {
			t.Errorf("%s may run twice", d.Name)
		}
		if ref := metav1.GetControllerOf(d); ref == nil || ref.UID != v.UID {
			t.Errorf("%s is owned by %+v", d.Name, ref)
		}
	}
	replica := s.Replica(v, v.Status.Replicas[0], "/data").Spec.Template.Spec
	if *replica.AutomountServiceAccountToken {
		t.Error("a replica has a token")
	}
}

// TestHash changes with what needs a restart, and with nothing else.
func TestHash(t *testing.T) {
	s := DefaultSettings()
	base := s.Target(volume(3), "").Annotations[AnnotationHash]
	for _, tc := range []struct {
		name string
		edit func(*v1alpha1.Volume, *Settings)
		same bool
	}{
		{"nothing", func(*v1alpha1.Volume, *Settings) {}, true},
		{"attachment", func(v *v1alpha1.Volume, _ *Settings) {
			v.Spec.Attachment = &v1alpha1.VolumeAttachment{Node: "x", ID: "1"}
		}, true},
		{"epoch and states", func(v *v1alpha1.Volume, _ *Settings) {
			v.Status.Epoch = 7
			v.Status.Replicas[0].State = v1alpha1.ReplicaOffline
		}, true},
		{"image", func(_ *v1alpha1.Volume, s *Settings) { s.ImageTag = "next" }, false},
		{"address", func(v *v1alpha1.Volume, _ *Settings) { v.Status.Replicas[0].Address = "10.0.0.1:1" }, true},
		{"what it follows online", func(v *v1alpha1.Volume, _ *Settings) { v.Spec.Consistency, v.Spec.MinVoters = "all", ptr.To[int32](1) }, true},
		{"limit", func(_ *v1alpha1.Volume, s *Settings) { s.TargetLimits.MemoryLimit = resource.MustParse("1Gi") }, false},
	} {
		v, s := volume(3), DefaultSettings()
		tc.edit(v, &s)
		if same := s.Target(v, "").Annotations[AnnotationHash] == base; same != tc.same {
			t.Errorf("%s: same hash is %v", tc.name, same)
		}
	}
}

func TestBudget(t *testing.T) {
	for _, tc := range []struct {
		name     string
		replicas int
		edit     func(*v1alpha1.Volume)
		want     int
	}{
		{"3 in sync", 3, nil, 1},
		{"2 of 3", 3, func(v *v1alpha1.Volume) { v.Status.Replicas[0].State = v1alpha1.ReplicaRebuilding }, 0},
		{"1 of 3", 3, func(v *v1alpha1.Volume) {
			v.Status.Replicas[0].State, v.Status.Replicas[1].State = v1alpha1.ReplicaOffline, v1alpha1.ReplicaOffline
		}, 0},
		{"5 in sync, still one at a time", 5, nil, 1},
		{"the only one", 1, nil, 0},
		{"both of 2", 2, nil, 0},
		{"all: both of 2", 2, func(v *v1alpha1.Volume) { v.Spec.Consistency = "all" }, 0},
		{"all: both of 2, one is enough", 2, func(v *v1alpha1.Volume) { v.Spec.Consistency, v.Spec.MinVoters = "all", ptr.To[int32](1) }, 1},
		{"all: 3", 3, func(v *v1alpha1.Volume) { v.Spec.Consistency = "all" }, 1},
		{"all: 3, none may leave", 3, func(v *v1alpha1.Volume) { v.Spec.Consistency, v.Spec.MinVoters = "all", ptr.To[int32](3) }, 0},
		{"one: 2 of 3", 3, func(v *v1alpha1.Volume) {
			v.Spec.Consistency = "one"
			v.Status.Replicas[0].State = v1alpha1.ReplicaOffline
		}, 1},
		{"each: one in each zone", 3, func(v *v1alpha1.Volume) {
			v.Status.Level, v.Status.VoterZones = "each", map[string]string{"r0": "a", "r1": "b", "r2": "c"}
		}, 1},
		{"each: and all are to stay", 3, func(v *v1alpha1.Volume) {
			v.Status.Level, v.Status.VoterZones = "each", map[string]string{"r0": "a", "r1": "b", "r2": "c"}
			v.Spec.MinVoters = ptr.To[int32](3)
		}, 0},
		{"local: the only one of the zone", 3, func(v *v1alpha1.Volume) {
			v.Status.Level, v.Status.LocalZone, v.Status.VoterZones = "local", "a", map[string]string{"r0": "a", "r1": "b", "r2": "b"}
		}, 0},
		{"leaving, and votes no more", 2, func(v *v1alpha1.Volume) {
			v.Spec.MinVoters = ptr.To[int32](1)
			v.Status.Replicas[1].Leaving = "Surplus"
			v.Status.Voters = v.Status.Voters[:1]
		}, 0},
		{"all: the last voter", 2, func(v *v1alpha1.Volume) {
			v.Spec.Consistency = "all"
			v.Status.Voters = v.Status.Voters[:1]
		}, 0},
		{"no target", 3, func(v *v1alpha1.Volume) { v.Status.State = v1alpha1.VolumeSuspended }, 0},
		{"unknown yet", 3, func(v *v1alpha1.Volume) {
			for i := range v.Status.Replicas {
				v.Status.Replicas[i].State = v1alpha1.ReplicaUnknown
			}
		}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := volume(tc.replicas)
			if tc.edit != nil {
				tc.edit(v)
			}
			if got := DefaultSettings().Budget(v).Spec.MaxUnavailable.IntValue(); got != tc.want {
				t.Errorf("maxUnavailable %d, want %d", got, tc.want)
			}
		})
	}
}

func TestIOC(t *testing.T) {
	p := &v1alpha1.StoragePool{ObjectMeta: metav1.ObjectMeta{Name: "pool", UID: "uid"}, Spec: v1alpha1.StoragePoolSpec{Directory: "/data/cask"}}
	s := DefaultSettings()
	d := s.IOC(p, []string{"node0"})
	pod := d.Spec.Template.Spec
	if d.Name != "ioc-pool" || pod.Affinity != nil || strings.Join(pod.Containers[0].Args, " ") != "--pool=pool --pool-dir=/pool" {
		t.Errorf("%s %+v %q", d.Name, pod.Affinity, pod.Containers[0].Args)
	}
	if sc := pod.Containers[0].SecurityContext; sc.Privileged != nil || sc.Capabilities.Drop[0] != "ALL" {
		t.Errorf("security context %+v", sc)
	}
	p.Spec.NodeSelector = &metav1.LabelSelector{
		MatchLabels:      map[string]string{"b": "2", "a": "1"},
		MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "c", Operator: metav1.LabelSelectorOpDoesNotExist}},
	}
	terms := s.IOC(p, []string{"y", "x", "y"}).Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) != 3 || len(terms[0].MatchExpressions) != 3 || terms[0].MatchExpressions[0].Key != "a" || terms[1].MatchFields[0].Values[0] != "x" {
		t.Errorf("terms %+v", terms)
	}
}
