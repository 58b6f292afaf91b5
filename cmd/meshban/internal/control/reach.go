package control

import "context"

// Reach says whether a member's connections by TCP arrive at this node.
type Reach struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	TCP  *bool  `json:"tcp"` // null = it did not say
}

// Reach asks members whether they reach this node.
func (c *Client) Reach(ctx context.Context) ([]Reach, error) {
	return call[[]Reach](ctx, c, pathReach, nil)
}
