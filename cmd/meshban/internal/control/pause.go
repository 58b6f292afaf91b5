package control

// PauseRequest asks that this node drops nothing for a while.
type PauseRequest struct {
	For    Duration `json:"for,omitempty"` // at most MaxPause, with All MaxPauseAll; 0 with Off
	Off    bool     `json:"off,omitempty"` // end the pause instead
	All    bool     `json:"all,omitempty"` // every node; needs the authority's key
	Reason string   `json:"reason,omitempty"`
	DryRun bool     `json:"dry_run,omitempty"`
}

// PauseReply says what the pause lets through.
type PauseReply struct {
	Until   Time     `json:"until"`             // when it ends by itself; zero = it has ended
	Bans    int      `json:"bans"`              // in force on this node
	All     bool     `json:"all,omitempty"`     // every node
	Nodes   int      `json:"nodes,omitempty"`   // nodes that live, this one included, with All
	Waiting []string `json:"waiting,omitempty"` // names of those that have not confirmed it
	Note    string   `json:"note,omitempty"`    // as of a Result
	DryRun  bool     `json:"dry_run,omitempty"`
}

// PauseStatus is a pause in force.
type PauseStatus struct {
	Until  Time   `json:"until"`
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"`
	All    bool   `json:"all,omitempty"` // every node is paused
}
