package server

import (
	"context"
	"encoding/base64"
	"net/http"
	"regexp"
	"slices"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// Who may do what to whom, written down once more and apart from the server: what
// docs/protocol.md and docs/configuration.md say.

// An isolationActor is somebody beside the victims, who does what it must not.
type isolationActor struct {
	name, app, user string
	token           string
	refused         wire.Code // what the token gets; 0 for a good one
	send, see       string    // the one pattern of the claim; "" for nobody
	banned          bool      // by the operator's hook
}

// place is the instance of the actor's sessions: another app's bob has even the same
// as the victim.
func (a isolationActor) place() []byte {
	if a.user == "bob" && a.app != victimApp {
		return instanceBob
	}
	return instanceOf(actorPlace)
}

func patternFits(pattern, user string) bool {
	return pattern == "*" || pattern != "" && pattern == user
}

func (a isolationActor) maySend(user string) bool { return !a.banned && patternFits(a.send, user) }
func (a isolationActor) maySee(user string) bool  { return !a.banned && patternFits(a.see, user) }

// hookOf is an operator's hook that forbids one user everything.
func hookOf(banned *string) func(context.Context, Action) error {
	return func(_ context.Context, a Action) error {
		if *banned != "" && a.User == *banned {
			return &Refusal{Code: uint32(wire.NoPermission)}
		}
		return nil
	}
}

// byChance is what differs from answer to answer, and from name to name that was
// asked for.
var byChance = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|"user":"[^"]*"|"tokenExpiresMs":"\d+"`)

