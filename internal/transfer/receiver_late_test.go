package transfer

import (
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// A Finish that comes when the transfer is not open any more is answered from the
// record, or opens nothing that nobody would close again.
func TestLateFinishLeavesNothingOpen(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		name   string
		record ReceiverRecord
		over   bool
		want   ReceiverDo
	}{
		{"a part", ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: 5, Size: 10}, true, ReceiverForget},
		{"nothing", ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_UNKNOWN}, true, ReceiverForget},
		{"have", ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_HAVE}, false, ReceiverSendVerdict},
		{"cancelled", ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_CANCELLED}, false, ReceiverSendVerdict},
	} {
		r := NewReceiver(ReceiverConfig{Record: c.record, Idle: time.Minute, Jitter: half}, true, now)
		actions := r.Step(now, ReceiverFinish{})
		if len(actions) != 1 || actions[0].Do != c.want || r.Over() != c.over {
			t.Errorf("%s: %+v, over %v; want %v, over %v", c.name, actions, r.Over(), c.want, c.over)
		}
		if _, wakes := r.Wake(); !wakes && !r.Over() {
			t.Errorf("%s: it stays for ever", c.name)
		}
	}
}
