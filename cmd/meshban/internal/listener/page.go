package listener

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/ui"
)

// page serves the page to a browser with a key. What it reads ends with server.
func (s *Server) page(server context.Context, w http.ResponseWriter, r *http.Request, k apikey.Key) {
	ctx := withKey(r.Context(), k)
	if k.Can(apikey.Operate) {
		ctx = control.WithChange(ctx)
	}
	if r.Method == http.MethodGet {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(server, cancel)()
	} else if !s.spend.take(time.Now(), k, 1) {
		w.Header().Set("Retry-After", "60")
		refuse(w, http.StatusTooManyRequests, fmt.Sprintf("the key %s may change %d addresses a minute: wait, or make a key with a higher --rate", k.Name, k.Rate))
		return
	}
	r = r.WithContext(ctx)
	r.Header.Set(ui.SessionHeader, "key "+k.Name)
	s.cfg.Page.ServeHTTP(w, r)
}
