package dian

import (
	"sync"
	"time"

	"github.com/dian-im/dian/internal/inbox"
	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// verdicts is what is remembered, in this process alone, of buffers and of what
// was written to an application's writer: 7 days, a cancel 24 hours, and not more
// than verdictsMost.
type verdicts struct {
	mu   sync.Mutex // guards what follows
	by   map[inbox.Key]knownVerdict
	list []inbox.Key // in order of time
}

type knownVerdict struct {
	transfer.ReceiverVerdict
	at time.Time
}

const (
	verdictsMost     = 1 << 16
	verdictsKeep     = 7 * 24 * time.Hour
	verdictsKeepGone = 24 * time.Hour
)

func newVerdicts() *verdicts { return &verdicts{by: map[inbox.Key]knownVerdict{}} }

func (v *verdicts) find(key inbox.Key, now time.Time) (transfer.ReceiverVerdict, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	k, ok := v.by[key]
	keep := verdictsKeep
	if k.Code != wire.OK {
		keep = verdictsKeepGone
	}
	if !ok || now.Sub(k.at) > keep {
		return transfer.ReceiverVerdict{}, false
	}
	return k.ReceiverVerdict, true
}

func (v *verdicts) add(key inbox.Key, verdict transfer.ReceiverVerdict, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, known := v.by[key]; !known {
		v.list = append(v.list, key)
	}
	v.by[key] = knownVerdict{verdict, now}
	for len(v.list) > verdictsMost || now.Sub(v.by[v.list[0]].at) > verdictsKeep {
		delete(v.by, v.list[0])
		v.list = v.list[1:]
	}
}
