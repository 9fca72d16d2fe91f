package server

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// routes builds the table of docs/protocol.md; transfers adds its own.
func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	handle := func(pattern string, h http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength != 0 {
				boundBody(w, bodyTimeout)
			}
			h(w, r)
		})
	}
	handle("GET /v1/session", s.serveSession)
	handle("POST /v1/users/{user}/commands", s.serveCommand)
	handle("GET /v1/users", s.serveUsers)
	handle("GET /v1/users/{user}", s.serveUser)
	handle("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, "ok\n") })
	handle("GET /readyz", s.serveReady)
	if s.cfg.MetricsListen == "" {
		handle("GET /metrics", s.MetricsHandler().ServeHTTP)
	}
	s.transfers.routes(mux)
	s.pageRoutes(handle)
	return mux
}

// answerPolicy keeps whatever is opened as a page from being one (case 120). The web page
// has its own.
const answerPolicy = "default-src 'none'; frame-ancestors 'none'; sandbox"

// ServeHTTP serves every route of docs/protocol.md §9. All errors are problem
// documents, those of unknown routes too.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		switch bug := recover(); bug {
		case nil:
		case http.ErrAbortHandler: // a lane that breaks off on purpose
			panic(bug)
		default:
			s.caught("request", bug)
			panic(http.ErrAbortHandler) // perhaps it has answered in part already
		}
	}()
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer") // a down-lane's URL may hold its ticket
	h.Set("Content-Security-Policy", answerPolicy)
	if answered := s.cors(w, r); answered {
		return
	}
	r, ok := override(r)
	if !ok {
		writeProblem(w, wire.BadParameter, "X-HTTP-Method-Override may say PATCH, HEAD or DELETE")
		return
	}
	if unclean(r.URL.EscapedPath()) { // ServeMux would redirect, which is of no use here
		notFound(w)
		return
	}
	handler, pattern := s.mux.Handler(r)
	if pattern != "" {
		s.mux.ServeHTTP(w, r) // it also fills in the path's values
		return
	}
	var plain plainError
	handler.ServeHTTP(&plain, r)
	if plain.status == http.StatusMethodNotAllowed {
		h.Set("Allow", plain.Header().Get("Allow"))
		writeProblemStatus(w, plain.status, wire.BadParameter, "this route does not know this method")
		return
	}
	notFound(w)
}

func notFound(w http.ResponseWriter) {
	writeProblemStatus(w, http.StatusNotFound, wire.BadParameter, "no such route")
}

// plainError takes what ServeMux says of an unknown route, instead of the client.
type plainError struct {
	header http.Header
	status int
}

func (p *plainError) Header() http.Header {
	if p.header == nil {
		p.header = http.Header{}
	}
	return p.header
}

func (p *plainError) WriteHeader(status int)         { p.status = status }
func (p *plainError) Write(text []byte) (int, error) { return len(text), nil }

// unclean reports whether a path has empty or dot segments in its middle.
func unclean(path string) bool {
	return !strings.HasPrefix(path, "/") || strings.Contains(path, "//") ||
		strings.Contains(path+"/", "/./") || strings.Contains(path+"/", "/../")
}

// override turns a POST into the method that it stands for: some clients and
// proxies know no other. False means that it stands for none of ours.
func override(r *http.Request) (*http.Request, bool) {
	method := r.Header.Get("X-HTTP-Method-Override")
	if r.Method != http.MethodPost || method == "" {
		return r, true
	}
	if !slices.Contains([]string{http.MethodPatch, http.MethodHead, http.MethodDelete}, method) {
		return r, method == http.MethodPost
	}
	meant := r.WithContext(r.Context())
	meant.Method = method
	return meant, true
}

// The headers that pages of allowed origins may send and see.
const (
	corsMethods = "GET, HEAD, POST, PATCH, PUT, DELETE, OPTIONS"
	corsSend    = "Authorization, Content-Type, Dian-Meta, Dian-Send-Id, If-Range, Range, Repr-Digest, " +
		"Tus-Resumable, Upload-Length, Upload-Metadata, Upload-Offset, X-HTTP-Method-Override, X-Request-ID, X-Requested-With"
	corsSee = "Accept-Ranges, Content-Range, Dian-Code, Dian-Send-Id, ETag, Location, Retry-After, Tus-Extension, " +
		"Tus-Max-Size, Tus-Resumable, Tus-Version, Upload-Length, Upload-Metadata, Upload-Offset"
)

// cors keeps pages of foreign origins out (case 114) and lets those of allowed
// ones in. It reports whether the request is answered.
func (s *Server) cors(w http.ResponseWriter, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	h := w.Header()
	h.Add("Vary", "Origin")
	preflight := r.Method == http.MethodOptions && origin != "" && r.Header.Get("Access-Control-Request-Method") != ""
	if !s.cfg.allowsOrigin(r) {
		writeProblemStatus(w, http.StatusForbidden, wire.NoPermission, "this origin or host is not allowed")
		return true
	}
	if origin == "" {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	if !preflight {
		h.Set("Access-Control-Expose-Headers", corsSee)
		return false
	}
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsSend)
	h.Set("Access-Control-Max-Age", "7200")
	w.WriteHeader(http.StatusNoContent)
	return true
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text)
}

