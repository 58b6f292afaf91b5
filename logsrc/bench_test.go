package logsrc

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"
)

func benchmarkParse(b *testing.B, texts ...string) {
	lines := make([][]byte, len(texts))
	for i, text := range texts {
		lines[i] = []byte(text)
	}
	b.ReportAllocs()
	begun := cpuTime(b)
	for i := 0; b.Loop(); i++ {
		_, _ = Parse(lines[i%len(lines)])
	}
	b.ReportMetric(float64(b.N)/(cpuTime(b)-begun).Seconds(), "lines/cpu-s")
}

// cpuTime returns the CPU time of this process, which does not count what other programs use.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func BenchmarkParseGood(b *testing.B) {
	benchmarkParse(b,
		"<13>Nov 22 11:02:11 root[731]: HOST 192.0.2.7 PORT 22",
		"Nov 22 11:02:11 web2 newbans[731]: HOST 198.51.100.7 PORT 0",
		`<13>1 2026-11-22T11:02:11.687738+00:00 vm root 7 - [timeQuality tzKnown="1" isSynced="0"] HOST 203.0.113.9 PORT ssh`,
		"Nov 22 11:02:11 fail2ban[731]: HOST 2001:db8::7 PORT http,https bantime=600 jail=nginx failures=5",
	)
}

func BenchmarkParseNoise(b *testing.B) {
	benchmarkParse(b,
		"Nov 22 11:02:11 vm CRON[7]: pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)",
		"Nov 22 11:02:11 vm sshd[7]: Failed password for invalid user admin from 192.0.2.7 port 40022 ssh2",
		"Nov 22 11:02:11 vm sshd[7]: error: HOST key verification failed",
		"",
	)
}

// BenchmarkFollowFlood appends a million useless lines with one write, then a ban. It reports the delay between the
// ban's write and Handle, and the rate of lines.
func BenchmarkFollowFlood(b *testing.B) {
	const useless = 1_000_000
	noise := "Nov 22 11:02:11 vm sshd[7]: Failed password for invalid user admin from 192.0.2.7 port 40022\n"
	flood := string(bytes.Repeat([]byte(noise), useless))
	path := logPath(b)
	must(b, EnsureFile(path, 0o640))
	r := run(b, path, nil, 0)
	var delay time.Duration
	rounds := 0
	for b.Loop() {
		add(b, path, flood)
		add(b, path, line(1))
		written := time.Now()
		r.want(1)
		delay += time.Since(written)
		rounds++
	}
	b.ReportMetric(float64(delay.Milliseconds())/float64(rounds), "ms-behind-flood")
	b.ReportMetric(float64(rounds)*useless/b.Elapsed().Seconds(), "lines/s")
}

// BenchmarkLatency reports the time from write(2) to Handle, with an idle millisecond between lines.
func BenchmarkLatency(b *testing.B) {
	path := logPath(b)
	must(b, EnsureFile(path, 0o640))
	handled := make(chan time.Time, 1)
	r := run(b, path, nil, 0)
	go func() {
		for range r.lines {
			handled <- time.Now()
		}
	}()
	b.Cleanup(func() { r.end(); close(r.lines) })
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(b, err)
	defer file.Close()
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	var all []time.Duration
	for b.Loop() {
		<-pace.C
		begun := time.Now()
		_, err := file.WriteString(line(1))
		must(b, err)
		all = append(all, (<-handled).Sub(begun))
	}
	slices.Sort(all)
	for _, p := range []int{50, 99} {
		b.ReportMetric(float64(all[(len(all)-1)*p/100].Nanoseconds())/1000, fmt.Sprintf("us-p%d", p))
	}
}

func BenchmarkEmit(b *testing.B) {
	path := logPath(b)
	e := newEmitter(b, path, nil)
	batch := []Emission{emission(1)}
	now := time.Now()
	for b.Loop() {
		must(b, e.Emit(now, batch))
	}
}
