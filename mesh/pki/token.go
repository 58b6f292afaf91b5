package pki

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// TokenPrefix begins the text of every token.
const TokenPrefix = "mb1-"

const (
	// maxToken bounds a token's text, in bytes, and MaxTokenAddrs its addresses.
	maxToken      = 1024
	MaxTokenAddrs = 8
	tokenFields   = 5
	tokenVersion  = 1
)

// ErrBadToken: the text is not a join token.
var ErrBadToken = errors.New("not a join token")

// Token is an invitation as it is handed over: the inviter's addresses and id, and the secret that admits a machine.
type Token struct {
	Addrs   []netip.AddrPort
	Inviter frame.ID
	Secret  [16]byte
	Expires time.Time // UTC, whole milliseconds
}

// Encode returns the token as text.
func (t Token) Encode() string {
	b := wire.AppendArray(nil, tokenFields)
	b = wire.AppendUint(b, tokenVersion)
	b = wire.AppendArray(b, len(t.Addrs))
	for _, a := range t.Addrs {
		b = wire.AppendStr(b, a.String())
	}
	b = wire.AppendBin(b, t.Inviter[:])
	b = wire.AppendBin(b, t.Secret[:])
	b = wire.AppendUint(b, uint64(t.Expires.UnixMilli()))
	return TokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseToken parses what Encode returned. It ignores white space, which terminals and mail programs insert. Errors wrap
// ErrBadToken.
func ParseToken(s string) (Token, error) {
	t, err := decodeToken(strings.Join(strings.Fields(s[:min(len(s), 2*maxToken)]), ""))
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrBadToken, err)
	}
	return t, nil
}

func decodeToken(s string) (t Token, err error) {
	if len(s) > maxToken {
		return t, fmt.Errorf("%d characters, want at most %d", len(s), maxToken)
	}
	text, ok := strings.CutPrefix(s, TokenPrefix)
	if !ok {
		return t, fmt.Errorf("it does not begin with %q", TokenPrefix)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // the decoder would skip these
		return t, errors.New("it was not copied whole")
	}
	r := wire.Reader{Rest: b}
	r.ArrayOf(tokenFields)
	if v := r.Uint(); r.Err == nil && v != tokenVersion {
		return t, fmt.Errorf("version %d, want %d", v, tokenVersion)
	}
	for n := r.Array(MaxTokenAddrs); n > 0 && r.Err == nil; n-- {
		t.Addrs = append(t.Addrs, r.AddrPort())
	}
	r.Fixed(t.Inviter[:])
	r.Fixed(t.Secret[:])
	ms := r.Uint()
	if err := r.End(); err != nil {
		return Token{}, err
	}
	if len(t.Addrs) == 0 || ms > wire.MaxMillis {
		return Token{}, errors.New("no address, or a time out of range")
	}
	t.Expires = time.UnixMilli(int64(ms)).UTC()
	return t, nil
}
