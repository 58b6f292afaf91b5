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
	MaxOpsPerFrame  = 256     // ops in one payload
	MaxPayloadBytes = 1 << 14 // bytes that DecodeOps accepts
)

// payloadFormat begins each payload. A node refuses formats that it does not know.
const payloadFormat = 2

// A payload is the msgpack array [format, notes, items]. A note holds what several ops of a frame have in common:
// [kind, ports, reason, source, marks], where a mark is [origin, epoch, seq]. The items are one byte string, because
// decoding a hundred small arrays by reflection takes longer than checking the signature. Each item is
//
//	tag     1 byte: which of the fields below are present; an absent one is as in the previous item
//	note    1 byte: index of the note
//	length  1 byte: the prefix length, + 33 for IPv6
//	address the bytes that the length reaches into, without those that the tag says are as before
//	until   the end in Unix milliseconds, minus that of the previous item, as a signed varint
//
// so a plain ban takes 5 bytes, and 3 or 4 next to its neighbours. The first item is encoded as if one with note 0,
// 0.0.0.0/32 and end 0 preceded it. A list of ops has exactly one encoding.
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

// plainItem is the size in bytes of the ban of an IPv4 address next to its neighbour.
const plainItem = 3

// length6 is what the length byte of an IPv6 prefix adds to its length.
const length6 = 33

// The bits of an item's tag. The bits above them count the address bytes that are as before, at most maxShared.
const (
	tagNote, tagLength, tagUntil = 1, 2, 4
	sharedShift                  = 3
	maxShared                    = 15
)

// item is an op without what its note says.
type item struct {
	note   int
	prefix netip.Prefix
	until  int64 // Unix milliseconds
}

// firstItem is what the first item is encoded against.
var firstItem = item{prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{}), 32)}

var wireHandle = func() *codec.MsgpackHandle {
	h := new(codec.MsgpackHandle)
	h.StructToArray = true
	h.PositiveIntUnsigned = true
	h.MaxInitLen = MaxOpsPerFrame
	h.MaxDepth = 8
	h.ErrorIfNoField = true
	return h
}()

// AppendOps appends the payload that holds ops, in order, to dst. It fails if an op is invalid, or if there are none or
// more than MaxOpsPerFrame.
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

// DecodeOps reads a payload that AppendOps wrote. It accepts nothing else: each op must be valid, and encoding the
// result again must give the same bytes.
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
	last := firstItem
	for i, o := range ops {
		at := noteOf(ops, first, i)
		if at == len(first) {
			first = append(first, i)
			w.Notes = append(w.Notes, packNote(o))
		}
		it := item{at, o.Prefix, millis(o.Until)}
		w.Items = appendItem(w.Items, it, last)
		last = it
	}
	return w
}

// appendItem appends the item it to b, without the fields that are as in last.
func appendItem(b []byte, it, last item) []byte {
	tag, shared := tagOf(it, last)
	b = append(b, tag|byte(shared)<<sharedShift)
	n := (it.prefix.Bits() + 7) / 8
	if tag&tagNote != 0 {
		b = append(b, byte(it.note))
	}
	if tag&tagLength != 0 {
		b = append(b, lengthOf(it.prefix))
	}
	if it.prefix.Addr().Is4() {
		a := it.prefix.Addr().As4()
		b = append(b, a[shared:n]...)
	} else {
		a := it.prefix.Addr().As16()
		b = append(b, a[shared:n]...)
	}
	if tag&tagUntil != 0 {
		b = binary.AppendVarint(b, it.until-last.until)
	}
	return b
}

func lengthOf(p netip.Prefix) byte {
	if p.Addr().Is4() {
		return byte(p.Bits())
	}
	return byte(p.Bits() + length6)
}

// tagOf returns the tag bits of the fields in which item it differs from last, and how many leading address bytes they
// share.
func tagOf(it, last item) (tag byte, shared int) {
	if it.note != last.note {
		tag |= tagNote
	}
	if it.until != last.until {
		tag |= tagUntil
	}
	if lengthOf(it.prefix) != lengthOf(last.prefix) {
		tag |= tagLength
	}
	if it.prefix.Addr().Is4() != last.prefix.Addr().Is4() {
		return tag, 0
	}
	n := min((it.prefix.Bits()+7)/8, (last.prefix.Bits()+7)/8, maxShared)
	a, b := it.prefix.Addr().As16(), last.prefix.Addr().As16()
	begin := 0
	if it.prefix.Addr().Is4() {
		begin = 12
	}
	for shared < n && a[begin+shared] == b[begin+shared] {
		shared++
	}
	return tag, shared
}

