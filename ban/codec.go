package ban

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// Bounds of a payload.
const (
	MaxOpsPerFrame  = 128     // ops in one payload
	MaxPayloadBytes = 1 << 14 // bytes that DecodeOps looks at
)

// payloadFormat leads each payload. A node refuses a format that it does not know.
const payloadFormat = 1

// A payload is the msgpack array [format, notes, items]. What several ops of a frame say alike, one
// note holds: [kind, ports, reason, source, marks], a mark being [origin, epoch, seq]. The items are
// one string of bytes, since reflection on a hundred small arrays takes longer than the signature's
// check does. Each is
//
//	note    1 byte, which of the notes
//	length  1 byte, the prefix length, + 33 if IPv6
//	address the bytes that the length reaches into
//	until   the end in Unix milliseconds, less that of the item before, as a signed varint
//
// so that a plain ban takes 7 to 11 bytes. A list of ops has exactly one encoding.
type (
	wirePayload struct {
		Format uint8
		Notes  []wireNote
		Items  []byte
	}
	wireNote struct {
		Kind   uint8
		Ports  string
		Reason string
		Source string
		Marks  []wireMark
	}
	wireMark struct {
		Origin []byte
		Epoch  uint64
		Seq    uint64
	}
)

// plainItem is the size of the ban of an IPv4 address that ends when the one before does.
const plainItem = 7

// length6 is what the length byte of an IPv6 prefix is above its length.
const length6 = 33

var wireHandle = func() *codec.MsgpackHandle {
	h := new(codec.MsgpackHandle)
	h.StructToArray = true
	h.PositiveIntUnsigned = true
	h.MaxInitLen = MaxOpsPerFrame
	h.MaxDepth = 8
	h.ErrorIfNoField = true
	return h
}()

// AppendOps appends the payload that holds ops, in their order, to dst. It fails when an op is not
// valid or there are none or more than MaxOpsPerFrame.
func AppendOps(dst []byte, ops []Op) ([]byte, error) {
	if len(ops) == 0 || len(ops) > MaxOpsPerFrame {
		return dst, fmt.Errorf("encode ops: %d in one frame, want 1 to %d", len(ops), MaxOpsPerFrame)
	}
	for _, o := range ops {
		if err := o.Validate(); err != nil {
			return dst, fmt.Errorf("encode ops: %w", err)
		}
	}
	var out []byte
	if err := codec.NewEncoderBytes(&out, wireHandle).Encode(pack(ops)); err != nil {
		return dst, fmt.Errorf("encode ops: %w", err)
	}
	return append(dst, out...), nil
}

// DecodeOps reads the payload that AppendOps writes. It accepts nothing else: each op must be
// valid, and encoding the result again must give the same bytes.
func DecodeOps(b []byte) ([]Op, error) {
	if len(b) > MaxPayloadBytes {
		return nil, fmt.Errorf("decode ops: %d bytes, at most %d", len(b), MaxPayloadBytes)
	}
	var w wirePayload
	if err := codec.NewDecoderBytes(b, wireHandle).Decode(&w); err != nil {
		return nil, fmt.Errorf("decode ops: %w", err)
	}
	ops, err := w.unpack()
	if err != nil {
		return nil, fmt.Errorf("decode ops: %w", err)
	}
	again, err := AppendOps(make([]byte, 0, len(b)), ops)
	if err != nil {
		return nil, fmt.Errorf("decode ops: %w", err)
	}
	if !bytes.Equal(again, b) {
		return nil, errors.New("decode ops: not the canonical encoding")
	}
	return ops, nil
}

func pack(ops []Op) *wirePayload {
	w := &wirePayload{Format: payloadFormat}
	var first []int
	var last int64
	for i, o := range ops {
		at := noteOf(ops, first, i)
		if at == len(first) {
			first = append(first, i)
			w.Notes = append(w.Notes, packNote(o))
		}
		until := millis(o.Until)
		w.Items = appendItem(w.Items, at, o.Prefix, until-last)
		last = until
	}
	return w
}

func appendItem(b []byte, note int, p netip.Prefix, step int64) []byte {
	n := (p.Bits() + 7) / 8
	if p.Addr().Is4() {
		a := p.Addr().As4()
		b = append(append(b, byte(note), byte(p.Bits())), a[:n]...)
	} else {
		a := p.Addr().As16()
		b = append(append(b, byte(note), byte(p.Bits()+length6)), a[:n]...)
	}
	return binary.AppendVarint(b, step)
}

// cutItem reads one item from the front of b. What is not canonical about it is for the caller to find.
func cutItem(b []byte) (note int, p netip.Prefix, step int64, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, p, 0, nil, false
	}
	note, bits := int(b[0]), int(b[1])
	var a [16]byte
	size := 4
	if bits >= length6 {
		bits, size = bits-length6, 16
	}
	b = b[2:]
	n := (bits + 7) / 8
	if n > size || n > len(b) {
		return 0, p, 0, nil, false
	}
	copy(a[:], b[:n])
	addr, _ := netip.AddrFromSlice(a[:size])
	step, used := binary.Varint(b[n:])
	if used <= 0 {
		return 0, p, 0, nil, false
	}
	return note, netip.PrefixFrom(addr, bits), step, b[n+used:], true
}

