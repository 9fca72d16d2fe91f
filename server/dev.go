package server

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/dian-im/dian/internal/page"
	"github.com/dian-im/dian/internal/wire"
)

// ErrRestart is what Serve returns when somebody has pressed "Restart the server" on
// the page of a server with Config.DevRestart. The caller makes a new Server.
var ErrRestart = errors.New("a restart was asked for")

// devBodyBytes bounds the body of a request to /v1/dev/.
const devBodyBytes = 4 << 10

// pageRoutes adds the web page, and what it asks in dev mode.
func (s *Server) pageRoutes(handle func(string, http.HandlerFunc)) {
	if s.cfg.NoPage {
		return
	}
	for _, route := range page.Routes() {
		handle(route, page.Handler().ServeHTTP)
	}
	handle("GET /v1/page", s.servePage)
	if s.cfg.Dev {
		handle("POST /v1/dev/login", s.own(s.devLogin))
		handle("POST /v1/dev/invite", s.own(s.devInvite))
		handle("POST /v1/dev/cut", s.own(s.devCut))
		handle("POST /v1/dev/restart", s.own(s.devRestart))
	}
}

// pageSettings is what the page has to know before a login.
type pageSettings struct {
	Login   string `json:"login"` // "token", "name", or "invitation": what a login needs
	Dev     bool   `json:"dev"`
	Invite  bool   `json:"invite"`  // others can be invited
	Cut     bool   `json:"cut"`     // "Cut the line" works
	Restart bool   `json:"restart"` // "Restart the server" works
}

func (s *Server) servePage(w http.ResponseWriter, r *http.Request) {
	p := pageSettings{Login: "token", Dev: s.cfg.Dev}
	if s.cfg.Dev {
		p.Login = "name"
		if !s.isHere(s.clientAddr(r)) {
			p.Login = "invitation"
		}
		p.Invite = s.cfg.Room != nil
		p.Cut = doorOf(r.Context()) != nil
		p.Restart = p.Cut && s.cfg.DevRestart
	}
	writeJSON(w, p)
}

// own lets only the server's own page use h (case 114). A browser names the page's
// origin in every POST; a program can write what it likes, and needs the login too.
func (s *Server) own(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !sameOrigin(r) {
			writeProblemStatus(w, http.StatusForbidden, wire.NoPermission, "this is for the server's own page")
			return
		}
		h(w, r)
	}
}

// isHere reports whether a client of dev mode is on this machine: there the secret that
// everybody knows counts. Without a Room nobody else can reach the server.
func (s *Server) isHere(at netip.Addr) bool { return s.cfg.Room == nil || at.IsLoopback() }

// verify is keyring.verify for a client at an address.
func (s *Server) verify(token string, at netip.Addr) (claims, *wire.Error) {
	c, no := s.keys.verify(token, time.Now())
	if no == nil && s.cfg.Dev && c.key.wellKnown() && !s.isHere(at) {
		s.log.Debug("token refused", "code", uint32(wire.TokenRefused), "reason", "dev mode's own secret, from another machine")
		return claims{}, &wire.Error{Code: wire.TokenRefused}
	}
	return c, no
}

// wellKnown reports whether everybody can sign with this key.
func (k *verifyKey) wellKnown() bool { return k.secret.equal(NewSecret([]byte(devSecret))) }

// devLogin is POST /v1/dev/login: a token for a name. Who is not on this machine needs
// an invitation, and a name that nobody has.
func (s *Server) devLogin(w http.ResponseWriter, r *http.Request) {
	var ask struct{ User, Invitation string }
	if !s.readDev(w, r, &ask) {
		return
	}
	if err := wire.CheckUser(ask.User); err != nil {
		writeProblem(w, wire.BadTarget, "this is no name for a user")
		return
	}
	at := s.clientAddr(r)
	key := devKey()
	if !s.isHere(at) {
		from := s.quota.address(at)
		no := s.quota.knock(from) // counts as a login that fails, until it does not
		s.quota.releaseAddress(from)
		switch {
		case no != nil:
			writeProblem(w, no.Code, no.Detail)
			return
		case s.listener(DevApp, ask.User) != nil:
			writeProblem(w, wire.WrongLoginState, "somebody here has this name")
			return
		case !s.cfg.Room.redeem(ask.Invitation, time.Now()):
			writeProblem(w, wire.WrongCredentials, "the invitation was used, or is too old")
			return
		}
		key = s.cfg.Room.key
		s.cfg.Room.cameIn(ask.User)
	}
	token, err := Mint(key, DevApp, ask.User, roomTokenTime, nil, []string{"*"})
	if err != nil {
		writeProblem(w, wire.BadParameter, "")
		return
	}
	writeJSON(w, map[string]string{"token": token})
}

