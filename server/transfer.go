package server

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	relay "github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

const (
	// sweepEvery is how often the clock of all transfers ticks, and how often the
	// bytes of running lanes are counted.
	sweepEvery = 250 * time.Millisecond
	// maxEndedPerUser bounds the ends that are remembered of one sender. Forgetting
	// one early costs a question to the receiver, who remembers too.
	maxEndedPerUser = 1024
	// lanePathPrefix is in front of a transfer's id in its lanes' path.
	lanePathPrefix = "/v1/transfers/"
)

// transferKey names a transfer. Its URL's id says more, but not which it is.
type transferKey struct{ app, source, target, sendID string }

// transfers is the table of all transfers of a server.
//
// Locks: a transfer's may be held while the table's is taken, never the other way
// round. Frames are queued under a transfer's lock, so that they go out in the
// order in which its machine made them; queueing does not block.
type transfers struct {
	srv      *Server
	patience time.Duration // lanePatience

	sweeping sync.WaitGroup
	done     chan struct{}  // closed by close
	lanes    sync.WaitGroup // requests that are served as lanes
	born     time.Time
	warm     *seats // of pairs that have their large buffers
	wide     *seats // of pairs of whose up-lane the kernel may hold much

	mu     sync.Mutex                       // guards what follows
	table  map[transferKey]*transfer        // all
	ids    map[string]*transfer             // all, by the URL's id
	open   map[*transfer]struct{}           // those that have not ended
	source map[place]map[*transfer]struct{} // all, by sender
	target map[place]map[*transfer]struct{} // all, by receiver
	ended  map[place]*endedList             // remembered ends, by sender
	ends   int                              // in ended
	closed bool
}

// endedList is the ends that are remembered of one sender, the oldest first.
type endedList struct{ list []endedTransfer }

type endedTransfer struct {
	t  *transfer
	at time.Time
}

// A transfer is one of the table. The fields of its first group do not change.
type transfer struct {
	ts     *transfers
	id     string // the URL's
	what   *transferID
	key    transferKey
	kind   string // "buffer" or "file", for authorize and metrics
	etag   string
	peer   *wire.Peer // the receiver, as the sender sees it
	origin *wire.Peer // the sender, as the receiver sees it

	moved atomic.Int64 // bytes copied since the machine was told

	mu       sync.Mutex // guards what follows
	charged  *opened
	m        *relay.Relay
	offer    *wire.Offer   // to the receiver; nil when it was answered
	name     string        // for a browser's download
	sender   *session      // whose offer came last, while it is there; nil for HTTP
	earlier  *session      // whose offer came before; it is the sender again if the last one goes
	receiver *session      // of the bound instance, while it is there
	ticket   string        // what a down-lane asks for; "" when revoked
	up       *upLane       // the newest
	down     *downLane     // the newest
	gone     bool          // it has ended and is counted as such
	stopping bool          // the server stops
	late     late          // what waits for room in a queue
	changed  chan struct{} // closed and dropped at the next change; nil if nobody waits
	upUntil  time.Time     // when the sender's token ends
	dnToken  claims        // the receiver's last token; its lanes live as long
	trail    trail
}

func newTransfers(s *Server) *transfers {
	ts := &transfers{
		srv: s, patience: lanePatience,
		done:   make(chan struct{}),
		born:   time.Now(),
		warm:   newSeats(warmPairs()),
		wide:   newSeats(widePairs()),
		table:  map[transferKey]*transfer{},
		ids:    map[string]*transfer{},
		open:   map[*transfer]struct{}{},
		source: map[place]map[*transfer]struct{}{},
		target: map[place]map[*transfer]struct{}{},
		ended:  map[place]*endedList{},
	}
	ts.sweeping.Go(ts.sweep)
	return ts
}

