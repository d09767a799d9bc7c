//go:build linux

package agent

import (
	"errors"
	"net/http"
)

// The classes of failure, over the socket too.
var (
	ErrInvalid     = errors.New("invalid request")
	ErrBusy        = errors.New("volume is in use on this node")
	ErrRefused     = errors.New("target refused this host")
	ErrUnreachable = errors.New("target does not answer")
	ErrInternal    = errors.New("attach agent failed")
)

// statusOf and errorOf are each other's inverse on the classes.
func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, ErrBusy):
		return http.StatusConflict
	case errors.Is(err, ErrRefused):
		return http.StatusForbidden
	case errors.Is(err, ErrUnreachable):
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

func errorOf(status int) error {
	switch status {
	case http.StatusBadRequest:
		return ErrInvalid
	case http.StatusConflict:
		return ErrBusy
	case http.StatusForbidden:
		return ErrRefused
	case http.StatusGatewayTimeout:
		return ErrUnreachable
	}
	return ErrInternal
}
