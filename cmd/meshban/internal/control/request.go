package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// sourceAPI is the Source of a ban whose request names none.
const sourceAPI = "api"

// Request is the body of a call.
type Request interface {
	check() error // what is wrong with it, as a CodeUsage
}

// Decode reads one request and checks it.
func Decode[R Request](body []byte) (R, error) {
	var req, none R
	err := strict(body, &req)
	if err == nil {
		err = req.check()
	}
	if err != nil {
		return none, err
	}
	return req, nil
}

// Check returns what is wrong with a request that did not come as JSON.
func Check(req Request) error { return req.check() }

// check validates the list with this key.
func (l Prefixes) check(key string) error {
	switch {
	case len(l) == 0:
		return usage("%q has no address", key)
	case len(l) > MaxAddrs:
		return usage("%q has %d addresses, the limit is %d", key, len(l), MaxAddrs)
	case slices.Contains(l, netip.Prefix{}):
		return usage("%q has an empty address", key)
	}
	return nil
}

func usage(format string, args ...any) *Error {
	return &Error{Code: CodeUsage, Message: fmt.Sprintf(format, args...)}
}

// strict decodes exactly one JSON object and rejects unknown keys.
func strict(body []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		if _, more := dec.Token(); more == io.EOF {
			return nil
		}
		err = errors.New("more than one object")
	}
	return badValue(err)
}

// badValue returns err, about a value in a request, as an *Error.
func badValue(err error) *Error {
	if bad, ok := errors.AsType[*config.Error](err); ok {
		return &Error{Code: CodeUsage, Message: bad.Problem, Hint: bad.Remedy}
	}
	return usage("read request: %v", err)
}

func short(name, s string, most int) error {
	if len(s) > most {
		return usage("%s has %d bytes, the limit is %d", name, len(s), most)
	}
	return nil
}

func checkNode(node string) error {
	if node == "" {
		return usage("the node's name is missing")
	}
	return short("node", node, MaxNode)
}

func (r BanRequest) check() error {
	err := r.Addrs.check("addrs")
	if err == nil {
		err = errors.Join(short("ports", r.Ports, MaxPorts), short("reason", r.Reason, MaxReason), short("source", r.Source, MaxSource))
	}
	if err == nil && r.Before < 0 {
		err = usage("before: %d is negative", r.Before)
	}
	return err
}

func (r UnbanRequest) check() error {
	return AllowRequest{Prefixes: r.Prefixes, Reason: r.Reason}.check()
}

func (r AllowRequest) check() error {
	if err := r.Prefixes.check("prefixes"); err != nil {
		return err
	}
	return short("reason", r.Reason, MaxReason)
}

func (r HookRequest) check() error {
	if r.Name == "" {
		return usage("the hook's name is missing")
	}
	return short("name", r.Name, config.MaxName)
}

func (r InviteRequest) check() error {
	if r.Uses < 0 || r.Uses > MaxInviteUses {
		return usage("a token is for 1 to %d machines, not %d", MaxInviteUses, r.Uses)
	}
	if time.Duration(r.For) > MaxInviteFor {
		return usage("a token is good for at most %s", config.FormatDuration(MaxInviteFor))
	}
	return r.Caps.check()
}

func (r CancelInviteRequest) check() error {
	if len(r.ID) != inviteID || strings.Trim(r.ID, "0123456789abcdef") != "" {
		return usage("%q is not the id of a token: it has %d hex digits", r.ID, inviteID)
	}
	return nil
}

func (r RotateRequest) check() error {
	if r.What != WhatMeshKey {
		return usage("unknown key: write %q", WhatMeshKey)
	}
	return nil
}

func (r RevokeRequest) check() error {
	if err := checkNode(r.Node); err != nil {
		return err
	}
	return short("reason", r.Reason, MaxReason)
}

func (r AddKeyRequest) check() error {
	if err := r.Key.Check(); err != nil {
		return usage("%v", err)
	}
	return nil
}

func (r DeleteKeyRequest) check() error { return short("name", r.Name, apikey.MaxName) }

func (r PauseRequest) check() error {
	most := MaxPause
	if r.All {
		most = MaxPauseAll
	}
	switch length := time.Duration(r.For); {
	case r.Off && length != 0:
		return usage("the end of a pause takes no length")
	case !r.Off && (length < time.Second || length > most):
		return &Error{Code: CodeUsage, Message: fmt.Sprintf("a pause of %s is not possible", config.FormatDuration(length)), Hint: fmt.Sprintf("write %s or less", config.FormatDuration(most))}
	}
	return short("reason", r.Reason, MaxReason)
}

func (r ForgetRequest) check() error { return checkNode(r.Node) }

func (r ListedRequest) check() error {
	if !ValidListName(r.List) {
		return usage("%q is not a list name", r.List)
	}
	return nil
}

// ValidListName reports whether s may be the name of a list.
func ValidListName(s string) bool {
	return s != "" && len(s) <= MaxListName && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	}) < 0
}
