package server

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dian-im/dian/internal/wire"
)

// A quota knows what everybody uses and what they may.
type quota struct {
	start  time.Time // has the monotonic reading of all meters
	policy atomic.Pointer[policy]

	all       account
	apps      atomic.Pointer[map[string]*appAccount] // replaced by a Reload
	users     book[place]
	addresses book[netip.Addr]

	full chan struct{} // capacity 1: queues are over a shared row, see shed
	done chan struct{} // closed when the server stops

	refused map[refusedAt]prometheus.Counter // made before use, then only read
}

// An appAccount is an app's, with the rows that belong to it.
type appAccount struct {
	account
	limits atomic.Pointer[appLimits]
}

// refusedAt says which limit was reached, as metrics tell it.
type refusedAt struct{ limit, scope string }

func (q *quota) init(cfg *Config) {
	q.start = time.Now()
	q.users.init()
	q.addresses.init()
	q.full, q.done = make(chan struct{}, 1), make(chan struct{})
	q.reload(cfg)
}

// reload puts other limits in the place of those of before. What is used stays
// counted; who is over a new limit gets nothing more and loses nothing.
func (q *quota) reload(cfg *Config) {
	p := cfg.policy()
	apps := make(map[string]*appAccount, len(p.apps))
	for id, l := range p.apps {
		if old := q.apps.Load(); old != nil && (*old)[id] != nil {
			apps[id] = (*old)[id]
		} else {
			apps[id] = &appAccount{}
		}
		apps[id].limits.Store(&l)
	}
	q.policy.Store(p)
	q.apps.Store(&apps)
}

// sweep forgets whoever is not worth remembering any more.
func (q *quota) sweep() {
	now := q.now()
	q.users.sweep(now)
	q.addresses.sweep(now)
}

// now is the time of all meters.
func (q *quota) now() int64 { return int64(time.Since(q.start)) }

// over counts a refusal and makes its error.
func (q *quota) over(limit string, s scope, code wire.Code, detail string) *wire.Error {
	q.refused[refusedAt{limit, scopeNames[s]}].Inc()
	return &wire.Error{Code: code, Detail: detail}
}

// A party is whose accounts something is charged to: a user, its app and the
// address it comes from. all is charged always.
type party struct {
	q       *quota
	user    *holder[place]
	app     *appAccount
	address *holder[netip.Addr] // nil for a shared address
}

// address returns the account of an address; nil means that it is shared and not
// counted. Whoever gets one releases it.
func (q *quota) address(a netip.Addr) *holder[netip.Addr] {
	if within(q.policy.Load().shared, a) {
		return nil
	}
	return q.addresses.hold(countedAs(a), q.now())
}

func (q *quota) releaseAddress(h *holder[netip.Addr]) {
	if h != nil {
		h.release(q.now())
	}
}

// party returns the accounts of a user at an address. It has to be released.
func (q *quota) party(app, user string, a netip.Addr) party {
	own := (*q.apps.Load())[app]
	if own == nil { // a Reload has just taken the app away
		own = &appAccount{}
		p := q.policy.Load()
		own.limits.Store(&appLimits{p.rows[scopeApp], p.rows[scopeUser]})
	}
	return party{q, q.users.hold(place{app, user}, q.now()), own, q.address(a)}
}

// again returns the same accounts, to be released on their own.
func (p *party) again() party {
	p.user.holdAgain()
	if p.address != nil {
		p.address.holdAgain()
	}
	return *p
}

func (p *party) release() {
	p.user.release(p.q.now())
	p.q.releaseAddress(p.address)
}

// nearest is the order in which rows are asked: whoever is over its own limit
// takes nothing from others. All comes before app, whose row is that of all if
// nobody says otherwise: then it is all that is full.
var nearest = [scopes]scope{scopeUser, scopeAddress, scopeAll, scopeApp}

