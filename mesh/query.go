package mesh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/enrol"
	"github.com/meshban/meshban/mesh/internal/filter"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// A member may ask others what they do and what they know: one question and one answer over TLS on the mesh's port, as
// joiners use it. The handshake is signed with both nodes' keys and binds the answer to the question. Only trusted
// members ask and are asked. This package interprets neither text.

const (
	queryVersion = 3 // of a message that asks a member, on a connection as for enrolment
	queryFields  = 3
	queryAnswer  = 2
	// MaxQuestion and MaxAnswer bound a question and its answer, in bytes.
	MaxQuestion, MaxAnswer = 512, 6 << 10
	// queryTimeout bounds one question, on either side.
	queryTimeout = 2 * time.Second
	// queriesAtOnce bounds the members that one Query asks at a time.
	queriesAtOnce = 64
	// A member may ask queryBurst questions at once, then queryRate a second. The asking node keeps to that too.
	queryBurst, queryRate = 20, 4
	// answersAtOnce bounds the questions being answered, answersOf those of one member.
	answersAtOnce, answersOf = 16, 2
	// A member's address may make queryHellos handshakes at once, then queryHelloRate a second: several members may
	// share one.
	queryHellos, queryHelloRate = 60, 10
)

var (
	// ErrAskedTooOften: this node asks a member more often than members answer.
	ErrAskedTooOften = errors.New("asked too often")
	errNoAnswers     = errors.New("too many questions")
)

// Answer is the result of asking one member.
type Answer struct {
	ID   frame.ID
	Text []byte // at most MaxAnswer bytes; unverified
	Err  error  // why there is no answer
}

// query is a question as it is sent.
type query struct {
	MeshID [16]byte
	Text   []byte
}

func (q query) encode() []byte {
	b := wire.AppendArray(nil, queryFields)
	b = wire.AppendUint(b, queryVersion)
	b = wire.AppendBin(b, q.MeshID[:])
	return wire.AppendBin(b, q.Text)
}

func decodeQuery(b []byte) (q query, err error) {
	r := wire.Reader{Rest: b}
	r.ArrayOf(queryFields)
	if v := r.Uint(); r.Err == nil && v != queryVersion {
		return q, fmt.Errorf("version %d, want %d", v, queryVersion)
	}
	r.Fixed(q.MeshID[:])
	q.Text = bytes.Clone(r.Bin(MaxQuestion))
	return q, r.End()
}

func encodeQueryAnswer(text []byte) []byte {
	b := wire.AppendArray(nil, queryAnswer)
	b = wire.AppendUint(b, queryVersion)
	return wire.AppendBin(b, text)
}

func decodeQueryAnswer(b []byte) ([]byte, error) {
	r := wire.Reader{Rest: b}
	r.ArrayOf(queryAnswer)
	if v := r.Uint(); r.Err == nil && v != queryVersion {
		return nil, fmt.Errorf("version %d, want %d", v, queryVersion)
	}
	text := bytes.Clone(r.Bin(MaxAnswer))
	return text, r.End()
}

// queries limits what this node asks and what it answers.
type queries struct {
	asked  filter.Buckets[frame.ID]
	heard  filter.Buckets[frame.ID]
	hellos filter.Buckets[netip.Addr] // TLS handshakes from the addresses of members

	mu        sync.Mutex
	answering map[frame.ID]int
	all       int
}

func newQueries() queries {
	return queries{
		asked: filter.NewBuckets[frame.ID](queryRate, queryBurst), heard: filter.NewBuckets[frame.ID](queryRate, queryBurst),
		hellos: filter.NewBuckets[netip.Addr](queryHelloRate, queryHellos), answering: make(map[frame.ID]int),
	}
}

// begin reports whether to answer a member's question now; if so, end must be called after it.
func (q *queries) begin(now time.Time, from frame.ID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.all >= answersAtOnce || q.answering[from] >= answersOf || !q.heard.Take(now, from, 1) {
		return false
	}
	q.all++
	q.answering[from]++
	return true
}

