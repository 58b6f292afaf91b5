package feed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

var day = time.Date(2026, 11, 22, 11, 0, 0, 0, time.UTC)

func entry(prefix, source string, age time.Duration) Entry {
	p := netip.MustParsePrefix(prefix)
	return Entry{Prefix: p, Issued: day.Add(-age), Until: day.Add(time.Hour), Origins: []string{"web1"}, Source: source, Reason: "a \"reason\"\n} bad"}
}

// list is a source with these entries.
type list []Entry

func (l list) Entries(_ context.Context, yield func(Entry) error) error {
	for _, e := range l {
		if err := yield(e); err != nil {
			return err
		}
	}
	return nil
}

// example has each kind of entry.
func example() list {
	port := entry("192.0.2.9/32", "cli", 3*time.Minute)
	port.Ports = "22/tcp"
	return list{
		entry("192.0.2.1/32", "line:sshd", time.Minute), entry("198.51.100.0/24", "import:drop", 2*time.Minute), port,
		entry("2001:db8::1/128", "line:nginx", 4*time.Minute), entry("2001:db8:1::/48", "cli", 5*time.Minute),
	}
}

func write(t *testing.T, f Format, q Query, s Source) (string, Count) {
	t.Helper()
	var b bytes.Buffer
	n, err := Write(t.Context(), &b, f, q, s)
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), n
}

