package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

func TestStdin(t *testing.T) {
	text := strings.Repeat("192.0.2.1 # some text\n", 20_000)
	if err := iotest.TestReader(newStdin(t.Context(), strings.NewReader(text)), []byte(text)); err != nil {
		t.Error(err)
	}
	broken := errors.New("disk on fire")
	if _, err := io.ReadAll(newStdin(t.Context(), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("%v, want the input's error", err)
	}
}

// Ctrl-C used to do nothing while `meshban ban -` waited for input.
func TestInterruptWhileReading(t *testing.T) {
	for _, args := range [][]string{{"ban", "-"}, {"import", "-"}, {"join", "-"}} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			in, typing := io.Pipe()
			var errs bytes.Buffer
			code := make(chan int, 1)
			go func() { code <- newCommand(fakeActions(), in, io.Discard, &errs).run(ctx, args) }()
			fmt.Fprint(typing, "192.0.2.1")
			synctest.Wait()
			cancel()
			got := <-code
			typing.Close() // ends the reading goroutine
			if got != exitFailed || !strings.Contains(errs.String(), "error: interrupted\n") {
				t.Errorf("%q: exit code %d, want %d: %s", args, got, exitFailed, &errs)
			}
		})
	}
}
