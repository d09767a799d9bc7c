package explain

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// Volumes prints a table of all volumes with the claims they are for.
func Volumes(ctx context.Context, c client.Reader, w io.Writer) error {
	var volumes v1alpha1.VolumeList
	if err := c.List(ctx, &volumes); err != nil {
		return fmt.Errorf("list Volumes: %w", err)
	}
	var pvs corev1.PersistentVolumeList
	if err := c.List(ctx, &pvs); err != nil {
		return fmt.Errorf("list PersistentVolumes: %w", err)
	}
	claims := map[string]string{}
	for _, pv := range pvs.Items {
		if pv.Spec.ClaimRef != nil {
			claims[pv.Name] = pv.Spec.ClaimRef.Namespace + "/" + pv.Spec.ClaimRef.Name
		}
	}
	if len(volumes.Items) == 0 {
		_, err := fmt.Fprintln(w, "There are no volumes.")
		return err
	}
	return writeVolumes(w, volumes.Items, claims)
}

func writeVolumes(w io.Writer, volumes []v1alpha1.Volume, claims map[string]string) error {
	now := &Facts{Now: time.Now()}
	rows := []string{"NAME\tCLAIM\tSTATE\tIN SYNC\tVOTING\tLEVEL\tSIZE\tTARGET\tATTACHED\tAGE"}
	for _, v := range volumes {
		attached := ""
		if v.Spec.Attachment != nil {
			attached = v.Spec.Attachment.Node
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s",
			v.Name, dash(claims[v.Name]), dash(v.Status.State), dash(v.Status.InSync), dash(v.Status.Voting), dash(v.Status.Level),
			v.Spec.Size.String(), dash(v.Status.Target.Node), dash(attached), now.age(v.CreationTimestamp.Time)))
	}
	p := &printer{w: w}
	p.table(rows)
	return p.err
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Pools prints a table of all StoragePools, node by node.
func Pools(ctx context.Context, c client.Reader, w io.Writer) error {
	var pools v1alpha1.StoragePoolList
	if err := c.List(ctx, &pools); err != nil {
		return fmt.Errorf("list StoragePools: %w", err)
	}
	if len(pools.Items) == 0 {
		_, err := fmt.Fprintln(w, "There are no StoragePools; create one (see deploy/examples).")
		return err
	}
	p := &printer{w: w}
	rows := []string{"POOL\tNODE\tREADY\tCAPACITY\tFREE\tPROMISED\tAVAILABLE\tEXTENTS\tREASON"}
	var remarks []string
	for _, pool := range pools.Items {
		if len(pool.Status.Nodes) == 0 {
			remarks = append(remarks, fmt.Sprintf("%s: no node has reported; see `kubectl -n cask-system get pods -l %s=%s`", pool.Name, v1alpha1.LabelPool, pool.Name))
		}
		for _, n := range pool.Status.Nodes {
			rows = append(rows, fmt.Sprintf("%s\t%s\t%t\t%s\t%s\t%s\t%s\t%d\t%s", pool.Name, n.Name, n.Ready,
				human(n.Capacity), human(n.Free), human(n.Promised), human(n.Available), n.Extents, dash(n.Reason)))
			if n.Message != "" {
				remarks = append(remarks, fmt.Sprintf("%s on node %s: %s", pool.Name, n.Name, n.Message))
			}
		}
	}
	p.table(rows)
	for _, r := range remarks {
		p.line("%s", r)
	}
	return p.err
}

// human rounds bytes to three digits.
func human(q resource.Quantity) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	n := float64(q.Value())
	i := 0
	for ; n >= 1000 && i < len(units)-1; i++ {
		n /= 1024
	}
	if i == 0 || n >= 100 {
		return fmt.Sprintf("%.0f %s", n, units[i])
	}
	return fmt.Sprintf("%.1f %s", n, units[i])
}

// Unhealthy lists the names of volumes that are not healthy, or of which a condition
// says that something is wrong.
func Unhealthy(ctx context.Context, c client.Reader) ([]string, error) {
	var volumes v1alpha1.VolumeList
	if err := c.List(ctx, &volumes); err != nil {
		return nil, fmt.Errorf("list Volumes: %w", err)
	}
	var names []string
	for _, v := range volumes.Items {
		if v.Status.State != v1alpha1.VolumeHealthy || slices.ContainsFunc(v.Status.Conditions, wrong) {
			names = append(names, v.Name)
		}
	}
	return names, nil
}

// wrong tells a condition that somebody should do something about from one that is
// no news, or stays for ever after what happened once.
func wrong(c metav1.Condition) bool {
	return c.Status == metav1.ConditionFalse && c.Type != v1alpha1.ConditionDeleting && c.Type != v1alpha1.ConditionPrefix
}
