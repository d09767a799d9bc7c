package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{"--image-prefix=mirror/c-", "--image-tag=v1", "--namespace=ns", "--node-failure-grace=3s", "--replica-memory-limit=1Gi"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.settings.ImagePrefix != "mirror/c-" || o.settings.ImageTag != "v1" || o.settings.Namespace != "ns" || o.nodeFailureGrace != 3*time.Second {
		t.Errorf("options %+v", o)
	}
	if got := o.settings.ReplicaLimits.MemoryLimit.String(); got != "1Gi" {
		t.Errorf("replica memory limit %s", got)
	}
}

func TestParseRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"--replica-memory=much": "replica-memory",
		"volumes":               `unexpected argument "volumes"`,
		"--image=x":             "not defined",
	} {
		var out strings.Builder
		if _, err := parse([]string{args}, &out); err == nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v, said %q", args, err, out.String())
		}
	}
}
