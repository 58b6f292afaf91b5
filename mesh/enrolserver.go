package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"
)

const (
	// maxEnrolments bounds the enrolments that we serve at a time. One address has enrolBurst of them in a row, and
	// enrolRate more a second, so that a stranger who tries tokens keeps nobody else out.
	maxEnrolments = 64
	enrolBurst    = 20
	enrolRate     = 5
)

// serveEnrol answers one joiner; the transport calls it with a stream that begins like TLS, in a goroutine of its own.
func (m *Mesh) serveEnrol(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	select {
	case m.enrolments <- struct{}{}:
		defer func() { <-m.enrolments }()
	default:
		return
	}
	from := conn.RemoteAddr().String()
	if !m.enrolRate.take(time.Now(), sourceOf(conn.RemoteAddr()), 1) {
		m.cfg.Logger.Debug("too many enrolments; one is refused", "from", from)
		return
	}
	_ = conn.SetDeadline(time.Now().Add(enrolTimeout))
	if err := m.answerJoiner(conn, from); err != nil {
		level := slog.LevelDebug // a stranger, who may come often
		if errors.Is(err, ErrInviteExpired) || errors.Is(err, ErrInviteUsed) {
			level = slog.LevelInfo
		}
		m.cfg.Logger.Log(context.Background(), level, "an enrolment did not come about", "from", from, "error", escapeText(err.Error(), maxLogText))
	}
}

func (m *Mesh) answerJoiner(raw net.Conn, from string) error {
	conf, err := enrolTLS(m.cfg.Identity, func(ed25519.PublicKey) error { return nil })
	if err != nil {
		return err
	}
	conn := tls.Server(raw, conf)
	if err := conn.Handshake(); err != nil {
		return err
	}
	key, err := peerKey(conn.ConnectionState())
	if err != nil {
		return err
	}
	b, err := readMessage(conn)
	if err != nil {
		return err
	}
	if requestVersion(b) == keysVersion {
		return m.answerKeys(conn, key, b, from)
	}
	q, err := decodeEnrolRequest(b)
	if err != nil {
		return err
	}
	id := IDOf(key)
	answer := enrolAnswer{}
	caps, again, refused := m.invites.redeem(time.Now(), q.Secret, id)
	if old := m.Standing(id).Certificate; again && old != nil {
		caps = old.Caps // they may have been narrowed since
	}
	switch {
	case refused == nil:
		if answer, refused = m.welcome(key, q.Name, caps); refused != nil {
			m.problems.report(time.Now(), ProblemCertificate, "enrol", "cannot certify "+q.Name+": "+refused.Error())
		}
	case errors.Is(refused, ErrInviteUnknown):
		answer.Code = enrolUnknown
	case errors.Is(refused, ErrInviteExpired):
		answer.Code = enrolExpired
	case errors.Is(refused, ErrInviteUsed):
		answer.Code = enrolUsed
	default:
		answer.Code = enrolFailed
	}
	if err := writeMessage(conn, answer.encode()); err != nil {
		return err
	}
	if refused == nil {
		m.cfg.Logger.Info("a node has enrolled", "name", q.Name, "id", id.String(), "from", from)
	}
	return errors.Join(refused, conn.CloseWrite())
}

// welcome is the answer to a joiner whose token is good.
func (m *Mesh) welcome(key ed25519.PublicKey, name string, caps Caps) (enrolAnswer, error) {
	answer := enrolAnswer{Secrets: m.Secrets(), Join: m.joinAnswer()}
	if !m.cfg.Secrets.HasAuthority() {
		return answer, nil
	}
	c, err := m.Certify(key, name, caps)
	switch {
	case errors.Is(err, ErrNoAuthority):
		return enrolAnswer{Code: enrolNoAuthority}, err
	case errors.Is(err, ErrRevoked):
		return enrolAnswer{Code: enrolRevoked}, err
	case err != nil:
		return enrolAnswer{Code: enrolFailed}, err
	}
	answer.Certificate = c.Raw()
	return answer, nil
}

// joinAnswer lists where a newcomer finds the mesh: here first, then some live members.
func (m *Mesh) joinAnswer() []string {
	list := []string{m.Addr().String()}
	for _, p := range m.peers.members(time.Now()) {
		if p.State == StateAlive && len(list) < maxJoinAnswer {
			list = append(list, p.Addr.String())
		}
	}
	return list
}
