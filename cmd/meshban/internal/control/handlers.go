package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// Paths of the socket's HTTP interface.
const (
	pathBan     = "/v1/ban"
	pathListed  = "/v1/listed"
	pathUnban   = "/v1/unban"
	pathAllow   = "/v1/allow"
	pathUnallow = "/v1/unallow"
	pathAllowed = "/v1/allowed"
	pathList    = "/v1/list"
	withHits    = "hits"    // a parameter of pathList
	pathWhy     = "/v1/why" // ?addr=
	pathMembers = "/v1/members"
	pathStatus  = "/v1/status"
	pathReach   = "/v1/reach"
	pathWatch   = "/v1/watch"
	pathInvite  = "/v1/invite"
	pathInvites = "/v1/invites"
	pathCancel  = "/v1/invite/cancel"
	pathAudit   = "/v1/audit" // ?since=, RFC 3339
	pathHeld    = "/v1/held"
	pathDecide  = "/v1/decide"
	pathRevoke  = "/v1/revoke"
	pathForget  = "/v1/forget"
	pathPause   = "/v1/pause"
	pathAddKey  = "/v1/key/add"
	pathDelKey  = "/v1/key/delete"
	pathKeys    = "/v1/keys"
	pathCaps    = "/v1/caps"
	pathRotate  = "/v1/rotate"
	pathHook    = "/v1/hook"
	pathDrill   = "/v1/drill"
	pathPage    = "/ui/" // and what is below it
)

// errorReply is the body of a refusal, and the last line of a stream that failed.
type errorReply struct {
	Error *Error `json:"error"`
}

// routes returns the handler. Streams also end with server.
func (s *Server) routes(server context.Context) http.Handler {
	mux := http.NewServeMux()
	agent := s.cfg.Agent
	mux.Handle("POST "+pathBan, s.change(post(s.ban)))
	mux.Handle("POST "+pathListed, s.change(post(agent.Listed)))
	mux.Handle("POST "+pathUnban, s.change(post(agent.Unban)))
	mux.Handle("POST "+pathAllow, s.change(post(agent.Allow)))
	mux.Handle("POST "+pathUnallow, s.change(post(agent.Unallow)))
	mux.Handle("POST "+pathInvite, s.change(post(agent.Invite)))
	mux.Handle("GET "+pathInvites, get(agent.Invitations))
	mux.Handle("POST "+pathCancel, s.change(post(agent.CancelInvite)))
	mux.Handle("POST "+pathDecide, s.change(post(agent.Decide)))
	mux.Handle("POST "+pathRevoke, s.change(post(agent.Revoke)))
	mux.Handle("POST "+pathForget, s.change(post(agent.Forget)))
	mux.Handle("POST "+pathPause, s.change(post(agent.Pause)))
	mux.Handle("POST "+pathAddKey, s.change(post(agent.AddKey)))
	mux.Handle("POST "+pathDelKey, s.change(post(agent.DeleteKey)))
	mux.Handle("GET "+pathKeys, get(agent.Keys))
	mux.Handle("POST "+pathCaps, s.change(post(agent.Caps)))
	mux.Handle("POST "+pathRotate, s.change(post(agent.Rotate)))
	mux.Handle("POST "+pathHook, s.change(post(agent.TestHook)))
	mux.Handle("POST "+pathDrill, s.change(post(agent.Drill)))
	mux.Handle("GET "+pathAllowed, get(agent.Allowed))
	mux.Handle("GET "+pathMembers, get(agent.Members))
	mux.Handle("GET "+pathStatus, get(agent.Status))
	mux.Handle("GET "+pathReach, get(agent.Reach))
	mux.HandleFunc("GET "+pathWhy, s.why)
	mux.HandleFunc("GET "+pathList, func(w http.ResponseWriter, r *http.Request) {
		hits := r.URL.Query().Has(withHits)
		sendAll(w, r, server, func(ctx context.Context, yield func(ListEntry) error) error { return agent.List(ctx, hits, yield) })
	})
	mux.HandleFunc("GET "+pathAudit, func(w http.ResponseWriter, r *http.Request) { s.audit(w, r, server) })
	mux.HandleFunc("GET "+pathHeld, func(w http.ResponseWriter, r *http.Request) { sendAll(w, r, server, agent.Held) })
	mux.HandleFunc("GET "+pathWatch, func(w http.ResponseWriter, r *http.Request) { s.watch(w, r, server) })
	if s.cfg.Page != nil {
		mux.HandleFunc(pathPage, func(w http.ResponseWriter, r *http.Request) { s.page(w, r, server) })
		mux.Handle("GET /{$}", http.RedirectHandler(pathPage, http.StatusSeeOther))
	}
	guarded := guardBrowser(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.running.TryRLock() {
			return // Run has ended
		}
		defer s.running.RUnlock()
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		guarded.ServeHTTP(w, r)
	})
}

