package logsrc

// fingerprintWindow is how many bytes before an offset are compared to tell whether a file is the one that was read.
// It covers several lines, each with its time, which do not repeat by chance.
const fingerprintWindow = 256

// Position is how far the file was read: Handle got everything before it and nothing after it. The daemon stores it
// and passes it to the next [Follower]. The zero Position means first contact: a file that exists is then read from
// its end.
type Position struct {
	Dev    uint64 `json:"dev"`   // device of the file; informative, since it may change at a reboot
	Inode  uint64 `json:"inode"` // 0 = there was no file
	Offset int64  `json:"offset"`
	// Fingerprint is FNV-1a of at most 256 bytes before Offset.
	Fingerprint uint64 `json:"fingerprint"`
	// Skip means that Offset is inside a line that is too long, whose rest is skipped.
	Skip bool `json:"skip,omitempty"`
}

// IsZero reports whether nothing was ever read.
func (p Position) IsZero() bool { return p == Position{} }

// fingerprint is 64-bit FNV-1a of the end of the text before an offset. It is not 0 for an empty text, so a Position
// at offset 0 is not the zero Position.
func fingerprint(before []byte) uint64 {
	return fnv1a(before[max(0, len(before)-fingerprintWindow):])
}

func fnv1a(text []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range text {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}
