package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/cask-storage/cask/pkg/attach"
	"github.com/cask-storage/cask/pkg/local"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/target"
)

// localCommand runs a volume on this machine without Kubernetes.
func localCommand(*cluster) *cobra.Command {
	c := &cobra.Command{Use: "local", Short: "Run a volume on this machine, without Kubernetes"}
	dir := c.PersistentFlags().String("dir", "", "directory of the volume (default the one started last)")
	c.PersistentPreRunE = func(*cobra.Command, []string) error {
		d, err := local.ResolveDir(*dir)
		*dir = d
		return err
	}
	c.AddCommand(localUp(dir), localDown(dir), localStatus(dir), localVerify(dir), localResize(dir), localAttach(dir), localDetach(dir), localSupervise(dir), localServe(dir), localHelper())
	return c
}

// start is how a background process of this binary is started.
func start(dir, sub string) (local.Options, error) {
	exe, err := os.Executable()
	return local.Options{Dir: dir, Exe: exe, Args: []string{"local", sub, "--dir=" + dir}}, err
}

func localUp(dir *string) *cobra.Command {
	var size, record string
	var asJSON bool
	spec := local.Spec{Name: "local"}
	c := &cobra.Command{Use: "up", Short: "Start the volume, making it the first time", Args: cobra.NoArgs}
	f := c.Flags()
	f.IntVar(&spec.Replicas, "replicas", 3, "number of replicas, each a process of its own")
	f.StringVar(&size, "size", "", "size of the volume (default 4Gi, or what it has)")
	f.StringVar((*string)(&spec.Consistency), "consistency", string(quorum.Quorum), "one, quorum or all")
	f.StringVar(&spec.Zones, "zones", "", "with quorum: local or each, of two made-up zones that the replicas are in by turns, the target in the first")
	f.IntVar(&spec.MinVoters, "min-voters", 0, "the fewest replicas that failed ones may leave (default more than half)")
	f.StringVar(&spec.Durability, "durability", "flush", "flush or always")
	f.StringVar(&spec.Compression, "compression", "lz4", "lz4, zstd or off")
	f.StringVar(&record, "record-size", "", "what replicas write at once, 4Ki to 128Ki (default 8Ki, or what it has)")
	f.StringVar(&spec.Frontend, "frontend", "nvme", "what hosts speak: nvme (NVMe/TCP) or iscsi")
	f.BoolVar(&asJSON, "json", false, "print the state as JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var err error
		if f.Changed("size") {
			if spec.Size, err = parseSize(size); err != nil {
				return err
			}
		}
		if f.Changed("record-size") {
			if spec.RecordSize, err = parseSize(record); err != nil {
				return err
			}
		}
		o, err := start(*dir, "supervise")
		if err != nil {
			return err
		}
		o.Spec = spec
		o.Progress = func(format string, args ...any) { fmt.Fprintf(c.ErrOrStderr(), format+"\n", args...) }
		st, err := local.Up(c.Context(), o)
		if err != nil {
			return err
		}
		return printState(c, st, asJSON)
	}
	return c
}

func parseSize(s string) (uint64, error) {
	q, err := resource.ParseQuantity(s)
	if err != nil || q.Sign() <= 0 {
		return 0, fmt.Errorf("%q is not a size such as 4Gi", s)
	}
	return uint64(q.Value()), nil
}

func printState(c *cobra.Command, st local.State, asJSON bool) error {
	out := c.OutOrStdout()
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(st)
	}
	fmt.Fprintf(out, "volume    %s, %d bytes, in %s\n", st.Name, st.Size, st.Dir)
	if st.NVMe.Addr != "" {
		fmt.Fprintf(out, "NVMe/TCP  %s  %s  namespace %d\n", st.NVMe.Addr, st.NVMe.NQN, st.NVMe.NSID)
	} else {
		fmt.Fprintf(out, "iSCSI     iscsi://%s/%s/%d\n", st.ISCSI.Portal, st.ISCSI.Node, st.ISCSI.LUN)
	}
	fmt.Fprintf(out, "metrics   %s\n", st.Metrics)
	fmt.Fprintf(out, "processes target %d, replicas %v\n", st.PIDs.Target, st.PIDs.Replicas)
	if st.Device != "" {
		fmt.Fprintf(out, "device    %s\n", st.Device)
	}
	if st.NVMe.Addr != "" {
		fmt.Fprintf(out, "next      cask local attach --dir %s   (a block device)\n", st.Dir)
	}
	_, err := fmt.Fprintf(out, "stop      cask local down --dir %s     (the data stays)\n", st.Dir)
	return err
}

