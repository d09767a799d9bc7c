//go:build linux

package agent

import (
	"context"
	"fmt"
)

// Client speaks to an Agent.
type Client struct {
	socket string
	call   caller
}

// NewClient speaks to the agent at a socket; it does not connect yet.
func NewClient(socket string) *Client { return &Client{socket: socket, call: newCaller(socket)} }

func (c *Client) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("attach agent at %s: %w", c.socket, err)
}

// Attach gives a volume a device.
func (c *Client) Attach(ctx context.Context, r Request) (Info, error) {
	var i Info
	err := c.call.call(ctx, "/v1/attach", r, &i)
	return i, c.wrap(err)
}

// Detach takes it away.
func (c *Client) Detach(ctx context.Context, q DetachRequest) error {
	return c.wrap(c.call.call(ctx, "/v1/detach", q, nil))
}

// List tells what is attached.
func (c *Client) List(ctx context.Context) ([]Info, error) {
	var l []Info
	err := c.call.call(ctx, "/v1/attachments", nil, &l)
	return l, c.wrap(err)
}

// Get tells about one volume; false when it is not attached.
func (c *Client) Get(ctx context.Context, volume string) (Info, bool, error) {
	l, err := c.List(ctx)
	for _, i := range l {
		if i.Spec.Volume == volume {
			return i, true, err
		}
	}
	return Info{}, false, err
}
