package ban

import (
	"bytes"
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

// A payload is the msgpack array [format, notes, items]. What ops of one frame have in common, a
// note holds once; an item is [prefix, until, note] with the prefix as 4 or 16 address bytes, the
// length behind it where it is no single address, and the end in milliseconds after the end of the
// item before. So a plain ban takes 8 to 13 bytes. Each list of ops has exactly one encoding.
type (
	wirePayload struct {
		Format uint8
		Notes  []wireNote
		Items  []wireItem
	}
	wireNote struct {
		Kind   uint8
		Ports  string
		Reason string
		Source string
		Marks  []wireMark
	}
	wireItem struct {
		Prefix []byte
		Until  int64
		Note   uint8
	}
	wireMark struct {
		Origin []byte
		Epoch  uint64
		Seq    uint64
	}
)

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
	w := &wirePayload{Format: payloadFormat, Items: make([]wireItem, len(ops))}
	var first []int
	var last int64
	for i, o := range ops {
		at := noteOf(ops, first, i)
		if at == len(first) {
			first = append(first, i)
			w.Notes = append(w.Notes, packNote(o))
		}
		until := millis(o.Until)
		w.Items[i] = wireItem{Prefix: packPrefix(o.Prefix), Until: until - last, Note: uint8(at)}
		last = until
	}
	return w
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
	if len(w.Items) == 0 || len(w.Items) > MaxOpsPerFrame || len(w.Notes) > len(w.Items) {
		return nil, fmt.Errorf("%d ops with %d notes, want 1 to %d", len(w.Items), len(w.Notes), MaxOpsPerFrame)
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
	ops := make([]Op, len(w.Items))
	var until int64
	for i, it := range w.Items {
		if int(it.Note) >= len(notes) {
			return nil, fmt.Errorf("note %d of %d", it.Note, len(notes))
		}
		// A step beyond these bounds could overflow; one within them is judged by Validate.
		if it.Until < -maxUnix*1000 || it.Until > maxUnix*1000 {
			return nil, fmt.Errorf("end is %d ms after the one before", it.Until)
		}
		until += it.Until
		if until <= 0 || until > maxUnix*1000 {
			return nil, fmt.Errorf("end %d ms is out of range", until)
		}
		p, err := unpackPrefix(it.Prefix)
		if err != nil {
			return nil, err
		}
		ops[i] = notes[it.Note]
		ops[i].Prefix, ops[i].Until = p, fromMillis(until)
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

func packPrefix(p netip.Prefix) []byte {
	b := p.Addr().AsSlice()
	if !p.IsSingleIP() {
		b = append(b, byte(p.Bits()))
	}
	return b
}

func unpackPrefix(b []byte) (netip.Prefix, error) {
	n := len(b) &^ 1 // the odd byte is the length
	addr, ok := netip.AddrFromSlice(b[:n])
	if !ok {
		return netip.Prefix{}, fmt.Errorf("prefix of %d bytes", len(b))
	}
	bits := addr.BitLen()
	if n < len(b) {
		bits = int(b[n])
	}
	return netip.PrefixFrom(addr, bits), nil
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
	size := 1 + sizeInt(payloadFormat)
	var first []int
	var notesSize, itemsSize int
	var last int64
	for i := range min(len(ops), MaxOpsPerFrame) {
		at := noteOf(ops, first, i)
		if at == len(first) {
			first = append(first, i)
			notesSize += sizeNote(&ops[i])
		}
		until := millis(ops[i].Until)
		itemsSize += 1 + sizePrefix(ops[i].Prefix) + sizeInt(until-last) + sizeInt(int64(at))
		last = until
		if i > 0 && size+sizeList(len(first))+notesSize+sizeList(i+1)+itemsSize > maxBytes {
			return i
		}
	}
	return min(len(ops), MaxOpsPerFrame)
}

func sizePrefix(p netip.Prefix) int {
	n := p.Addr().BitLen() / 8
	if !p.IsSingleIP() {
		n++
	}
	return 1 + n // a raw string below 32 bytes
}

func sizeNote(o *Op) int {
	n := 1 + 1 + sizeText(o.Ports.text) + sizeText(o.Reason) + sizeText(o.Source) + 1
	if len(o.Marks) > 0 {
		n += sizeList(len(o.Marks)) - 1
	}
	for _, m := range o.Marks {
		n += 1 + 1 + len(m.Origin) + sizeUint(m.Epoch) + sizeUint(m.Seq)
	}
	return n
}

func sizeText(s string) int {
	switch {
	case len(s) < 32:
		return 1 + len(s)
	default:
		return 3 + len(s)
	}
}

func sizeList(n int) int {
	if n < 16 {
		return 1
	}
	return 3
}

func sizeInt(i int64) int {
	switch {
	case i >= 0:
		return sizeUint(uint64(i))
	case i >= -32:
		return 1
	case i >= -1<<7:
		return 2
	case i >= -1<<15:
		return 3
	case i >= -1<<31:
		return 5
	}
	return 9
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
