package controller

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestParseParams(t *testing.T) {
	p, err := ParseParams(map[string]string{
		"replicas": "2", "consistency": "all", "durability": "always", "compression": "off", "recordSize": "64Ki",
		"poolSelector": "disk=ssd, tier=a", "csi.storage.k8s.io/fstype": "xfs", "minVoters": "1", "replaceAfter": "90m",
	}, nil)
	if err != nil || p.Replicas != 2 || p.Consistency != "all" || p.Durability != "always" || p.Compression != "off" || p.RecordSize != "64Ki" ||
		p.MinVoters != 1 || p.ReplaceAfter != 90*time.Minute ||
		!maps.Equal(p.PoolSelector, map[string]string{"disk": "ssd", "tier": "a"}) {
		t.Errorf("%+v, %v", p, err)
	}
	p, err = ParseParams(nil, nil)
	if err != nil || p.Replicas != 3 || p.Consistency != "quorum" || p.Durability != "flush" || p.Compression != "lz4" || p.RecordSize != "8Ki" || p.Zones != "" || p.MinVoters != 0 {
		t.Errorf("defaults %+v, %v", p, err)
	}
	p, err = ParseParams(map[string]string{"consistency": "all", "replicas": "2"}, map[string]string{"consistency": "quorum", "zones": "each"})
	if err != nil || p.Consistency != "quorum" || p.Zones != "each" || p.Replicas != 2 {
		t.Errorf("with a VolumeAttributesClass %+v, %v", p, err)
	}
	if _, err := ParseParams(nil, map[string]string{"durability": "always"}); err == nil || !strings.Contains(err.Error(), "VolumeAttributesClass") {
		t.Errorf("what cannot change online, by VolumeAttributesClass: %v", err)
	}
}

func TestParseParamsISCSI(t *testing.T) {
	p, err := ParseParams(map[string]string{"frontend": "iscsi", "authenticationSecret": "chap", "initiators": "iqn.2026-01.x:b, iqn.2026-01.x:a,iqn.2026-01.x:b"}, nil)
	if err != nil || p.Frontend != "iscsi" || p.AuthSecret != "chap" || !slices.Equal(p.Initiators, []string{"iqn.2026-01.x:a", "iqn.2026-01.x:b"}) {
		t.Errorf("%+v, %v", p, err)
	}
}

// An error names the parameter, and for an unknown one those that are known.
func TestParseParamsErrors(t *testing.T) {
	for _, c := range []struct {
		in   map[string]string
		want []string
	}{
		{map[string]string{"replica": "3"}, []string{`"replica"`, "unknown", "replicas", "poolSelector", "StorageClass"}},
		{map[string]string{"Replicas": "3"}, []string{`"Replicas"`, "unknown"}},
		{map[string]string{"replicas": "0"}, []string{`"replicas"`, "1 to 7"}},
		{map[string]string{"replicas": "8"}, []string{`"replicas"`}},
		{map[string]string{"replicas": "three"}, []string{`"three"`}},
		{map[string]string{"consistency": "eventual"}, []string{`"eventual"`, "one, quorum, all"}},
		{map[string]string{"zones": "every"}, []string{`"zones"`, "local, each"}},
		{map[string]string{"zones": "each", "consistency": "all"}, []string{`"zones"`, `"consistency"`, "quorum"}},
		{map[string]string{"minVoters": "0"}, []string{`"minVoters"`, "1 to 7"}},
		{map[string]string{"minVoters": "4"}, []string{`"minVoters"`, "4 voters", "3 replicas"}},
		{map[string]string{"replaceAfter": "5"}, []string{`"replaceAfter"`, "30m"}},
		{map[string]string{"durability": ""}, []string{"flush, always"}},
		{map[string]string{"compression": "gzip"}, []string{"lz4, zstd, off"}},
		{map[string]string{"recordSize": "16384"}, []string{"4Ki, 8Ki, 16Ki, 32Ki, 64Ki, 128Ki"}},
		{map[string]string{"pool": "Not A Name"}, []string{`"pool"`}},
		{map[string]string{"poolSelector": "ssd"}, []string{"key=value"}},
		{map[string]string{"poolSelector": "a=1,a=2"}, []string{"twice"}},
		{map[string]string{"poolSelector": "a b=1"}, []string{"label key"}},
		{map[string]string{"poolSelector": strings.Repeat("a=1,", 20)}, []string{"at most"}},
		{map[string]string{"pool": "p", "poolSelector": "a=1"}, []string{"exclude"}},
		{map[string]string{"frontend": "scsi"}, []string{"nvme, iscsi"}},
		{map[string]string{"initiators": "iqn.2026-01.x:a"}, []string{"frontend=iscsi"}},
		{map[string]string{"authenticationSecret": "chap"}, []string{"frontend=iscsi"}},
		{map[string]string{"frontend": "iscsi", "authenticationSecret": "a b"}, []string{"Secret's name"}},
		{map[string]string{"frontend": "iscsi", "initiators": "host1"}, []string{"iSCSI name"}},
		{map[string]string{"authentication": "all"}, []string{`"authentication"`, "none, nodes"}},
		{map[string]string{"authentication": "nodes", "frontend": "iscsi"}, []string{`"authentication"`, "frontend=nvme"}},
	} {
		_, err := ParseParams(c.in, nil)
		if err == nil {
			t.Errorf("%v was taken", c.in)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v: %q is not in %q", c.in, w, err)
			}
		}
	}
}