// devInvite is POST /v1/dev/invite: a link for one more device, and its QR code.
func (s *Server) devInvite(w http.ResponseWriter, r *http.Request) {
	if !s.devUser(w, r, nil) {
		return
	}
	if s.cfg.Room == nil {
		notFound(w)
		return
	}
	i, err := s.cfg.Room.Invite()
	if err != nil {
		writeProblem(w, wire.ServiceFault, err.Error())
		return
	}
	rows, err := i.QR()
	if err != nil {
		writeProblem(w, wire.Internal, "")
		return
	}
	writeJSON(w, map[string]any{"url": i.URL, "ends": i.Ends.UnixMilli(), "qr": rows})
}

// devCut is POST /v1/dev/cut: the user's connections break, session and lanes.
func (s *Server) devCut(w http.ResponseWriter, r *http.Request) {
	var who owner
	if !s.devUser(w, r, &who) {
		return
	}
	n := s.lines.cut(doorOf(r.Context()), func(o owner) bool { return o == who })
	writeJSON(w, map[string]int{"cut": n})
}

// devRestart is POST /v1/dev/restart: the server ends without a word, and Serve returns
// ErrRestart.
func (s *Server) devRestart(w http.ResponseWriter, r *http.Request) {
	if !s.devUser(w, r, nil) {
		return
	}
	if !s.cfg.DevRestart || doorOf(r.Context()) == nil {
		notFound(w)
		return
	}
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
	_ = http.NewResponseController(w).Flush()
	s.crash(doorOf(r.Context()))
}

// crash breaks all connections but one, and makes Serve return. Nothing is announced
// and no transfer waited for, as if the process had been killed.
func (s *Server) crash(keep *doorConn) {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.crashOnce.Do(func() { close(s.crashed) })
	s.lines.cut(keep, func(owner) bool { return true })
}

// hasCrashed reports whether crash was called.
func (s *Server) hasCrashed() bool {
	select {
	case <-s.crashed:
		return true
	default:
		return false
	}
}

// devUser lets those of app demo go on who have a token. False means that the request is
// answered.
func (s *Server) devUser(w http.ResponseWriter, r *http.Request, who *owner) bool {
	by, ok := s.caller(w, r, 1)
	if !ok {
		return false
	}
	defer by.leave()
	if by.App != DevApp {
		writeProblem(w, wire.NoPermission, "this is for users of dev mode")
		return false
	}
	if who != nil {
		*who = owner{by.App, by.User}
	}
	return true
}

func (s *Server) readDev(w http.ResponseWriter, r *http.Request, into any) bool {
	boundBody(w, bodyTimeout)
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, devBodyBytes))
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		writeProblem(w, wire.BadData, "not the JSON that this route wants")
	}
	return err == nil
}

// sameOrigin reports whether a request comes from a page of the host that it is sent to.
func sameOrigin(r *http.Request) bool {
	origins := r.Header.Values("Origin")
	return len(origins) == 1 && (origins[0] == "http://"+r.Host || origins[0] == "https://"+r.Host)
}

// roomHost reports whether a Host header is the address at which the request came in. A
// name is not good enough: it could be anybody's that points here (case 114).
func roomHost(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	at, err := netip.ParseAddr(host)
	return err == nil && at.Zone() == "" && at.Unmap() == addrOf(local.String())
}
