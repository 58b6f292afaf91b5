package listener

import (
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// pair is a certificate and its key, read again when their files change.
type pair struct {
	api config.API
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	cert   *tls.Certificate
	times  [2]time.Time // of the files that cert is from
	failed [2]time.Time // of files that could not be read, which was said
}

// newPair reads the configured files; it returns nil if there are none.
func newPair(api config.API, log *slog.Logger) (*pair, error) {
	if api.Certificate == "" {
		return nil, nil
	}
	p := &pair{api: api, log: log}
	if err := readable("api.certificate", api.Certificate); err != nil {
		return nil, err
	}
	if err := readable("api.key", api.Key); err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(api.Certificate, api.Key)
	if err != nil {
		return nil, &config.Error{Key: "api.certificate", Problem: err.Error(), Remedy: "write the paths of a certificate and of its key, as PEM"}
	}
	p.cert, p.times = &cert, p.modified()
	return p, nil
}

func (p *pair) modified() (times [2]time.Time) {
	for i, path := range [2]string{p.api.Certificate, p.api.Key} {
		if info, err := os.Stat(path); err == nil {
			times[i] = info.ModTime()
		}
	}
	return times
}

// get returns the certificate; one that cannot be read leaves the old one.
func (p *pair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.modified(); now != p.times {
		cert, err := tls.LoadX509KeyPair(p.api.Certificate, p.api.Key)
		switch {
		case err == nil:
			p.cert, p.times = &cert, now
		case now != p.failed: // the next handshake tries again: one of the files may still be on its way
			p.failed = now
			p.log.Warn("the new api.certificate or api.key cannot be used, the former ones serve", "err", err, "certificate", p.api.Certificate, "key", p.api.Key)
		}
	}
	return p.cert, nil
}

func (p *pair) listener(l net.Listener) net.Listener {
	return tls.NewListener(l, &tls.Config{GetCertificate: p.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
}
