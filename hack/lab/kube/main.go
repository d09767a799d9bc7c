// Command kube is all of Kubernetes and etcd in one binary, for the lab
// cluster: the program to be is chosen by the name it is called by, or by its
// first argument.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// programs returns what this binary can be, each as a function that runs it to
// its end with os.Args as its command line.
func programs() map[string]func() {
	return map[string]func(){
		"kube-apiserver":          func() { serve(apiserver.NewAPIServerCommand()) },
		"kube-controller-manager": func() { serve(manager.NewControllerManagerCommand()) },
		"kube-scheduler":          func() { serve(scheduler.NewSchedulerCommand()) },
		"kube-proxy":              func() { serve(proxy.NewProxyCommand()) },
		"kubelet":                 func() { serve(kubelet.NewKubeletCommand(context.Background())) },
		"kubectl":                 runKubectl,
		"etcd":                    func() { etcdmain.Main(os.Args) },
	}
}

func serve(command *cobra.Command) { os.Exit(cli.Run(command)) }

func runKubectl() {
	logs.GlogSetter(kubectl.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
}

func main() {
	all := programs()
	run, known := all[filepath.Base(os.Args[0])]
	if !known && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		run, known = all[filepath.Base(os.Args[0])]
	}
	if !known {
		fmt.Fprintln(os.Stderr, "usage: kube PROGRAM [ARGUMENT...], with PROGRAM one of", slices.Sorted(maps.Keys(all)))
		os.Exit(2)
	}
	run()
}
