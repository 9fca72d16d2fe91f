package server

import (
	"net/http"
	"strings"

	"github.com/dian-im/dian/internal/wire"
)

// A caller is the user behind an HTTP request. It has to leave.
type caller struct {
	claims
	party
}

func (c *caller) leave() {
	c.requestOver()
	c.party.release()
}

// caller checks a request's token and charges the request as a number of commands.
// False means that it is answered.
func (s *Server) caller(w http.ResponseWriter, r *http.Request, cost int64) (*caller, bool) {
	c, no := s.authenticate(r)
	if no == nil {
		by := &caller{c, s.quota.party(c.App, c.User, s.clientAddr(r))}
		if no = by.command(cost); no == nil {
			no = by.request()
		}
		if no == nil {
			return by, true
		}
		by.party.release()
	}
	writeProblem(w, no.Code, no.Detail)
	return nil, false
}

// authenticate checks the token in Authorization: Bearer. The header may be there
// once: of several, a proxy could look at another one than we do. Looking at a token
// counts as a login, until it turns out to be good.
func (s *Server) authenticate(r *http.Request) (claims, *wire.Error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if len(r.Header.Values("Authorization")) != 1 || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return claims{}, &wire.Error{Code: wire.NotLoggedIn, Detail: "a token is needed: Authorization: Bearer"}
	}
	at := s.clientAddr(r)
	from := s.quota.address(at)
	defer s.quota.releaseAddress(from)
	if no := s.quota.knock(from); no != nil {
		return claims{}, no
	}
	c, no := s.verify(token, at)
	c.address = addressText(at)
	if no != nil {
		s.audit.refusedLogin(claims{address: c.address}, "request", no.Code)
		return c, no
	}
	s.quota.admitted(from)
	d := doorOf(r.Context())
	d.vouch()
	s.lines.own(d, c.App, c.User)
	return c, nil
}
