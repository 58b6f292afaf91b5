package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

// Load reads the config file at path; "" returns Default(dir). If the file cannot be read, the error matches
// fs.ErrNotExist and the like; if its content is wrong, the error is one *Error or several joined. A symbolic link,
// or a file that others can write to, is an *ownfile.Error.
func Load(path, dir string) (Config, error) {
	if path == "" {
		return Default(dir), nil
	}
	f, err := ownfile.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return Config{}, fmt.Errorf("open the config file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return Config{}, fmt.Errorf("read the config file: %w", err)
	}
	return Parse(path, data, dir)
}

// Parse parses data, the content of file; defaults depend on the state folder dir. An empty file is Default(dir). The
// error is one *Error or several joined, sorted by line, at most MaxErrors.
func Parse(file string, data []byte, dir string) (Config, error) {
	d := decoder{file: file, nodes: make(map[string]*yaml.Node), lines: make(map[string]int), wrong: make(map[string]bool)}
	c := Default(dir)
	c.Path = file
	root, ok := d.document(data)
	if !ok {
		return Config{}, d.err()
	}
	if root != nil {
		d.section("", root)
	}
	c.Lines.For = 0 // bans.for unless it is set
	for _, f := range c.fields() {
		if n, ok := d.nodes[f.key]; ok {
			d.read(f, n)
		}
	}
	if c.Lines.For == 0 {
		c.Lines.For = c.Bans.For
	}
	for _, p := range c.problems() {
		d.locate(p)
	}
	if err := d.err(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// decoder collects the values and the errors of a file.
type decoder struct {
	file  string
	nodes map[string]*yaml.Node // values of the known keys in the file
	lines map[string]int        // lines of the known keys in the file, including sections
	wrong map[string]bool       // keys with an error; each is reported once
	errs  []*Error
}

func (d *decoder) fail(line int, key, problem, remedy string) {
	d.wrong[key] = true
	d.errs = append(d.errs, &Error{File: d.file, Line: max(line, 1), Key: key, Problem: problem, Remedy: remedy})
}

// locate reports p with the line of its key, or of the key that it conflicts with.
func (d *decoder) locate(p problem) {
	if d.wrong[p.Key] || d.wrong[p.with] {
		return
	}
	line := d.lines[p.Key]
	if line == 0 {
		line = d.lines[p.with]
	}
	d.fail(line, p.Key, p.Problem, p.Remedy)
}

func (d *decoder) err() error {
	slices.SortStableFunc(d.errs, func(a, b *Error) int { return a.Line - b.Line })
	var errs []error
	for i, e := range d.errs {
		if i == MaxErrors {
			errs = append(errs, &Error{File: d.file, Problem: fmt.Sprintf("%d more errors", len(d.errs)-i)})
			break
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

// wholeFile is the key of an error that concerns the whole file.
const wholeFile = "file"

// document returns the root of the single YAML document in data, or nil if it is empty.
func (d *decoder) document(data []byte) (*yaml.Node, bool) {
	if len(data) > MaxFile {
		d.fail(1, wholeFile, fmt.Sprintf("is larger than %d bytes", MaxFile), "write less: import long lists with `meshban import FILE`")
		return nil, false
	}
	if !d.text(data) {
		return nil, false
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, true
	case err != nil:
		d.syntax(data, err)
		return nil, false
	}
	switch err := dec.Decode(&next); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.syntax(data, err)
		return nil, false
	default:
		d.fail(next.Line, wholeFile, "has a second document", `keep one, and delete the "---" line`)
	}
	return doc.Content[0], true
}

// text reports the first byte that does not belong in a text file.
func (d *decoder) text(data []byte) bool {
	i := bytes.IndexFunc(bytes.ToValidUTF8(data, []byte{0}), func(r rune) bool {
		return r < ' ' && r != '\n' && r != '\t' && r != '\r' || r == 0x7f
	})
	if i < 0 {
		return true
	}
	line := 1 + bytes.Count(data[:i], []byte("\n"))
	if r, _ := utf8.DecodeRune(data[i:]); r == utf8.RuneError {
		d.fail(line, wholeFile, "is not UTF-8 text", "write it in UTF-8")
	} else {
		d.fail(line, wholeFile, fmt.Sprintf("has the control character %U", r), "delete it")
	}
	return false
}

// syntax reports an error of the YAML parser, which starts with "yaml: line N: " or "yaml: ".
func (d *decoder) syntax(data []byte, err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if n, scanErr := fmt.Sscanf(text, "line %d: ", &line); n == 1 && scanErr == nil {
		_, text, _ = strings.Cut(text, ": ")
	}
	if _, rest, ok := strings.Cut(text, "unknown anchor '"); ok { // has no line number
		name, _, _ := strings.Cut(rest, "'")
		if i := bytes.Index(data, []byte("*"+name)); i >= 0 {
			line = 1 + bytes.Count(data[:i], []byte("\n"))
		}
	}
	remedy := "write `key: value` lines, sections indented by two spaces"
	if bytes.Contains(data, []byte("\t")) {
		remedy = "indent with spaces, not with tabs"
	}
	d.fail(line, wholeFile, "is not valid YAML ("+text+")", remedy)
}

// section collects the keys of n, a mapping with the dotted key prefix ("" = the whole file).
func (d *decoder) section(prefix string, n *yaml.Node) {
	name := prefix
	if name == "" {
		name = wholeFile
	}
	if isNull(n) {
		return // a section whose keys are all commented out
	}
	if !d.plain(name, n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n.Line, name, "is "+kind(n)+", not a section", "write `key: value` lines, one of "+strings.Join(keysOf(prefix), ", "))
		return
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		key := strings.TrimPrefix(prefix+"."+k.Value, ".")
		if k.Kind != yaml.ScalarNode {
			d.fail(k.Line, name, "has "+kind(k)+" where a key should be", "write one of "+strings.Join(keysOf(prefix), ", "))
			continue
		}
		if !slices.Contains(keysOf(prefix), k.Value) {
			d.fail(k.Line, printable(key), "unknown key", suggest(prefix, k.Value))
			continue
		}
		if first, ok := seen[k.Value]; ok {
			d.fail(k.Line, key, fmt.Sprintf("is repeated (first on line %d)", first), "write it once")
			continue
		}
		seen[k.Value] = k.Line
		d.lines[key] = k.Line
		if isSection(key) {
			d.section(key, v)
			continue
		}
		d.nodes[key] = v
	}
}

// plain rejects anchors, aliases and tags, which this file does not use.
func (d *decoder) plain(key string, n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		d.fail(n.Line, key, "is an alias", "write the value itself")
	case n.Anchor != "":
		d.fail(n.Line, key, "has an anchor", "write the value without &"+printable(n.Anchor))
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(n.Line, key, "has a tag", "write the value without "+printable(n.Tag))
	default:
		return true
	}
	return false
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Anchor == "" && n.Style&yaml.TaggedStyle == 0
}

// kind names the kind of a value.
func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!null":
		return "empty"
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "a number"
	}
	return "text"
}

// printable returns key, or quotes and shortens it if it does not fit in a message.
func printable(key string) string {
	if q := quote(key); q[1:len(q)-1] != key {
		return q
	}
	return key
}
