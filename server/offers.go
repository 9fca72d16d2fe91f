package server

import (
	"sync"

	"github.com/dian-im/dian/internal/wire"
)

// An offersFrom is what senders have under way to one user. Of all that the user
// may be sent at a time one sender has a quarter at most, so that no other is shut
// out by it. The zero value works.
type offersFrom struct {
	mu sync.Mutex
	by map[string]*underWay // guarded by mu; no zeros
}

// underWay is what one sender has.
type underWay struct {
	transfers, offers int64
	kept, inline      int64 // bytes of the offers
}

// quarter is one sender's part of a receiver's row.
func quarter(most int64) int64 { return max(1, most/4) }

// An opened is what a transfer is charged with, until it has ended.
type opened struct {
	from    party // the sender
	to      *holder[place]
	offered bool  // not answered
	kept    int64 // bytes that the server keeps of its offer until then
	inline  int64 // and those that it only passes on
}

// open charges a transfer to its sender, and what is offered to its receiver. The
// first party is the sender's; offer is nil for one that was rebuilt.
func (q *quota) open(from *party, to place, offer *wire.Offer) (*opened, *wire.Error) {
	o := &opened{from: *from}
	if no := from.claim(cellTransfers, countTransfers, 0); no != nil {
		return nil, no
	}
	undo := func(no *wire.Error) (*opened, *wire.Error) {
		from.unclaim(countTransfers, len(nearest))
		return nil, no
	}
	if offer != nil {
		if no := from.claim(cellOffers, countOffers, 0); no != nil {
			return undo(no)
		}
		o.offered, o.inline = true, int64(len(offer.Inline))
		o.kept = int64(len(offer.Name)+len(offer.Type)+len(offer.Meta)+len(offer.Header)) + commandOverhead
	}
	o.to = q.users.hold(to, q.now())
	if no := o.arrive(from.user.key.user); no != nil {
		if o.offered {
			from.unclaim(countOffers, len(nearest))
		}
		o.to.release(q.now())
		return undo(no)
	}
	o.from = from.again()
	return o, nil
}

// arrive counts it at the receiver, whose limits are the sender's: it is the same
// app.
func (o *opened) arrive(sender string) *wire.Error {
	q, most := o.from.q, &o.from.app.limits.Load().user.most
	full := func(c cell, detail string) *wire.Error {
		return q.over(cellNames[c], scopeUser, wire.PeerBusy, detail)
	}
	kept := most[cellQueued] / 4 // of all offers: they go out again when the receiver is back
	free := commandShare(most[cellQueued]) - o.to.used[countQueued].Load()
	if o.offered {
		if no := o.from.mayKeep(o.kept+o.inline, wire.OverLimit); no != nil {
			return no
		}
	}
	from := &o.to.from
	from.mu.Lock()
	defer from.mu.Unlock()
	mine := from.by[sender]
	if mine == nil {
		mine = &underWay{}
	}
	switch {
	case mine.transfers >= quarter(most[cellTransfers]):
		return full(cellTransfers, "too many transfers of this user to the peer")
	case o.offered && mine.offers >= quarter(most[cellOffers]):
		return full(cellOffers, "too many offers of this user to the peer")
	case o.offered && mine.kept > 0 && mine.kept+o.kept > quarter(kept):
		return full(cellOffers, "too large offers of this user to the peer")
	case o.offered && mine.inline+o.inline+o.kept > free: // as for commands, see share
		return full(cellQueued, "the peer reads too slowly")
	case !o.to.add(countTransfersIn, 1, most[cellTransfers]):
		return full(cellTransfers, "too many transfers to the peer")
	case o.offered && !o.to.add(countOffersIn, 1, most[cellOffers]):
		o.to.add(countTransfersIn, -1, 0)
		return full(cellOffers, "too many offers to the peer")
	case o.offered && !o.to.add(countKeptIn, o.kept, kept):
		o.to.add(countTransfersIn, -1, 0)
		o.to.add(countOffersIn, -1, 0)
		return full(cellOffers, "too large offers to the peer")
	}
	mine.transfers++
	if o.offered {
		mine.offers++
		mine.kept += o.kept
		mine.inline += o.inline
		o.from.keep(o.kept)
	}
	if from.by == nil {
		from.by = map[string]*underWay{}
	}
	from.by[sender] = mine
	return nil
}

// answered gives back what an offer costs beyond its transfer.
func (o *opened) answered() {
	if !o.offered {
		return
	}
	o.offered = false
	o.from.unclaim(countOffers, len(nearest))
	o.from.keep(-o.kept)
	o.to.add(countOffersIn, -1, 0)
	o.to.add(countKeptIn, -o.kept, 0)
	o.to.from.mu.Lock()
	defer o.to.from.mu.Unlock()
	mine := o.to.from.by[o.from.user.key.user]
	mine.offers--
	mine.kept -= o.kept
	mine.inline -= o.inline
}

// ended gives back all of it.
func (o *opened) ended() {
	o.answered()
	o.from.unclaim(countTransfers, len(nearest))
	o.to.add(countTransfersIn, -1, 0)
	sender := o.from.user.key.user
	o.to.from.mu.Lock()
	mine := o.to.from.by[sender]
	if mine.transfers--; mine.transfers == 0 {
		delete(o.to.from.by, sender)
	}
	o.to.from.mu.Unlock()
	o.to.release(o.from.q.now())
	o.from.release()
}
