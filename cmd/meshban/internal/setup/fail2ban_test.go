package setup

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

// What `fail2ban-client -d` of fail2ban 1.0.2 prints, shortened.
const plainDump = `['set', 'syslogsocket', 'auto']
['add', 'sshd', 'auto']
['set', 'sshd', 'maxretry', 5]
['set', 'sshd', 'addaction', 'iptables-multiport']
['multi-set', 'sshd', 'action', 'iptables-multiport', [['actionban', '<iptables> -I f2b-sshd 1 -s <ip> -j <blocktype>'], ['port', 'ssh']]]
['add', 'own', 'polling']
['set', 'own', 'addaction', 'iptables-allports']
['set', 'own', 'action', 'iptables-allports', 'actionban', "echo 'x'"]
['add', "it's", 'auto']
['set', "it's", 'addaction', 'sendmail']
['start', 'sshd']
`

const meshDump = `['add', 'sshd', 'auto']
['set', 'sshd', 'maxretry', 5]
['set', 'sshd', 'addaction', 'meshban-default']
['multi-set', 'sshd', 'action', 'meshban-default', [['actionban', 'timeout 30']]]
['set', 'sshd', 'addaction', 'iptables-multiport']
['multi-set', 'sshd', 'action', 'iptables-multiport', [['actionban', '<iptables> -I f2b-sshd 1 -s <ip> -j <blocktype>'], ['port', 'ssh']]]
['add', 'own', 'polling']
['set', 'own', 'addaction', 'iptables-allports']
['set', 'own', 'action', 'iptables-allports', 'actionban', "echo 'x'"]
['add', "it's", 'auto']
['set', "it's", 'addaction', 'sendmail']
['add', 'meshban', 'auto']
['set', 'meshban', 'addaction', 'meshban-show']
`

func TestParseDump(t *testing.T) {
	d := parseDump([]byte(plainDump))
	if want := []string{"sshd", "own", "it's"}; !slices.Equal(d.jails, want) {
		t.Errorf("jails are %q, want %q", d.jails, want)
	}
	if want := []string{"iptables-multiport"}; !slices.Equal(d.actions["sshd"], want) {
		t.Errorf("actions are %q, want %q", d.actions["sshd"], want)
	}
	if len(d.lines) != 5 {
		t.Errorf("%d lines are about actions, want 5", len(d.lines))
	}
}

