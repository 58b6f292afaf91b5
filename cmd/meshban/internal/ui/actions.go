package ui

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// source is the source of what is banned, lifted or allowed on the page.
const source = "page"

// action is what a form does. What cannot be undone has an ask.
type action struct {
	do  func(h *Handler, ctx context.Context, form url.Values) (outcome, error)
	ask func(h *Handler, ctx context.Context, form url.Values) (question, error)
}

// actions are the forms by the last part of their path.
var actions map[string]action

func init() { // it refers to itself through the notes
	actions = map[string]action{
		"ban":        {do: (*Handler).doBan},
		"unban":      {do: (*Handler).doUnban},
		"allow":      {do: (*Handler).doAllow},
		"unallow":    {do: (*Handler).doUnallow},
		"decide":     {(*Handler).doDecide, (*Handler).askDecide},
		"revoke":     {(*Handler).doRevoke, (*Handler).askRevoke},
		"forget":     {(*Handler).doForget, (*Handler).askForget},
		"key-add":    {do: (*Handler).doKeyAdd},
		"key-delete": {(*Handler).doKeyDelete, (*Handler).askKeyDelete},
		"hook-test":  {do: (*Handler).doHookTest},
		"drill":      {do: (*Handler).doDrill},
	}
}

// prefixOf returns the address of a form.
func prefixOf(form url.Values) (control.Prefix, error) {
	p, err := config.ParsePrefix(strings.TrimSpace(form.Get("addr")))
	return control.PrefixOf(p), usage(err)
}

// lengthOf returns how long, from a form; empty is 0.
func lengthOf(form url.Values) (d control.Duration, err error) {
	return d, usage(d.UnmarshalText([]byte(strings.TrimSpace(form.Get("for")))))
}

// target reads what most forms have.
func target(form url.Values, to func(control.Prefix) string) (p control.Prefix, length control.Duration, o outcome, err error) {
	if p, err = prefixOf(form); err != nil {
		return p, 0, o, err
	}
	o.to = to(p)
	length, err = lengthOf(form)
	return p, length, o, err
}

// result makes the note of what has one result.
func (o outcome) result(r []control.Result, done string) (outcome, error) {
	if len(r) != 1 {
		return o, fmt.Errorf("%d results instead of 1", len(r))
	}
	if r[0].Err != nil {
		return o, r[0].Err
	}
	o.Text, o.Hint = done, r[0].Hint
	if r[0].Note != "" {
		o.Text += " " + sentence(r[0].Note)
	}
	return o, nil
}

func (h *Handler) doBan(ctx context.Context, form url.Values) (outcome, error) {
	p, length, o, err := target(form, whyOf)
	if err != nil {
		return o, err
	}
	req := control.BanRequest{Addrs: control.Prefixes{p.Prefix}, For: length, Ports: form.Get("ports"), Reason: form.Get("reason"), Source: source}
	if err := control.Check(req); err != nil {
		return o, err
	}
	rep, err := h.agent.Ban(ctx, req)
	if err != nil {
		return o, err
	}
	if o, err = o.result(rep.Results, fmt.Sprintf("%s is banned. What each node does is below.", p)); err == nil {
		o.Undo = &undo{"unban", "Unban", map[string]string{"addr": p.String()}}
	}
	return o, err
}

func (h *Handler) doUnban(ctx context.Context, form url.Values) (outcome, error) {
	p, _, o, err := target(form, whyOf)
	if err != nil {
		return o, err
	}
	back := h.banAgain(ctx, p)
	req := control.UnbanRequest{Prefixes: control.Prefixes{p.Prefix}, Reason: form.Get("reason"), Source: source}
	if err := control.Check(req); err != nil {
		return o, err
	}
	rep, err := h.agent.Unban(ctx, req)
	if err != nil {
		return o, err
	}
	if o, err = o.result(rep.Results, fmt.Sprintf("%s is lifted. What each node does is below.", p)); err == nil {
		o.Undo = back
	}
	return o, err
}

