package wire

import (
	"errors"
	"strconv"
)

// Code is the outcome of a task, a login or a request: the number on the wire.
// The numbers below 2000 are listed in docs/protocol.md; a peer may send others,
// which are passed on as they are.
type Code uint32

// The codes of the reference interface keep their numbers.
const (
	OK                  Code = 0  // done
	Unknown             Code = 1  // no better code is known
	Internal            Code = 3  // a fault inside the program that answers
	VersionNotSupported Code = 4  // the other side speaks another version
	BadParameter        Code = 5  // a field is missing, too long or out of range
	BadData             Code = 6  // the bytes are not what the protocol says
	WrongCredentials    Code = 7  // the login was refused
	ServiceFault        Code = 8  // the server cannot work at the moment
	WrongLoginState     Code = 9  // not possible in this state of the session
	Kicked              Code = 10 // a newer login of the same user took the place
	NotLoggedIn         Code = 12 // there is no session, or it was logged out
	TokenExpired        Code = 18 // the token's time is over
	TokenMalformed      Code = 19 // the token cannot be read
	NoSuchApp           Code = 20 // the token names an app that the server does not have
	TokenRefused        Code = 21 // signature, key or user do not fit
	NoPermission        Code = 23 // the token does not allow this

	NoAnswerFromServer Code = 202 // the server did not answer in time
	ConnectFailed      Code = 203 // no connection could be made
	TimedOut           Code = 205 // the time given is over
	ConnectionClosed   Code = 206 // the connection was closed
	ConnectionLost     Code = 207 // the connection broke and did not come back in time
	TLSFault           Code = 209 // the TLS handshake or certificate failed

	PeerBusy     Code = 602 // the peer's queue is full
	PeerOffline  Code = 603 // the peer has no session; trying later may help
	PeerNoAnswer Code = 604 // the peer did not answer in time, or its answer was lost
	NoSuchUser   Code = 605 // never invented here: there is no register of users
	PeerRefused  Code = 606 // the peer said no

	SendFailed      Code = 1000 // sending failed on this side
	CommandTooLarge Code = 1100 // over CommandBytes
	BufferTooLarge  Code = 1101 // over BufferBytes
	BadTarget       Code = 1102 // the target is empty or no valid user id
	FileError       Code = 1103 // a folder, a device, or changed while it was sent
	BadSendID       Code = 1104 // no such task, or nothing left to cancel
	FileNotFound    Code = 1400 // there is no such file
	FileRead        Code = 1401 // the file cannot be read
	FileWrite       Code = 1402 // the file cannot be written
	FileTooLarge    Code = 1405 // larger than the server allows
)

// The codes of our own.
const (
	Cancelled      Code = 1105 // cancelled before it was whole
	DigestMismatch Code = 1110 // the content does not match its digest or length
	OverLimit      Code = 1111 // over a rate or a quota
	NoSpace        Code = 1112 // no space at the receiver
	NotDecrypted   Code = 1113 // could not be decrypted, or the peer's key is not trusted
)

// String returns a short English text, for people: "peer offline". An unknown
// code gives "code 4711".
func (c Code) String() string {
	if s := codeText(c); s != "" {
		return s
	}
	return "code " + strconv.FormatUint(uint64(c), 10)
}

// Known reports whether c is one of the codes above.
func (c Code) Known() bool { return codeText(c) != "" }

func codeText(c Code) string {
	switch c {
	case OK:
		return "ok"
	case Unknown:
		return "unknown error"
	case Internal:
		return "internal error"
	case VersionNotSupported:
		return "version not supported"
	case BadParameter:
		return "bad parameter"
	case BadData:
		return "bad data"
	case WrongCredentials:
		return "wrong credentials"
	case ServiceFault:
		return "service fault"
	case WrongLoginState:
		return "wrong login state"
	case Kicked:
		return "kicked by a newer login"
	case NotLoggedIn:
		return "not logged in"
	case TokenExpired:
		return "token expired"
	case TokenMalformed:
		return "token malformed"
	case NoSuchApp:
		return "no such app"
	case TokenRefused:
		return "token refused"
	case NoPermission:
		return "no permission"
	case NoAnswerFromServer:
		return "no answer from server"
	case ConnectFailed:
		return "could not connect"
	case TimedOut:
		return "timed out"
	case ConnectionClosed:
		return "connection closed"
	case ConnectionLost:
		return "connection lost"
	case TLSFault:
		return "TLS fault"
	case PeerBusy:
		return "peer busy"
	case PeerOffline:
		return "peer offline"
	case PeerNoAnswer:
		return "peer did not answer"
	case NoSuchUser:
		return "no such user"
	case PeerRefused:
		return "peer refused"
	case SendFailed:
		return "send failed"
	case CommandTooLarge:
		return "command too large"
	case BufferTooLarge:
		return "buffer too large"
	case BadTarget:
		return "bad target"
	case FileError:
		return "file error"
	case BadSendID:
		return "bad send id"
	case Cancelled:
		return "cancelled"
	case DigestMismatch:
		return "content does not match its digest or length"
	case OverLimit:
		return "over a rate or quota limit"
	case NoSpace:
		return "no space at the receiver"
	case NotDecrypted:
		return "could not be decrypted"
	case FileNotFound:
		return "file not found"
	case FileRead:
		return "file read error"
	case FileWrite:
		return "file write error"
	case FileTooLarge:
		return "file too large"
	}
	return ""
}

// An Error is a refusal with its code. Detail is for people; programs compare
// Code, with errors.As or CodeOf.
type Error struct {
	Code   Code
	Detail string // at most DetailBytes when it goes on the wire
}

// Error returns the code's text and the detail.
func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Code.String()
	}
	return e.Code.String() + ": " + e.Detail
}

// CodeOf returns the code of the *Error in err's chain, OK for nil and Unknown
// for any other error.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Unknown
}
