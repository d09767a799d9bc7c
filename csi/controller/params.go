package controller

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// The StorageClass parameters.
const (
	ParamReplicas     = "replicas"
	ParamConsistency  = "consistency"
	ParamDurability   = "durability"
	ParamCompression  = "compression"
	ParamPool         = "pool"
	ParamPoolSelector = "poolSelector"
)

// sidecarPrefix begins the parameters that the sidecars handle or add.
const sidecarPrefix = "csi.storage.k8s.io/"

const (
	maxReplicas  = 7
	maxSelectors = 16
)

// Params are a volume's, with defaults filled in.
type Params struct {
	Replicas     int32
	Consistency  string
	Durability   string
	Compression  string
	Pool         string
	PoolSelector map[string]string
}

// setters holds one parser for each parameter.
var setters = map[string]func(p *Params, value string) error{
	ParamReplicas: func(p *Params, v string) error {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < 1 || n > maxReplicas {
			return fmt.Errorf("%q is not a number from 1 to %d", v, maxReplicas)
		}
		p.Replicas = int32(n)
		return nil
	},
	ParamConsistency: func(p *Params, v string) error { return oneOf(&p.Consistency, v, "quorum", "all") },
	ParamDurability:  func(p *Params, v string) error { return oneOf(&p.Durability, v, "flush", "always") },
	ParamCompression: func(p *Params, v string) error { return oneOf(&p.Compression, v, "lz4", "off") },
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

func oneOf(into *string, v string, allowed ...string) error {
	if !slices.Contains(allowed, v) {
		return fmt.Errorf("%q is not one of %s", v, strings.Join(allowed, ", "))
	}
	*into = v
	return nil
}

// ParseParams reads StorageClass parameters. The error names the parameter.
func ParseParams(in map[string]string) (Params, error) {
	p := Params{Replicas: 3, Consistency: "quorum", Durability: "flush", Compression: "lz4"}
	for _, k := range slices.Sorted(maps.Keys(in)) {
		if strings.HasPrefix(k, sidecarPrefix) {
			continue
		}
		set, known := setters[k]
		if !known {
			return Params{}, fmt.Errorf("StorageClass parameter %q is unknown; known are %s; remove or correct it in the StorageClass",
				k, strings.Join(slices.Sorted(maps.Keys(setters)), ", "))
		}
		if err := set(&p, in[k]); err != nil {
			return Params{}, fmt.Errorf("StorageClass parameter %q: %w; correct it in the StorageClass", k, err)
		}
	}
	if p.Pool != "" && p.PoolSelector != nil {
		return Params{}, fmt.Errorf("StorageClass parameters %q and %q exclude each other; keep one", ParamPool, ParamPoolSelector)
	}
	return p, nil
}

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