// banAgain returns the form that bans again what is about to be lifted, for as long as is left; nil = nothing of exactly
// this prefix is banned.
func (h *Handler) banAgain(ctx context.Context, p control.Prefix) *undo {
	why, err := h.agent.Why(ctx, p.Prefix)
	if err != nil {
		return nil
	}
	var last *control.Finding
	for i, f := range why.Findings {
		if f.Kind == "ban" && f.Prefix == p && strings.HasPrefix(f.Status, control.StateEnforced) && (last == nil || f.Until.After(last.Until.Time)) {
			last = &why.Findings[i]
		}
	}
	if last == nil {
		return nil
	}
	rest := max(last.Until.Sub(h.now()).Truncate(time.Second), time.Second)
	ports := last.Ports
	if ports == "all" {
		ports = ""
	}
	return &undo{"ban", "Ban it again", map[string]string{"addr": p.String(), "for": config.FormatDuration(rest), "ports": ports, "reason": last.Reason}}
}

func (h *Handler) doAllow(ctx context.Context, form url.Values) (outcome, error) {
	to := whyOf
	if form.Get("from") == "list" {
		to = func(control.Prefix) string { return "allow" }
	}
	p, length, o, err := target(form, to)
	if err != nil {
		return o, err
	}
	req := control.AllowRequest{Prefixes: control.Prefixes{p.Prefix}, For: length, Reason: form.Get("reason"), Source: source}
	if err := control.Check(req); err != nil {
		return o, err
	}
	rep, err := h.agent.Allow(ctx, req)
	if err != nil {
		return o, err
	}
	if o, err = o.result(rep.Results, fmt.Sprintf("%s is on the allow list.", p)); err == nil {
		o.Undo = &undo{"unallow", "Take it off the list", map[string]string{"addr": p.String()}}
	}
	return o, err
}

func (h *Handler) doUnallow(ctx context.Context, form url.Values) (outcome, error) {
	p, _, o, err := target(form, func(control.Prefix) string { return "allow" })
	if err != nil {
		return o, err
	}
	var back *undo
	list, err := h.agent.Allowed(ctx)
	if err != nil {
		return o, err
	}
	for _, e := range list {
		if e.Prefix != p || e.Source != sourceMesh {
			continue
		}
		back = &undo{"allow", "Allow it again", map[string]string{"addr": p.String(), "reason": e.Reason, "from": "list"}}
		if !e.Until.IsZero() {
			back.Fields["for"] = config.FormatDuration(max(e.Until.Sub(h.now()).Truncate(time.Second), time.Second))
		}
	}
	rep, err := h.agent.Unallow(ctx, control.UnallowRequest{Prefixes: control.Prefixes{p.Prefix}})
	if err != nil {
		return o, err
	}
	if o, err = o.result(rep.Results, fmt.Sprintf("%s is off the allow list.", p)); err == nil {
		o.Undo = back
	}
	return o, err
}

// decision reads the form of the page of what is on hold.
func decision(form url.Values) (req control.DecideRequest, what string, err error) {
	req = control.DecideRequest{Action: form.Get("action"), Origin: form.Get("origin")}
	what = "everything that is on hold"
	if req.Origin != "" {
		what = "everything on hold that " + cmp.Or(form.Get("name"), req.Origin) + " has said"
	}
	if form.Get("addr") != "" {
		p, err := prefixOf(form)
		if err != nil {
			return req, what, err
		}
		req.Prefixes, what = control.Prefixes{p.Prefix}, p.String()
	}
	return req, what, control.Check(req)
}

func (h *Handler) askDecide(_ context.Context, form url.Values) (q question, err error) {
	req, what, err := decision(form)
	if req.Action == control.ActionRelease {
		return question{Title: "Release " + what + "?", Button: "Release", Back: "held",
			Lines: []string{"This node enforces it from now on. A ban can be lifted again on its own page."}}, err
	}
	return question{Title: "Drop " + what + "?", Button: "Drop", Back: "held",
		Lines: []string{"This node never enforces it, even after a restart. Other nodes decide for themselves."}}, err
}

func (h *Handler) doDecide(ctx context.Context, form url.Values) (o outcome, err error) {
	req, what, err := decision(form)
	if err != nil {
		return o, err
	}
	o.to = "held"
	rep, err := h.agent.Decide(ctx, req)
	if err != nil {
		return o, err
	}
	done := "dropped"
	if req.Action == control.ActionRelease {
		done = "released"
	}
	o.Text = fmt.Sprintf("%s %s: %s.", plural(rep.Decided, "record", "records"), done, what)
	return o, nil
}

