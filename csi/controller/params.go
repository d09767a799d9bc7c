package controller

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/quorum"
)

// The StorageClass parameters.
const (
	ParamReplicas     = "replicas"
	ParamConsistency  = "consistency"
	ParamZones        = "zones"
	ParamMinVoters    = "minVoters"
	ParamReplaceAfter = "replaceAfter"
	ParamDurability   = "durability"
	ParamCompression  = "compression"
	ParamRecordSize   = "recordSize"
	ParamFrontend     = "frontend"
	ParamInitiators   = "initiators"
	ParamAuth         = "authenticationSecret"
	ParamNodesProve   = "authentication"
	ParamPool         = "pool"
	ParamPoolSelector = "poolSelector"
)

// sidecarPrefix begins the parameters that the sidecars handle or add.
const sidecarPrefix = "csi.storage.k8s.io/"

const (
	maxReplicas   = 7
	maxSelectors  = 16
	maxInitiators = 32
)

// Params are a volume's, with defaults filled in.
type Params struct {
	Replicas     int32
	Consistency  string
	Zones        string
	MinVoters    int32         // 0: not said
	ReplaceAfter time.Duration // 0: not said
	Durability   string
	Compression  string
	RecordSize   string
	Frontend     string
	Initiators   []string // sorted
	AuthSecret   string
	NodesProve   string // v1alpha1.AuthenticationNone when nothing
	Pool         string
	PoolSelector map[string]string
}

// setters holds one parser for each parameter.
var setters = map[string]func(p *Params, value string) error{
	ParamReplicas:    func(p *Params, v string) error { return number(&p.Replicas, v) },
	ParamConsistency: func(p *Params, v string) error { return oneOf(&p.Consistency, v, "one", "quorum", "all") },
	ParamZones:       func(p *Params, v string) error { return oneOf(&p.Zones, v, "", "local", "each") },
	ParamMinVoters:   func(p *Params, v string) error { return number(&p.MinVoters, v) },
	ParamReplaceAfter: func(p *Params, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < time.Second {
			return fmt.Errorf("%q is not a duration of at least 1s, such as 30m", v)
		}
		p.ReplaceAfter = d
		return nil
	},
	ParamDurability:  func(p *Params, v string) error { return oneOf(&p.Durability, v, "flush", "always") },
	ParamCompression: func(p *Params, v string) error { return oneOf(&p.Compression, v, "lz4", "zstd", "off") },
	ParamRecordSize:  func(p *Params, v string) error { return oneOf(&p.RecordSize, v, v1alpha1.RecordSizes()...) },
	ParamFrontend: func(p *Params, v string) error {
		return oneOf(&p.Frontend, v, v1alpha1.FrontendNVMe, v1alpha1.FrontendISCSI)
	},
	ParamInitiators: func(p *Params, v string) (err error) {
		p.Initiators, err = parseInitiators(v)
		return err
	},
	ParamAuth: func(p *Params, v string) error {
		if errs := validation.IsDNS1123Subdomain(v); len(errs) > 0 {
			return fmt.Errorf("%q cannot be a Secret's name: %s", v, errs[0])
		}
		p.AuthSecret = v
		return nil
	},
	ParamNodesProve: func(p *Params, v string) error {
		return oneOf(&p.NodesProve, v, v1alpha1.AuthenticationNone, v1alpha1.AuthenticationNodes)
	},
	ParamPool: func(p *Params, v string) error {
		if errs := validation.IsDNS1123Subdomain(v); len(errs) > 0 {
			return fmt.Errorf("%q cannot be a StoragePool's name: %s", v, errs[0])
		}
		p.Pool = v
		return nil
	},
	ParamPoolSelector: func(p *Params, v string) (err error) {
		p.PoolSelector, err = parseSelector(v)
		return err
	},
}

// mutable are the parameters that a VolumeAttributesClass may have: they change
// online.
var mutable = []string{ParamReplicas, ParamConsistency, ParamZones, ParamMinVoters, ParamReplaceAfter}

func number(into *int32, v string) error {
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 1 || n > maxReplicas {
		return fmt.Errorf("%q is not a number from 1 to %d", v, maxReplicas)
	}
	*into = int32(n)
	return nil
}

func oneOf(into *string, v string, allowed ...string) error {
	if !slices.Contains(allowed, v) {
		return fmt.Errorf("%q is not one of %s", v, strings.Join(slices.DeleteFunc(allowed, func(a string) bool { return a == "" }), ", "))
	}
	*into = v
	return nil
}

// ParseParams reads the parameters of a StorageClass, and those of a
// VolumeAttributesClass, which come before them. The error names the parameter.
func ParseParams(class, attributes map[string]string) (Params, error) {
	p := Params{Replicas: 3, Consistency: "quorum", Durability: "flush", Compression: "lz4", RecordSize: v1alpha1.DefaultRecordSize, Frontend: v1alpha1.FrontendNVMe, NodesProve: v1alpha1.AuthenticationNone}
	err := p.set(class, source{"StorageClass", slices.Sorted(maps.Keys(setters))})
	if err == nil {
		err = p.set(attributes, source{"VolumeAttributesClass", mutable})
	}
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return Params{}, err
	}
	return p, nil
}

