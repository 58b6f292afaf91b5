package control

import "errors"

// ErrNoAgent: nobody answers on the socket.
var ErrNoAgent = errors.New("no agent answers")

// ErrInUse: a live agent serves the socket.
var ErrInUse = errors.New("another agent runs on this folder")

// Code says of which kind an Error is. Each has an exit code and an HTTP status of its own.
type Code string

const (
	CodeFailed   Code = "failed"    // the agent could not do it
	CodeUsage    Code = "usage"     // the request makes no sense as written
	CodePolicy   Code = "policy"    // understood, and refused by a rule
	CodeNotFound Code = "not_found" // there is nothing of that name
)

// Error is a refusal or failure that crosses the socket whole.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`        // what is wrong, lower case, no full stop
	Hint    string `json:"hint,omitempty"` // what to do about it
	Rule    string `json:"rule,omitempty"` // CodePolicy: the rule that refused, such as "never-ban list"
}

// Error returns the message; hint and rule stand apart.
func (e *Error) Error() string { return e.Message }

// AsError returns err as an *Error, wrapping a foreign error as CodeFailed. A nil err gives nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeFailed, Message: err.Error()}
}
