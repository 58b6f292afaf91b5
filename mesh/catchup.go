package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/enrol"
	"github.com/meshban/meshban/mesh/internal/filter"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// A node that was away while the gossip key was rotated and the old key dropped cannot talk to anyone. It asks for the
// newest grants over TLS on the mesh's port, as joiners do. The answering node need not be trusted: only records that
// the authority has signed are believed. Nothing leaks, because the key in a grant is sealed for the asking node, whose
// own key the connection proves. The answering node itself states only which key it encrypts with, and that counts only
// from a certified member.

const (
	// askKeysTimeout bounds one request, not counting the dial: anything may be listening at the address.
	askKeysTimeout = 3 * time.Second
)

var (
	// errStranger: the asker has no certificate.
	errStranger  = errors.New("who asks for the mesh's key has no certificate")
	errOtherNode = errors.New("another node answers there")
)

// answerKeys sends a node the authority's records about the newest gossip key: the node's own grant or, if it has none,
// a grant for others, which proves that a newer key exists. A revoked node gets its revocation.
func (m *Mesh) answerKeys(conn *tls.Conn, key ed25519.PublicKey, b []byte, from string) error {
	q, err := enrol.DecodeKeysRequest(b)
	if err != nil {
		return err
	}
	if q.MeshID != m.cfg.Secrets.MeshID || !m.cfg.Secrets.HasAuthority() {
		return pki.ErrOtherMesh
	}
	id := frame.IDOf(key)
	s := m.Standing(id)
	if s.Certificate == nil && s.Revoked == nil {
		f, _ := frame.Decode(q.Certificate)
		c, _ := pki.Record(f).(pki.Certificate)
		if c.ID() != id || c.Verify(m.cfg.Secrets.Authority[:], m.cfg.Secrets.MeshID, m.now()) != nil {
			return errStranger
		}
		if err := m.publishRecord(c.Frame); err != nil {
			return err
		}
		wake(m.keys.sweep)
	}
	var a enrol.KeysReply
	if s.Revoked != nil {
		a.Records = append(a.Records, s.Revoked.Frame.Raw)
	} else {
		var has pki.KeyVersion
		has, a.Uses = m.keys.Versions()
		if q.Has > has && m.trusted(id) {
			defer m.askBack(id, from)
		}
		m.mu.Lock()
		g, _ := m.core.GrantFor(id)
		m.mu.Unlock()
		if g.Version > q.Has && slices.Contains(g.Nodes(), id) && !m.mayHandOut() {
			return errNotYet
		}
		if g.Version > q.Has {
			a.Records = append(a.Records, g.Frame.Raw)
		}
	}
	if err := enrol.WriteMessage(conn, a.Encode()); err != nil {
		return err
	}
	if len(a.Records) > 0 {
		level := slog.LevelInfo
		if s.Revoked != nil {
			level = slog.LevelDebug // it never stops asking
		}
		m.cfg.Logger.Log(context.Background(), level, "a node asked for the mesh's key", "id", id.Short(), "from", from, "revoked", s.Revoked != nil)
	}
	return conn.CloseWrite()
}

// askBack asks a member for its newer gossip key, at the address from which the member asked. Nobody would look for it
// there if it rotated the key while it was alone and at a new address. askBack runs on the goroutine that served the
// member, so that it does not hold up askLoop.
func (m *Mesh) askBack(id frame.ID, from string) {
	at, err := netip.ParseAddrPort(from)
	tr := m.tr.Load()
	if err != nil || tr == nil || !m.askedBack.Take(m.now(), id, 1) {
		return // the member asks again
	}
	port := m.Addr().Port()
	m.peers.update(id, func(p *peer) { port = p.Addr.Port() })
	m.askKeys(tr.Context(), netip.AddrPortFrom(at.Addr().Unmap(), port))
}