// close ends everything and waits until its goroutines and requests are through.
func (ts *transfers) close() {
	ts.mu.Lock()
	if ts.closed {
		ts.mu.Unlock()
		return
	}
	ts.closed = true
	all := keys(ts.table)
	ts.mu.Unlock()
	close(ts.done)
	for _, t := range all {
		t.mu.Lock()
		t.stopping = true
		t.auditStopLocked()
		t.endUpLocked(laneStopping)
		t.endDownLocked(laneStopping)
		t.wakeLocked()
		t.mu.Unlock()
	}
	ts.lanes.Wait()
	ts.sweeping.Wait()
}

// idle reports whether no transfer is under way: one that runs, stands between
// two lanes or is being verified, and an inline offer that is being answered. What
// has lost its receiver cannot end any more on a server that takes no logins.
func (ts *transfers) idle() bool {
	ts.mu.Lock()
	open := members(ts.open, nil)
	ts.mu.Unlock()
	return !slices.ContainsFunc(open, func(t *transfer) bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.m.Running()
	})
}

// distrust ends the lanes whose token does not count any more, and wakes the requests
// that wait so that they look at theirs.
func (ts *transfers) distrust() {
	ts.mu.Lock()
	open := members(ts.open, nil)
	ts.mu.Unlock()
	for _, t := range open {
		t.mu.Lock()
		t.distrustLocked()
		t.mu.Unlock()
	}
}

func (t *transfer) distrustLocked() {
	keys := t.ts.srv.keys
	if t.up != nil && !keys.trusts(t.up.token) {
		t.endUpLocked(laneRevoked)
	}
	if t.dnToken.key != nil && !keys.trusts(t.dnToken) {
		t.ticket = ""
		t.endDownLocked(laneRevoked)
	}
	t.wakeLocked()
}

// enter counts a request that is served as a lane; false means that the server
// has stopped. leave is its counterpart.
func (ts *transfers) enter() bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.closed {
		return false
	}
	ts.lanes.Add(1)
	return true
}

func (ts *transfers) leave() { ts.lanes.Done() }

// keys returns the values of a table.
func keys[K comparable](m map[K]*transfer) []*transfer {
	all := make([]*transfer, 0, len(m))
	for _, t := range m {
		all = append(all, t)
	}
	return all
}

// members returns a set's transfers that fit.
func members(set map[*transfer]struct{}, fits func(*transfer) bool) []*transfer {
	var all []*transfer
	for t := range set {
		if fits == nil || fits(t) {
			all = append(all, t)
		}
	}
	return all
}

// sweep is the one clock of all transfers.
func (ts *transfers) sweep() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	var all []*transfer
	for {
		select {
		case <-ts.done:
			return
		case <-ticker.C:
		}
		now := time.Now()
		all = all[:0]
		ts.mu.Lock()
		for t := range ts.open {
			all = append(all, t)
		}
		ts.forgetEndedLocked(now, ts.srv.cfg.ResumeWindow)
		ts.mu.Unlock()
		ts.srv.quota.sweep()
		for _, t := range all {
			t.mu.Lock()
			t.tickLocked(now)
			t.mu.Unlock()
		}
		clear(all)
	}
}

// forgetEndedLocked forgets the ends that were remembered for a window.
func (ts *transfers) forgetEndedLocked(now time.Time, window time.Duration) {
	for p, e := range ts.ended {
		n := 0
		for n < len(e.list) && (len(e.list)-n > maxEndedPerUser || now.Sub(e.list[n].at) >= window) {
			ts.removeLocked(e.list[n].t)
			n++
		}
		ts.ends -= n
		if n == len(e.list) {
			delete(ts.ended, p)
		} else if n > 0 {
			e.list = append(e.list[:0], e.list[n:]...)
		}
	}
}

// boundEndedLocked forgets the oldest ends when there are more of them than there
// may be open transfers: a quarter, so that this is not asked for again at once.
func (ts *transfers) boundEndedLocked(now time.Time) {
	most := int(ts.srv.quota.policy.Load().rows[scopeAll].most[cellTransfers])
	if ts.ends <= most {
		return
	}
	for window := ts.srv.cfg.ResumeWindow; ts.ends > most/4*3; window /= 2 {
		ts.forgetEndedLocked(now, window)
	}
}

