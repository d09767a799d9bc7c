package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/internal/explain"
)

// TestVerify: the annotation asks, and the answer to it is waited for.
func TestVerify(t *testing.T) {
	s := runtime.NewScheme()
	if err := explain.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	old := volume("pvc-1", v1alpha1.VolumeHealthy)
	old.Status.Replicas = []v1alpha1.VolumeReplica{{ID: "r0"}, {ID: "r1"}, {ID: "r2"}}
	old.Status.Verification = &v1alpha1.VolumeVerification{Request: "earlier", Replicas: []string{"r9"}}
	c := fake.NewClientBuilder().WithScheme(s).WithObjects(old).Build()
	answered := make(chan error, 1)
	go func() { // owned by the test, which takes its answer
		answered <- func() error {
			for {
				var v v1alpha1.Volume
				if err := c.Get(t.Context(), types.NamespacedName{Name: "pvc-1"}, &v); err != nil {
					return err
				}
				if ask := v.Annotations[v1alpha1.AnnotationVerify]; ask != "" {
					v.Status.Verification = &v1alpha1.VolumeVerification{Request: ask, Seq: 7, Replicas: []string{"r0", "r1"}, HeldBytes: 4096, ReadBytes: 512}
					return c.Update(t.Context(), &v, &client.UpdateOptions{})
				}
			}
		}()
	}()
	st, err := verify(t.Context(), c, "pvc-1")
	if err != nil || <-answered != nil || st.Verification.Seq != 7 {
		t.Fatalf("%+v, %v", st, err)
	}
	cmd := &cobra.Command{}
	var out strings.Builder
	cmd.SetOut(&out)
	if err := printVerification(cmd, st); err != nil || !strings.HasPrefix(out.String(), "replica r2 was not compared: it was not in sync, or did not answer\n2 replicas are the same at operation 7: 4096 bytes held") {
		t.Errorf("%q, %v", out.String(), err)
	}
	st.Verification.Differ = []v1alpha1.VolumeDifference{{ID: "r1", Bytes: 512, Extents: "[0+512]"}}
	if err := printVerification(cmd, st); err == nil || !strings.Contains(out.String(), "replica r1 differs in 512 bytes: [0+512]") {
		t.Errorf("%q, %v", out.String(), err)
	}
}
