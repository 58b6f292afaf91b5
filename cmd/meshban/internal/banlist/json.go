package banlist

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds on JSON.
const (
	maxDepth  = 16
	maxFields = 256 // of one object
)

// containers are the object fields that hold bans, at AbuseIPDB and CrowdSec.
var containers = wordSet("data decisions new")

// json reads a sequence of JSON values: objects, or arrays of objects and strings.
func (r *reader) json(src io.Reader) error {
	lines := &lineCounter{in: src}
	j := &jsonReader{r: r, in: json.NewDecoder(lines), lines: lines}
	lines.at = j.in.InputOffset
	j.in.UseNumber()
	for {
		tok, err := j.in.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = j.entry(tok, 0)
		}
		r.line = lines.line()
		if e, ok := errors.AsType[*Error](err); ok {
			if e.Line == 0 {
				e.Line = r.line
			}
			return e
		}
		if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return &Error{Line: r.line, Problem: fmt.Sprintf("the JSON is invalid: %v", err), Remedy: "download it again"}
		}
		if err != nil {
			return err
		}
	}
}

type jsonReader struct {
	r     *reader
	in    *json.Decoder
	lines *lineCounter
}

// entry reads a value that is a ban, or holds bans.
func (j *jsonReader) entry(tok json.Token, depth int) error {
	if depth > maxDepth {
		return wrong("", "the JSON is nested too deeply")
	}
	switch tok {
	case json.Delim('['):
		return j.each(func(tok json.Token) error { return j.entry(tok, depth+1) })
	case json.Delim('{'):
		return j.object(depth)
	case nil:
		return nil
	}
	text, ok := tok.(string)
	if !ok {
		return j.report(wrong("", "%v is not an address", tok))
	}
	return j.report(j.r.addText("", text))
}

// each reads the elements of an array.
func (j *jsonReader) each(read func(json.Token) error) error {
	for j.in.More() {
		tok, err := j.in.Token()
		if err == nil {
			err = read(tok)
		}
		if err != nil {
			return err
		}
	}
	_, err := j.in.Token() // the bracket
	return err
}

// report passes an error about one entry to the reader; any other error ends the list.
func (j *jsonReader) report(err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return err
	}
	j.r.line = j.lines.line()
	return j.r.report(e)
}

func (j *jsonReader) object(depth int) error {
	fields, holds := map[string]string{}, false
	for j.in.More() {
		key, err := j.in.Token()
		if err != nil {
			return err
		}
		name := normal(fmt.Sprint(key))
		tok, err := j.in.Token()
		if err != nil {
			return err
		}
		switch _, nested := tok.(json.Delim); {
		case containers[name] && (nested || tok == nil):
			holds = true
			err = j.entry(tok, depth+1)
		case nested:
			err = j.pass(depth)
		case tok == nil:
		case len(fields) == maxFields:
			err = wrong("", "an object has more than %d fields", maxFields)
		default:
			fields[name] = fmt.Sprint(tok)
		}
		if err != nil {
			return err
		}
	}
	if _, err := j.in.Token(); err != nil { // the brace
		return err
	}
	j.r.line = j.lines.line()
	if holds || fields["type"] == "metadata" {
		for name, value := range fields {
			if isAllow(value) && !aboutNames[name] {
				return letsThrough([]string{value}) // the whole list is refused, so the bans already read do not count
			}
		}
		return nil
	}
	return j.report(j.ban(fields))
}

// pass skips the rest of an array or object that holds no bans.
func (j *jsonReader) pass(depth int) error {
	for open := 1; open > 0; {
		tok, err := j.in.Token()
		if err != nil {
			return err
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			if open++; depth+open > 8*maxDepth {
				return wrong("", "the JSON is nested too deeply")
			}
		case json.Delim('}'), json.Delim(']'):
			open--
		}
	}
	return nil
}

// ban reads an object that must be a ban itself.
func (j *jsonReader) ban(fields map[string]string) error {
	if _, ok := fields["scope"]; ok || fields["value"] != "" && fields["type"] != "" {
		return j.decision(fields)
	}
	addr, first, last, mask := "", "", "", ""
	for name, value := range fields {
		switch {
		case strings.EqualFold(value, "true") && isAllowName(name):
			j.r.skip("entries that say " + name)
			return nil
		case isAllow(value) && !aboutNames[name]:
			return letsThrough([]string{value})
		case addrNames[name] && isAtom(value):
			if addr != "" {
				return wrong("leave one of them", "the object has several addresses: %s and %s", addr, value)
			}
			addr = value
		case maskNames[name]:
			mask = value
		case startNames[name] && isAddr(value):
			first = value
		case endNames[name] && isAddr(value):
			last = value
		}
	}
	if state, ok := fields["state"]; ok && !inForce(state) {
		j.r.skip("entries of state " + state)
		return nil
	}
	switch ports := fields["ports"]; {
	case addr != "" && ports != "" && fields["state"] == "":
		return wrong("write addresses alone", "%s is limited to ports %s", addr, ports)
	case addr != "" && mask != "" && isAddr(addr):
		return j.r.addText(ports, addr+"/"+mask)
	case addr != "":
		return j.r.addText(ports, addr)
	case first != "" && last != "":
		return j.r.addText(ports, first+"-"+last)
	}
	return wrong("write JSON as Spamhaus, AbuseIPDB or CrowdSec do, or one address a line", "the object has no address in a field with a known name")
}

// decision reads a CrowdSec decision.
func (j *jsonReader) decision(fields map[string]string) error {
	kind, scope := strings.ToLower(fields["type"]), strings.ToLower(fields["scope"])
	switch {
	case kind != "ban":
		j.r.skip("decisions of type " + kind)
	case fields["simulated"] == "true":
		j.r.skip("decisions that CrowdSec only simulates")
	case scope != "ip" && scope != "range":
		return wrong("list only decisions about addresses: cscli decisions list -o json --scope ip", "the decision is about %s %s, not an address", scope, fields["value"])
	default:
		return j.r.addText("", fields["value"])
	}
	return nil
}

// lineCounter counts the lines that a decoder has consumed, and limits its read-ahead to one value.
type lineCounter struct {
	in    io.Reader
	at    func() int64 // returns how much the decoder has consumed
	read  int64
	lines int     // lines that end before at
	ends  []int64 // where the lines after at end
}

func (l *lineCounter) Read(p []byte) (int, error) {
	if l.read-l.at() > MaxLine {
		return 0, wrong("", "a value has more than %d bytes", MaxLine)
	}
	l.line()
	n, err := l.in.Read(p)
	for i := 0; ; {
		next := bytes.IndexByte(p[i:n], '\n')
		if next < 0 {
			break
		}
		i += next + 1
		l.ends = append(l.ends, l.read+int64(i))
	}
	l.read += int64(n)
	return n, err
}

// line returns the number of the line that the decoder is at.
func (l *lineCounter) line() int {
	at, n := l.at(), 0
	for n < len(l.ends) && l.ends[n] <= at {
		n++
	}
	l.lines += n
	l.ends = l.ends[n:]
	return l.lines + 1
}
