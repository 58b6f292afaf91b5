package logsrc

// fingerprintWindow is how many bytes in front of an offset are compared to learn whether a file still is what
// was read. A window of several lines, each with its time, is not written twice by chance.
const fingerprintWindow = 256

// Position is how far the file was read: everything before it was handed over, nothing after it was. The
// daemon stores it and hands it to the next [Follower]. The zero Position means first contact: a file that
// exists is then read from its end.
type Position struct {
	Dev    uint64 `json:"dev"`   // device of the file; informative, since numbers change over a reboot
	Inode  uint64 `json:"inode"` // 0 = the file was not there
	Offset int64  `json:"offset"`
	// Fingerprint is FNV-1a of the (at most 256) bytes in front of Offset.
	Fingerprint uint64 `json:"fingerprint"`
	// Skip says that Offset lies inside a line that is too long: its rest is not a line.
	Skip bool `json:"skip,omitempty"`
}

// IsZero says that nothing was ever read.
func (p Position) IsZero() bool { return p == Position{} }

// fingerprint is FNV-1a (64 bit) of the last bytes of what stands in front of an offset. It is never 0 for an
// empty text, so that a Position at offset 0 is not the zero Position.
func fingerprint(before []byte) uint64 {
	return fnv1a(before[max(0, len(before)-fingerprintWindow):])
}

// fnv1a is the 64-bit hash of that name.
func fnv1a(text []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range text {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}
