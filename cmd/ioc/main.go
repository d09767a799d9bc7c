// Command cask-ioc is the IO container of one StoragePool on one node: it owns
// the pool directory and hands out extents on a unix socket. In a cluster it
// reports the directory in the StoragePool's status; --standalone runs it
// without Kubernetes.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/cask-storage/cask/pkg/ioc"
)

// replicaUser is whom the replicas' pods run as.
const replicaUser = 65532

type options struct {
	files      ioc.FileConfig
	owner      ioc.Owner
	owned      bool
	socket     string
	health     string
	standalone bool
	reserve    uint
	overcommit uint
}

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	o, err := parse(os.Args[1:])
	if err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "cask-ioc:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("cask-ioc", flag.ContinueOnError)
	fs.StringVar(&o.files.Pool, "pool", "", "name of the StoragePool")
	fs.StringVar(&o.files.Node, "node", os.Getenv("NODE_NAME"), "name of this node (default $NODE_NAME)")
	fs.StringVar(&o.files.Dir, "dir", "/pool", "the pool directory")
	fs.StringVar(&o.files.Dir, "pool-dir", "/pool", "the same as --dir")
	fs.StringVar(&o.socket, "socket", "", "unix socket to serve on (default DIR/"+ioc.SocketName+")")
	fs.StringVar(&o.health, "health", ":9500", "address of /healthz, /readyz and /metrics; empty for none")
	fs.Func("owner", "UID:GID that may open extents (default 65532:65532, with --standalone this process's user)", o.setOwner)
	fs.BoolVar(&o.standalone, "standalone", false, "run without Kubernetes; an empty directory is then made into a pool")
	fs.UintVar(&o.reserve, "reserve-percent", 10, "with --standalone: part of the file system that is never promised")
	fs.UintVar(&o.overcommit, "overcommit-percent", 100, "with --standalone: how much of the rest may be promised")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.files.Pool == "" || o.files.Node == "" || fs.NArg() > 0 {
		fs.Usage()
		err := fmt.Errorf("--pool and --node are needed, and no other arguments: %q", strings.Join(fs.Args(), " "))
		fmt.Fprintln(fs.Output(), "cask-ioc:", err)
		return o, err
	}
	return o.complete(), nil
}

func (o *options) setOwner(s string) error {
	if _, err := fmt.Sscanf(s, "%d:%d", &o.owner.UID, &o.owner.GID); err != nil || o.owner.UID < 0 || o.owner.GID < 0 {
		return fmt.Errorf("want UID:GID, two numbers")
	}
	o.owned = true
	return nil
}

func (o options) complete() options {
	if o.socket == "" {
		o.socket = o.files.Dir + "/" + ioc.SocketName
	}
	if !o.owned && !o.standalone {
		o.owner = ioc.Owner{UID: replicaUser, GID: replicaUser}
	}
	if o.owned || !o.standalone {
		o.files.Owner = &o.owner
	}
	o.files.Limits = ioc.Limits{ReservePercent: uint32(o.reserve), OvercommitPercent: uint32(o.overcommit)}
	return o
}