func TestSilentJails(t *testing.T) {
	if got, want := parseDump([]byte(meshDump)).silent(), []string{"own", "it's"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	byHand := strings.Replace(meshDump, "'iptables-allports'", "'meshban'", 1)
	if got, want := parseDump([]byte(byHand)).silent(), []string{"it's"}; !slices.Equal(got, want) {
		t.Errorf("with one written by hand: got %q, want %q", got, want)
	}
	twice := meshDump + "['set', 'sshd', 'addaction', 'meshban']\n"
	if got, want := parseDump([]byte(twice)).twice(), []string{"sshd"}; !slices.Equal(got, want) {
		t.Errorf("with one too many: got %q, want %q", got, want)
	}
}

func TestWorse(t *testing.T) {
	for _, c := range []struct{ name, before, after, err string }{
		{"ok: nothing changed", plainDump, plainDump, ""},
		{"ok: installed", plainDump, meshDump, ""},
		{"ok: removed", meshDump, plainDump, ""},
		{"bad: an action lost", plainDump, strings.Replace(meshDump, "['set', 'sshd', 'addaction', 'iptables-multiport']\n", "", 1), `the actions of the jail "sshd" would change`},
		{"bad: an option lost", plainDump, strings.Replace(meshDump, "['port', 'ssh']", "", 1), `the actions of the jail "sshd" would change`},
		{"bad: a jail skipped", meshDump, plainDump + "['config-error', \"Jail 'x' skipped, because of wrong configuration: Unable to read action 'meshban'\"]\n", "Unable to read action 'meshban'"},
		{"ok: a jail skipped before", plainDump + "['config-error', 'Jail x skipped']\n", meshDump + "['config-error', 'Jail x skipped']\n", ""},
		{"bad: two of one name", plainDump, meshDump + "['set', 'own', 'addaction', 'iptables-allports']\n", `the jail "own" would have two actions named "iptables-allports"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := parseDump([]byte(c.before)).worse(parseDump([]byte(c.after)))
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("error is %v, want one with %q", err, c.err)
			}
		})
	}
}

// answers returns an Options.Run that returns each of outs in turn.
func answers(outs ...any) func(context.Context, string, ...string) ([]byte, error) {
	return func(_ context.Context, name string, args ...string) ([]byte, error) {
		if name != "fail2ban-client" || !slices.Contains(args, "-d") || len(outs) == 0 {
			return nil, errors.New("unexpected call")
		}
		out := outs[0]
		outs = outs[1:]
		if err, ok := out.(error); ok {
			return nil, err
		}
		return []byte(out.(string)), nil
	}
}

func TestInstallChecksFail2ban(t *testing.T) {
	broken := errors.New("exit status 255: no log file for jail sshd")
	for _, c := range []struct {
		name string
		outs []any
		err  string // "" = installs
		note string
	}{
		{"ok: better", []any{plainDump, meshDump}, "", `own, it's. Add this line to each, above its other actions: meshban[port="%(port)s"]`},
		{"ok: fail2ban had an error and still has it", []any{broken, broken}, "", "no log file for jail sshd"},
		{"ok: fail2ban had an error before", []any{broken, meshDump}, "", ""},
		{"bad: fail2ban has an error now", []any{plainDump, broken}, "fail2ban rejects its configuration", ""},
		{"bad: a jail is worse off", []any{plainDump, "['add', 'sshd', 'auto']\n"}, "would change", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := machine(t)
			o.Run = answers(c.outs...)
			was := tree(t, o.Root)
			r, err := Install(t.Context(), both(t, o), o)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "nothing installed") {
					t.Fatalf("error is %v, want one with %q", err, c.err)
				}
				same(t, o.Root, was)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if notes := strings.Join(r.Notes, "\n"); !strings.Contains(notes, c.note) || c.note == "" && notes != "" {
				t.Errorf("notes are %q, want %q", notes, c.note)
			}
		})
	}
}

func TestHidesAction(t *testing.T) {
	for _, c := range []struct{ name, file, text, want string }{
		{"bad: jail.local", "jail.local", "[DEFAULT]\naction_ = x\n", "jail.local"},
		{"bad: a later file", "jail.d/z.conf", "[DEFAULT]\naction_=x\n", "jail.d/z.conf"},
		{"bad: a local one", "jail.d/a.local", "[DEFAULT]\naction_ : x\n", "jail.d/a.local"},
		{"ok: an earlier file", "jail.d/a.conf", "[DEFAULT]\naction_ = x\n", ""},
		{"ok: ours", "jail.d/meshban.conf", "[DEFAULT]\naction_ = x\n", ""},
		{"ok: others", "jail.local", "[DEFAULT]\n# action_ = x\naction_mw = x\naction = %(action_)s\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := machine(t)
			put(t, o.Root+fail2banDir+"/"+c.file, c.text)
			if got := o.hidesAction(); strings.TrimPrefix(got, fail2banDir+"/") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestRemoveKeepsWhatAJailNames(t *testing.T) {
	o := machine(t)
	install(t, o)
	was := tree(t, o.Root)
	o.Run = answers(meshDump, plainDump+"['config-error', \"Jail 'x' skipped, because of wrong configuration: Unable to read action 'meshban'\"]\n")
	_, err := Remove(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "nothing removed") || !strings.Contains(err.Error(), "Jail 'x' skipped") || !strings.Contains(err.Error(), "delete the lines") {
		t.Fatalf("error is %v", err)
	}
	same(t, o.Root, was)
}

func TestRunReportsStderr(t *testing.T) {
	out, err := run(t.Context(), "sh", "-c", "echo data; echo talk >&2")
	if err != nil || string(out) != "data\n" {
		t.Errorf("got %q, %v", out, err)
	}
	_, err = run(t.Context(), "sh", "-c", "echo first >&2; echo last >&2; exit 3")
	if err == nil || err.Error() != "exit status 3: last" {
		t.Errorf("error is %v", err)
	}
}
