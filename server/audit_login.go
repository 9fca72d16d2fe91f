package server

import (
	"github.com/dian-im/dian/internal/wire"
)

// login adds the line of a session's beginning.
func (a *auditor) login(s *session) {
	if a != nil {
		a.act(s.act(auditLogin, wire.OK))
	}
}

// logout adds the line of a session's end.
func (a *auditor) logout(s *session) {
	if a != nil {
		r := s.act(auditLogout, wire.Code(s.offCode.Load()))
		r.begun = s.since
		a.act(r)
	}
}

func (s *session) act(event auditEvent, code wire.Code) actRecord {
	return actRecord{event: event, app: s.app, user: s.user, role: roleName(s.role), session: s.id, code: code, address: s.address}
}

func roleName(role wire.Role) string {
	if role == wire.Role_ROLE_LISTEN {
		return "listen"
	}
	return "send"
}

// refusedLogin adds the line of somebody whose token, or whose session, was refused.
// App and user are those of a token that was good, otherwise nobody knows them.
func (a *auditor) refusedLogin(who claims, action string, code wire.Code) {
	a.refused(actRecord{event: auditLogin, action: action, app: who.App, user: who.User, code: code, address: who.address})
}
