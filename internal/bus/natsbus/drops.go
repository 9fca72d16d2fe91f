package natsbus

import (
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// drops counts what nats.go has thrown away because too much waited for the handler.
// nats.go says so of the first message alone, for each subscription, until one gets
// through again; the numbers are with the subscriptions.
type drops struct {
	wake chan struct{} // has one in it if there may be something to tell

	mu   sync.Mutex // guards told
	told map[*nats.Subscription]int
}

func newDrops() *drops {
	return &drops{wake: make(chan struct{}, 1), told: make(map[*nats.Subscription]int)}
}

// begun says that a subscription has lost a message.
func (d *drops) begun(sub *nats.Subscription) {
	d.mu.Lock()
	d.told[sub] += 0
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// take returns how many were lost since the last call.
func (d *drops) take() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	sum := 0
	for sub, told := range d.told {
		n, err := sub.Dropped()
		if err != nil { // it was cancelled
			delete(d.told, sub)
			continue
		}
		sum += n - told
		d.told[sub] = n
	}
	return sum
}

// watch logs losses, at most once per second, until done is closed. While full says so
// more may come of which nats.go says nothing.
func (d *drops) watch(done <-chan struct{}, full func() bool, log *slog.Logger) {
	for {
		select {
		case <-d.wake:
		case <-done:
			return
		}
		for lost := d.take(); lost > 0 || full(); lost = d.take() {
			if lost > 0 {
				log.Warn("bus: messages are lost, because too many wait", "messages", lost)
			}
			select {
			case <-time.After(time.Second):
			case <-done:
				return
			}
		}
	}
}
