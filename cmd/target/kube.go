package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"k8s.io/client-go/rest"

	"github.com/cask-storage/cask/authority/kube"
)

// inCluster is the Volume object of a target that runs in a pod.
func inCluster(o options) (outside, error) {
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return outside{}, fmt.Errorf("--authority=kube is for a pod: %w", err)
	}
	v, err := kube.New(kube.Options{Config: cfg, Volume: o.volume, Pod: os.Getenv("POD_NAME"), Node: os.Getenv("NODE_NAME")})
	if err != nil {
		return outside{}, err
	}
	return outside{authority: v, keeper: v, reporter: v, access: v}, nil
}

var _ access = (*kube.Volume)(nil)

// follow runs the connection to the cluster until ctx ends.
func follow(ctx context.Context, a access) {
	if err := a.Run(ctx); err != nil && ctx.Err() == nil {
		log.Printf("the Volume is no longer followed: %v", err)
	}
}
