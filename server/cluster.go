package server

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dian-im/dian/internal/bus"
	nodes "github.com/dian-im/dian/internal/cluster"
	"github.com/dian-im/dian/internal/wire"
)

// A cluster is the other nodes as this one knows them (docs/cluster.md). A nil cluster
// is that of a server that stands alone: it knows nobody.
//
// Locks: no lock is held when something is told to sessions or transfers, and what is
// said to other nodes may be said under any lock: it is queued (see outbox).
type cluster struct {
	// Set by newCluster, then only read.
	srv    *Server
	cfg    Cluster
	self   nodes.NodeID
	codec  *nodes.Codec // only All, Node and User, which any goroutine may call
	bus    bus.Bus
	out    *outbox
	lanes  *laneDoor
	subs   *herald
	beat   *nodes.Beat
	done   chan struct{}
	unsubs []func()

	up     atomic.Bool
	awaits chan struct{} // requests that wait for a receiver of whom nobody knows where it is
	seeks  seeks
	index  senderIndex
	stats  clusterMetrics

	// Owned by the bus's goroutine, which calls message.
	open    *nodes.Codec
	in      nodes.Reader
	results resultFrame

	mu        sync.RWMutex           // guards what follows
	view      *nodes.View            //
	listeners map[place]*session     // stand-ins of users at other nodes, made when they are needed
	routes    map[uint64]*session    // the same, by their route
	lastRoute uint64                 //
	senders   map[farSender]*session // stand-ins of senders at other nodes
	away      map[uint64]*session    // sessions here that send to other nodes, by their id
}

// farSender names a session of another node.
type farSender struct {
	node    nodes.NodeID
	session uint64
}

// newCluster joins the cluster that cfg names, or returns nil if it names none.
func newCluster(s *Server) (*cluster, error) {
	cfg := s.cfg.Cluster
	if !cfg.enabled() {
		return nil, nil
	}
	secret, err := cfg.secret(s.cfg.Dev)
	if err != nil {
		return nil, err
	}
	c := &cluster{
		srv: s, cfg: cfg, self: nodes.NodeID(s.id), done: make(chan struct{}),
		codec:     nodes.NewCodec(cfg.name(), secret),
		listeners: map[place]*session{}, routes: map[uint64]*session{},
		senders: map[farSender]*session{}, away: map[uint64]*session{},
		view: nodes.NewView(nodes.NodeID(s.id), time.Now()),
	}
	c.view.Nonce = func() uint64 {
		var b [8]byte
		rand.Read(b[:]) // never fails
		return binary.BigEndian.Uint64(b[:])
	}
	c.awaits = make(chan struct{}, maxAwaits)
	c.open = c.codec.Clone()
	c.seeks.by = map[place]*seek{}
	c.stats.init(c, s.metrics.registry)
	if c.lanes, err = openLaneDoor(c, secret.laneKey(cfg.name())); err != nil {
		return nil, err
	}
	c.beat = &nodes.Beat{Url: c.lanes.url, Name: cfg.nodeName(), Version: cfg.Version}
	c.out = newOutbox(c)
	c.subs = newHerald(c)
	if c.bus, err = cfg.Open(bus.Handler{Message: c.message, State: c.state}); err != nil {
		c.lanes.close(context.Background())
		return nil, err
	}
	for _, subject := range []string{c.codec.All(), c.codec.Node(c.self)} {
		unsubscribe, err := c.bus.Subscribe(subject)
		if err != nil {
			c.bus.Close()
			c.lanes.close(context.Background())
			return nil, err
		}
		c.unsubs = append(c.unsubs, unsubscribe)
	}
	s.log.Info("joins a cluster", "cluster", cfg.name(), "node", c.self, "lanes", c.lanes.url)
	return c, nil
}

// start begins what runs beside the sessions.
func (c *cluster) start() {
	if c == nil {
		return
	}
	c.srv.start("cluster writer", c.out.run)
	c.srv.start("cluster herald", c.subs.run)
	c.srv.start("cluster clock", c.tick)
}