// removeLocked takes a transfer out of the table.
func (ts *transfers) removeLocked(t *transfer) {
	if ts.ids[t.id] == t {
		delete(ts.ids, t.id)
	}
	if ts.table[t.key] == t {
		delete(ts.table, t.key)
	}
	drop(ts.source, place{t.key.app, t.key.source}, t)
	drop(ts.target, place{t.key.app, t.key.target}, t)
}

func drop(m map[place]map[*transfer]struct{}, p place, t *transfer) {
	if set := m[p]; set != nil {
		if delete(set, t); len(set) == 0 {
			delete(m, p)
		}
	}
}

func put(m map[place]map[*transfer]struct{}, p place, t *transfer) {
	set := m[p]
	if set == nil {
		set = map[*transfer]struct{}{}
		m[p] = set
	}
	set[t] = struct{}{}
}

// find returns the transfer of an id, or nil.
func (ts *transfers) find(id string) *transfer {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.ids[id]
}

// errBusy means that somebody else has just put a transfer of that key into the table.
var errBusy = errors.New("transfer exists")

// add puts a new transfer into the table, in the place of one that has ended. It is
// charged to the sender's party; offer is nil for one that was rebuilt.
func (ts *transfers) add(what *transferID, m *relay.Relay, instead *transfer, from *party, offer *wire.Offer) (*transfer, error) {
	sender, receiver := place{what.App, what.Source}, place{what.App, what.Target}
	id := what.encode()
	t := &transfer{
		ts: ts, id: id, what: what, m: m,
		key:    transferKey{what.App, what.Source, what.Target, what.sendID()},
		kind:   kindName(what.Kind),
		etag:   etagOf(id),
		peer:   &wire.Peer{User: what.Target, Instance: []byte(what.Instance)},
		origin: &wire.Peer{User: what.Source},
		ticket: ts.srv.cluster.ticket(id),
		trail:  trail{begun: time.Now(), via: viaSession},
	}
	if what.HTTP {
		t.trail.via = viaTus
	}
	charged, no := ts.srv.quota.open(from, receiver, offer)
	if no != nil {
		return nil, no
	}
	t.charged = charged
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if old := ts.table[t.key]; ts.closed || old != nil && old != instead {
		charged.ended()
		if ts.closed {
			return nil, &wire.Error{Code: wire.ServiceFault, Detail: "the server is stopping"}
		}
		return nil, errBusy
	}
	if instead != nil {
		ts.removeLocked(instead)
	}
	ts.table[t.key], ts.ids[id] = t, t
	ts.open[t] = struct{}{}
	put(ts.source, sender, t)
	put(ts.target, receiver, t)
	ts.srv.metrics.transferState("", m.State().String())
	return t, nil
}

func kindName(k wire.Kind) string {
	if k == wire.Kind_KIND_BUFFER {
		return "buffer"
	}
	return "file"
}

// etagOf returns the strong ETag of a transfer: the same on every server, and
// another one for another content.
func etagOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:15]) + `"`
}

func (ts *transfers) machineConfig(what *transferID, inlined bool) relay.RelayConfig {
	wait := ts.srv.cfg.OfferWait
	if what.HTTP {
		wait = ts.srv.cfg.HTTPOfferWait
	}
	return relay.RelayConfig{
		Size: what.Size, Inlined: inlined, HTTP: what.HTTP, Digest: what.digest(),
		OfferWait: wait, Window: ts.srv.cfg.ResumeWindow,
	}
}

// refused turns an error into the wire's.
func refused(err error) *wire.Error {
	if e, ok := errors.AsType[*wire.Error](err); ok && e != nil {
		return e
	}
	return &wire.Error{Code: wire.Internal}
}

// writeRefusal answers a request with an error.
func writeRefusal(w http.ResponseWriter, err error) {
	e := refused(err)
	writeProblem(w, e.Code, e.Detail)
}
