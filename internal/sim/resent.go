package sim

import "time"

// A standing is how much the receiver had of a task from a moment on.
type standing struct {
	from   time.Time
	offset int64
}

// stands notes how much the receiver has now, or would have after a kill.
func (h *history) stands(sendID string, offset int64) {
	p := h.of(sendID)
	p.stood = append(p.stood, standing{h.w.now, offset})
}

// lineOf notes when bob's session breaks and comes back: in between nobody hears
// from him how much he has.
func (h *history) lineOf(up bool) {
	if up {
		h.deaf = false
		h.heard = h.w.now
	} else if !h.deaf {
		h.deaf, h.unheard = true, h.w.now
	}
}

// opened checks where an up-lane begins. What the receiver had and could tell of is
// not sent again: at most what it took within its last Received, which comes every
// 100 ms, and a few trips through the network, is.
func (h *history) opened(t *outTask, at int64) {
	slack := 250*time.Millisecond + 5*h.w.latency
	since := h.w.now.Add(-slack)
	if h.deaf || h.w.now.Sub(h.heard) < slack {
		since = h.unheard.Add(-slack)
	}
	p := h.of(t.id)
	least, known := int64(0), false
	for i := len(p.stood) - 1; i >= 0; i-- {
		s := p.stood[i]
		if !known || s.offset < least {
			least, known = s.offset, true
		}
		if s.from.Before(since) {
			p.stood = p.stood[i:]
			break
		}
	}
	if h.w.bus != nil && !h.w.calm() {
		return // somebody may not know where bob is
	}
	if known && at < min(least, t.size-1) && len(h.w.places()) == 1 {
		h.w.fail("%s: a lane begins at %d, and the receiver has had %d since %v", t.id, at, least, h.w.now.Sub(since))
	}
}
