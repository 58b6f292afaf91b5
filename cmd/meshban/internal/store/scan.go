package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"os"
	"slices"
)

// bbolt trusts its file: a damaged page makes it panic, read outside its mapping, or follow pages in a circle. So a
// scan reads the file with read(2), each page once, before bbolt opens it. The layout is that of bbolt's
// internal/common, version 2.
const (
	pageHeader, elementSize, bucketHeader, metaSize = 16, 16, 16, 64

	metaMagic, metaVersion = 0xED0CDAED, 2
	noFreelist             = ^uint64(0)

	flagBranch, flagLeaf, flagFreelist = 1, 2, 16

	minPageSize, maxPageSize = 1 << 9, 1 << 16 // bytes
	// maxRun bounds the pages of one node, and so the memory of a scan.
	maxRun = 1 << 14
	// maxDepth bounds the height of a tree.
	maxDepth = 32
)

var native = binary.NativeEndian // as bbolt writes

// crcLen is the length of the checksum after each value. It covers the bucket's name, the key and the value. It
// protects against bad disks, not against people: the file belongs to root.
const crcLen = 4

var crcTable = crc32.MakeTable(crc32.Castagnoli)

func checksum(bucket, key, value []byte) uint32 {
	return crc32.Update(crc32.Update(crc32.Update(0, crcTable, bucket), crcTable, key), crcTable, value)
}

// seal appends the checksum to a value.
func seal(bucket, key, value []byte) []byte {
	return binary.BigEndian.AppendUint32(value[:len(value):len(value)], checksum(bucket, key, value))
}

// unseal returns the value without its checksum and reports whether the checksum is right.
func unseal(bucket, key, sealed []byte) (value []byte, ok bool) {
	n := len(sealed) - crcLen
	if n < 0 {
		return nil, false
	}
	value = sealed[:n:n]
	return value, binary.BigEndian.Uint32(sealed[n:]) == checksum(bucket, key, value)
}

// scan is one pass over a file.
type scan struct {
	file     io.ReaderAt
	pageSize uint64
	pages    uint64 // pages of the file, in use or free
	seen     []bool // pages reached so far
	bufs     [maxDepth][]byte
	each     func(bucket string, key, value []byte) // may be nil

	err     error // the first damage found
	buckets map[string]bool
	bad     map[string]bool // buckets that have lost something
}

// scanFile reads the file once and calls each for every record whose checksum is right; the bytes are valid only during
// the call. The err of the result is nil if the file is sound.
func scanFile(f *os.File, each func(bucket string, key, value []byte)) *scan {
	s := &scan{file: f, each: each, buckets: map[string]bool{}, bad: map[string]bool{}}
	info, err := f.Stat()
	if err != nil {
		s.damage("", err)
		return s
	}
	m := s.meta(uint64(info.Size()))
	if m == nil {
		return s
	}
	s.seen = make([]bool, s.pages)
	s.tree("", m.root, nil, nil, 0)
	s.freelist(m.freelist)
	for _, name := range buckets {
		if !s.buckets[string(name)] {
			s.damage(string(name), fmt.Errorf("bucket %q is missing", name))
		}
	}
	return s
}

// damage records what is wrong and in which bucket; "" is the tree of buckets.
func (s *scan) damage(bucket string, err error) {
	if s.err == nil {
		s.err = err
	}
	s.bad[bucket] = true
}

type meta struct{ root, freelist, pages, tx uint64 }

// meta returns the newer of the two meta pages that are sound. A broken one is damage, because it may have been the
// newer one.
func (s *scan) meta(size uint64) *meta {
	var newest *meta
	at := uint64(os.Getpagesize()) // where the second page begins, unless the first names another page size
	for i := range 2 {
		m, pageSize, err := s.oneMeta(uint64(i) * at)
		if err == nil && (m.pages < 4 || m.pages > size/pageSize) {
			err = fmt.Errorf("the file has %d bytes, and its pages take %d", size, m.pages*pageSize)
		}
		if err != nil {
			s.damage("", fmt.Errorf("meta page %d: %w", i, err))
			continue
		}
		at = pageSize
		if newest == nil || m.tx > newest.tx {
			newest, s.pageSize, s.pages = m, pageSize, m.pages
		}
	}
	return newest
}

