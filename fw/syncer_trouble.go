package fw

import (
	"context"
	"errors"
	"time"
)

// told keeps what a *PartialError says besides naming refused entries.
func (s *Syncer) told(err error) {
	var partial *PartialError
	if errors.As(err, &partial) && (len(partial.Refused) == 0 || partial.Why != partial.Refused[0].Why) {
		const what = "the firewall works only in part"
		s.failed(what, err)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.partly, s.trouble = what+": "+err.Error(), ""
	}
}

// succeeded records that what failed before has succeeded now.
func (s *Syncer) succeeded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = ""
}

func (s *Syncer) fellBehind(behind bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behind = behind
}

// failed counts and keeps an error, unless it only says that Run has ended.
func (s *Syncer) failed(what string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	s.cfg.Logger.Warn("a firewall step failed", "step", what, "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.st.Failures++
	s.trouble = what + ": " + err.Error()
	s.st.LastError, s.st.LastErrorAt = s.trouble, time.Now().UTC().Truncate(time.Millisecond)
}