// leave says goodbye, when this node's sessions and transfers have ended, and ends all
// that start has begun.
func (c *cluster) leave() {
	if c == nil {
		return
	}
	c.subs.close()
	c.out.say(everybody, &nodes.Message{Body: &nodes.Message_Leaving{Leaving: &nodes.Leaving{}}}, true)
	c.out.close()
	close(c.done)
}

// close cuts this node off from the others, after leave.
func (c *cluster) close(ctx context.Context) {
	if c != nil {
		c.bus.Close()
		c.lanes.close(ctx)
	}
}

// state is told by the bus whether there is a connection.
func (c *cluster) state(up bool) {
	was := c.up.Swap(up)
	if was == up {
		return
	}
	if up {
		c.srv.log.Info("the bus is there")
		c.out.beat(c.beat)
		return
	}
	c.srv.log.Warn("the connection to the bus is lost: users of other nodes cannot be reached")
}

// tidyTicks is how often, in beats, stand-ins are taken out that nobody needs.
const tidyTicks = 30

// tick is the clock: this node says that it is there, and gives up those that do not.
func (c *cluster) tick() {
	ticker := time.NewTicker(nodes.BeatEvery)
	defer ticker.Stop()
	for ticks := 1; ; ticks++ {
		select {
		case <-ticker.C:
		case <-c.done:
			return
		}
		if ticks%tidyTicks == 0 {
			c.tidyListeners()
		}
		var e nodes.Effects
		c.mu.Lock()
		paused := c.view.Tick(time.Now(), &e)
		c.mu.Unlock()
		c.out.beat(c.beat)
		if paused {
			c.srv.log.Warn("this process has stood still: the others are told again who is here")
			c.subs.again()
		}
		c.effects(&e)
	}
}

// message takes in what comes from the bus. Nothing of it counts before its MAC does.
func (c *cluster) message(m bus.Message) {
	defer func() {
		if bug := recover(); bug != nil {
			c.srv.caught("cluster", bug)
		}
	}()
	toAll := m.Subject == c.codec.All()
	if !toAll && m.Subject != c.codec.Node(c.self) {
		c.asked(m)
		return
	}
	node, number, messages, err := c.open.Open(m.Data, m.Subject)
	if err != nil {
		c.stats.refused(c, err)
		return
	}
	c.stats.packetsIn.Inc()
	var e nodes.Effects
	c.mu.Lock()
	counts := c.view.Heard(time.Now(), node, toAll, number, &e)
	c.mu.Unlock()
	c.effects(&e)
	for counts && len(messages) > 0 {
		if messages, err = c.in.Next(messages); err != nil {
			c.stats.refused(c, err)
			return
		}
		c.stats.messagesIn.Inc()
		switch in := &c.in; {
		case toAll && in.Message != nil:
			c.toAll(node, in.Message)
		case toAll:
			c.stats.odd.Inc()
		case in.Message != nil:
			c.toUs(node, in.Message)
		case c.unproven(node, nil):
		case in.Deliver != nil:
			c.deliver(node, in.Deliver)
		default:
			c.delivered(node, in.Delivered)
		}
	}
}

// toAll takes in what a node says to everybody.
func (c *cluster) toAll(from nodes.NodeID, m *nodes.Message) {
	var e nodes.Effects
	switch b := m.Body.(type) {
	case *nodes.Message_Beat:
		c.mu.Lock()
		c.view.Beat(from, true, b.Beat, &e)
		c.mu.Unlock()
	case *nodes.Message_Users:
		c.users(from, b.Users, &e)
	case *nodes.Message_Leaving:
		c.mu.Lock()
		c.view.Leave(from, &e)
		c.mu.Unlock()
	case *nodes.Message_Kick:
		if c.unproven(from, m) {
			return
		}
		c.srv.kickUser(place{b.Kick.App, b.Kick.User}, 0)
	case *nodes.Message_Revocations:
		if c.unproven(from, m) {
			return
		}
		c.takeRevocations(b.Revocations)
	}
	c.effects(&e)
}

