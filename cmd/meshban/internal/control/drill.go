package control

import (
	"context"
	"net/netip"
	"time"
)

// Verdicts of a node about a drill.
const (
	DrillDropped    = "dropped"
	DrillNotDropped = "not dropped"
	DrillPaused     = "paused"      // and so drops nothing
	DrillNoFirewall = "no firewall" // its backend is none
	DrillTooSoon    = "too soon"    // it took part in another one less than a minute before
	DrillNotAllowed = "not allowed" // by the certificate of the node where it began
	DrillAway       = "away"        // it is dead
	DrillUnknown    = "unknown"     // it did not answer, or could not send the packets
)

// DrillRequest asks for a drill.
type DrillRequest struct{}

func (DrillRequest) check() error { return nil }

// DrillReply is the result of a drill.
type DrillReply struct {
	Addr    netip.Addr  `json:"addr"`    // that was banned
	Nodes   []DrillNode `json:"nodes"`   // the first is this one
	Dropped int         `json:"dropped"` // nodes
	Failed  int         `json:"failed"`  // nodes whose verdict is DrillNotDropped, DrillPaused or DrillUnknown
	// Percentiles of LatencyMS, of the nodes that dropped; null if there are none.
	P50MS *float64 `json:"p50_ms"`
	P95MS *float64 `json:"p95_ms"`
	MaxMS *float64 `json:"max_ms"`
}

// DrillNode is what a drill has shown of one node.
type DrillNode struct {
	Name    string `json:"name"`
	ID      string `json:"id"`
	Verdict string `json:"verdict"`       // such as DrillDropped
	Why     string `json:"why,omitempty"` // for anything but a plain drop
	// LatencyMS is the time from the decision to this node's kernel, as far as the clocks are known to differ corrected.
	LatencyMS *float64 `json:"latency_ms"`
}

// DrillStatus is the last drill as status shows it.
type DrillStatus struct {
	At        time.Time  `json:"at"`
	By        string     `json:"by"` // the node where it began
	ByID      string     `json:"by_id"`
	Addr      netip.Addr `json:"addr"`
	Verdict   string     `json:"verdict"` // of this node; "running" while there is none
	Why       string     `json:"why,omitempty"`
	LatencyMS *float64   `json:"latency_ms"`
	// Of all nodes, if it began here.
	Nodes   int `json:"nodes,omitempty"`
	Dropped int `json:"dropped,omitempty"`
	Failed  int `json:"failed,omitempty"`
}

// Drill makes a drill.
func (c *Client) Drill(ctx context.Context, req DrillRequest) (DrillReply, error) {
	return call[DrillReply](ctx, c, pathDrill, req)
}
