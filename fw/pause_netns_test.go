//go:build linux && netns

package fw

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

// A pause lets everything through at once, also what is banned meanwhile, and a new process keeps it. Its end drops what is
// banned then, with the exceptions in place.
func TestPause(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		entries := []Entry{entry("192.0.2.0/24"), entry("198.51.100.7"), entry("2001:db8::7"), entry("203.0.113.9", PortRange{ProtoUDP, 22, 22})}
		config := SyncerConfig{
			Backend: r.open(v, OutboundDrop),
			Exceptions: func() Exceptions {
				return Exceptions{Never: []netip.Prefix{prefix("192.0.2.1")}, Allow: []netip.Prefix{prefix("192.0.2.2")}}
			},
			Snapshot: func() State { return state(entries...) },
		}
		start := func() *Syncer {
			s, err := NewSyncer(config)
			if err == nil {
				err = s.Replace(ctx)
			}
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		pause := func(s *Syncer, on bool) {
			t.Helper()
			if err := s.Pause(ctx, on); err != nil {
				t.Fatal(err)
			}
			if problems, err := config.Backend.Check(ctx); err != nil || len(problems) > 0 {
				t.Errorf("problems %q, %v", problems, err)
			}
			if ok, why := s.Holds(entries[0]); ok == on || on && why != WhyPaused {
				t.Errorf("paused %v: the first ban is enforced: %v, %q", on, ok, why)
			}
			st, enforced := s.Status(), len(entries)
			if on {
				enforced = 0
			}
			if st.Paused != on || st.Enforced != enforced || st.Enforced+st.NotEnforced != len(entries) {
				t.Errorf("paused %v: status %+v", on, st)
			}
		}
		banned := []string{"192.0.2.9", "198.51.100.7", "2001:db8::7", "203.0.113.9"}
		reach := func(all bool) {
			t.Helper()
			for _, src := range banned {
				r.want(all, src, 22)
			}
			for _, src := range []string{"192.0.2.1", "192.0.2.2", "198.51.100.8", "2001:db8::8"} {
				r.want(true, src, 22)
			}
		}
		s := start()
		reach(false)
		pause(s, true)
		reach(true)

		t.Log("a ban that comes meanwhile, a repair, and a restart")
		late := entry("198.51.100.99")
		entries, banned = append(entries, late), append(banned, "198.51.100.99")
		running, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- s.Run(running) }()
		answered := make(chan error, 1)
		if err := s.Submit([]Update{{Entry: late}}, func(_ time.Time, err error) { answered <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-answered; err != nil {
			t.Error(err)
		}
		stop()
		<-ended
		reach(true)
		if err := s.Replace(ctx); err != nil {
			t.Fatal(err)
		}
		reach(true)
		config.Paused = true
		s = start()
		reach(true)

		t.Log("its end")
		pause(s, false)
		reach(false)
		pause(s, true)
		pause(s, true)
		reach(true)
		config.Paused = false
		s = start()
		reach(false)
	})
}