// toUs takes in what a node says to this one.
func (c *cluster) toUs(from nodes.NodeID, m *nodes.Message) {
	if c.unproven(from, m) {
		return
	}
	switch b := m.Body.(type) {
	case *nodes.Message_Users:
		var e nodes.Effects
		c.users(from, b.Users, &e)
		c.effects(&e)
	case *nodes.Message_Beat:
		var e nodes.Effects
		c.mu.Lock()
		c.view.Beat(from, false, b.Beat, &e)
		c.mu.Unlock()
	case *nodes.Message_Resync:
		c.out.say(from, &nodes.Message{Body: &nodes.Message_Beat{Beat: c.beat}}, true) // where it is, before who is there
		c.subs.tellAll(from, b.Resync.Nonce)
		c.tellRevocations(from)
	case *nodes.Message_Revocations:
		c.takeRevocations(b.Revocations)
	case *nodes.Message_Broken:
		c.broken(from)
	case *nodes.Message_Sending:
		c.sending(from, b.Sending)
	case *nodes.Message_Told:
		c.told(from, b.Told)
	case *nodes.Message_SenderToken:
		c.senderToken(from, b.SenderToken)
	case *nodes.Message_SenderGone:
		c.senderGone(from, b.SenderGone)
	}
}

// unproven reports whether a message is of a node that has not shown yet that it lives,
// and counts only if it has: it may be a repetition of what was recorded. Its node, if it
// is one, hears that it was not taken in.
func (c *cluster) unproven(from nodes.NodeID, m *nodes.Message) bool {
	switch m.GetBody().(type) {
	case *nodes.Message_Beat, *nodes.Message_Users, *nodes.Message_Resync, *nodes.Message_Broken:
		return false
	}
	c.mu.RLock()
	proven := c.view.Proven(from)
	c.mu.RUnlock()
	if !proven {
		c.stats.odd.Inc()
		c.out.say(from, &nodes.Message{Body: &nodes.Message_Broken{Broken: &nodes.Broken{}}}, true)
	}
	return !proven
}

// checkedUsers takes out what cannot be a user: a node of another version may say more
// than this one knows, and a broken one anything.
func checkedUsers(u *nodes.Users) *nodes.Users {
	good := u.Users[:0]
	for _, user := range u.Users {
		if wire.CheckApp(user.App) == nil && wire.CheckUser(user.User) == nil && user.Epoch <= maxEpoch &&
			(user.Gone || wire.CheckInstance(user.Instance, true) == nil) {
			good = append(good, user)
		}
	}
	u.Users = good
	return u
}

