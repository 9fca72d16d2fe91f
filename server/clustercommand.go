package server

import (
	"google.golang.org/protobuf/proto"

	nodes "github.com/dian-im/dian/internal/cluster"
	"github.com/dian-im/dian/internal/wire"
)

// deliver says a command to the node of its receiver, for whom to stands in.
func (f *far) deliver(to *session, frame *wire.Frame, from commandSource) error {
	_, address, _ := from.sender()
	return asLink(f.c.out.sayBy(f.node, false, func(dst []byte) ([]byte, error) {
		return nodes.AppendDeliver(dst, to.app, to.epoch, f.route, address, frame)
	}))
}

// A farCommand is the source of a command that came from another node.
type farCommand struct {
	c             *cluster
	node          nodes.NodeID
	route, ref    uint64 // of the other node
	user, address string
}

func (f *farCommand) commandDone(_ int, r *resultFrame) bool {
	return f.c.out.sayBy(f.node, true, func(dst []byte) ([]byte, error) {
		return nodes.AppendDelivered(dst, f.route, f.ref, &r.frame)
	}) == nil
}

func (f *farCommand) sender() (user, address, via string) { return f.user, f.address, viaSession }

// deliver passes a command that another node has allowed to a session of this one. It
// is checked like a client's. A session that is not the one that was meant, or not
// there any more, is a line that broke: the sender's own node knows better where the
// user is by now.
func (c *cluster) deliver(from nodes.NodeID, d *nodes.Delivery) {
	cmd := d.Frame.GetCommand()
	source := &farCommand{
		c: c, node: from, route: d.Route, ref: cmd.Ref, user: cmd.GetSource().GetUser(), address: d.Address,
	}
	var r resultFrame
	if wire.CheckApp(d.App) != nil || wire.CheckUser(source.user) != nil {
		c.stats.odd.Inc()
		return
	}
	if refusal := checkCommand(cmd); refusal != nil {
		c.stats.odd.Inc()
		r.refuse(cmd.Id, refusal.Code, refusal.Detail)
		source.commandDone(0, &r)
		return
	}
	to := c.srv.listener(d.App, cmd.Target)
	if to == nil || to.epoch != d.Epoch {
		r.set(cmd.Id, wire.CommandOutcome_COMMAND_OUTCOME_LOST, wire.PeerNoAnswer, wire.Origin_ORIGIN_SERVER, "the receiver is at another place")
		source.commandDone(0, &r)
		return
	}
	sh := to.shares.get(source.user)
	defer sh.leave()
	if refusal := c.srv.pass(d.Frame, cmd, cmd.Source, source, nil, commandSize(cmd), to, sh); refusal != nil {
		r.refuse(cmd.Id, refusal.Code, refusal.Detail)
		source.commandDone(0, &r)
	}
}

// delivered takes in what became of a command at another node.
func (c *cluster) delivered(from nodes.NodeID, d *nodes.Result) {
	res := d.Frame.GetCommandResult()
	c.mu.RLock()
	to := c.routes[d.Route]
	c.mu.RUnlock()
	if to == nil || to.far.node != from || wire.CheckCommandResult(res) != nil {
		c.stats.late.Inc()
		return
	}
	p, ok := to.pending.take(d.Ref, res.Id)
	if !ok {
		c.stats.late.Inc()
		return
	}
	to.settled(p)
	r := &c.results
	r.set(res.Id, res.Outcome, wire.Code(res.Code), res.Origin, res.Detail)
	r.result.Next, r.result.Reply, r.result.Header = res.Next, res.Reply, res.Header
	p.from.commandDone(p.size, r) // the receiver's node has written the audit
}

// forwardLater looks for the receiver of a command and passes it on then. It reports
// false if nobody can be asked where the receiver is.
func (s *session) forwardLater(c *wire.Command, size int) bool {
	if s.srv.cluster == nil {
		return false
	}
	f := &wire.Frame{Body: &wire.Frame_Command{Command: proto.CloneOf(c)}} // the reader uses its memory again
	return s.srv.cluster.seek(place{s.app, c.Target}, func() {
		c := f.GetCommand()
		to := s.srv.reach(s.app, c.Target)
		var sh *share
		if to != nil {
			sh = to.shares.get(s.user)
			defer sh.leave()
		}
		refusal := s.srv.pass(f, c, s.peer, s, nil, size, to, sh)
		if refusal == nil {
			return
		}
		if refusal.Code == wire.PeerOffline {
			s.party.absent()
		}
		s.srv.audit.refusedCommand(s.token(), viaSession, c, refusal)
		var r resultFrame
		r.refuse(c.Id, refusal.Code, refusal.Detail)
		s.commandDone(size, &r)
	})
}
