package ioc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
)

// Client is an Engine at the other end of a socket. Each call has a connection
// of its own and lasts as long as its context.
type Client struct {
	Socket string // the server's socket
}

// Create implements Engine. After ErrUnavailable it is not known whether the
// extent was made: Open tells.
func (c Client) Create(ctx context.Context, name string, size uint64) (string, error) {
	var out createResponse
	err := c.call(ctx, call{http.MethodPost, extentsPath, createRequest{name, size}}, &out)
	if err == nil && !filepath.IsLocal(out.Path) {
		err = c.protocol("it answered with a path outside the pool directory", nil)
	}
	if err != nil {
		return "", err
	}
	return out.Path, nil
}

// Open implements Engine.
func (c Client) Open(ctx context.Context, name string) (Extent, error) {
	if err := checkName(name); err != nil {
		return Extent{}, err
	}
	var x Extent
	if err := c.call(ctx, call{http.MethodGet, extentsPath + "/" + url.PathEscape(name), nil}, &x); err != nil {
		return Extent{}, err
	}
	if !filepath.IsLocal(x.Path) {
		return Extent{}, c.protocol("it answered with a path outside the pool directory", nil)
	}
	return x, nil
}

// Grow implements Engine.
func (c Client) Grow(ctx context.Context, name string, size uint64) error {
	if err := checkName(name); err != nil {
		return err
	}
	return c.call(ctx, call{http.MethodPut, extentsPath + "/" + url.PathEscape(name), growRequest{size}}, nil)
}

// Delete implements Engine.
func (c Client) Delete(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return c.call(ctx, call{http.MethodDelete, extentsPath + "/" + url.PathEscape(name), nil}, nil)
}

// List implements Engine.
func (c Client) List(ctx context.Context) ([]Extent, error) {
	var out listResponse
	err := c.call(ctx, call{http.MethodGet, extentsPath, nil}, &out)
	return out.Extents, err
}

// Status implements Engine.
func (c Client) Status(ctx context.Context) (Status, error) {
	var st Status
	err := c.call(ctx, call{http.MethodGet, statusPath, nil}, &st)
	return st, err
}

type call struct {
	method, path string
	body         any
}

func (c Client) call(ctx context.Context, in call, out any) error {
	var body io.Reader
	if in.body != nil {
		body = bytes.NewReader(encode(in.body))
	}
	req, err := http.NewRequestWithContext(ctx, in.method, "http://ioc"+in.path, body)
	if err != nil {
		return c.protocol("cannot make the request", err)
	}
	tr := &http.Transport{
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: maxHeader,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", c.Socket)
		},
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return &Error{Code: CodeUnavailable, Object: "IO container at " + c.Socket,
			Detail: "see that the pod ioc-<pool> runs on this node", Cause: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return &Error{Code: CodeUnavailable, Object: "IO container at " + c.Socket, Detail: "its answer broke off", Cause: err}
	}
	return c.answer(resp.StatusCode, b, out)
}

func (c Client) answer(status int, b []byte, out any) error {
	if len(b) > maxResponse {
		return c.protocol("its answer is too long", nil)
	}
	if status == http.StatusNoContent && out == nil {
		return nil
	}
	if status/100 != 2 {
		var we wireError
		if err := json.Unmarshal(b, &we); err != nil {
			return c.protocol(fmt.Sprintf("it answered with HTTP status %d", status), err)
		}
		return we.toError()
	}
	if err := json.Unmarshal(b, out); err != nil {
		return c.protocol("cannot read its answer", err)
	}
	return nil
}

func (c Client) protocol(detail string, cause error) error {
	return &Error{Code: CodeProtocol, Object: "IO container at " + c.Socket,
		Detail: detail + "; see that both are of the same version", Cause: cause}
}