func (q *queries) end(from frame.ID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all--
	if q.answering[from]--; q.answering[from] == 0 {
		delete(q.answering, from)
	}
}

// Query asks members a question (at most MaxQuestion bytes) in parallel, and returns their answers in the same order.
// It waits for 2 s, or until ctx ends. Errors match ErrAskedTooOften, pki.ErrNoAuthority or ErrStopped; any other means
// that the member did not answer.
func (m *Mesh) Query(ctx context.Context, members []frame.ID, question []byte) []Answer {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	answers := make([]Answer, len(members))
	free := make(chan struct{}, queriesAtOnce)
	var wg sync.WaitGroup
	for i, id := range members {
		answers[i].ID = id
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			answers[i].Err = ctx.Err()
			continue
		}
		wg.Go(func() {
			answers[i].Text, answers[i].Err = m.queryOne(ctx, id, question)
			<-free
		})
	}
	wg.Wait()
	return answers
}

func (m *Mesh) queryOne(ctx context.Context, id frame.ID, question []byte) ([]byte, error) {
	switch {
	case len(question) > MaxQuestion:
		return nil, fmt.Errorf("question of %d bytes, want at most %d", len(question), MaxQuestion)
	case !m.cfg.Secrets.HasAuthority():
		return nil, pki.ErrNoAuthority
	}
	node := m.peers.node(id)
	if node == nil || !m.isMember(m.now(), id) {
		return nil, errNotAlive
	}
	return m.question(ctx, id, node, question)
}

// question asks a node over a new connection and returns the answer.
func (m *Mesh) question(ctx context.Context, id frame.ID, node *memberlist.Node, text []byte) ([]byte, error) {
	if !m.queries.asked.Take(m.now(), id, 1) {
		return nil, ErrAskedTooOften
	}
	conn, err := m.dialMember(ctx, nodeAddr(node), func(key ed25519.PublicKey) error {
		if frame.IDOf(key) != id {
			return errOtherNode
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.NetConn().Close() }() // the length says where the answer ends: no close message is needed
	stop := context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() })
	defer stop()
	if err := enrol.WriteMessage(conn, query{MeshID: m.cfg.Secrets.MeshID, Text: text}.encode()); err != nil {
		return nil, err
	}
	b, err := enrol.ReadMessage(conn)
	if err != nil {
		return nil, err
	}
	return decodeQueryAnswer(b)
}

// answerQuery answers a member whose key the connection proved.
func (m *Mesh) answerQuery(conn *tls.Conn, key ed25519.PublicKey, b []byte) error {
	q, err := decodeQuery(b)
	if err != nil {
		return err
	}
	id, tr := frame.IDOf(key), m.tr.Load()
	switch {
	case q.MeshID != m.cfg.Secrets.MeshID || !m.cfg.Secrets.HasAuthority():
		return pki.ErrOtherMesh
	case string(q.Text) == askSight && m.Standing(id).Revoked == nil && m.queries.heard.Take(m.now(), id, 1):
		// A node that cannot be reached may have no certificate here yet.
		return enrol.WriteMessage(conn, encodeQueryAnswer(m.sightOf(id, conn.RemoteAddr()).Encode()))
	case !m.isMember(m.now(), id):
		return errStranger
	case m.cfg.Answer == nil || tr == nil:
		return ErrStopped
	case !m.queries.begin(m.now(), id):
		m.count.Limited.Add(1)
		return errNoAnswers
	}
	defer m.queries.end(id)
	ctx, cancel := context.WithTimeout(tr.Context(), queryTimeout)
	defer cancel()
	text, err := m.cfg.Answer(ctx, id, q.Text)
	if err != nil {
		return err
	}
	if len(text) > MaxAnswer {
		return fmt.Errorf("answer of %d bytes, want at most %d", len(text), MaxAnswer)
	}
	return enrol.WriteMessage(conn, encodeQueryAnswer(text))
}
