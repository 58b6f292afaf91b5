package cli

import (
	"context"
	"io"
)

// stdin is an input whose Read also ends with ctx. A read(2) of a terminal or a pipe cannot be interrupted, and a
// user typing a list by hand must be able to stop. So if ctx ends first, the reading goroutine is left behind and
// ends with the process. No other goroutine of this package is left behind.
type stdin struct {
	ctx    context.Context
	in     io.Reader
	pieces chan piece // from the goroutine, which closes it after the piece with the error
	rest   []byte     // of the last piece
	err    error      // sticky; returned once rest is used up
}

type piece struct {
	data []byte
	err  error
}

func newStdin(ctx context.Context, in io.Reader) *stdin { return &stdin{ctx: ctx, in: in} }

func (s *stdin) Read(p []byte) (int, error) {
	if s.pieces == nil {
		s.pieces = make(chan piece)
		go s.pump()
	}
	for len(s.rest) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		select {
		case got := <-s.pieces:
			s.rest, s.err = got.data, got.err
		case <-s.ctx.Done():
			s.err = context.Cause(s.ctx)
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *stdin) pump() {
	defer close(s.pieces)
	for {
		data := make([]byte, importBuffer)
		n, err := s.in.Read(data)
		select {
		case s.pieces <- piece{data[:n], err}:
		case <-s.ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}
