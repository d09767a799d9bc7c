package kube

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// callTimeout bounds one call to the API server.
const callTimeout = 5 * time.Second

// api is what is needed of the API server, for one Volume.
type api interface {
	get(ctx context.Context) (*v1alpha1.Volume, error)
	updateStatus(ctx context.Context, v *v1alpha1.Volume) (*v1alpha1.Volume, error)
	watch(ctx context.Context, resourceVersion string) (watch.Interface, error)
	event(ctx context.Context, e *corev1.Event) error
}

// server is the real API server.
type server struct {
	name string
	cask *rest.RESTClient
	core *rest.RESTClient
}

func newServer(cfg *rest.Config, name string) (*server, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("scheme: %w", err)
	}
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("scheme: %w", err)
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	client := func(gv schema.GroupVersion, path string) (*rest.RESTClient, error) {
		c := rest.CopyConfig(cfg)
		c.GroupVersion, c.APIPath, c.NegotiatedSerializer = &gv, path, codecs
		c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
		return rest.RESTClientFor(c)
	}
	cask, err := client(v1alpha1.GroupVersion, "/apis")
	if err != nil {
		return nil, err
	}
	core, err := client(corev1.SchemeGroupVersion, "/api")
	if err != nil {
		return nil, err
	}
	return &server{name: name, cask: cask, core: core}, nil
}

func (s *server) get(ctx context.Context) (*v1alpha1.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v := &v1alpha1.Volume{}
	err := s.cask.Get().Resource("volumes").Name(s.name).Do(ctx).Into(v)
	return v, err
}

func (s *server) updateStatus(ctx context.Context, v *v1alpha1.Volume) (*v1alpha1.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	next := &v1alpha1.Volume{}
	err := s.cask.Put().Resource("volumes").Name(s.name).SubResource("status").Body(v).Do(ctx).Into(next)
	return next, err
}

func (s *server) watch(ctx context.Context, resourceVersion string) (watch.Interface, error) {
	return s.cask.Get().Resource("volumes").VersionedParams(&metav1.ListOptions{
		Watch:           true,
		FieldSelector:   fields.OneTermEqualSelector(metav1.ObjectNameField, s.name).String(),
		ResourceVersion: resourceVersion,
	}, metav1.ParameterCodec).Watch(ctx)
}

func (s *server) event(ctx context.Context, e *corev1.Event) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.core.Post().Namespace(e.Namespace).Resource("events").Body(e).Do(ctx).Error()
}
