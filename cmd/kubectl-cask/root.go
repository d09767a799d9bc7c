package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// commands are the constructors of the subcommands; cl is what those use that
// speak to a cluster.
var commands = []func(cl *cluster) *cobra.Command{
	volumesCommand, explainCommand, whyCommand, verifyCommand, poolsCommand, versionCommand, localCommand,
}

// newRoot makes the command as it is called: cask, or kubectl cask.
func newRoot(argv0 string, cl *cluster) *cobra.Command {
	root := &cobra.Command{
		Use:           "cask",
		Short:         "Container-attached storage: see, understand and try volumes",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	if strings.HasPrefix(filepath.Base(argv0), "kubectl-") {
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl cask"}
	}
	flags := root.PersistentFlags()
	flags.StringVar(&cl.kubeconfig, "kubeconfig", "", "kubeconfig file (default $KUBECONFIG, then ~/.kube/config)")
	flags.StringVar(&cl.context, "context", "", "context of the kubeconfig")
	flags.StringVarP(&cl.namespace, "namespace", "n", "", "namespace of claims (default the context's)")
	flags.StringVar(&cl.system, "system-namespace", "cask-system", "namespace of Cask's own pods")
	for _, c := range commands {
		root.AddCommand(c(cl))
	}
	return root
}