func (h *Handler) askRevoke(ctx context.Context, form url.Values) (q question, err error) {
	req := control.RevokeRequest{Node: form.Get("node"), DryRun: true}
	if err := control.Check(req); err != nil {
		return q, err
	}
	rep, err := h.agent.Revoke(ctx, req)
	q = question{Title: "Revoke " + rep.Name + " for good?", Button: "Revoke " + rep.Name, Back: "members", Lines: []string{
		fmt.Sprintf("It takes back what %s has said, on every node: %s, %s and %s.", rep.Name, plural(rep.Live.Bans, "ban", "bans"),
			plural(rep.Live.Allows, "allow", "allows"), plural(rep.Live.Unbans, "unban", "unbans")),
		"The node is shut out and cannot come back under its key. This cannot be undone: to return, the machine has to join again.",
		"To keep what it said before it was captured, use `meshban revoke " + rep.ID[:min(len(rep.ID), control.MinNodeID)] + " --since TIME` instead.",
	}}
	for _, b := range rep.Last {
		q.Lines = append(q.Lines, fmt.Sprintf("One of its last bans: %s, %q", b.Prefix, b.Reason))
	}
	return q, err
}

func (h *Handler) doRevoke(ctx context.Context, form url.Values) (o outcome, err error) {
	o.to = "members"
	req := control.RevokeRequest{Node: form.Get("node"), Reason: form.Get("reason")}
	if err := control.Check(req); err != nil {
		return o, err
	}
	rep, err := h.agent.Revoke(ctx, req)
	o.Text = fmt.Sprintf("%s is revoked; %s taken back.", rep.Name, plural(rep.Live.Bans, "ban", "bans"))
	return o, err
}

func (h *Handler) askForget(_ context.Context, form url.Values) (question, error) {
	req := control.ForgetRequest{Node: form.Get("node")}
	return question{Title: "Take this member off the list?", Button: "Forget it", Back: "members", Lines: []string{
		"It leaves the list of members; its bans stay until they end. If it is started again, it is back.",
	}}, control.Check(req)
}

func (h *Handler) doForget(ctx context.Context, form url.Values) (o outcome, err error) {
	o.to = "members"
	req := control.ForgetRequest{Node: form.Get("node")}
	if err := control.Check(req); err != nil {
		return o, err
	}
	rep, err := h.agent.Forget(ctx, req)
	o.Text = rep.Name + " is off the list."
	return o, err
}

func (h *Handler) doKeyAdd(ctx context.Context, form url.Values) (o outcome, err error) {
	o.to = "keys"
	req := control.AddKeyRequest{Key: apikey.Key{Name: strings.TrimSpace(form.Get("name")), May: form["may"], Rate: apikey.DefaultRate}}
	if err := control.Check(req); err != nil {
		return o, err
	}
	rep, err := h.agent.AddKey(ctx, req)
	o.page, o.data = "newkey", rep // in no URL: it is a secret
	return o, err
}

func (h *Handler) askKeyDelete(_ context.Context, form url.Values) (question, error) {
	req := control.DeleteKeyRequest{Name: form.Get("name")}
	return question{Title: "Delete the key " + req.Name + "?", Button: "Delete", Back: "keys",
		Lines: []string{"The program that uses it gets no more answers, at once. This cannot be undone; you can make a new key."}}, control.Check(req)
}

func (h *Handler) doKeyDelete(ctx context.Context, form url.Values) (o outcome, err error) {
	o.to = "keys"
	req := control.DeleteKeyRequest{Name: form.Get("name")}
	if err := control.Check(req); err != nil {
		return o, err
	}
	rep, err := h.agent.DeleteKey(ctx, req)
	o.Text = "The key " + rep.Name + " is deleted."
	return o, err
}

func (h *Handler) doHookTest(ctx context.Context, form url.Values) (o outcome, err error) {
	o.to = "keys"
	req := control.HookRequest{Name: form.Get("name")}
	if err := control.Check(req); err != nil {
		return o, err
	}
	rep, err := h.agent.TestHook(ctx, req)
	o.Text = fmt.Sprintf("%s took the test message in %.0f ms.", rep.Name, rep.MS)
	return o, err
}

func (h *Handler) doDrill(ctx context.Context, _ url.Values) (o outcome, err error) {
	o.to = "drill"
	rep, err := h.agent.Drill(ctx, control.DrillRequest{})
	if err != nil {
		return o, err
	}
	status, err := h.agent.Status(ctx)
	o.page, o.data = "drill", drillView{Result: &rep, Last: status.Drill}
	return o, err
}

// sourceMesh is the source of an allow entry that somebody has added.
const sourceMesh = "mesh"
