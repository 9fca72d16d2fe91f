package transfer

import (
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// A receiver whose session has come to another node may still have a lane at the one
// before. What it got there is asked for: nobody else would ever tell this node.
func TestRelayAsksAReceiverThatHasMoreThanWasRelayedHere(t *testing.T) {
	r := RebuildRelay(relayTestConfig(10), relayEpoch)
	relayWant(t, r, RelayReceiverUp{}, RelayInterrupted, RelaySendQuery)
	relayWant(t, r, RelayStanding{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Size: 10}, RelayInterrupted)
	relayWant(t, r, RelayReceived{Offset: 4}, RelayInterrupted, RelaySendQuery)
	relayWant(t, r, RelayReceived{Offset: 10}, RelayInterrupted) // it is asked once
	relayWant(t, r, RelayStanding{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Size: 10, Offset: 10}, RelayVerifying)
	if r.Confirmed() != 10 {
		t.Errorf("%d confirmed, want 10", r.Confirmed())
	}
}

// A receiver leaves a transfer that nobody goes on with. A sender who comes back before
// the relay has forgotten it finds nobody who reads: he is asked.
func TestRelayAsksForTheLaneOfAReceiverThatHasLeft(t *testing.T) {
	r := NewRelay(relayTestConfig(10), relayEpoch)
	relayWant(t, r, RelayOfferArrived{}, RelayOffered)
	relayWant(t, r, RelayReceiverUp{}, RelayOffered, RelaySendOffer)
	relayWant(t, r, relayAccept(0), RelayAccepted, RelaySendAccepted)
	relayWant(t, r, RelayUpJoined{}, RelayAccepted)
	for at, want := range map[time.Duration]int{9 * time.Second: 0, 10 * time.Second: 1} {
		n := 0
		again := *r
		for _, do := range relayStep(t, &again, relayEpoch.Add(at), RelayTick{}) {
			if do == RelaySendQuery {
				n++
			}
		}
		if n != want {
			t.Errorf("after %v it is asked %d times, want %d", at, n, want)
		}
	}
}
