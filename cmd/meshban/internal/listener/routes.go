package listener

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// decisions answers which bans there are, as an array, or null if there are none.
func (s *Server) decisions(w http.ResponseWriter, r *http.Request, k apikey.Key) {
	q, err := parseQuery(r.URL.RawQuery, k)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	a := newAnswer(w)
	if r.Method == http.MethodHead {
		a.start()
		return
	}
	skip := q.offset
	err = s.candidates(r.Context(), &q, func(b Ban) error {
		if !q.fits(b) {
			return nil
		}
		if skip > 0 {
			skip--
			return nil
		}
		if a.count == 0 {
			a.open("[")
		}
		if err := a.ban(b); err != nil {
			return err
		}
		if a.count == q.limit {
			return errEnough
		}
		return nil
	})
	switch {
	case err != nil && !errors.Is(err, errEnough):
		panic(http.ErrAbortHandler) // the client is gone
	case a.count == 0:
		a.open("null")
	default:
		a.open("]")
	}
	_ = a.flush(0) // fails if the client is gone
}

var errEnough = errors.New("enough")

// candidates calls yield for at least the bans that the query asks for.
func (s *Server) candidates(ctx context.Context, q *query, yield func(Ban) error) error {
	var some []Ban
	switch {
	case q.nothing:
		return nil
	case q.at.IsValid() && !q.inside:
		some = s.cfg.Agent.Covering(q.at)
	case q.value.IsValid():
		some = s.cfg.Agent.Covering(q.value)
	default:
		select {
		case s.large <- struct{}{}:
			defer func() { <-s.large }()
		case <-ctx.Done():
			return ctx.Err()
		}
		return s.cfg.Agent.Bans(ctx, yield)
	}
	for _, b := range some {
		if err := yield(b); err != nil {
			return err
		}
	}
	return nil
}

// usage takes the figures that bouncers send, which nobody here needs.
func usage(w http.ResponseWriter, r *http.Request, _ apikey.Key) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		refuseBody(w, err)
		return
	}
	deadline(w)
	w.WriteHeader(http.StatusCreated)
}

func refuseBody(w http.ResponseWriter, err error) {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the request has more than %d bytes", control.MaxBody))
		return
	}
	refuse(w, http.StatusBadRequest, "the request did not arrive whole")
}

func (s *Server) ban(w http.ResponseWriter, r *http.Request, k apikey.Key) {
	change(s, w, r, k, func(ctx context.Context, req control.BanRequest) (control.BanReply, error) {
		req.Source = sourceOf(k)
		return s.cfg.Agent.Ban(ctx, req)
	}, func(req control.BanRequest) int { return len(req.Addrs) })
}

func (s *Server) unban(w http.ResponseWriter, r *http.Request, k apikey.Key) {
	change(s, w, r, k, func(ctx context.Context, req control.UnbanRequest) (control.UnbanReply, error) {
		req.Source = sourceOf(k)
		return s.cfg.Agent.Unban(ctx, req)
	}, func(req control.UnbanRequest) int { return len(req.Prefixes) })
}

func (s *Server) allow(w http.ResponseWriter, r *http.Request, k apikey.Key) {
	change(s, w, r, k, func(ctx context.Context, req control.AllowRequest) (control.AllowReply, error) {
		req.Source = sourceOf(k)
		return s.cfg.Agent.Allow(ctx, req)
	}, func(req control.AllowRequest) int { return len(req.Prefixes) })
}

// sourceOf returns the source of what a key says.
func sourceOf(k apikey.Key) string { return "api:" + k.Name }

// change serves a request that changes something, with the JSON of the control socket.
func change[Req control.Request, Rep any](
	s *Server, w http.ResponseWriter, r *http.Request, k apikey.Key, call func(context.Context, Req) (Rep, error), size func(Req) int,
) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		refuseBody(w, err)
		return
	}
	req, err := control.Decode[Req](body)
	if err != nil {
		fail(w, err)
		return
	}
	if n := size(req); !s.spend.take(time.Now(), k, n) {
		w.Header().Set("Retry-After", "60")
		refuse(w, http.StatusTooManyRequests, fmt.Sprintf("the key %s may change %d addresses a minute, and these are %d more: send fewer, or make a key with a higher --rate", k.Name, k.Rate, n))
		return
	}
	rep, err := call(withKey(r.Context(), k), req)
	if err != nil {
		fail(w, err)
		return
	}
	out, err := json.Marshal(rep)
	if err != nil {
		fail(w, err)
		return
	}
	send(w, http.StatusOK, out)
}

// fail writes an error of the agent.
func fail(w http.ResponseWriter, err error) {
	e := control.AsError(err)
	message := e.Message
	if e.Hint != "" {
		message += "; " + e.Hint
	}
	refuse(w, e.Status(), message)
}

// spend bounds what each key changes.
type spend struct {
	mu  sync.Mutex // guards what follows
	per map[string]*rate.Limiter
}

func newSpend() *spend { return &spend{per: make(map[string]*rate.Limiter)} }

// take spends n addresses of a key and reports whether enough were left.
func (s *spend) take(now time.Time, k apikey.Key, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.per[k.Name]
	if !ok || l.Burst() != k.Rate {
		if len(s.per) > 2*apikey.MaxKeys { // of keys that were deleted
			clear(s.per)
		}
		l = rate.NewLimiter(rate.Limit(float64(k.Rate)/60), k.Rate)
		s.per[k.Name] = l
	}
	return l.AllowN(now, n)
}
