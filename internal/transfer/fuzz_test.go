package transfer

import (
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// FuzzRelay feeds the server's machine with any events, in any order. It does not
// panic, counts within bounds, has one end, and that stays (cases 13, 15, 17 and 80).
func FuzzRelay(f *testing.F) {
	const size = 100
	f.Add(uint8(0), []byte{0, 0, 14, 0, 5, 3, 15, 3, 17, 97, 1, 0, 8, 0, 3, 0})
	f.Add(uint8(1), []byte{0, 1, 14, 0, 2, 0, 6, 100, 9, 20, 15, 0})
	f.Add(uint8(2), []byte{14, 0, 9, 255, 13, 0, 14, 0, 9, 50, 4, 0, 20, 200})
	f.Add(uint8(3), []byte{0, 0, 14, 0, 8, 0, 2, 0, 3, 0})
	f.Fuzz(func(t *testing.T, kind uint8, script []byte) {
		now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		cfg := RelayConfig{Size: size, HTTP: kind&1 != 0, Inlined: kind&4 != 0, OfferWait: time.Minute, Window: 2 * time.Minute}
		r := NewRelay(cfg, now)
		if kind&2 != 0 {
			r = RebuildRelay(cfg, now)
		}
		var end RelayVerdict
		ended := false
		for i := 0; i+1 < len(script) && i < 400; i += 2 {
			n := int64(script[i+1]) // frames with less than 0 do not come here
			code := RelayVerdict{Code: wire.Code(script[i+1]), Receipt: wire.Receipt(script[i+1] % 3)}
			events := []RelayEvent{
				RelayOfferArrived{Resent: n&1 != 0}, RelayFinish{}, RelayCancel{}, RelayAcked{}, RelayAborted{Code: 1104},
				RelayAnswered{Decision: 1, Offset: n, Verdict: code}, RelayAnswered{Decision: 2, Verdict: code}, RelayAnswered{Decision: 3, Verdict: code},
				RelayReceived{Offset: n}, RelayStanding{State: wire.TransferState(1 + script[i+1]%4), Offset: n, Size: size, Verdict: code}, RelayJudged{Verdict: code},
				RelayReceived{Offset: n << 55}, RelaySync{}, RelayReceiverDown{}, RelayReceiverUp{}, RelayDownJoined{At: n},
				RelayDownEnded{}, RelayCopied{N: max(0, min(n, size-r.At()))}, RelayUpJoined{}, RelayUpEnded{}, RelayTick{},
			}
			if e, copied := events[int(script[i])%len(events)].(RelayCopied); copied && (!r.down || e.N == 0) {
				continue // nobody copies into no lane
			}
			if e, down := events[int(script[i])%len(events)].(RelayDownJoined); down && (e.At < 0 || e.At > size || r.State().Ended()) {
				continue // parseRange and serveDown
			}
			now = now.Add(time.Duration(script[i+1]) * 200 * time.Millisecond)
			_, _ = r.Step(now, events[int(script[i])%len(events)])
			if r.Confirmed() < 0 || r.Confirmed() > size || r.Synced() > size || r.Relayed() > size || r.At() > size || r.Upload(r.Confirmed()) > size {
				t.Fatalf("confirmed %d, synced %d, relayed %d, at %d of %d", r.Confirmed(), r.Synced(), r.Relayed(), r.At(), size)
			}
			if r.State() != RelayDone && r.Upload(size) == size {
				t.Fatal("a tus client takes the offset for success, without a verdict")
			}
			switch {
			case ended && (!r.State().Ended() || r.Verdict().Code != end.Code):
				t.Fatalf("ended with %v, then %v %v", end.Code, r.State(), r.Verdict().Code)
			case r.State().Ended():
				ended, end = true, r.Verdict()
				if (r.State() == RelayDone) != (end.Code == wire.OK) && !r.Forgotten() {
					t.Fatalf("%v with %v", r.State(), end.Code)
				}
			}
		}
	})
}
