package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/enrol"
	"github.com/meshban/meshban/mesh/internal/filter"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// Each address may make enrolBurst TLS handshakes at once, then enrolRate a second, so that a stranger who tries
	// tokens keeps nobody else out.
	enrolBurst, enrolRate = 10, 2
	// All strangers together may make helloBurst handshakes at once, then one per helloEvery; those of one network
	// netHellos, then netHelloRate a second. Each takes 0.3 ms of a core. A joiner's hello shows that it has a token
	// (see enrol.Knock); all joiners together have an allowance of their own, as large as the strangers'.
	helloBurst, helloEvery  = 100, 5 * time.Millisecond
	netHellos, netHelloRate = 20, 20
)

var errManyHellos = errors.New("too many TLS handshakes")

// serveEnrol answers one joiner. See filter.Config.
func (m *Mesh) serveEnrol(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	from := conn.RemoteAddr().String()
	if err := m.answerJoiner(conn, from); err != nil {
		level := slog.LevelDebug // a stranger, who may come often
		if errors.Is(err, ErrInviteExpired) || errors.Is(err, ErrInviteUsed) {
			level = slog.LevelInfo
		}
		m.cfg.Logger.Log(context.Background(), level, "enrolment refused", "from", from, "error", wire.Escape(err.Error(), wire.MaxLogText))
	}
}

func (m *Mesh) answerJoiner(raw net.Conn, from string) error {
	conf, err := m.serverTLS()
	if err != nil {
		return err
	}
	conn := tls.Server(raw, conf)
	if err := conn.Handshake(); err != nil {
		return err
	}
	key, err := enrol.PeerKey(conn.ConnectionState())
	if err != nil {
		return err
	}
	b, err := enrol.ReadMessage(conn)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(enrolTimeout)); err != nil {
		return err
	}
	switch enrol.Version(b) {
	case enrol.KeysVersion:
		return m.answerKeys(conn, key, b, from)
	case queryVersion:
		return m.answerQuery(conn, key, b)
	}
	q, err := enrol.DecodeRequest(b)
	if err != nil {
		return err
	}
	id := frame.IDOf(key)
	caps, again, code, refused := m.invites.Redeem(time.Now(), q.Secret, id)
	if old := m.Standing(id).Certificate; again && old != nil {
		caps = old.Caps // they may have been narrowed since
	}
	answer := enrol.Answer{Code: code}
	switch {
	case code == enrol.OK:
		if answer, refused = m.welcome(key, q.Name, caps); refused != nil {
			m.problems.report(time.Now(), ProblemCertificate, "enrol", "cannot certify "+q.Name+": "+refused.Error(), "make a new token with `meshban invite`, and join again with that")
		}
	case refused == nil:
		refused = refusal(code)
	}
	if err := enrol.WriteMessage(conn, answer.Encode()); err != nil {
		return err
	}
	if refused == nil {
		m.cfg.Logger.Info("a node has enrolled", "name", q.Name, "id", id.Short(), "from", from)
	}
	return errors.Join(refused, conn.CloseWrite())
}

// newServerTLS returns the TLS settings for all clients. A handshake counts against the limits once the client hello
// has arrived, and fails if they are used up.
func (m *Mesh) newServerTLS() (*tls.Config, error) {
	conf, err := enrol.TLS(m.cfg.Identity, func(ed25519.PublicKey) error { return nil })
	if err != nil {
		return nil, err
	}
	conf.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !m.allowHello(time.Now(), hello) {
			return nil, errManyHellos
		}
		return nil, nil // use conf
	}
	return conf, nil
}

// allowHello reports whether a client may make a handshake.
func (m *Mesh) allowHello(now time.Time, hello *tls.ClientHelloInfo) bool {
	from := filter.SourceOf(hello.Conn.RemoteAddr(), m.peers.isSource)
	switch {
	case m.peers.isSource(from):
		return m.queries.hellos.Take(now, from, 1)
	case !m.invites.Knocks(now, hello.ServerName):
		return m.netHellos.Take(now, filter.NetOf(from), 1) && m.enrolRate.Take(now, from, 1) && m.hellos.AllowN(now, 1)
	}
	filter.Keep(hello.Conn)
	return m.enrolRate.Take(now, from, 1) && m.invited.AllowN(now, 1)
}

// welcome returns the answer to a joiner whose token is valid.
func (m *Mesh) welcome(key ed25519.PublicKey, name string, caps pki.Caps) (enrol.Answer, error) {
	answer := enrol.Answer{Secrets: m.secrets(), Join: m.joinAnswer(), Taken: m.nameTaken(frame.IDOf(key), name)}
	if !m.cfg.Secrets.HasAuthority() {
		return answer, nil
	}
	c, err := m.Certify(key, name, caps)
	switch {
	case errors.Is(err, pki.ErrNoAuthority):
		return enrol.Answer{Code: enrol.NoAuthority}, err
	case errors.Is(err, pki.ErrRevoked):
		return enrol.Answer{Code: enrol.Revoked}, err
	case err != nil:
		return enrol.Answer{Code: enrol.Failed}, err
	}
	answer.Certificate = c.Frame.Raw
	return answer, nil
}

// nameTaken reports whether another certified node has this name.
func (m *Mesh) nameTaken(id frame.ID, name string) bool {
	return slices.ContainsFunc(m.Standings(), func(s Standing) bool {
		return s.ID != id && s.Revoked == nil && s.Certificate != nil && s.Certificate.Name == name
	})
}

// joinAnswer lists the addresses where a newcomer finds the mesh: this node's first, then some live members'.
func (m *Mesh) joinAnswer() []string {
	list := []string{m.Addr().String()}
	for _, p := range m.peers.members(time.Now()) {
		if p.State == StateAlive && len(list) < enrol.MaxJoin {
			list = append(list, p.Addr.String())
		}
	}
	return list
}
