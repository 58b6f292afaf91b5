package doctor

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

const (
	// lastLines is how many lines of the log and of the audit log a bundle has.
	lastLines = 500
	// bundleMode is the mode of the files in a bundle.
	bundleMode = 0o600
)

// versionsOf are the commands whose output tells what runs here.
var versionsOf = [][]string{
	{"uname", "-srm"}, {"iptables", "--version"}, {"ipset", "--version"}, {"nft", "--version"}, {"fail2ban-client", "--version"}, {"systemctl", "--version"},
}

// WriteBundle writes one tar.gz for whoever is to help: the findings, status, members, the config without comments, the
// last lines of log and audit log, and versions. It opens no file with a key in it, and masks what could be one. Without
// addresses, each address is replaced by a name, the same one everywhere.
func WriteBundle(ctx context.Context, w io.Writer, o Options, found []Finding, addresses bool, version string) error {
	zip := gzip.NewWriter(w)
	b := bundle{tar: tar.NewWriter(zip), mask: mask{names: map[netip.Addr]string{}, keep: addresses}, now: time.Now()}
	b.lines("doctor.jsonl", func(yield func(any) error) error {
		for _, f := range found {
			if err := yield(f); err != nil {
				return err
			}
		}
		return nil
	})
	o.Config.Hooks = slices.Clone(o.Config.Hooks)
	for i := range o.Config.Hooks { // arguments and bodies often hold a password
		h := &o.Config.Hooks[i]
		h.Exec, h.Webhook.Body = h.Exec[:min(1, len(h.Exec))], ""
	}
	b.add("meshban.yaml", string(config.Render(o.Config)))
	b.add("versions.txt", "meshban "+version+"\n"+versions(ctx))
	status, err := o.Client.Status(ctx)
	if err == nil {
		b.lines("status.json", func(yield func(any) error) error { return yield(status) })
		var members []control.Member
		if members, err = o.Client.Members(ctx); err == nil {
			b.lines("members.jsonl", func(yield func(any) error) error {
				for _, m := range members {
					if err := yield(m); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	if err == nil {
		var last []control.AuditEntry
		err = o.Client.Audit(ctx, time.Time{}, func(e control.AuditEntry) error {
			if last = append(last, e); len(last) > 2*lastLines {
				last = append(last[:0], last[len(last)-lastLines:]...)
			}
			return nil
		})
		b.lines("audit.jsonl", func(yield func(any) error) error {
			for _, e := range last[max(0, len(last)-lastLines):] {
				if err := yield(e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		b.add("no-agent.txt", err.Error()+"\n")
	}
	log, err := runProgram(ctx, "journalctl", "--unit=meshban", "--no-pager", "--output=short-iso", fmt.Sprint("--lines=", lastLines))
	if err != nil {
		log = "journalctl: " + err.Error() + "\n"
	}
	b.add("log.txt", log)
	return errors.Join(b.err, b.tar.Close(), zip.Close())
}

func versions(ctx context.Context) string {
	var out strings.Builder
	for _, command := range versionsOf {
		said, err := runProgram(ctx, command[0], command[1:]...)
		if err != nil {
			said = "not found"
		}
		first, _, _ := strings.Cut(said, "\n")
		fmt.Fprintf(&out, "%s: %s\n", command[0], first)
	}
	return out.String()
}

// bundle is an archive that is being written; err is the first error.
type bundle struct {
	tar  *tar.Writer
	mask mask
	now  time.Time
	err  error
}

func (b *bundle) add(name, text string) {
	if b.err != nil {
		return
	}
	text = b.mask.text(text)
	b.err = b.tar.WriteHeader(&tar.Header{Name: "meshban/" + name, Mode: bundleMode, Size: int64(len(text)), ModTime: b.now})
	if b.err == nil {
		_, b.err = io.WriteString(b.tar, text)
	}
}

// lines adds a file of JSON objects, one a line.
func (b *bundle) lines(name string, all func(yield func(any) error) error) {
	var text bytes.Buffer
	if err := all(json.NewEncoder(&text).Encode); err != nil && b.err == nil {
		b.err = err
	}
	b.add(name, text.String())
}

// mask replaces addresses and whatever may be a secret.
type mask struct {
	names map[netip.Addr]string
	keep  bool // addresses
}

var (
	// secretText matches join tokens, PEM blocks, web addresses, and runs of hex or base64 that are longer than a node's id.
	secretText = regexp.MustCompile(`(?s)mb1-[A-Za-z0-9_-]+|https?://[^\s"]+|-----BEGIN .*?-----END [A-Z0-9 ]+-----|[A-Za-z0-9+/_=-]{40,}`)
	// addrText6 and addrText4 match what may be an address.
	addrText6 = regexp.MustCompile(`[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:]*(?:\d{0,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})?`)
	addrText4 = regexp.MustCompile(`\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}`)
)

func (m *mask) text(s string) string {
	s = secretText.ReplaceAllString(s, "[removed]")
	if m.keep {
		return s
	}
	return addrText4.ReplaceAllStringFunc(addrText6.ReplaceAllStringFunc(s, m.addr6), m.addr)
}

// addr returns the name of an address; other text stays as it is.
func (m *mask) addr(s string) string {
	a, err := netip.ParseAddr(s)
	if err != nil || a.IsUnspecified() || a.IsLoopback() {
		return s
	}
	a = a.Unmap()
	name, known := m.names[a]
	if !known {
		name = fmt.Sprint("A", len(m.names)+1)
		m.names[a] = name
	}
	return name
}

// addr6 is addr for text around whose address may be more digits and colons, such as a key or a port.
func (m *mask) addr6(s string) string {
	for i := range s {
		if i > 0 && s[i-1] != ':' {
			continue
		}
		for end := len(s); end > i; end = i + strings.LastIndexByte(s[i:end], ':') {
			if name := m.addr(s[i:end]); name != s[i:end] {
				return s[:i] + name + s[end:]
			}
		}
	}
	return s
}
