package hostinfo

import (
	"net/netip"
	"testing"
)

func TestSessionAbove(t *testing.T) {
	for _, c := range []struct {
		name  string
		build func(fakeProc)
		want  string
	}{
		{"ok: sudo in a user's shell", func(f fakeProc) {
			f.process(10, 1, "sshd", "sshd: alice [priv]", "0", 104)
			f.process(11, 10, "sshd", "sshd: alice@pts/0", "4200", 104)
			f.process(12, 11, "bash", "-bash", "4200")
			f.process(13, 12, "sudo", "sudo meshban allow --me", "0")
		}, "2001:db8::4"},
		{"ok: root's own shell", func(f fakeProc) {
			f.process(10, 1, "sshd-session", "sshd-session: root@pts/0", "0", 101)
			f.process(13, 10, "bash", "-bash", "0")
		}, "192.0.2.1"},
		{"bad: at the console", func(f fakeProc) {
			f.process(10, 1, "login", "login -- root", "0")
			f.process(13, 10, "bash", "-bash", "0")
		}, "invalid IP"},
		{"bad: tmux, which init has adopted", func(f fakeProc) {
			f.process(10, 1, "sshd", "sshd: root@pts/0", "0", 101)
			f.process(12, 1, "tmux", "tmux new", "0")
			f.process(13, 12, "bash", "-bash", "0")
		}, "invalid IP"},
		{"bad: a user's program with sshd's title", func(f fakeProc) {
			f.process(11, 1, "sshd", "sshd: root@pts/0", "4200", 101)
			f.process(13, 11, "bash", "-bash", "4200")
		}, "invalid IP"},
		{"bad: nobody is logged in yet", func(f fakeProc) {
			f.process(10, 1, "sshd", "sshd: root [priv]", "0", 101)
			f.process(13, 10, "bash", "-bash", "0")
		}, "invalid IP"},
		{"bad: a loop", func(f fakeProc) { f.process(13, 13, "bash", "-bash", "0") }, "invalid IP"},
		{"bad: it is gone", func(fakeProc) {}, "invalid IP"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := fakeSessions(t)
			c.build(f)
			if got := s.above(13); got.String() != c.want {
				t.Errorf("from %v, want %s", got, c.want)
			}
		})
	}
	if got := SessionAbove(); got.IsValid() && got == netip.IPv4Unspecified() {
		t.Error(got)
	}
}