// Each form is as its reader wants it.
func TestForms(t *testing.T) {
	for _, f := range Formats {
		want, err := os.ReadFile(filepath.Join("testdata", string(f)+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		got, n := write(t, f, Query{}, example())
		if got != string(want) {
			t.Errorf("%s:\n%s\nwant\n%s", f, got, want)
		}
		left := map[Format]int{"json": 0, "checkpoint": 3}
		if l, ok := left[f]; n.LeftOut != l && (ok || n.LeftOut != 1) || n.Written+n.LeftOut != 5 {
			t.Errorf("%s: %+v", f, n)
		}
	}
}

func TestEmptyLists(t *testing.T) {
	for _, f := range Formats {
		got, _ := write(t, f, Query{}, list{})
		if want := forms[f].head + forms[f].tail; got != want {
			t.Errorf("%s: %q", f, got)
		}
	}
}

// What a ban says of itself is not put where a program would run or read it.
func TestNoReasonInAProgram(t *testing.T) {
	for _, f := range Formats {
		got, _ := write(t, f, Query{}, example())
		if strings.Contains(got, "reason") != (f == "json") {
			t.Errorf("%s:\n%s", f, got)
		}
	}
}

func TestJSONIsWhole(t *testing.T) {
	got, _ := write(t, "json", Query{}, example())
	var all []map[string]any
	if err := json.Unmarshal([]byte(got), &all); err != nil || len(all) != 5 {
		t.Fatalf("%v, %d objects:\n%s", err, len(all), got)
	}
	if all[2]["ports"] != "22/tcp" || all[0]["reason"] != example()[0].Reason {
		t.Errorf("%v", all)
	}
}

func TestQueries(t *testing.T) {
	for _, c := range []struct{ query, want string }{
		{"", "192.0.2.1 198.51.100.0/24 2001:db8::1 2001:db8:1::/48"},
		{"family=4", "192.0.2.1 198.51.100.0/24"},
		{"family=6", "2001:db8::1 2001:db8:1::/48"},
		{"source=cli", "2001:db8:1::/48"},
		{"source=line", ""},
		{"source=line:*", "192.0.2.1 2001:db8::1"},
		{"source=*", "192.0.2.1 198.51.100.0/24 2001:db8::1 2001:db8:1::/48"},
		{"limit=2", "192.0.2.1 198.51.100.0/24"},
		{"limit=2&family=6", "2001:db8::1 2001:db8:1::/48"},
		{"limit=3&page=2", "2001:db8::1 2001:db8:1::/48"},
		{"limit=3&page=3", ""},
		{"limit=100000", "192.0.2.1 198.51.100.0/24 2001:db8::1 2001:db8:1::/48"},
	} {
		q, err := ParseQuery(c.query)
		if err != nil {
			t.Errorf("%s: %v", c.query, err)
			continue
		}
		for range 2 { // in whatever order the source has them
			shuffled := example()
			if q.Limit > 0 {
				shuffled[0], shuffled[3] = shuffled[3], shuffled[0]
			}
			if got, _ := write(t, "plain", q, shuffled); strings.Join(strings.Fields(got), " ") != c.want {
				t.Errorf("%s: %q, want %q", c.query, got, c.want)
			}
		}
	}
}

func TestBadQueries(t *testing.T) {
	for query, remedy := range map[string]string{
		"family=5":              "write family=4 or family=6",
		"family=":               "write family=4",
		"family=4&family=4":     "write it once",
		"source=":               "write source=line:sshd",
		"source=*x":             "source=line:*",
		"limit=0":               "write 1 to 100000",
		"limit=-1":              "write 1 to 100000",
		"limit=1e9":             "write 1 to 100000",
		"limit=100001":          "write 1 to 100000",
		"page=2":                "write limit=1000",
		"limit=1000&page=101":   "leave both out",
		"limit=100000&page=2":   "leave both out",
		"famly=4":               "write family, source, limit or page",
		"%zz":                   "write ?family=4",
		"a;b":                   "write ?family=4",
		"x=" + longText("y", 9): "write family",
	} {
		_, err := ParseQuery(query)
		if err == nil || !strings.Contains(err.Error(), remedy) || len(err.Error()) > 250 {
			t.Errorf("%s: %v, want %q", query, err, remedy)
		}
	}
}

func longText(s string, doublings int) string { return strings.Repeat(s, 1<<doublings) }

// A query that is taken says the same when it is written anew.
func FuzzParseQuery(f *testing.F) {
	for _, seed := range []string{"", "family=4&source=line:*&limit=10&page=2", "limit=100000&page=1", "a;b", "%zz", "source=%2a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		q, err := ParseQuery(text)
		if err != nil {
			if q != (Query{}) {
				t.Fatalf("%q: %v, and still %+v", text, err, q)
			}
			return
		}
		if q.Limit < 0 || q.Page < 0 || q.Page > 0 && q.Limit == 0 || q.Limit*max(q.Page, 1) > maxSorted {
			t.Fatalf("%q: %+v", text, q)
		}
		again, err := ParseQuery(q.encode())
		if err != nil || again != q {
			t.Fatalf("%q: %+v, %q: %+v, %v", text, q, q.encode(), again, err)
		}
	})
}

func (q Query) encode() string {
	v := map[string][]string{}
	for key, n := range map[string]int{"family": q.Family, "limit": q.Limit, "page": q.Page} {
		if n > 0 {
			v[key] = []string{fmt.Sprint(n)}
		}
	}
	if q.Source != "" {
		v["source"] = []string{q.Source}
	}
	return encoded(v)
}

func TestFailuresAreReturned(t *testing.T) {
	broken := errors.New("broken")
	for _, q := range []Query{{}, {Limit: 2}} {
		if _, err := Write(t.Context(), failing{broken}, "plain", q, example()); !errors.Is(err, broken) {
			t.Errorf("%+v: %v", q, err)
		}
		if _, err := Write(t.Context(), new(bytes.Buffer), "plain", q, failing{broken}); !errors.Is(err, broken) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error)                        { return 0, f.err }
func (f failing) Entries(context.Context, func(Entry) error) error { return f.err }

// many is a source of n addresses.
type many int

func (m many) Entries(_ context.Context, yield func(Entry) error) error {
	for i := range int(m) {
		a := netip.AddrFrom4([4]byte{198, 18 + byte(i>>16), byte(i >> 8), byte(i)})
		if err := yield(Entry{Prefix: netip.PrefixFrom(a, 32), Until: day}); err != nil {
			return err
		}
	}
	return nil
}

type counted int

func (c *counted) Write(p []byte) (int, error) { *c += counted(len(p)); return len(p), nil }

// A list of a million is not built in memory.
func TestMillionsStream(t *testing.T) {
	for _, f := range []Format{"plain", "mikrotik", "checkpoint"} {
		var before, after runtime.MemStats
		var size counted
		runtime.ReadMemStats(&before)
		if n, err := Write(t.Context(), &size, f, Query{}, many(1_000_000)); err != nil || n.Written != 1_000_000 || size < 10_000_000 {
			t.Fatalf("%s: %+v, %v, %d bytes", f, n, err, size)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
			t.Errorf("%s took %d bytes of memory", f, got)
		}
	}
}

func encoded(v map[string][]string) string { return url.Values(v).Encode() }