// rows returns the party's accounts, nil where one does not count, and their
// limits.
func (p *party) rows() (accounts [scopes]*account, most [scopes]*limits) {
	now, own := p.q.policy.Load(), p.app.limits.Load()
	accounts = [scopes]*account{scopeAll: &p.q.all, scopeApp: &p.app.account, scopeUser: &p.user.account}
	if p.address != nil {
		accounts[scopeAddress] = &p.address.account
	}
	most = [scopes]*limits{&now.rows[scopeAll], &own.app, &now.rows[scopeAddress], &own.user}
	return accounts, most
}

// calm is the rate of logins below which an address is not in anybody's way.
var calm = perSecond(1)

// knock charges a login, or the check of a request's token, before the token is
// looked at: a flood of signatures must not eat the CPU. The last quarter of what
// all may do is kept for addresses that hardly ever knock, and for shared ones, so
// that a few that flood do not shut out the others.
func (q *quota) knock(a *holder[netip.Addr]) *wire.Error {
	now, p := q.now(), q.policy.Load()
	quiet := a == nil || a.calm.take(now, calm, 1)
	r, all := p.rows[scopeAddress].logins, p.rows[scopeAll].logins
	if a != nil && !a.logins.take(now, r, 1) {
		return q.over(cellNames[cellLogins], scopeAddress, wire.OverLimit, "too many logins from this address")
	}
	if !quiet && !q.all.logins.spare(now, all) || !q.all.logins.take(now, all, 1) {
		if a != nil {
			a.logins.give(r, 1)
		}
		return q.over(cellNames[cellLogins], scopeAll, wire.OverLimit, "too many logins")
	}
	return nil
}

// admitted gives back what knock has taken: the token was good, and what its user
// does is charged to it from here on.
func (q *quota) admitted(a *holder[netip.Addr]) {
	p := q.policy.Load()
	if a != nil {
		a.logins.give(p.rows[scopeAddress].logins, 1)
		a.calm.give(calm, 1)
	}
	q.all.logins.give(p.rows[scopeAll].logins, 1)
}

// entering counts a WebSocket that is not logged in yet. Without a refusal, done
// ends that; it may be called more than once.
func (q *quota) entering(a *holder[netip.Addr]) (done func(), refusal *wire.Error) {
	const detail = "too many connections that are not logged in"
	if a != nil && !a.add(countEntering, 1, maxLoginsPerIP) {
		return nil, q.over("connections", scopeAddress, wire.OverLimit, detail)
	}
	if !q.all.add(countEntering, 1, maxLogins) {
		if a != nil {
			a.add(countEntering, -1, 0)
		}
		return nil, q.over("connections", scopeAll, wire.OverLimit, detail)
	}
	if a != nil {
		a.holdAgain()
	}
	return sync.OnceFunc(func() {
		q.all.add(countEntering, -1, 0)
		if a != nil {
			a.add(countEntering, -1, 0)
			q.releaseAddress(a)
		}
	}), nil
}

// login charges a login whose token is good to its user and app.
func (p *party) login() *wire.Error {
	now, own := p.q.now(), p.app.limits.Load()
	if !p.user.logins.take(now, own.user.logins, 1) {
		return p.q.over(cellNames[cellLogins], scopeUser, wire.OverLimit, "too many logins of this user")
	}
	if !p.app.logins.take(now, own.app.logins, 1) {
		p.user.logins.give(own.user.logins, 1)
		return p.q.over(cellNames[cellLogins], scopeApp, wire.OverLimit, "too many logins of this app")
	}
	return nil
}

// question is what a question about presence costs, and a command or offer to a
// user who is not there: it tells that as well (case 38).
const question = 10

// command charges a command, or another request that costs as many. It is called
// for each one: four words are changed, no lock is taken and nothing is allocated.
func (p *party) command(n int64) *wire.Error {
	now := p.q.now()
	accounts, most := p.rows()
	for i, s := range nearest {
		if accounts[s] == nil || accounts[s].commands.take(now, most[s].commands, n) {
			continue
		}
		for _, s := range nearest[:i] {
			if accounts[s] != nil {
				accounts[s].commands.give(most[s].commands, n)
			}
		}
		return p.q.over(cellNames[cellCommands], s, wire.OverLimit, "too many commands a second")
	}
	return nil
}