// noteOf returns which note ops[i] takes, where first says which op each note was made for;
// len(first) means that it needs a new one. Like ops mostly come in a row, so look back first.
func noteOf(ops []Op, first []int, i int) int {
	o := &ops[i]
	for at := len(first) - 1; at >= 0; at-- {
		f := &ops[first[at]]
		if f.Kind == o.Kind && f.Ports == o.Ports && f.Reason == o.Reason && f.Source == o.Source &&
			slices.Equal(f.Marks, o.Marks) {
			return at
		}
	}
	return len(first)
}

func packNote(o Op) wireNote {
	n := wireNote{Kind: uint8(o.Kind), Ports: o.Ports.text, Reason: o.Reason, Source: o.Source}
	for i := range o.Marks {
		m := &o.Marks[i]
		n.Marks = append(n.Marks, wireMark{Origin: m.Origin[:], Epoch: m.Epoch, Seq: m.Seq})
	}
	return n
}

func (w *wirePayload) unpack() ([]Op, error) {
	if w.Format != payloadFormat {
		return nil, fmt.Errorf("unknown format %d", w.Format)
	}
	if len(w.Notes) > MaxOpsPerFrame {
		return nil, fmt.Errorf("%d notes, at most %d", len(w.Notes), MaxOpsPerFrame)
	}
	notes := make([]Op, len(w.Notes))
	for i, n := range w.Notes {
		ports, err := ParsePorts(n.Ports)
		if err != nil {
			return nil, err
		}
		marks, err := unpackMarks(n.Marks)
		if err != nil {
			return nil, err
		}
		notes[i] = Op{Kind: Kind(n.Kind), Ports: ports, Reason: n.Reason, Source: n.Source, Marks: marks}
	}
	ops := make([]Op, 0, min(len(w.Items)/plainItem+1, MaxOpsPerFrame))
	var until int64
	for items := w.Items; len(items) > 0; {
		note, p, step, rest, ok := cutItem(items)
		if !ok || note >= len(notes) || len(ops) == MaxOpsPerFrame {
			return nil, fmt.Errorf("bad item %d", len(ops))
		}
		items = rest
		// The bounds keep the sum from overflowing; they are also those of Validate.
		if step < -maxMillis || step > maxMillis || until+step <= 0 || until+step > maxMillis {
			return nil, fmt.Errorf("item %d: end is out of range", len(ops))
		}
		until += step
		op := notes[note]
		op.Prefix, op.Until = p, fromMillis(until)
		ops = append(ops, op)
	}
	return ops, nil
}

func unpackMarks(ws []wireMark) ([]Mark, error) {
	if len(ws) == 0 {
		return nil, nil
	}
	if len(ws) > MaxMarks {
		return nil, fmt.Errorf("%d marks, at most %d", len(ws), MaxMarks)
	}
	ms := make([]Mark, len(ws))
	for i, m := range ws {
		if len(m.Origin) != len(ms[i].Origin) {
			return nil, fmt.Errorf("origin of %d bytes", len(m.Origin))
		}
		ms[i] = Mark{Origin: Origin(m.Origin), Epoch: m.Epoch, Seq: m.Seq}
	}
	return ms, nil
}

// SplitOps cuts ops into runs that each encode to at most maxBytes of payload and MaxOpsPerFrame
// ops, and keeps their order. An op that is larger alone makes a run of its own; no valid op takes
// more than 1,000 bytes. The runs share the memory of ops.
func SplitOps(ops []Op, maxBytes int) [][]Op {
	var out [][]Op
	for len(ops) > 0 {
		n := fill(ops, maxBytes)
		out = append(out, ops[:n:n])
		ops = ops[n:]
	}
	return out
}

// fill returns how many of the first ops fit, at least 1.
func fill(ops []Op, maxBytes int) int {
	var first []int
	var items []byte
	var notesSize, itemsSize int
	var last int64
	for i := range min(len(ops), MaxOpsPerFrame) {
		at := noteOf(ops, first, i)
		if at == len(first) {
			first = append(first, i)
			notesSize += sizeNote(&ops[i])
		}
		until := millis(ops[i].Until)
		items = appendItem(items[:0], at, ops[i].Prefix, until-last)
		itemsSize += len(items)
		last = until
		if i > 0 && 1+1+sizeList(len(first))+notesSize+sizeText(itemsSize)+itemsSize > maxBytes {
			return i
		}
	}
	return min(len(ops), MaxOpsPerFrame)
}

func sizeNote(o *Op) int {
	n := 1 + 1 + 1 // array, kind, marks
	for _, s := range [3]string{o.Ports.text, o.Reason, o.Source} {
		n += sizeText(len(s)) + len(s)
	}
	if len(o.Marks) > 0 {
		n += sizeList(len(o.Marks)) - 1
	}
	for _, m := range o.Marks {
		n += 1 + 1 + len(m.Origin) + sizeUint(m.Epoch) + sizeUint(m.Seq)
	}
	return n
}

// The sizes of what msgpack puts in front of a text or list of n, and of an unsigned integer.

func sizeText(n int) int {
	if n < 32 {
		return 1
	}
	return 3
}

func sizeList(n int) int {
	if n < 16 {
		return 1
	}
	return 3
}

func sizeUint(u uint64) int {
	switch {
	case u < 1<<7:
		return 1
	case u < 1<<8:
		return 2
	case u < 1<<16:
		return 3
	case u < 1<<32:
		return 5
	}
	return 9
}

// Expires returns when the last of ops ends: how long the frame that carries them must live.
func Expires(ops []Op) time.Time {
	var t time.Time
	for _, o := range ops {
		if o.Until.After(t) {
			t = o.Until
		}
	}
	return t
}
