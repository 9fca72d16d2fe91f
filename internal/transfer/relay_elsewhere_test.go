package transfer

import (
	"testing"

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