func base64Text(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// A wantedCell is what a request or frame has to lead to.
type wantedCell struct {
	status  []int       // of HTTP, any of them
	code    []wire.Code // any of them; nil: there is no code
	blind   bool        // the answer must not tell what is there: it is the same for what is not
	reaches string      // the kind of frame that bob gets from the actor
	users   []string    // that are listed
	frames  string      // the kinds of the frames that answer, without their order
	close   int         // or how the session is closed
}

func problemOf(status int, code wire.Code, blind bool) wantedCell {
	return wantedCell{status: []int{status}, code: []wire.Code{code}, blind: blind}
}

// online reports whether a user is there in the actor's app, who itself may listen.
func (a isolationActor) online(user string, listening bool) bool {
	return a.app == victimApp && user == "bob" || listening && user == a.user
}

// wantTarget is what becomes of a command or offer to a user; taken is the code of
// one that arrives.
func (a isolationActor) wantTarget(target string, listening bool, taken wire.Code) (code wire.Code, arrives bool) {
	switch {
	case !goodUser(target):
		return wire.BadTarget, false
	case !a.maySend(target):
		return wire.NoPermission, false
	case !a.online(target, listening):
		return wire.PeerOffline, false
	}
	return taken, true
}

// An isolationProbe is a request, or a frame, and what it is aimed at.
type isolationProbe struct {
	shape  string // what is the same but for the aim
	aim    string
	route  string
	id     *transferID // of a by-id route, if it is well-formed
	target string

	method, path string
	headers      []string
	body         string
	frame        *wire.Frame
}

func (p isolationProbe) String() string { return p.shape + " at " + p.aim }

// owns reports whether an id is, or would be, a transfer of the actor's.
func (a isolationActor) owns(id *transferID) bool {
	return id != nil && id.App == a.app && id.Source == a.user
}

// wantHTTP is the rule table of requests.
func (a isolationActor) wantHTTP(p isolationProbe) wantedCell {
	const notFound, forbidden = http.StatusNotFound, http.StatusForbidden
	switch p.route {
	case "OPTIONS":
		return wantedCell{status: []int{http.StatusNoContent}, blind: true}
	case "method":
		return problemOf(http.StatusMethodNotAllowed, wire.BadParameter, true)
	case "lane": // a token is no ticket, and no ticket of the actor's is the right one
		return problemOf(notFound, wire.BadSendID, true)
	}
	if a.refused != 0 {
		return problemOf(http.StatusUnauthorized, a.refused, true)
	}
	switch p.route {
	case "HEAD", "PATCH", "DELETE":
		switch {
		case !a.owns(p.id):
			return problemOf(notFound, wire.BadSendID, true)
		case !a.maySend(p.id.Target):
			return problemOf(forbidden, wire.NoPermission, true)
		case !a.online(p.id.Target, false):
			// It may be with a receiver that comes back.
			return problemOf(http.StatusLocked, wire.ConnectionLost, true)
		case p.id.Instance != string(instanceBob):
			return problemOf(notFound, wire.BadSendID, true)
		}
		// bob says that he knows nothing of it, or takes the cancel of it.
		w := problemOf(notFound, wire.BadSendID, false)
		switch w.reaches = "Query"; p.shape {
		case "DELETE":
			w.status, w.code = []int{http.StatusNoContent}, nil
		case "POST as DELETE":
			w = problemOf(http.StatusGone, wire.Cancelled, false)
		}
		return w
	case "command":
		code, arrives := a.wantTarget(p.target, false, 0)
		w := problemOf(statusOf(code), code, !arrives)
		if arrives {
			w.reaches, w.code = "Command", nil
		}
		return w
	case "create", "put":
		code, arrives := a.wantTarget(p.target, false, wire.PeerRefused)
		w := problemOf(statusOf(code), code, !arrives)
		if arrives {
			w.reaches = "Offer"
		}
		return w
	case "users":
		w := wantedCell{status: []int{http.StatusOK}, users: []string{}}
		if a.app == victimApp && a.maySee("bob") {
			w.users = []string{"bob=1"}
		}
		return w
	case "user":
		switch {
		case !goodUser(p.target):
			return problemOf(http.StatusBadRequest, wire.BadTarget, true)
		case !a.maySee(p.target):
			return problemOf(forbidden, wire.NoPermission, true)
		case a.online(p.target, false):
			return wantedCell{status: []int{http.StatusOK}, users: []string{p.target + "=1"}}
		}
		return wantedCell{status: []int{http.StatusOK}, users: []string{p.target + "=0"}, blind: true}
	}
	panic("no rule for " + p.route)
}

// wantFrame is the rule table of frames in a live session.
func (a isolationActor) wantFrame(p isolationProbe, listening bool) wantedCell {
	kind := kindOf(p.frame)
	if !slices.Contains(sentByAll, kind) && !(listening && slices.Contains(sentByListeners, kind)) {
		return wantedCell{close: websocket.CloseProtocolError, blind: true}
	}
	switch b := p.frame.Body.(type) {
	case *wire.Frame_Command:
		code, arrives := a.wantTarget(p.target, listening, 0)
		w := wantedCell{frames: "CommandResult", code: []wire.Code{code}, blind: !arrives}
		switch {
		case arrives && p.target == a.user && (listening || a.app != victimApp):
			w.frames = "Command CommandResult" // to itself
		case arrives:
			w.reaches = "Command"
		}
		return w
	case *wire.Frame_Offer:
		code, arrives := a.wantTarget(p.target, listening, wire.PeerRefused)
		self := p.target == a.user && (listening || a.app != victimApp)
		at := string(instanceBob)
		if self {
			at = string(a.place())
		}
		if arrives && len(b.Offer.Instance) > 0 && string(b.Offer.Instance) != at {
			code, arrives = wire.BadSendID, false
		}
		w := wantedCell{frames: "Verdict", code: []wire.Code{code}, blind: !arrives && code != wire.BadSendID}
		switch {
		case arrives && self:
			w.frames = "Offer Verdict VerdictAck"
		case arrives:
			w.reaches = "Offer"
		}
		return w
	case *wire.Frame_Cancel:
		if a.owns(p.id) && a.maySend(p.id.Target) && p.id.Instance == string(instanceBob) && a.online(p.id.Target, false) {
			// Its own, as far as anybody knows: bob is asked, and knows nothing of it.
			return wantedCell{frames: "Verdict", code: []wire.Code{wire.Cancelled, wire.BadSendID}, reaches: "Query"}
		}
		if a.owns(p.id) && a.maySend(p.id.Target) && !a.online(p.id.Target, listening) {
			return wantedCell{} // waits for its receiver
		}
		return wantedCell{frames: "Verdict", code: []wire.Code{wire.BadSendID}, blind: true}
	case *wire.Frame_Verdict:
		if p.id != nil && p.id.App == a.app && p.id.Target == a.user && p.id.Instance == string(a.place()) {
			return wantedCell{frames: "VerdictAck"} // the server has forgotten it, it seems
		}
		return wantedCell{blind: true}
	case *wire.Frame_UpdateToken:
		w := wantedCell{frames: "TokenUpdated", code: []wire.Code{wire.TokenRefused}, blind: true}
		if p.aim == "its own" {
			w.code = []wire.Code{wire.OK}
		}
		return w
	case *wire.Frame_PresenceQuery:
		return a.wantPresence(b.PresenceQuery.Users, listening)
	case *wire.Frame_PresenceSubscribe:
		return a.wantPresence(b.PresenceSubscribe.Users, listening)
	}
	return wantedCell{blind: true} // nothing follows
}

// wantPresence is what a question about some users, or everybody, leads to.
func (a isolationActor) wantPresence(users []string, listening bool) wantedCell {
	w := wantedCell{frames: "PresenceList", code: []wire.Code{0}, users: []string{}}
	everybody := len(users) == 0
	if everybody {
		users = []string{"bob"}
		if listening && a.user != "bob" {
			users = append(users, a.user)
		}
	}
	for _, u := range users {
		switch {
		case everybody && a.maySee(u) && a.online(u, listening), !everybody && a.online(u, listening):
			w.users = append(w.users, u+"=1")
		case !everybody:
			w.users = append(w.users, u+"=0")
		}
		if !everybody && !a.maySee(u) {
			return wantedCell{frames: "PresenceList", code: []wire.Code{wire.NoPermission}, users: []string{}, blind: true}
		}
	}
	w.blind = !everybody && len(users) == 1 && w.users[0] == users[0]+"=0"
	slices.Sort(w.users)
	return w
}
