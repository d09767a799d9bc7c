//go:build linux

// Command cask-csi is the CSI driver: `controller` beside the sidecars, `node`
// and `attach` on every node. csi/DESIGN.md says what each needs.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "cask-csi", Short: "Cask's CSI driver", Version: version,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(controllerCommand(), nodeCommand(), attachCommand(), childCommand(), helperCommand(), attachmentsCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cask-csi:", err)
		stop()
		os.Exit(1)
	}
}

func logger(process string) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", process)
}
