package main

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/internal/explain"
)

// cluster is how to reach the API server; it is asked for the first time when a
// subcommand needs it.
type cluster struct {
	kubeconfig, context, namespace, system string

	reader client.Reader // set by tests
}

// connect returns a client, and fills in the namespace.
func (c *cluster) connect() (client.Reader, error) {
	if c.reader != nil {
		return c.reader, nil
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.context})
	cfg, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("no cluster to ask; set KUBECONFIG or --kubeconfig (or use `cask local`): %w", err)
	}
	if c.namespace == "" {
		if c.namespace, _, err = loader.Namespace(); err != nil {
			return nil, fmt.Errorf("kubeconfig: %w", err)
		}
	}
	s := runtime.NewScheme()
	if err := explain.AddToScheme(s); err != nil {
		return nil, err
	}
	return client.New(cfg, client.Options{Scheme: s})
}

func (c *cluster) name(arg string) explain.Name {
	return explain.Name{Namespace: c.namespace, Name: arg, System: c.system}
}
