package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/internal/explain"
)

const verifyLook = time.Second

// verifyCommand has a volume's replicas compared and waits for what comes of it.
func verifyCommand(cl *cluster) *cobra.Command {
	within := time.Hour
	c := &cobra.Command{
		Use: "verify VOLUME|CLAIM|NAMESPACE/CLAIM", Args: cobra.ExactArgs(1),
		Short: "Compare a volume's replicas, by what their file systems know of each block",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := cl.connect()
			if err != nil {
				return err
			}
			w, ok := r.(client.Client)
			if !ok {
				return errors.New("the cluster cannot be written to")
			}
			f, err := explain.Gather(cmd.Context(), r, cl.name(args[0]))
			if err != nil {
				return err
			}
			if f.Volume == nil {
				return fmt.Errorf("%s has no Volume yet; see: cask explain %s", args[0], args[0])
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), within)
			defer cancel()
			st, err := verify(ctx, w, f.Volume.Name)
			if err != nil {
				return err
			}
			return printVerification(cmd, st)
		},
	}
	c.Flags().DurationVar(&within, "timeout", within, "how long to wait for it; it goes on without")
	return c
}

// verify asks the target of a Volume, and waits for its answer, which is in the
// status.
func verify(ctx context.Context, c client.Client, name string) (*v1alpha1.VolumeStatus, error) {
	request := time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationVerify, request)
	obj := &v1alpha1.Volume{}
	obj.Name = name
	if err := c.Patch(ctx, obj, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return nil, fmt.Errorf("ask for a comparison of the replicas of volume %s: %w", name, err)
	}
	look := time.NewTicker(verifyLook)
	defer look.Stop()
	for {
		if v := obj.Status.Verification; v != nil && v.Request == request {
			return &obj.Status, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("volume %s is not compared yet, see status.verification, and: cask explain %s: %w", name, name, ctx.Err())
		case <-look.C:
		}
		if err := c.Get(ctx, types.NamespacedName{Name: name}, obj); err != nil {
			return nil, fmt.Errorf("read volume %s: %w", name, err)
		}
	}
}

func printVerification(cmd *cobra.Command, st *v1alpha1.VolumeStatus) error {
	out, v := cmd.OutOrStdout(), st.Verification
	if v.Failed != "" {
		return fmt.Errorf("the replicas were not compared: %s", v.Failed)
	}
	for _, r := range st.Replicas {
		if !slices.Contains(v.Replicas, r.ID) {
			fmt.Fprintf(out, "replica %s was not compared: it was not in sync, or did not answer\n", r.ID)
		}
	}
	if len(v.Differ) == 0 {
		_, err := fmt.Fprintf(out, "%d replicas are the same at operation %d: %d bytes held, %d bytes of block pointers and %d of content read\n",
			len(v.Replicas), v.Seq, v.HeldBytes, v.ReadBytes, v.ComparedBytes)
		return err
	}
	for _, d := range v.Differ {
		fmt.Fprintf(out, "replica %s differs in %d bytes: %s\n", d.ID, d.Bytes, d.Extents)
	}
	return errors.New("the replicas are not the same; nothing was changed")
}
