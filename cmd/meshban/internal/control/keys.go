package control

import (
	"fmt"
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
)

// AddKeyReply has a new key of the api listener. Nobody can get it again.
type AddKeyReply struct {
	Name   string `json:"name"`
	Key    string `json:"key"`
	Listen string `json:"listen,omitempty"` // where the listener answers; "" = it is off
}

// AddKeyRequest asks for a key of the api listener.
type AddKeyRequest struct {
	Key apikey.Key `json:"key"` // Added and Use do not count
}

// DeleteKeyReply names the deleted key.
type DeleteKeyReply struct {
	Name string `json:"name"`
}

// DeleteKeyRequest names a key of the api listener.
type DeleteKeyRequest struct {
	Name string `json:"name"`
}

// KeysReply has the keys of this node's api listener.
type KeysReply struct {
	Keys   []apikey.Key `json:"keys"`
	Listen string       `json:"listen,omitempty"` // as in AddKeyReply
	// LeftOut are bans in force that CrowdSec's bouncers cannot be told of: those of some ports only.
	LeftOut int `json:"left_out"`
	// RangesLeftOut are further ones: ranges inside which the never-ban list, an allow or a network of this machine lies.
	RangesLeftOut int `json:"ranges_left_out"`
}

// HookRequest names a hook to be tested.
type HookRequest struct {
	Name string `json:"name"`
}

// HookReply says that the receiver took the message.
type HookReply struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"` // that it took
}

// APIStatus describes the api listener. LeftOut and RangesLeftOut are as in KeysReply.
type APIStatus struct {
	Listen        string `json:"listen"` // "" = not yet open
	Held          int    `json:"held"`   // answers to bouncers that wait for a change
	LeftOut       int    `json:"left_out"`
	RangesLeftOut int    `json:"ranges_left_out"`
}

// NotTold returns which bans CrowdSec's bouncers are not told of, or "" for none.
func NotTold(ports, ranges int) string {
	var parts []string
	if ports > 0 {
		parts = append(parts, fmt.Sprintf("%d of some ports only", ports))
	}
	if ranges > 0 {
		parts = append(parts, fmt.Sprintf("%d of ranges with an exception inside", ranges))
	}
	if len(parts) == 0 {
		return ""
	}
	return "bans not told to CrowdSec's bouncers: " + strings.Join(parts, ", ")
}