// cutItem reads one item from the front of b. Its caller checks that the encoding is canonical.
func cutItem(b []byte, last item) (it item, rest []byte, ok bool) {
	next := func() (c byte) {
		if ok = len(b) > 0; ok {
			c, b = b[0], b[1:]
		}
		return c
	}
	tag := next()
	if !ok {
		return it, nil, false
	}
	it, length := last, int(lengthOf(last.prefix))
	if tag&tagNote != 0 {
		if it.note = int(next()); !ok {
			return it, nil, false
		}
	}
	if tag&tagLength != 0 {
		if length = int(next()); !ok {
			return it, nil, false
		}
	}
	var a [16]byte
	size, bits := 4, length
	if length >= length6 {
		size, bits = 16, length-length6
	}
	n, shared := (bits+7)/8, int(tag>>sharedShift)
	if n > size || shared > n || n-shared > len(b) {
		return it, nil, false
	}
	if before := last.prefix.Addr().As16(); last.prefix.Addr().Is4() == (size == 4) {
		copy(a[:shared], before[16-size:])
	} else if shared > 0 {
		return it, nil, false
	}
	copy(a[shared:n], b)
	b = b[n-shared:]
	addr, _ := netip.AddrFromSlice(a[:size])
	it.prefix = netip.PrefixFrom(addr, bits)
	if tag&tagUntil != 0 {
		step, used := binary.Varint(b)
		// The bounds keep the sum from overflowing; Validate has the same ones.
		if used <= 0 || step < -maxMillis || step > maxMillis {
			return it, nil, false
		}
		it.until, b = last.until+step, b[used:]
	}
	return it, b, it.until > 0 && it.until <= maxMillis
}

// noteOf returns which note ops[i] takes, where first says which op each note was made for; len(first) means that it
// needs a new one. Similar ops mostly come in a row, so it searches from the back.
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
	last := firstItem
	for items := w.Items; len(items) > 0; {
		it, rest, ok := cutItem(items, last)
		if !ok || it.note >= len(notes) || len(ops) == MaxOpsPerFrame {
			return nil, fmt.Errorf("bad item %d", len(ops))
		}
		op := notes[it.note]
		op.Prefix, op.Until = it.prefix, fromMillis(it.until)
		ops = append(ops, op)
		items, last = rest, it
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

// SplitOps cuts ops, in order, into runs that each encode to at most maxBytes of payload and MaxOpsPerFrame ops. An op
// that is larger on its own makes a run of its own; no valid op takes more than 1,000 bytes. The runs share the memory
// of ops.
func SplitOps(ops []Op, maxBytes int) [][]Op {
	var out [][]Op
	for len(ops) > 0 {
		n := fill(ops, maxBytes)
		out = append(out, ops[:n:n])
		ops = ops[n:]
	}
	return out
}

// fill returns how many of the first ops fit in one payload, at least 1.
func fill(ops []Op, maxBytes int) int {
	var first []int
	var note, items []byte
	var notesSize, itemsSize int
	last := firstItem
	for i := range min(len(ops), MaxOpsPerFrame) {
		at := noteOf(ops, first, i)
		if at == len(first) {
			first = append(first, i)
			note = note[:0]
			if codec.NewEncoderBytes(&note, wireHandle).Encode(packNote(ops[i])) != nil {
				return max(i, 1) // AppendOps says what is wrong with it
			}
			notesSize += len(note)
		}
		it := item{at, ops[i].Prefix, millis(ops[i].Until)}
		items = appendItem(items[:0], it, last)
		itemsSize += len(items)
		last = it
		if i > 0 && 1+1+sizeList(len(first))+notesSize+sizeText(itemsSize)+itemsSize > maxBytes {
			return i
		}
	}
	return min(len(ops), MaxOpsPerFrame)
}

// The msgpack headers of a text of n bytes and of a list of n items take this many bytes.

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

// Expires returns the latest end of ops: how long the frame that carries them must live.
func Expires(ops []Op) time.Time {
	var t time.Time
	for _, o := range ops {
		if o.Until.After(t) {
			t = o.Until
		}
	}
	return t
}
