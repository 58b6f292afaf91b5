// Package mlwire is how memberlist v0.7.0 encodes its messages: what the filter reads, and what tests of attacks write.
// Source: memberlist's net.go, state.go and security.go.
package mlwire

import "github.com/hashicorp/go-msgpack/v2/codec"

// The bytes with which memberlist marks the kind of a message.
const (
	Ping, Ack, Suspect, Alive, Dead, PushPull, Compound, User byte = 0, 2, 3, 4, 5, 6, 7, 8
	Encrypt, Nack, CRC, Err                                   byte = 10, 11, 12, 13
)

// The sizes of a nonce and of a tag; Overhead is what encryption adds: version, nonce, tag.
const (
	NonceLen, TagLen = 12, 16
	Overhead         = 1 + NonceLen + TagLen
)

// Versions are the protocol versions that a member speaks: minimum, maximum and current of memberlist's protocol, and
// the same of ours inside it, which is not used. memberlist exchanges membership with a node only if all members that
// both know understand one another's versions (verifyProtocol).
var Versions = [...]byte{1, 5, 2, 0, 0, 0}

// The states of a member.
const StateAlive, StateSuspect, StateDead, StateLeft = 0, 1, 2, 3

// PingMessage asks a node for an answer, an Ack.
type PingMessage struct {
	SeqNo      uint32
	Node       string
	SourceAddr []byte
	SourcePort uint16
	SourceNode string
}

// AckMessage is the head of an answer to a ping.
type AckMessage struct{ SeqNo uint32 }

// AliveMessage is the news of a member that is alive.
type AliveMessage struct {
	Incarnation uint32
	Node        string
	Addr        []byte
	Port        uint16
	Meta        []byte
	Vsn         []byte
}

// NodeState is a member in a membership exchange.
type NodeState struct {
	Name        string
	Addr        []byte
	Port        uint16
	Meta        []byte
	Incarnation uint32
	State       int
	Vsn         []byte
}

// Accusation is the news of a member that is suspect, dead or, if it comes from the member itself, has left.
type Accusation struct {
	Incarnation uint32
	Node        string
	From        string
}

// UserHead precedes one of our messages in a stream.
type UserHead struct{ UserMsgLen int }

// PushPullHead precedes the members of a membership exchange.
type PushPullHead struct {
	Nodes, UserStateLen int
	Join                bool
}

// Encode returns a message without its kind.
func Encode(message any) ([]byte, error) {
	var b []byte
	err := codec.NewEncoderBytes(&b, &codec.MsgpackHandle{}).Encode(message)
	return b, err
}

// Decode decodes a message without its kind; more may follow.
func Decode(b []byte, into any) error {
	return NewDecoder(b).Decode(into)
}

// NewDecoder returns a decoder of what follows one another in b.
func NewDecoder(b []byte) *codec.Decoder { return codec.NewDecoderBytes(b, &codec.MsgpackHandle{}) }

// State returns the member as it is in a membership exchange.
func (a AliveMessage) State(state int) NodeState {
	return NodeState{a.Node, a.Addr, a.Port, a.Meta, a.Incarnation, state, a.Vsn}
}

// Alive returns the news that the member is alive.
func (s NodeState) Alive() AliveMessage {
	return AliveMessage{s.Incarnation, s.Name, s.Addr, s.Port, s.Meta, s.Vsn}
}
