// Package scheme knows every kind the operator reads or writes.
package scheme

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// New returns a scheme with Kubernetes' own kinds and Cask's.
func New() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			panic(fmt.Sprintf("build scheme: %v", err)) // two kinds of one name: a bug
		}
	}
	return s
}
