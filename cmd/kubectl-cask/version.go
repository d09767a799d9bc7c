package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker for releases.
var version = ""

func versionCommand(*cluster) *cobra.Command {
	return &cobra.Command{
		Use: "version", Args: cobra.NoArgs,
		Short: "Print the version of this command",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "cask %s, %s %s/%s\n", describe(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// describe is the version, else the commit the command was built from.
func describe() string {
	info, ok := debug.ReadBuildInfo()
	if version != "" || !ok {
		return version
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 && v == "(devel)" {
			v = "commit " + s.Value[:12]
		}
	}
	return v
}
