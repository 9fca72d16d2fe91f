package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	relay "github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// elsewhere is said of a transfer that is bound to a place which is not the user's
// any more.
const elsewhere = "the user is at another place now"

// A proposal is an offer with all that the server knows of it.
type proposal struct {
	offer    *wire.Offer // as the sender made it
	claims   claims
	instance string   // the sender's, or ""
	session  *session // the sender's; nil for an HTTP sender
	party    *party   // the sender's
	put      bool     // that HTTP sender's request is a PUT
}

// via is how the offer came, for the audit.
func (p proposal) via() string {
	switch {
	case p.session != nil:
		return viaSession
	case p.put:
		return viaPut
	}
	return viaTus
}

// propose takes an offer in, a first or a repeated one: authorises it, finds or
// makes its transfer and attaches the sender. The error is the sender's verdict.
func (ts *transfers) propose(ctx context.Context, p proposal) (*transfer, error) {
	o := p.offer
	if err := wire.CheckOffer(o); err != nil {
		return nil, err
	}
	if no := ts.srv.allow(ctx, p.claims, VerbSend, o.Target, kindName(o.Kind)); no != nil {
		return nil, no
	}
	key := transferKey{p.claims.App, p.claims.User, o.Target, o.SendId}
	for range 8 { // others may be at the same transfer at the same time
		ts.mu.Lock()
		known := ts.table[key]
		ts.mu.Unlock()
		listener := ts.srv.listener(key.app, key.target)
		if known != nil {
			t, err := known.proposeAgain(p, listener)
			if t != nil || err != nil {
				return t, err
			}
		}
		// Only now: what is under way goes on when a Reload has lowered the limit.
		if ts.tooLarge(key.app, o.Kind, o.Size) {
			return nil, &wire.Error{Code: wire.FileTooLarge}
		}
		if listener == nil {
			p.party.absent()
			return nil, &wire.Error{Code: wire.PeerOffline}
		}
		if len(o.Instance) > 0 && string(o.Instance) != listener.instance {
			return nil, &wire.Error{Code: wire.BadSendID, Detail: elsewhere}
		}
		if ts.srv.stopping() {
			return nil, &wire.Error{Code: wire.ServiceFault, Detail: "the server is stopping"}
		}
		if no := ts.srv.audit.mayBegin(); no != nil {
			return nil, no
		}
		what := &transferID{
			App: key.app, Source: key.source, Target: key.target, Kind: o.Kind, Size: o.Size,
			Send: sendBytes(o.SendId), Instance: listener.instance, HTTP: p.session == nil,
		}
		if what.HTTP && o.Digest != nil {
			what.Digest = string(o.Digest.Value)
		}
		t, err := ts.add(what, relay.NewRelay(ts.machineConfig(what, o.Inlined), time.Now()), known, p.party, o)
		if errors.Is(err, errBusy) {
			continue
		}
		if err != nil {
			return nil, err
		}
		t.mu.Lock()
		t.trail.via, t.trail.inlined = p.via(), o.Inlined
		t.offerLocked(p)
		t.attachLocked(listener)
		t.mu.Unlock()
		return t, nil
	}
	return nil, &wire.Error{Code: wire.PeerBusy, Detail: "too many offers of this id at once"}
}

// proposeAgain takes in the offer of a transfer that is known. It returns nothing
// if the transfer has to be replaced by a new one.
func (t *transfer) proposeAgain(p proposal, listener *session) (*transfer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	state := t.m.State()
	moved := listener != nil && listener.instance != t.what.Instance
	named := len(p.offer.Instance) > 0
	switch {
	case t.m.Forgotten(),
		(state == relay.RelayRefused || state == relay.RelayFailed) && (t.what.HTTP || t.m.Acked()):
		return nil, nil // a failed one may be offered again
	case named && string(p.offer.Instance) != t.what.Instance:
		return nil, &wire.Error{Code: wire.BadSendID, Detail: "another place took it"}
	case p.offer.Size != t.what.Size || p.offer.Kind != t.what.Kind || (p.session == nil) != t.what.HTTP:
		return nil, &wire.Error{Code: wire.BadSendID, Detail: "the id names another content"}
	case !state.Ended() && moved:
		// The place that was asked is not the user's any more, and no other goes on
		// with what it has.
		if named {
			t.senderLocked(p)
			t.stepLocked(relay.RelayAborted{Code: wire.BadSendID, Detail: elsewhere})
			return t, nil
		}
		t.sender, t.earlier = nil, nil
		t.trail.replaced = true
		t.stepLocked(relay.RelayAborted{Code: wire.BadSendID, Detail: "offered again to another place"})
		return nil, nil
	}
	if state == relay.RelayOffered && p.offer.Inlined && t.receiver != nil && !t.receiver.roomy() {
		// Not 602: the first one may have arrived. After 8 it is offered again.
		return nil, &wire.Error{Code: wire.ServiceFault, Detail: "the peer reads too slowly"}
	}
	t.offerLocked(p)
	return t, nil
}