// bounded gives a command that stops something a minute.
func bounded(c *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Context(), time.Minute)
}

func localDown(dir *string) *cobra.Command {
	return &cobra.Command{Use: "down", Short: "Stop the volume; its data stays", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		ctx, cancel := bounded(c)
		defer cancel()
		err := local.Down(ctx, *dir)
		if errors.Is(err, local.ErrNotRunning) {
			fmt.Fprintf(c.ErrOrStderr(), "nothing runs in %s\n", *dir)
			return nil
		}
		return err
	}}
}

func localStatus(dir *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "status", Short: "Say where the volume is and which processes it has", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		st, err := local.ReadState(*dir)
		if err != nil {
			return err
		}
		if text := st.Resizing(c.Context()); text != "" && !asJSON {
			fmt.Fprintf(c.OutOrStdout(), "resize    %s\n", text)
		}
		return printState(c, st, asJSON)
	}}
	c.Flags().BoolVar(&asJSON, "json", false, "print the state as JSON")
	return c
}

func localVerify(dir *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "verify", Short: "Compare the replicas, by what their file systems know of each block", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v, err := local.Verify(c.Context(), *dir)
			if err != nil {
				return err
			}
			if asJSON {
				err = json.NewEncoder(c.OutOrStdout()).Encode(v)
			} else {
				_, err = fmt.Fprintln(c.OutOrStdout(), v.Text())
			}
			return errors.Join(err, outcome(v))
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print what came of it as JSON")
	return c
}

func localResize(dir *string) *cobra.Command {
	within := time.Minute
	c := &cobra.Command{Use: "resize SIZE", Short: "Have the volume grow to SIZE, while it is used", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			size, err := parseSize(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), within)
			defer cancel()
			if err := local.Resize(ctx, *dir, size, func(text string) { fmt.Fprintln(c.ErrOrStderr(), text) }); err != nil {
				return err
			}
			st, err := local.ReadState(*dir)
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			fmt.Fprintf(out, "volume    %s has %d bytes\n", st.Name, st.Size)
			if st.Device != "" {
				fmt.Fprintf(out, "next      %s has them in a moment; the file system on it: resize2fs %s (ext4), or xfs_growfs on where it is mounted\n", st.Device, st.Device)
			}
			return nil
		}}
	c.Flags().DurationVar(&within, "timeout", within, "how long to wait for it; it goes on without")
	return c
}

// outcome is nil when the replicas are known to be the same.
func outcome(v *target.Verification) error {
	switch {
	case v.Failed != "":
		return errors.New("the replicas were not compared")
	case len(v.Differ) > 0:
		return errors.New("the replicas are not the same")
	}
	return nil
}

func localAttach(dir *string) *cobra.Command {
	return &cobra.Command{Use: "attach", Short: "Give the volume a block device", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		o, err := start(*dir, "serve-attach")
		if err != nil {
			return err
		}
		dev, err := local.Attach(c.Context(), o)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), dev)
		return err
	}}
}

func localDetach(dir *string) *cobra.Command {
	return &cobra.Command{Use: "detach", Short: "Take the block device away", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		ctx, cancel := bounded(c)
		defer cancel()
		return local.Detach(ctx, *dir)
	}}
}

func localSupervise(dir *string) *cobra.Command {
	return &cobra.Command{Use: "supervise", Hidden: true, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		return local.Supervise(c.Context(), *dir, filepath.Dir(exe))
	}}
}

func localServe(dir *string) *cobra.Command {
	return &cobra.Command{Use: "serve-attach", Hidden: true, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		o, err := start(*dir, localHelper().Use)
		if err != nil {
			return err
		}
		return local.ServeAttach(c.Context(), *dir, append([]string{o.Exe}, o.Args...))
	}}
}

func localHelper() *cobra.Command {
	return &cobra.Command{Use: "attach-helper", Hidden: true, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return attach.RunHelper(c.InOrStdin(), c.OutOrStdout())
	}}
}