// source is where parameters come from.
type source struct {
	kind  string
	known []string
}

// set reads in on top of what p has.
func (p *Params) set(in map[string]string, from source) error {
	for _, k := range slices.Sorted(maps.Keys(in)) {
		if strings.HasPrefix(k, sidecarPrefix) {
			continue
		}
		if !slices.Contains(from.known, k) {
			return fmt.Errorf("%s parameter %q is unknown; known are %s; remove or correct it in the %s",
				from.kind, k, strings.Join(from.known, ", "), from.kind)
		}
		if err := setters[k](p, in[k]); err != nil {
			return fmt.Errorf("%s parameter %q: %w; correct it in the %s", from.kind, k, err, from.kind)
		}
	}
	return nil
}

// check says which parameters do not go together.
func (p *Params) check() error {
	if p.Pool != "" && p.PoolSelector != nil {
		return fmt.Errorf("parameters %q and %q exclude each other; keep one", ParamPool, ParamPoolSelector)
	}
	if _, err := quorum.LevelOf(p.Consistency, p.Zones); err != nil {
		return fmt.Errorf("parameters %q and %q: %w", ParamConsistency, ParamZones, err)
	}
	if p.Frontend != v1alpha1.FrontendISCSI && (p.AuthSecret != "" || p.Initiators != nil) {
		return fmt.Errorf("parameters %q and %q are for %s=%s; remove them, or add that", ParamInitiators, ParamAuth, ParamFrontend, v1alpha1.FrontendISCSI)
	}
	if p.NodesProve == v1alpha1.AuthenticationNodes && p.Frontend != v1alpha1.FrontendNVMe {
		return fmt.Errorf("parameter %q: nodes can prove themselves with %s=%s only; change one of the two", ParamNodesProve, ParamFrontend, v1alpha1.FrontendNVMe)
	}
	if p.MinVoters > p.Replicas {
		return fmt.Errorf("parameter %q: %d voters cannot be had of %d %s", ParamMinVoters, p.MinVoters, p.Replicas, ParamReplicas)
	}
	return nil
}

// paramsOf are those of a Volume.
func paramsOf(s *v1alpha1.VolumeSpec) Params {
	p := Params{Replicas: s.Replicas, Consistency: s.Consistency, Zones: s.Zones, Durability: s.Durability, Compression: s.Compression, RecordSize: cmp.Or(s.RecordSize, v1alpha1.DefaultRecordSize), Pool: s.Pool,
		Frontend: cmp.Or(s.Frontend, v1alpha1.FrontendNVMe), Initiators: s.Initiators, AuthSecret: s.AuthenticationSecret,
		NodesProve: cmp.Or(s.Authentication, v1alpha1.AuthenticationNone)}
	if s.MinVoters != nil {
		p.MinVoters = *s.MinVoters
	}
	if s.ReplaceAfter != nil {
		p.ReplaceAfter = s.ReplaceAfter.Duration
	}
	if s.PoolSelector != nil {
		p.PoolSelector = s.PoolSelector.MatchLabels
	}
	return p
}

// into writes what can change online into a Volume.
func (p *Params) into(s *v1alpha1.VolumeSpec) {
	s.Replicas, s.Consistency, s.Zones = p.Replicas, p.Consistency, p.Zones
	s.MinVoters, s.ReplaceAfter = nil, nil
	if p.MinVoters > 0 {
		s.MinVoters = ptr.To(p.MinVoters)
	}
	if p.ReplaceAfter > 0 {
		s.ReplaceAfter = &metav1.Duration{Duration: p.ReplaceAfter}
	}
}

var initiatorShape = regexp.MustCompile(`^(iqn|eui|naa)\.[-.:a-z0-9]+$`)

// parseInitiators reads "name,name2".
func parseInitiators(v string) ([]string, error) {
	names := strings.Split(v, ",")
	for i, n := range names {
		names[i] = strings.TrimSpace(n)
		if !initiatorShape.MatchString(names[i]) || len(names[i]) > iscsiName {
			return nil, fmt.Errorf("%q is not an iSCSI name", n)
		}
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > maxInitiators {
		return nil, fmt.Errorf("%d initiators, at most %d", len(names), maxInitiators)
	}
	return names, nil
}

// iscsiName is the longest iSCSI name, bytes.
const iscsiName = 223

// parseSelector reads "k=v,k2=v2".
func parseSelector(v string) (map[string]string, error) {
	parts := strings.Split(v, ",")
	if len(parts) > maxSelectors {
		return nil, fmt.Errorf("%d labels, at most %d", len(parts), maxSelectors)
	}
	out := map[string]string{}
	for _, part := range parts {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return nil, fmt.Errorf("%q is not of the form key=value", part)
		}
		if errs := validation.IsQualifiedName(key); len(errs) > 0 {
			return nil, fmt.Errorf("label key %q: %s", key, errs[0])
		}
		if errs := validation.IsValidLabelValue(value); len(errs) > 0 {
			return nil, fmt.Errorf("label value %q: %s", value, errs[0])
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("label %q is there twice", key)
		}
		out[key] = value
	}
	return out, nil
}