// users takes in what a node says of its users.
func (c *cluster) users(from nodes.NodeID, u *nodes.Users, e *nodes.Effects) {
	u = checkedUsers(u)
	for _, user := range u.Users {
		c.srv.dir.clock.heard(user.Epoch)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view.Users(from, u, e)
}

// effects tells those whom a change concerns.
func (c *cluster) effects(e *nodes.Effects) {
	for _, id := range e.New {
		c.out.begin(id)
		c.srv.log.Info("a node is there", "node", id)
	}
	for _, id := range e.Lost {
		if slices.Contains(e.Deaf, id) {
			c.srv.log.Warn("a node does not hear this one: its users cannot be reached", "node", id)
		} else {
			c.srv.log.Warn("a node is gone", "node", id)
		}
		c.broken(id)
		c.out.forget(id)
	}
	for _, id := range e.Broken {
		c.srv.log.Warn("something that a node said was lost: what is under way with it begins again", "node", id)
		c.out.say(id, &nodes.Message{Body: &nodes.Message_Broken{Broken: &nodes.Broken{}}}, true)
		c.broken(id)
	}
	for _, id := range e.Resync {
		c.mu.RLock()
		nonce := c.view.Asked(id)
		c.mu.RUnlock()
		c.out.say(id, &nodes.Message{Body: &nodes.Message_Resync{Resync: &nodes.Resync{Nonce: nonce}}}, true)
	}
	for _, p := range e.Changed {
		c.retireListener(placeOf(p))
	}
	for _, p := range e.Came {
		c.came(placeOf(p))
	}
	for _, p := range e.Changed {
		c.seeks.found(placeOf(p))
		c.srv.presence.changed(p.App, p.User)
	}
}

// there is the place as other nodes name it.
func (p place) there() nodes.Place { return nodes.Place{App: p.app, User: p.user} }

func placeOf(p nodes.Place) place { return place{p.App, p.User} }

// came looks what it means for this node that a user is at another one. Of two sessions
// the one with the higher epoch stays (case 96); what the user was receiving here goes
// on there.
func (c *cluster) came(p place) {
	if c == nil {
		return
	}
	c.mu.RLock()
	node, there := c.view.Find(p.there())
	c.mu.RUnlock()
	if node == nil {
		return
	}
	if here := c.srv.listener(p.app, p.user); here != nil {
		if nodes.Newer(here.epoch, c.self, there.Epoch, node.ID) {
			c.subs.tell(p) // it may not have heard of ours
			return
		}
		here.giveWay(there.Instance)
	}
	for _, s := range c.index.of(p) {
		s.away.moved(s, p.user, node.ID)
	}
	c.srv.transfers.moved(p, there.Instance)
}

// broken ends what this node and another have under way with each other, as a broken
// line does: whoever waits for something hears of it and asks again.
func (c *cluster) broken(id nodes.NodeID) {
	var receivers, gone, here []*session
	c.mu.Lock()
	for p, s := range c.listeners {
		if s.far.node == id {
			delete(c.listeners, p)
			delete(c.routes, s.far.route)
			receivers = append(receivers, s)
		}
	}
	for key, s := range c.senders {
		if key.node == id {
			delete(c.senders, key)
			gone = append(gone, s)
		}
	}
	for _, s := range c.away {
		here = append(here, s)
	}
	c.mu.Unlock()
	for _, s := range receivers {
		s.retire()
	}
	for _, s := range gone {
		c.endSender(s, false)
	}
	for _, s := range here {
		s.away.broken(s, id)
	}
}

// carrier returns where a user is, if that is another node.
func (c *cluster) carrier(app, user string) (id nodes.NodeID, url string, there bool) {
	if c == nil {
		return 0, "", false
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	node, _ := c.view.Find(nodes.Place{App: app, User: user})
	if node == nil {
		return 0, "", false
	}
	return node.ID, node.URL, true
}

// presence returns how a user is who may be at another node.
func (c *cluster) presence(app, user string) *wire.Presence {
	p := &wire.Presence{User: user}
	if c == nil {
		return p
	}
	c.mu.RLock()
	node, s := c.view.Find(nodes.Place{App: app, User: user})
	c.mu.RUnlock()
	if node != nil {
		p.Status, p.DoNotDisturb = statusOnline, s.DoNotDisturb
		if s.Busy {
			p.Status = statusBusy
		}
	}
	return p
}

// names adds to names those of an app at other nodes for whom want is true.
func (c *cluster) names(app string, names []string, want func(user string) bool) []string {
	if c == nil {
		return names
	}
	known := make(map[string]struct{}, len(names))
	for _, name := range names {
		known[name] = struct{}{}
	}
	var far []string
	c.mu.RLock()
	c.view.Each(app, func(user string) {
		if _, there := known[user]; !there {
			known[user] = struct{}{}
			far = append(far, user)
		}
	})
	c.mu.RUnlock()
	for _, user := range far { // want may ask the operator's hook
		if want(user) {
			names = append(names, user)
		}
	}
	return names
}

// handler is what the other nodes' lanes come to.
func (c *cluster) handler() http.Handler { return http.HandlerFunc(c.serveCarried) }
