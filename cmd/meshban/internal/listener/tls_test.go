package listener

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// files are the certificate and key of a test.
type files struct{ config.API }

// renew writes another certificate and key, as a program does that renews them: first one, then the other.
func (f files) renew(t *testing.T, serial int64, between func()) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{
		SerialNumber: big.NewInt(serial), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f.write(t, f.Certificate, serial, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	between()
	f.write(t, f.Key, serial, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

// write gives each file its own time: file systems may have coarse ones.
func (f files) write(t *testing.T, path string, serial int64, text []byte) {
	t.Helper()
	at := time.Now().Add(time.Duration(serial) * time.Minute)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// logged is a log that the listener writes while the test reads.
type logged struct {
	mu sync.Mutex // guards what follows
	bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

func (l *logged) warnings() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.String(), "level=WARN")
}

// A renewed certificate serves from the next handshake on, and one that is broken leaves the former in use.
func TestRenewedCertificate(t *testing.T) {
	w, dir, log := newWorld(t), t.TempDir(), new(logged)
	w.cfg.API.Certificate, w.cfg.API.Key = filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	w.log = slog.New(slog.NewTextHandler(log, nil))
	f := files{w.cfg.API}
	f.renew(t, 1, func() {})
	w.serve(t)
	serves := func(when string, want int64) {
		t.Helper()
		c, err := tls.Dial("tcp", w.Addr(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		defer c.Close()
		if s := c.ConnectionState(); s.PeerCertificates[0].SerialNumber.Int64() != want || s.Version < tls.VersionTLS12 {
			t.Errorf("%s: certificate %v, want %d", when, s.PeerCertificates[0].SerialNumber, want)
		}
		if _, err := c.Write([]byte("GET /health HTTP/1.0\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(c); err != nil || !strings.HasSuffix(b.String(), `{"status":"up"}`) {
			t.Errorf("%s: %q, %v", when, b.String(), err)
		}
	}
	serves("start", 1)
	f.renew(t, 2, func() { serves("the certificate is new, the key is not", 1); serves("still", 1) })
	serves("renewed", 2)
	if n := log.warnings(); n != 1 {
		t.Errorf("%d warnings of a certificate without its key, want 1", n)
	}
	f.write(t, f.Certificate, 3, []byte("nonsense"))
	serves("broken", 2)
	if err := os.Remove(f.Key); err != nil {
		t.Fatal(err)
	}
	serves("gone", 2)
	if n := log.warnings(); n != 3 {
		t.Errorf("%d warnings, want 3", n)
	}
	f.renew(t, 4, func() {})
	serves("mended", 4)

	// With TLS nobody is answered without.
	c, err := net.Dial("tcp", w.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET /health HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, _ = b.ReadFrom(c); strings.Contains(b.String(), "up") {
		t.Errorf("without TLS: %q", b.String())
	}
}

func TestUnusableCertificateIsNamed(t *testing.T) {
	dir := t.TempDir()
	f := files{config.API{Certificate: filepath.Join(dir, "c.pem"), Key: filepath.Join(dir, "k.pem")}}
	missing := func(want string) {
		t.Helper()
		if err := CheckFiles(f.API); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	missing("api.certificate")
	f.renew(t, 1, func() { missing("api.key") })
	if err := CheckFiles(f.API); err != nil {
		t.Error(err)
	}
	f.write(t, f.Key, 2, []byte("nonsense"))
	missing("api.certificate")
}
