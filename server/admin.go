package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

const (
	maxAdminBody     = 16 << 10 // a token has 8 KiB
	maxAdminRequests = 16       // at the same time
	adminPage        = 100      // entries in an answer unless limit says otherwise
	maxAdminPage     = 1000
)

// adminOperator is what a client is told of an end that an operator decided.
const adminOperator = "ended by the operator"

// admin serves the routes of docs/operations.md for an operator.
type admin struct {
	srv     *Server
	mux     *http.ServeMux
	running chan struct{} // capacity maxAdminRequests
	pprof   pprofLock
}

// AdminHandler serves the admin routes under /admin/v1/ (docs/operations.md), and
// profiles if Config.Admin asks for them. It wants the Config's admin token if there
// is one; without one it trusts whoever reaches it, so a program that mounts it puts
// its own guard before it. Browsers are refused.
func (s *Server) AdminHandler() http.Handler {
	a := &admin{srv: s, mux: http.NewServeMux(), running: make(chan struct{}, maxAdminRequests), pprof: make(pprofLock, 1)}
	for pattern, route := range map[string]adminRoute{
		"GET /admin/v1/sessions":            a.sessions,
		"GET /admin/v1/transfers":           a.transfers,
		"POST /admin/v1/kick":               a.kick,
		"POST /admin/v1/cancel":             a.cancel,
		"POST /admin/v1/revocations":        a.revoke,
		"GET /admin/v1/revocations":         a.revocations,
		"DELETE /admin/v1/revocations/{id}": a.lift,
	} {
		a.mux.HandleFunc(pattern, a.route(route))
	}
	if s.cfg.Admin.Pprof {
		a.mux.HandleFunc("GET /debug/pprof/{profile}", a.route(a.profile))
	}
	return a
}

// An adminRoute answers a request, or says why not. What it did is in act, for the
// audit.
type adminRoute func(w http.ResponseWriter, r *http.Request, act *actRecord) error

// route audits what a route does.
func (a *admin) route(serve adminRoute) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		act := actRecord{event: auditAdmin, by: adminName(r), address: addressText(addrOf(r.RemoteAddr))}
		err := serve(w, r, &act)
		if err != nil {
			no := adminRefusal(err)
			act.code = no.Code
			writeProblem(w, no.Code, no.Detail)
		}
		a.srv.audit.act(act)
	}
}

// adminRefusal is the answer to an error.
func adminRefusal(err error) *wire.Error {
	if no, ok := errors.AsType[*wire.Error](err); ok {
		return no
	}
	return &wire.Error{Code: wire.BadParameter, Detail: err.Error()}
}

// ServeHTTP lets a request in or not.
func (a *admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if bug := recover(); bug != nil {
			a.srv.caught("admin", bug)
			panic(http.ErrAbortHandler)
		}
	}()
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	// A page that somebody visits on the operator's machine must not act for them
	// with a certificate that the browser has, or by DNS rebinding (case 114).
	if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Mode") != "" {
		writeProblemStatus(w, http.StatusForbidden, wire.NoPermission, "not for browsers")
		return
	}
	if !a.knows(r) {
		a.srv.audit.refused(actRecord{event: auditAdmin, action: "login", code: wire.WrongCredentials, by: adminName(r), address: addressText(addrOf(r.RemoteAddr))})
		writeProblem(w, wire.WrongCredentials, "the admin token is needed: Authorization: Bearer")
		return
	}
	if a.srv.over() {
		writeProblem(w, wire.ServiceFault, "the server has stopped")
		return
	}
	select {
	case a.running <- struct{}{}:
		defer func() { <-a.running }()
	default:
		writeProblem(w, wire.OverLimit, "too many requests at the same time")
		return
	}
	if _, pattern := a.mux.Handler(r); pattern == "" {
		notFound(w)
		return
	}
	a.mux.ServeHTTP(w, r)
}

// knows compares the token in constant time, whatever its length (case 33).
func (a *admin) knows(r *http.Request) bool {
	token := a.srv.adminToken.Load()
	if token.IsZero() {
		return true
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	got, want := sha256.Sum256([]byte(given)), sha256.Sum256(token.bytes())
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1 && strings.EqualFold(scheme, "Bearer")
}

// adminName is who a client certificate says that it is.
func adminName(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return wellFormed(r.TLS.PeerCertificates[0].Subject.CommonName, wire.CheckUser)
}

// readAdmin reads a request's JSON object, of which nothing may be left over.
func readAdmin(w http.ResponseWriter, r *http.Request, into any) error {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		return errors.New("Content-Type has to be application/json")
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAdminBody))
	if err != nil {
		return errors.New("the body did not arrive whole, or is larger than 16 KiB")
	}
	if decodeStrict(data, into) != nil { // its text could repeat what is in the body
		return errors.New("the body is not a JSON object with the members of this route")
	}
	return nil
}

// adminQuery is what lists can be asked for.
type adminQuery struct {
	app, user string // "": all
	limit     int
	after     string // where the page before has ended
}

func readQuery(r *http.Request) (adminQuery, error) {
	q := adminQuery{limit: adminPage}
	for name, values := range r.URL.Query() {
		value := values[0]
		switch name {
		case "app":
			q.app = value
		case "user":
			q.user = value
		case "after":
			q.after = value
		case "limit":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > maxAdminPage {
				return q, errors.New("limit has to be 1 to 1000")
			}
			q.limit = n
		default:
			return q, errors.New("the query may have app, user, limit and after")
		}
		if len(values) > 1 {
			return q, errors.New("a name twice in the query")
		}
	}
	return q, nil
}

// covers reports whether a list is to have what concerns these users of an app.
func (q adminQuery) covers(app string, users ...string) bool {
	if q.app != "" && q.app != app {
		return false
	}
	for _, user := range users {
		if q.user == "" || q.user == user {
			return true
		}
	}
	return false
}

// firsts returns the limit first of a list in order, and whether there is more. It
// sorts a few at a time: a list of all sessions would take longer to sort than all
// the rest of a page.
func firsts[T any](list []T, limit int, compare func(a, b T) int) (page []T, more bool) {
	room := max(4*limit, 1024)
	full := false // page[limit], which tells of more, is a bound for those to come
	for _, v := range list {
		if full && compare(v, page[limit]) > 0 {
			continue
		}
		if page = append(page, v); len(page) == room {
			slices.SortFunc(page, compare)
			page, full = page[:limit+1], true
		}
	}
	slices.SortFunc(page, compare)
	if len(page) <= limit {
		return page, false
	}
	return page[:limit], true
}

func writeAdmin(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // a client that has gone away is no error of ours
}

// millis is a time in answers, without what nobody reads.
func millis(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }
