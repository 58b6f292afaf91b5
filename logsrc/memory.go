package logsrc

import (
	"encoding/binary"
	"slices"
)

const (
	// MemorySlots is how many blocks a [Memory] holds.
	MemorySlots = 128
	// memoryBlock is how many lines a block describes, and maxMarks how many are remembered in all: half a megabyte.
	memoryBlock = 512
	maxMarks    = MemorySlots * memoryBlock
	// markSize is the bytes of one mark in a block; the block's number (8 bytes) comes first.
	markSize = 8
)

// Memory stores what a Follower remembers of the lines that it has read, so that it recognises them in a file that was
// rewritten while the agent was down. A block has at most 4,104 bytes.
type Memory interface {
	Load(slot int) []byte // nil = nothing was saved there
	Save(slot int, block []byte)
}

// mark identifies a line that was read: by its text, or by its address if the text was edited.
type mark struct{ text, addr uint32 }

// markOf returns the mark of line, which was parsed into l.
func markOf(line []byte, l *Line) mark {
	addr := l.Addr.As16()
	return mark{fold(fnv1a(trimBlanks(line))), fold(fnv1a(append(addr[:], byte(l.Net))))}
}

func fold(h uint64) uint32 { return uint32(h ^ h>>32) }

// marks holds the marks of the last lines that were read, oldest first.
type marks struct {
	store Memory // nil = remembered in this run only
	all   []mark
	first uint64 // lines forgotten before all; a multiple of memoryBlock
	saved int    // how many of all are stored
}

// loadMarks loads the newest blocks up to the first gap.
func loadMarks(store Memory) *marks {
	m := &marks{store: store}
	if store == nil {
		return m
	}
	blocks := map[uint64][]mark{}
	newest := uint64(0)
	for slot := range MemorySlots {
		b := store.Load(slot)
		if len(b) <= 8 || len(b) > 8+memoryBlock*markSize || len(b)%markSize != 0 {
			continue
		}
		n := binary.BigEndian.Uint64(b)
		newest = max(newest, n)
		for b = b[8:]; len(b) > 0; b = b[markSize:] {
			blocks[n] = append(blocks[n], mark{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])})
		}
	}
	oldest := newest
	for oldest > 0 && newest-oldest < MemorySlots-1 && len(blocks[oldest-1]) == memoryBlock {
		oldest--
	}
	for n := oldest; n <= newest; n++ {
		m.all = append(m.all, blocks[n]...)
	}
	m.first, m.saved = oldest*memoryBlock, len(m.all)
	return m
}

// add remembers a line, and forgets the oldest block when there are too many.
func (m *marks) add(k mark) {
	if len(m.all) == maxMarks {
		m.all = slices.Delete(m.all, 0, memoryBlock)
		m.first += memoryBlock
		m.saved = max(0, m.saved-memoryBlock)
	}
	m.all = append(m.all, k)
}

// complete reports whether every line ever read is remembered.
func (m *marks) complete() bool { return m.first == 0 }

// setIncomplete records that lines before the first mark are not remembered. m must be empty.
func (m *marks) setIncomplete() { m.first = memoryBlock }

// save stores the blocks that changed.
func (m *marks) save() {
	if m.store == nil || m.saved == len(m.all) {
		return
	}
	for at := m.saved / memoryBlock * memoryBlock; at < len(m.all); at += memoryBlock {
		number := (m.first + uint64(at)) / memoryBlock
		block := binary.BigEndian.AppendUint64(make([]byte, 0, 8+memoryBlock*markSize), number)
		for _, k := range m.all[at:min(at+memoryBlock, len(m.all))] {
			block = binary.BigEndian.AppendUint32(block, k.text)
			block = binary.BigEndian.AppendUint32(block, k.addr)
		}
		m.store.Save(int(number%MemorySlots), block)
	}
	m.saved = len(m.all)
}