// absent charges what a 603 costs beyond the command or offer that got it.
func (p *party) absent() {
	now := p.q.now()
	accounts, most := p.rows()
	for _, s := range [...]scope{scopeUser, scopeAddress} {
		if accounts[s] != nil {
			accounts[s].commands.charge(now, most[s].commands, question-1)
		}
	}
}

// pace charges n to the user and returns how long it has to wait for that.
func (p *party) pace(n int64) time.Duration {
	return p.user.commands.charge(p.q.now(), p.app.limits.Load().user.commands, n)
}

// modest is the part of what is free in a shared row that a user may have of it when
// the row is nearly full: one of so many.
const modest = 64

// claim counts one more of a cell's things for everybody of the party. Over a limit
// it is let in if that is by not more than spare.
//
// In the last quarter of a row that others share a user gets more only while it has
// less than a 64th of what is free, or nothing. So even hundreds who take what they
// can leave room for those who come later.
func (p *party) claim(c cell, n count, spare int64) *wire.Error {
	accounts, most := p.rows()
	mine := p.user.used[n].Load() - spare
	for i, s := range nearest {
		a := accounts[s]
		if a == nil {
			continue
		}
		limit := most[s].most[c] + spare
		used := a.used[n].Load()
		greedy := s != scopeUser && used >= limit-limit/4 && mine > 0 && mine*modest >= limit-used
		if greedy || !a.add(n, 1, limit) {
			p.unclaim(n, i)
			return p.q.over(cellNames[c], s, wire.OverLimit, "too many "+cellNames[c])
		}
	}
	return nil
}

// unclaim gives back what claim has counted in the first rows of nearest.
func (p *party) unclaim(n count, rows int) {
	accounts, _ := p.rows()
	for _, s := range nearest[:rows] {
		if accounts[s] != nil {
			accounts[s].used[n].Add(-1)
		}
	}
}

// watch counts bytes of subscriptions by name: all of them together may hold as much
// as queues, and those of a user a quarter of its own.
func (p *party) watch(n int64) *wire.Error {
	accounts, most := p.rows()
	for i, s := range nearest {
		limit := most[s].most[cellQueued]
		if s == scopeUser {
			limit /= 4
		}
		if a := accounts[s]; a != nil && !a.add(countWatched, n, limit) {
			for _, s := range nearest[:i] {
				if accounts[s] != nil {
					accounts[s].used[countWatched].Add(-n)
				}
			}
			return p.q.over("subscriptions", s, wire.OverLimit, "too many subscriptions")
		}
	}
	return nil
}

// session counts a live session. One that takes the place of another is let in over
// a limit: that one is about to end.
func (p *party) session(instead bool) *wire.Error {
	spare := int64(0)
	if instead {
		spare = 1
	}
	return p.claim(cellSessions, countSessions, spare)
}

func (p *party) sessionOver() { p.unclaim(countSessions, len(nearest)) }

// requestsFor is how many HTTP requests may be under way for each transfer that
// may be open: an upload, and somebody who asks how it goes.
const requestsFor = 2

// request counts an HTTP request under way. It waits for its receiver, maybe, and
// costs a goroutine and its buffers all the time.
func (p *party) request() *wire.Error {
	accounts, most := p.rows()
	for i, s := range nearest {
		if a := accounts[s]; a != nil && !a.add(countRequests, 1, requestsFor*most[s].most[cellTransfers]) {
			p.unclaim(countRequests, i)
			return p.q.over("requests", s, wire.OverLimit, "too many requests at a time")
		}
	}
	return nil
}

func (p *party) requestOver() { p.unclaim(countRequests, len(nearest)) }
