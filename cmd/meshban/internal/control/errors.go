package control

import (
	"errors"
	"net/http"
)

// ErrNoAgent means that no agent answers on the socket.
var ErrNoAgent = errors.New("no agent answers")

// ErrInUse means that a live agent serves the socket.
var ErrInUse = errors.New("another agent runs on this folder")

// Code classifies an Error. Each has its own exit code and HTTP status.
type Code string

const (
	CodeFailed   Code = "failed"    // the agent could not do it
	CodeUsage    Code = "usage"     // the request is invalid
	CodePolicy   Code = "policy"    // valid, but refused by a rule
	CodeNotFound Code = "not_found" // nothing has that name
)

// Error is a refusal or failure, as it crosses the socket.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`        // what is wrong, lower case, no full stop
	Hint    string `json:"hint,omitempty"` // what to do about it
	Rule    string `json:"rule,omitempty"` // the rule that refused, with CodePolicy, such as "never-ban list"
}

// Error returns the message without hint and rule.
func (e *Error) Error() string { return e.Message }

// Status returns the HTTP status of the error's code.
func (e *Error) Status() int {
	switch e.Code {
	case CodeUsage:
		return http.StatusBadRequest
	case CodePolicy:
		return http.StatusForbidden
	case CodeNotFound:
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}

// AsError returns err as an *Error; any other error becomes CodeFailed. A nil err gives nil.
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