func (s *scan) oneMeta(at uint64) (*meta, uint64, error) {
	b := make([]byte, pageHeader+metaSize)
	if _, err := s.file.ReadAt(b, int64(at)); err != nil {
		return nil, 0, err
	}
	b = b[pageHeader:]
	sum := fnv.New64a()
	_, _ = sum.Write(b[:56])
	pageSize := uint64(native.Uint32(b[8:]))
	switch {
	case native.Uint32(b) != metaMagic || native.Uint32(b[4:]) != metaVersion:
		return nil, 0, errors.New("not of a store")
	case sum.Sum64() != native.Uint64(b[56:]):
		return nil, 0, errors.New("wrong checksum")
	case pageSize < minPageSize || pageSize > maxPageSize || pageSize&(pageSize-1) != 0:
		return nil, 0, fmt.Errorf("page size %d", pageSize)
	}
	return &meta{native.Uint64(b[16:]), native.Uint64(b[32:]), native.Uint64(b[40:]), native.Uint64(b[48:])}, pageSize, nil
}

// page reads a page and its overflow pages into the buffer for its depth.
func (s *scan) page(id uint64, depth int) ([]byte, error) {
	if id < 2 || id >= s.pages {
		return nil, fmt.Errorf("page %d of %d", id, s.pages)
	}
	read := func(b []byte) error {
		_, err := s.file.ReadAt(b, int64(id*s.pageSize))
		return err
	}
	b := s.room(depth, s.pageSize)
	if err := read(b); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	over := uint64(native.Uint32(b[12:]))
	if native.Uint64(b) != id || over >= maxRun || over >= s.pages-id {
		return nil, fmt.Errorf("page %d: its header says page %d and %d more", id, native.Uint64(b), over)
	}
	for i := id; i <= id+over; i++ {
		if s.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		s.seen[i] = true
	}
	if over > 0 {
		if b = s.room(depth, (over+1)*s.pageSize); read(b) != nil {
			return nil, fmt.Errorf("page %d: cannot be read", id)
		}
	}
	return b, nil
}

func (s *scan) room(depth int, n uint64) []byte {
	if uint64(cap(s.bufs[depth])) < n {
		s.bufs[depth] = make([]byte, n)
	}
	return s.bufs[depth][:n]
}

// tree scans what is below a page. Its keys must be from low to below high, where nil is unbounded. An empty bucket
// name means the tree of buckets.
func (s *scan) tree(bucket string, id uint64, low, high []byte, depth int) {
	if depth >= maxDepth {
		s.damage(bucket, fmt.Errorf("page %d: more than %d levels", id, maxDepth))
		return
	}
	p, err := s.page(id, depth)
	if err != nil {
		s.damage(bucket, err)
		return
	}
	switch native.Uint16(p[8:]) {
	case flagLeaf:
		s.leaf(bucket, id, p, low, high, depth)
	case flagBranch:
		n, err := elements(id, p)
		if err != nil {
			s.damage(bucket, err)
			return
		}
		key, err := branchKey(p, 0)
		for i := range n {
			if err != nil || bytes.Compare(key, low) < 0 {
				s.damage(bucket, fmt.Errorf("page %d: branch %d is broken", id, i))
				return
			}
			next := high
			if i+1 < n {
				var more []byte
				if more, err = branchKey(p, i+1); err == nil {
					next = more
				}
			}
			if next != nil && bytes.Compare(key, next) >= 0 {
				s.damage(bucket, fmt.Errorf("page %d: branch %d is out of order", id, i))
				return
			}
			s.tree(bucket, native.Uint64(p[pageHeader+i*elementSize+8:]), key, next, depth+1)
			key = next
		}
	default:
		s.damage(bucket, fmt.Errorf("page %d: neither branch nor leaf", id))
	}
}

func branchKey(p []byte, i int) ([]byte, error) {
	at := pageHeader + i*elementSize
	return part(p, at, native.Uint32(p[at:]), native.Uint32(p[at+4:]))
}

// part returns n bytes that begin pos bytes after the start of an element.
func part(p []byte, element int, pos, n uint32) ([]byte, error) {
	from := uint64(element) + uint64(pos)
	if pos < elementSize || from+uint64(n) > uint64(len(p)) {
		return nil, io.ErrUnexpectedEOF
	}
	return p[from : from+uint64(n) : from+uint64(n)], nil
}

