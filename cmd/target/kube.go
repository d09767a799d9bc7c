package main

import (
	"context"
	"errors"
)

func inCluster(context.Context, options) (outside, error) { return outside{}, errors.New("not yet") }