// senderLocked attaches the sender's session.
func (t *transfer) senderLocked(p proposal) {
	if t.sender != p.session {
		t.late.received, t.late.told = false, false
		t.earlier = t.sender
	}
	t.sender = p.session
	if t.sender != nil && !t.sender.live() {
		t.sender = nil
	}
	if p.claims.Expires.After(t.upUntil) {
		t.upUntil = p.claims.Expires
	}
	t.trail.from = p.claims.address
	t.origin = &wire.Peer{User: t.what.Source, Instance: []byte(p.instance)}
}

// offerLocked attaches the sender and passes its offer on if there is need.
func (t *transfer) offerLocked(p proposal) {
	t.senderLocked(p)
	if t.m.State() == relay.RelayOffered {
		o := p.offer
		t.name = o.Name
		t.offer = &wire.Offer{
			SendId: o.SendId, Target: o.Target, Kind: o.Kind, Size: o.Size, Name: o.Name, Type: o.Type,
			Meta: o.Meta, Header: o.Header, Inlined: o.Inlined, Inline: o.Inline, Digest: o.Digest,
			Source: t.origin, Transfer: t.id, Url: lanePathPrefix + t.id, Ticket: t.ticket,
		}
	}
	t.stepLocked(relay.RelayOfferArrived{Resent: p.offer.Resent})
}

// attachLocked attaches the receiver's session, if it is of the bound instance.
func (t *transfer) attachLocked(sess *session) {
	if sess == nil || t.receiver == sess || sess.instance != t.what.Instance || sess.role != wire.Role_ROLE_LISTEN ||
		!sess.live() { // its end looks for us only if it comes later than this
		return
	}
	if t.ticket == "" {
		t.ticket = t.ts.srv.cluster.ticket(t.id)
	}
	t.receiver = sess
	t.forgetLateLocked()
	t.trail.to = sess.address
	t.dnToken = sess.token()
	if t.offer != nil && t.offer.Ticket != t.ticket {
		t.offer = proto.CloneOf(t.offer) // the old one may be in a queue
		t.offer.Ticket = t.ticket
	}
	t.stepLocked(relay.RelayReceiverUp{})
}

// rebuild finds a transfer by its id, or makes it from it (docs/protocol.md §7.4).
// The claims have to be the source's, and have to allow it to send to the target (case
// 41); only a cancel of what is known here needs no leave.
func (ts *transfers) rebuild(ctx context.Context, id string, c claims, from *party, cancel bool) (*transfer, error) {
	unknown := &wire.Error{Code: wire.BadSendID, Detail: "no such transfer"}
	what, err := decodeTransferID(id)
	if err != nil || what.App != c.App || what.Source != c.User {
		return nil, unknown // somebody else's does not exist for this user (cases 37, 39)
	}
	for range 8 {
		t := ts.find(id)
		known := t != nil && !t.forgotten()
		if !known || !cancel {
			if no := ts.srv.allow(ctx, c, VerbSend, what.Target, kindName(what.Kind)); no != nil {
				return nil, no
			}
		}
		if known {
			return t, nil
		}
		if ts.tooLarge(what.App, what.Kind, what.Size) {
			return nil, &wire.Error{Code: wire.FileTooLarge}
		}
		if t == nil {
			// The same task may be there under another id: bound to another
			// instance, or of another size. Then this one is a thing of the past.
			ts.mu.Lock()
			other := ts.table[transferKey{what.App, what.Source, what.Target, what.sendID()}]
			ts.mu.Unlock()
			if other != nil && other.id != id && !other.forgotten() {
				return nil, unknown
			}
			t = other
			if l := ts.srv.listener(what.App, what.Target); l != nil && l.instance != what.Instance {
				return nil, unknown
			}
		}
		made, err := ts.add(what, relay.RebuildRelay(ts.machineConfig(what, false), time.Now()), t, from, nil)
		if errors.Is(err, errBusy) {
			continue
		}
		if err != nil {
			return nil, err
		}
		made.mu.Lock()
		made.trail.from = c.address
		made.attachLocked(ts.srv.listener(what.App, what.Target))
		if cancel && what.HTTP {
			// Before the receiver can say that it does not know it: that ends a cancel well.
			made.stepLocked(relay.RelayCancel{})
		}
		made.mu.Unlock()
		return made, nil
	}
	return nil, &wire.Error{Code: wire.PeerBusy}
}

// tooLarge reports whether a file is over the app's limit.
func (ts *transfers) tooLarge(app string, kind wire.Kind, size int64) bool {
	limit := ts.srv.maxFileBytes(app)
	return kind == wire.Kind_KIND_FILE && limit > 0 && size > limit
}

func (t *transfer) forgotten() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m.Forgotten()
}