// change admits only peers that may make changes.
func (s *Server) change(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peer, ok := PeerOf(r.Context()); !ok || !s.cfg.Access.mayChange(peer) {
			fail(w, s.cfg.Access.refusal(peer))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// page serves the page. What it reads ends with server.
func (s *Server) page(w http.ResponseWriter, r *http.Request, server context.Context) {
	peer, ok := PeerOf(r.Context())
	ctx := r.Context()
	if ok && s.cfg.Access.mayChange(peer) {
		ctx = WithChange(ctx)
	}
	if r.Method == http.MethodGet {
		var done func()
		ctx, done = stream(ctx, server)
		defer done()
	}
	s.cfg.Page.ServeHTTP(w, r.WithContext(ctx))
}

// post serves a route whose request has a body.
func post[Req Request, Rep any](call func(context.Context, Req) (Rep, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
				err = usage("the request has more than %d bytes", MaxBody)
			}
			fail(w, err)
			return
		}
		req, err := Decode[Req](body)
		if err != nil {
			fail(w, err)
			return
		}
		rep, err := call(r.Context(), req)
		answer(w, rep, err)
	})
}

// get serves a route whose request has no body.
func get[Rep any](call func(context.Context) (Rep, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rep, err := call(r.Context())
		answer(w, rep, err)
	})
}

// ban calls the agent and drops the results that the client does not want.
func (s *Server) ban(ctx context.Context, req BanRequest) (BanReply, error) {
	req.Source = cmp.Or(req.Source, sourceAPI)
	rep, err := s.cfg.Agent.Ban(ctx, req)
	if err == nil && req.ErrorsOnly {
		all := len(rep.Results)
		rep.Results = slices.DeleteFunc(rep.Results, func(r Result) bool { return r.Err == nil && r.Note == "" })
		rep.Omitted = all - len(rep.Results)
	}
	return rep, err
}

func (s *Server) why(w http.ResponseWriter, r *http.Request) {
	prefix, err := config.ParsePrefix(r.URL.Query().Get("addr"))
	if err != nil {
		fail(w, badValue(err))
		return
	}
	rep, err := s.cfg.Agent.Why(r.Context(), prefix)
	if len(rep.Findings) > MaxFindings {
		rep.Findings = rep.Findings[:MaxFindings]
	}
	rep.Findings, rep.Nodes = append([]Finding{}, rep.Findings...), append([]NodeAnswer{}, rep.Nodes...) // never null
	answer(w, rep, err)
}

func (s *Server) audit(w http.ResponseWriter, r *http.Request, server context.Context) {
	since := time.Time{}
	if text := r.URL.Query().Get("since"); text != "" {
		var err error
		if since, err = time.Parse(time.RFC3339Nano, text); err != nil {
			fail(w, usage("since: %v", err))
			return
		}
	}
	sendAll(w, r, server, func(ctx context.Context, yield func(AuditEntry) error) error {
		return s.cfg.Agent.Audit(ctx, since, yield)
	})
}

// sendAll streams the entries that each yields. If server ends first, the stream ends with an error.
func sendAll[T any](w http.ResponseWriter, r *http.Request, server context.Context,
	each func(ctx context.Context, yield func(T) error) error) {
	ctx, done := stream(r.Context(), server)
	defer done()
	out := newLines(w, listChunk)
	err := each(ctx, func(e T) error { return out.add(e) })
	if err == nil && server.Err() != nil {
		err = errors.New("the agent is stopping")
	}
	out.close(err)
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request, server context.Context) {
	select {
	case s.watchers <- struct{}{}:
		defer func() { <-s.watchers }()
	default:
		fail(w, &Error{Code: CodeFailed, Message: fmt.Sprintf("%d clients are already watching, which is the limit", MaxWatchers)})
		return
	}
	ctx, done := stream(r.Context(), server)
	defer done()
	out := newLines(w, 0)
	if out.flush() != nil { // the header tells the client that it is connected
		return
	}
	err := s.cfg.Agent.Watch(ctx, func(e Event) error { return out.add(e) })
	if ctx.Err() != nil {
		err = nil // it ended normally
	}
	out.close(err)
}

// answer sends a reply or the error.
func answer(w http.ResponseWriter, rep any, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	body, err := json.Marshal(rep)
	if err != nil {
		fail(w, fmt.Errorf("encode answer: %w", err))
		return
	}
	send(w, http.StatusOK, body)
}

// fail sends err as an errorReply.
func fail(w http.ResponseWriter, err error) {
	e := AsError(err)
	send(w, e.Status(), errorBody(e))
}

func errorBody(e *Error) []byte {
	body, err := json.Marshal(errorReply{e})
	if err != nil {
		return nil // cannot happen: only strings
	}
	return body
}

// send writes one JSON body. If the write fails, the client is gone and nobody needs to know.
func send(w http.ResponseWriter, status int, body []byte) {
	deadline(w)
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
