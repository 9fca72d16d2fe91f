package dian

import (
	"errors"
	"strconv"
	"strings"

	"github.com/dian-im/dian/internal/wire"
)

// A Code is the outcome of a task, a login or a request: the number on the wire
// and the Go value to compare with, errors.Is(err, dian.ErrPeerOffline). It is
// an error itself. The numbers are those of docs/protocol.md §10; a peer may
// refuse with a number of its own, which is passed on as it is.
type Code uint32

// OK is the code of a nil error.
const OK Code = 0

// The codes of docs/protocol.md.
const (
	ErrUnknown             Code = 1  // no better code is known
	ErrInternal            Code = 3  // a fault inside the program that answers
	ErrVersionNotSupported Code = 4  // the other side speaks another version
	ErrBadParameter        Code = 5  // a field is missing, too long or out of range
	ErrBadData             Code = 6  // the bytes are not what the protocol says
	ErrWrongCredentials    Code = 7  // the login was refused, or the token source failed
	ErrServiceFault        Code = 8  // the server cannot work at the moment, or is stopping
	ErrWrongLoginState     Code = 9  // not possible in this state of the session
	ErrKicked              Code = 10 // a newer login of the same user took the place
	ErrNotLoggedIn         Code = 12 // the client is closed
	ErrTokenExpired        Code = 18 // the token's time is over
	ErrTokenMalformed      Code = 19 // the token cannot be read
	ErrNoSuchApp           Code = 20 // the token names an app that the server does not have
	ErrTokenRefused        Code = 21 // signature, key or audience do not fit
	ErrNoPermission        Code = 23 // the token does not allow this

	ErrNoAnswerFromServer Code = 202 // the server did not answer in time
	ErrConnectFailed      Code = 203 // no connection could be made
	ErrTimedOut           Code = 205 // the context's time was over
	ErrConnectionClosed   Code = 206 // the connection was closed
	ErrConnectionLost     Code = 207 // the connection broke and did not come back within the resume window
	ErrTLSFault           Code = 209 // the TLS handshake failed, or the certificate is not trusted

	ErrPeerBusy     Code = 602 // the peer's queue is full
	ErrPeerOffline  Code = 603 // the peer has no session; trying again later may help
	ErrPeerNoAnswer Code = 604 // the peer did not answer in time, or its answer was lost: it may have the command
	ErrNoSuchUser   Code = 605 // never made by Dian: it has no register of users
	ErrPeerRefused  Code = 606 // the peer said no

	ErrSendFailed      Code = 1000 // sending failed on this side
	ErrCommandTooLarge Code = 1100 // over 65,536 bytes
	ErrBufferTooLarge  Code = 1101 // over 104,857,600 bytes
	ErrBadTarget       Code = 1102 // the target is empty or no valid user id
	ErrFileError       Code = 1103 // a folder, a device, or changed while it was sent
	ErrBadSendID       Code = 1104 // no such task, nothing left to cancel, or the id is in use
	ErrCancelled       Code = 1105 // cancelled before it was whole
	ErrDigestMismatch  Code = 1110 // the content does not match its digest or length
	ErrOverLimit       Code = 1111 // over a rate, a quota or the bound of a queue
	ErrNoSpace         Code = 1112 // no space at the receiver
	ErrNotDecrypted    Code = 1113 // reserved
	ErrFileNotFound    Code = 1400 // there is no such file
	ErrFileRead        Code = 1401 // the file cannot be read
	ErrFileWrite       Code = 1402 // the file cannot be written
	ErrFileTooLarge    Code = 1405 // larger than the server allows
)

// Error returns number and text: "603: peer offline".
func (c Code) Error() string {
	n := strconv.FormatUint(uint64(c), 10)
	if !wire.Code(c).Known() {
		return n + ": unknown code"
	}
	return n + ": " + wire.Code(c).String()
}

// Origin says whose word an error is.
type Origin uint8

// The origins.
const (
	Local  Origin = iota // this client found it, or decided it
	Server               // the server said so
	Peer                 // the other user's client said so
)

// String returns "local", "server" or "peer".
func (o Origin) String() string {
	switch o {
	case Local:
		return "local"
	case Server:
		return "server"
	case Peer:
		return "peer"
	}
	return "origin " + strconv.Itoa(int(o))
}

func originOf(o wire.Origin) Origin {
	if o == wire.Origin_ORIGIN_PEER {
		return Peer
	}
	return Server
}

// ownOrigin is originOf for a result that this side may have found itself.
func ownOrigin(o wire.Origin) Origin {
	if o == wire.Origin_ORIGIN_UNSPECIFIED {
		return Local
	}
	return originOf(o)
}

func (o Origin) wire() wire.Origin {
	switch o {
	case Server:
		return wire.Origin_ORIGIN_SERVER
	case Peer:
		return wire.Origin_ORIGIN_PEER
	}
	return wire.Origin_ORIGIN_UNSPECIFIED
}

// An Error is how every failure of this package is reported. It unwraps to its
// Code and, if something on this machine was the reason, to that too: both
// errors.Is(err, dian.ErrFileNotFound) and errors.Is(err, fs.ErrNotExist) hold.
type Error struct {
	Op     string // what was tried: "connect", "send file", "send command"
	Peer   string // with whom; empty if it was the server alone
	Origin Origin // whose word Code is
	Code   Code   // what programs compare
	Detail string // for people, may be empty; from the wire it is at most 512 bytes and not to be trusted

	cause error // the local reason, may be nil
}

// Error returns one line for people: `send file to "bob": 603: peer offline`.
// What came from a peer is quoted, and so is a local reason with a name in it that is
// not all visible, so it is fit for a terminal.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Peer != "" {
		b.WriteString(" to " + wire.Quote(e.Peer))
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(e.Code.Error())
	switch {
	case e.Detail != "" && e.Origin == Local:
		b.WriteString(": " + wire.Visible(e.Detail))
	case e.Detail != "":
		b.WriteString(": " + wire.Quote(e.Detail))
	}
	if e.cause != nil {
		b.WriteString(": " + wire.Visible(e.cause.Error()))
	}
	return b.String()
}

// Unwrap returns the code, and the local cause if there is one.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.cause}
}

// CodeOf returns the code of err: OK for nil, that of the *Error or Code in its
// tree, and otherwise ErrUnknown.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if c, ok := errors.AsType[Code](err); ok {
		return c
	}
	return ErrUnknown
}

// localError is an error that this client found by itself; cause may be nil.
func localError(op, peer string, code Code, detail string, cause error) *Error {
	return &Error{Op: op, Peer: peer, Origin: Local, Code: code, Detail: detail, cause: cause}
}

// checkError makes a local error of what a Check function of package wire found.
func checkError(op, peer string, err error) *Error {
	if w, ok := errors.AsType[*wire.Error](err); ok {
		return localError(op, peer, Code(w.Code), w.Detail, nil)
	}
	return localError(op, peer, ErrInternal, "", err)
}

// with returns a copy of e for another operation; the line's end is told to every task.
func (e *Error) with(op, peer string) *Error {
	c := *e
	c.Op, c.Peer = op, peer
	return &c
}