func FuzzParseParams(f *testing.F) {
	f.Add("replicas", "3")
	f.Add("poolSelector", "a=1,b=2")
	f.Add("x", "")
	f.Fuzz(func(t *testing.T, k, v string) {
		p, err := ParseParams(map[string]string{k: v}, nil)
		if err == nil && (p.Replicas < 1 || p.Replicas > maxReplicas || len(p.PoolSelector) > maxSelectors) {
			t.Errorf("%q=%q gave %+v", k, v, p)
		}
	})
}

func TestCapacity(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		required, limit int64
		want            int64
		code            codes.Code
	}{
		{0, 0, gib, codes.OK},
		{1, 0, mib, codes.OK},
		{mib + 1, 0, 2 * mib, codes.OK},
		{0, 512 * mib, 512 * mib, codes.OK},
		{0, 512*mib + 5, 512 * mib, codes.OK},
		{gib, gib, gib, codes.OK},
		{gib + 1, gib + 2, 0, codes.OutOfRange},
		{2, 1, 0, codes.OutOfRange},
		{-1, 0, 0, codes.OutOfRange},
		{0, 5, 0, codes.OutOfRange},
		{maxSize + 1, 0, 0, codes.OutOfRange},
		{1<<63 - 1, 0, 0, codes.OutOfRange},
	} {
		var w wanted
		err := w.capacity(&csi.CapacityRange{RequiredBytes: c.required, LimitBytes: c.limit})
		if status.Code(err) != c.code || (err == nil && w.size != c.want) {
			t.Errorf("%d..%d: %d, %v; want %d, %v", c.required, c.limit, w.size, err, c.want, c.code)
		}
	}
}

func TestObjectName(t *testing.T) {
	uid := "pvc-b2ad2975-0c54-4cb9-a9e8-3acb5dfdda65"
	if got := objectName(uid); got != uid {
		t.Errorf("%q became %q", uid, got)
	}
	seen := map[string]string{}
	for _, n := range []string{"Sanity-1", "sanity-1-", "1abc", strings.Repeat("a", 53), strings.Repeat("a", 128), "ä", ""} {
		got := objectName(n)
		if !objectNameShape.MatchString(got) || len(got) > maxObjectName || seen[got] != "" {
			t.Errorf("%q became %q (taken by %q)", n, got, seen[got])
		}
		seen[got] = n + "."
	}
}