func (s *Server) serveReady(w http.ResponseWriter, _ *http.Request) {
	if s.stopping() {
		writeProblem(w, wire.ServiceFault, "stopping")
		return
	}
	writeText(w, "ready\n")
}

// serveCommand is POST /v1/users/{user}/commands: one command outside of any
// stream, and its result.
func (s *Server) serveCommand(w http.ResponseWriter, r *http.Request) {
	by, ok := s.caller(w, r, 1)
	if !ok {
		return
	}
	defer by.leave()
	if s.stopping() {
		writeProblem(w, wire.ServiceFault, "the server is stopping")
		return
	}
	if s.cluster.carry(w, r, by.claims, r.PathValue("user"), "command") {
		return
	}
	c := &wire.Command{Id: r.Header.Get("Dian-Send-Id"), Target: r.PathValue("user")}
	if c.Id == "" {
		c.Id = wire.NewSendID()
	}
	var err error
	if c.Meta, err = base64.StdEncoding.DecodeString(r.Header.Get("Dian-Meta")); err != nil {
		writeProblem(w, wire.BadData, "Dian-Meta is not base64")
		return
	}
	// Counted before it is read: many that come slowly would hold as much.
	size := commandOverhead + min(r.ContentLength, wire.CommandBytes)
	if r.ContentLength < 0 {
		size = commandOverhead + wire.CommandBytes
	}
	refusal := by.mayKeep(size, wire.OverLimit)
	if refusal == nil {
		refusal = by.sent(size)
	}
	if refusal != nil {
		writeProblem(w, refusal.Code, refusal.Detail)
		return
	}
	by.keep(size)
	defer func() {
		by.keep(-size)
		by.sent(-size)
	}()
	if c.Data, refusal = readCommand(w, r); refusal != nil {
		s.audit.refusedCommand(by.claims, viaPost, c, refusal)
		writeProblem(w, refusal.Code, refusal.Detail)
		return
	}
	result := s.post(r.Context(), by, c)
	if r.Context().Err() != nil {
		return
	}
	w.Header().Set("Dian-Send-Id", c.Id)
	if code := wire.Code(result.Code); code != wire.OK {
		writeProblem(w, code, result.Detail)
		return
	}
	h := w.Header()
	h.Set("Dian-Code", "0")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(result.Reply)
}

// boundBody bounds the time for a request's body from now on. net/http reads what
// a handler has left of it, and would wait for that for ever.
func boundBody(w http.ResponseWriter, d time.Duration) {
	// Recorders in tests have no deadlines. net/http clears it for the next request.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(d))
}

// readCommand reads a request's body of at most wire.CommandBytes, for no longer
// than bodyTimeout.
func readCommand(w http.ResponseWriter, r *http.Request) ([]byte, *wire.Error) {
	if r.ContentLength > wire.CommandBytes {
		return nil, &wire.Error{Code: wire.CommandTooLarge}
	}
	boundBody(w, bodyTimeout)
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.CommandBytes))
	if err == nil {
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, &wire.Error{Code: wire.CommandTooLarge}
	}
	if err != nil {
		return nil, &wire.Error{Code: wire.BadData, Detail: "the body did not arrive whole"}
	}
	return data, nil
}

// userState is how a user is, in JSON.
type userState struct {
	User         string `json:"user"`
	Status       uint32 `json:"status"`
	DoNotDisturb int32  `json:"doNotDisturb"`
}

func (s *Server) stateOf(app, user string) userState {
	p := s.presenceOf(app, user)
	return userState{p.User, p.Status, p.DoNotDisturb}
}

// serveUsers is GET /v1/users: who is online, as far as the token may see.
func (s *Server) serveUsers(w http.ResponseWriter, r *http.Request) {
	by, ok := s.caller(w, r, question)
	if !ok {
		return
	}
	defer by.leave()
	users := s.visible(r.Context(), by.claims)
	slices.Sort(users)
	states := []userState{}
	for _, user := range users {
		if state := s.stateOf(by.App, user); state.Status != statusOffline {
			states = append(states, state)
		}
	}
	writeJSON(w, map[string][]userState{"users": states})
}

// serveUser is GET /v1/users/{user}: one user, online or not.
func (s *Server) serveUser(w http.ResponseWriter, r *http.Request) {
	by, ok := s.caller(w, r, question)
	if !ok {
		return
	}
	defer by.leave()
	user := r.PathValue("user")
	var refusal *wire.Error
	if err := wire.CheckTarget(user); err != nil {
		refusal = asRefusal(err)
	} else {
		refusal = s.allow(r.Context(), by.claims, VerbSee, user, "")
	}
	if refusal != nil {
		writeProblem(w, refusal.Code, refusal.Detail)
		return
	}
	writeJSON(w, s.stateOf(by.App, user))
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // a client that has gone away is no error of ours
}
