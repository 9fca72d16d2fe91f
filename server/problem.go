package server

import (
	"encoding/json"
	"net/http"

	"github.com/dian-im/dian/internal/wire"
)

// problem is an error document (RFC 9457) with our code as its extension member.
type problem struct {
	Type   string    `json:"type"`
	Title  string    `json:"title"`
	Status int       `json:"status"`
	Code   wire.Code `json:"code"`
	Detail string    `json:"detail,omitempty"`
}

// writeProblem answers a request with an error document. The status follows from
// the code by the table of docs/protocol.md §9. Nothing may have been written
// before; headers that are set already go out too.
func writeProblem(w http.ResponseWriter, code wire.Code, detail string) {
	writeProblemStatus(w, statusOf(code), code, detail)
}

// writeProblemStatus is writeProblem for the answers whose status is HTTP's own
// and not the code's: 405, 411, 412 and the like.
func writeProblemStatus(w http.ResponseWriter, status int, code wire.Code, detail string) {
	if len(detail) > wire.DetailBytes {
		detail = detail[:wire.DetailBytes]
	}
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	switch {
	case status == http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case status == http.StatusServiceUnavailable && h.Get("Retry-After") == "":
		h.Set("Retry-After", "1")
	}
	boundBody(w, refusedTimeout)
	w.WriteHeader(status)
	// A client that has gone away is no error of ours.
	_ = json.NewEncoder(w).Encode(problem{
		Type: "about:blank", Title: code.String(), Status: status, Code: code, Detail: detail,
	})
}

// statusOf is the table of docs/protocol.md §9. Only 409, 423 and 5xx tell a
// client to try again, so a code of a peer that we do not know is a final 422.
func statusOf(code wire.Code) int {
	switch code {
	case wire.OK:
		return http.StatusOK
	case wire.VersionNotSupported, wire.BadParameter, wire.BadData, wire.BadTarget:
		return http.StatusBadRequest
	case wire.WrongCredentials, wire.Kicked, wire.NotLoggedIn, wire.TokenExpired,
		wire.TokenMalformed, wire.NoSuchApp, wire.TokenRefused:
		return http.StatusUnauthorized
	case wire.NoPermission, wire.PeerRefused:
		return http.StatusForbidden
	case wire.PeerOffline, wire.NoSuchUser, wire.BadSendID, wire.FileNotFound:
		return http.StatusNotFound
	case wire.WrongLoginState:
		return http.StatusConflict
	case wire.Cancelled:
		return http.StatusGone
	case wire.CommandTooLarge, wire.BufferTooLarge, wire.FileTooLarge:
		return http.StatusRequestEntityTooLarge
	case wire.ConnectionLost:
		return http.StatusLocked
	case wire.Unknown, wire.Internal:
		return http.StatusInternalServerError
	case wire.PeerBusy, wire.OverLimit, wire.ServiceFault,
		wire.NoAnswerFromServer, wire.ConnectFailed, wire.TimedOut, wire.ConnectionClosed:
		return http.StatusServiceUnavailable
	}
	return http.StatusUnprocessableEntity
}