// elements returns the number of elements of a page. bbolt writes their contents right after the last of them.
func elements(id uint64, p []byte) (int, error) {
	n := int(native.Uint16(p[10:]))
	var at uint32
	switch end := pageHeader + n*elementSize; {
	case n == 0:
		return 0, fmt.Errorf("page %d is empty", id)
	case end > len(p):
		return 0, fmt.Errorf("page %d: %d elements", id, n)
	case native.Uint16(p[8:]) == flagLeaf:
		at = native.Uint32(p[pageHeader+4:])
	default:
		at = native.Uint32(p[pageHeader:])
	}
	if at != uint32(n*elementSize) {
		return 0, fmt.Errorf("page %d: not %d elements", id, n)
	}
	return n, nil
}

// leaf scans the elements of a leaf page.
func (s *scan) leaf(bucket string, id uint64, p, low, high []byte, depth int) {
	n, err := elements(id, p)
	if err != nil {
		s.damage(bucket, err)
		return
	}
	for i := range n {
		at := pageHeader + i*elementSize
		kind, pos, n := native.Uint32(p[at:]), native.Uint32(p[at+4:]), native.Uint32(p[at+8:])
		key, err := part(p, at, pos, n)
		var value []byte
		if err == nil && uint64(pos)+uint64(n) <= uint64(len(p)) {
			value, err = part(p, at, pos+n, native.Uint32(p[at+12:]))
		}
		if err != nil || bytes.Compare(key, low) < 0 || i > 0 && bytes.Equal(key, low) || high != nil && bytes.Compare(key, high) >= 0 {
			s.damage(bucket, fmt.Errorf("page %d: element %d is broken or out of order", id, i))
			continue
		}
		low = key
		switch {
		case bucket == "" && kind == 1:
			s.bucket(string(key), value, depth+1)
		case bucket == "" || kind != 0:
			s.damage(bucket, fmt.Errorf("page %d: element %d of kind %d", id, i, kind))
		default:
			value, ok := unseal([]byte(bucket), key, value)
			if !ok {
				s.damage(bucket, fmt.Errorf("page %d: element %d has a wrong checksum", id, i))
			} else if s.each != nil {
				s.each(bucket, key, value)
			}
		}
	}
}

// bucket scans a bucket. A small one is stored inside the value.
func (s *scan) bucket(name string, value []byte, depth int) {
	known := slices.ContainsFunc(buckets, func(b []byte) bool { return string(b) == name })
	if !known || len(value) < bucketHeader {
		s.damage("", fmt.Errorf("bucket %q is broken, or of another version", name))
		return
	}
	s.buckets[name] = true
	root := native.Uint64(value)
	switch {
	case root != 0:
		s.tree(name, root, nil, nil, depth)
	case len(value) == bucketHeader+pageHeader && native.Uint16(value[bucketHeader+10:]) == 0: // empty
	case len(value) < bucketHeader+pageHeader || native.Uint16(value[bucketHeader+8:]) != flagLeaf:
		s.damage(name, fmt.Errorf("bucket %q is broken", name))
	default:
		s.leaf(name, 0, value[bucketHeader:], nil, nil, depth)
	}
}

// freelist checks that the pages listed as free are not in use, because bbolt overwrites them.
func (s *scan) freelist(id uint64) {
	if id == noFreelist {
		return
	}
	p, err := s.page(id, 0)
	if err == nil && native.Uint16(p[8:]) != flagFreelist {
		err = fmt.Errorf("page %d is not a list of free pages", id)
	}
	if err != nil {
		s.damage("", err)
		return
	}
	n, ids := uint64(native.Uint16(p[10:])), p[pageHeader:]
	if n == 0xFFFF { // too many for the header's field
		n, ids = native.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids)/8) {
		s.damage("", fmt.Errorf("page %d: %d free pages", id, n))
		return
	}
	for ; n > 0; n, ids = n-1, ids[8:] {
		free := native.Uint64(ids)
		if free < 2 || free >= s.pages || s.seen[free] {
			s.damage("", fmt.Errorf("page %d is listed as free, but cannot be", free))
			return
		}
		s.seen[free] = true
	}
}
