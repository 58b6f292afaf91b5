// Package storetest damages store files for tests.
package storetest

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
)

// Page types, as bbolt marks them.
const branch, leaf, freelist = 1, 2, 16

// Damages returns damages by name. Each changes the bytes of a store's file and returns what is left of them. older is an
// earlier content of the file, or nil if none is known, which leaves out the damage "torn".
func Damages(rnd *rand.Rand, older []byte) map[string]func(b []byte) []byte {
	size := os.Getpagesize()
	page := func(b []byte, i int) []byte { return b[i*size:][:size] }
	anyPage := func(b []byte) []byte { return page(b, rnd.IntN(len(b)/size)) }
	of := func(b []byte, flag uint16) []byte { // a random page of a type
		for {
			if p := anyPage(b); binary.NativeEndian.Uint16(p[8:]) == flag {
				return p
			}
		}
	}
	flip := func(p []byte) { p[rnd.IntN(len(p))] ^= 1 << rnd.IntN(8) }
	noise := func(p []byte) {
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
	}
	all := map[string]func(b []byte) []byte{
		"zeros": func(b []byte) []byte { clear(anyPage(b)); return b },
		"swapped": func(b []byte) []byte {
			a, c := anyPage(b), anyPage(b)
			t := bytes.Clone(a)
			copy(a, c)
			copy(c, t)
			return b
		},
		"copied":        func(b []byte) []byte { copy(anyPage(b), anyPage(b)); return b },
		"a bit":         func(b []byte) []byte { flip(b); return b },
		"noise":         func(b []byte) []byte { noise(anyPage(b)); return b },
		"cut":           func(b []byte) []byte { return b[:rnd.IntN(len(b))] },
		"cut at a page": func(b []byte) []byte { return b[:rnd.IntN(len(b)/size)*size] },
		"cut short":     func(b []byte) []byte { return b[:min(4096, len(b))] },
		"cut to 0":      func(b []byte) []byte { return b[:0] },
		"longer": func(b []byte) []byte {
			more := make([]byte, 1+rnd.IntN(3*size))
			noise(more)
			return append(b, more...)
		},
		"one meta":   func(b []byte) []byte { flip(page(b, rnd.IntN(2))[16:80]); return b },
		"both metas": func(b []byte) []byte { flip(page(b, 0)[16:80]); flip(page(b, 1)[16:80]); return b },
		"no store":   func([]byte) []byte { return bytes.Repeat([]byte("not a store "), 4096) },
		"old page":   func(b []byte) []byte { copy(of(b, leaf)[16:], of(b, leaf)[16:]); return b },
	}
	for name, flag := range map[string]uint16{"branch": branch, "leaf": leaf, "freelist": freelist} {
		all[name+": header"] = func(b []byte) []byte { flip(of(b, flag)[:16]); return b }
		all[name+": element"] = func(b []byte) []byte { flip(of(b, flag)[16:64]); return b }
		all[name+": a bit"] = func(b []byte) []byte { flip(of(b, flag)); return b }
		all[name+": zeros"] = func(b []byte) []byte { clear(of(b, flag)[rnd.IntN(1000):]); return b }
	}
	if older != nil {
		all["torn"] = func(b []byte) []byte { // some pages of a commit were written, others were not
			for i := range min(len(b), len(older)) / size {
				if rnd.IntN(2) == 0 {
					copy(page(b, i), page(older, i))
				}
			}
			return b
		}
	}
	return all
}