// askKeys asks the node at addr, which does not understand us, for a newer gossip key.
func (m *Mesh) askKeys(ctx context.Context, addr netip.AddrPort) {
	if !m.cfg.Secrets.HasAuthority() || !m.join.MayAsk(m.now(), addr) {
		return
	}
	a, from, err := m.keysAt(ctx, addr)
	if err != nil {
		m.cfg.Logger.Debug("cannot ask for the mesh's key", "addr", addr, "error", wire.Escape(err.Error(), wire.MaxLogText))
		return
	}
	var frames []frame.Frame
	for _, raw := range a.Records {
		f, err := frame.Decode(raw)
		if err == nil && (f.MeshID != m.cfg.Secrets.MeshID || f.Origin != frame.IDOf(m.cfg.Secrets.Authority[:])) {
			err = pki.ErrOtherAuthority
		}
		if err == nil {
			err = f.Verify()
		}
		if err != nil {
			m.cfg.Logger.Debug("an answer about the mesh's key is of no use", "addr", addr, "error", wire.Escape(err.Error(), wire.MaxLogText))
			return
		}
		frames = append(frames, f)
	}
	if m.trusted(from) {
		m.keys.Spoken(a.Uses, addr)
		wake(m.keys.wake)
	}
	if len(frames) == 0 {
		if m.Peers() == 0 && m.join.MuteLong(m.now()) {
			m.problems.report(m.now(), ProblemKey, "mute", fmt.Sprintf("the node at %v answers, but speaks another gossip key and has no newer one for this node, "+
				"which asks on", addr), "if that lasts, "+newStart)
		}
		return
	}
	m.mu.Lock()
	fresh := len(m.stepLocked(m.now(), replica.FramesEvent{Via: replica.ViaPush, Frames: frames}).Admitted) > 0
	m.mu.Unlock()
	m.wakeCore()
	if fresh {
		m.cfg.Logger.Info("got news of the mesh's key from a node that it could not talk to", "addr", addr)
		m.checkOwn()
	}
}

// askLoop asks members that do not answer pings for a newer key, one at a time: if the key was rotated without this
// node, memberlist would take most of a minute to notice that nobody understands it.
func (m *Mesh) askLoop(ctx context.Context) {
	for {
		select {
		case addr := <-m.join.Silent:
			m.askKeys(ctx, addr)
		case <-ctx.Done():
			return
		}
	}
}

// keysAt sends one request to addr and returns the answer and the answering node's id.
func (m *Mesh) keysAt(ctx context.Context, addr netip.AddrPort) (a enrol.KeysReply, from frame.ID, err error) {
	conn, err := m.dialMember(ctx, addr, func(key ed25519.PublicKey) error { from = frame.IDOf(key); return nil })
	if err != nil {
		return a, from, err
	}
	defer func() { _ = conn.NetConn().Close() }() // without a TLS close alert, which waits for a peer that does not read
	stop := context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() })
	defer stop()
	q := enrol.KeysRequest{MeshID: m.cfg.Secrets.MeshID}
	q.Has, _ = m.keys.Versions()
	if s := m.Standing(m.id); s.Certificate != nil {
		q.Certificate = s.Certificate.Frame.Raw
	}
	if err := enrol.WriteMessage(conn, q.Encode()); err != nil {
		return a, from, err
	}
	b, err := enrol.ReadMessage(conn)
	if err != nil {
		return a, from, err
	}
	a, err = enrol.DecodeKeysReply(b)
	return a, from, err
}

// dialMember opens a TLS connection to a node whose key accept approves. The connection is good for askKeysTimeout; ctx
// bounds only the dial (by its deadline) and the handshake. The handshake proves that the node is at addr.
func (m *Mesh) dialMember(ctx context.Context, addr netip.AddrPort, accept func(ed25519.PublicKey) error) (*tls.Conn, error) {
	conf, err := enrol.TLS(m.cfg.Identity, accept)
	if err != nil {
		return nil, err
	}
	tr := m.tr.Load()
	if tr == nil {
		return nil, ErrStopped
	}
	wait := filter.MaxDial
	if end, ok := ctx.Deadline(); ok {
		wait = time.Until(end)
	}
	raw, err := tr.DialUnchecked(memberlist.Address{Addr: addr.String()}, wait)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	conn := tls.Client(raw, conf)
	err = conn.SetDeadline(time.Now().Add(askKeysTimeout))
	if err == nil {
		err = conn.HandshakeContext(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	key, err := enrol.PeerKey(conn.ConnectionState())
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if id := frame.IDOf(key); id != m.id {
		m.addressProved(m.now(), id, addr)
	}
	return conn, nil
}
