package transfer

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dian-im/dian/internal/wire"
)

var relayEpoch = time.Unix(1_700_000_000, 0)

func relayTestConfig(size int64) RelayConfig {
	return RelayConfig{Size: size, OfferWait: 45 * time.Second, Window: 2 * time.Minute}
}

// relayStep steps and returns what the machine asked for.
func relayStep(t *testing.T, r *Relay, now time.Time, e RelayEvent) []RelayDo {
	t.Helper()
	actions, err := r.Step(now, e)
	if err != nil {
		t.Fatalf("%T: %v", e, err)
	}
	var what []RelayDo
	for _, a := range actions {
		what = append(what, a.Do)
	}
	return what
}

func relayWant(t *testing.T, r *Relay, e RelayEvent, state RelayState, want ...RelayDo) {
	t.Helper()
	got := relayStep(t, r, relayEpoch, e)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%T: actions (-want +got):\n%s", e, diff)
	}
	if r.State() != state {
		t.Errorf("%T: state = %v, want %v", e, r.State(), state)
	}
}

func relayAccept(offset int64) RelayAnswered {
	return RelayAnswered{Decision: wire.Decision_DECISION_ACCEPT, Offset: offset}
}

func TestRelayCalmCourse(t *testing.T) {
	r := NewRelay(relayTestConfig(10), relayEpoch)
	relayWant(t, r, RelayOfferArrived{}, RelayOffered)
	relayWant(t, r, RelayReceiverUp{}, RelayOffered, RelaySendOffer)
	relayWant(t, r, relayAccept(0), RelayAccepted, RelaySendAccepted)
	relayWant(t, r, RelayDownJoined{}, RelayAccepted)
	relayWant(t, r, RelayUpJoined{}, RelayStreaming)
	relayWant(t, r, RelayCopied{N: 6}, RelayStreaming)
	relayWant(t, r, RelayReceived{Offset: 4}, RelayStreaming, RelaySendReceived)
	relayWant(t, r, RelayReceived{Offset: 3}, RelayStreaming)
	relayWant(t, r, RelayCopied{N: 4}, RelayVerifying)
	relayWant(t, r, RelayFinish{}, RelayVerifying, RelaySendFinish)
	relayWant(t, r, RelayUpEnded{}, RelayVerifying)
	relayWant(t, r, RelayJudged{}, RelayDone, RelaySendReceived, RelaySendVerdict, RelayEndUp, RelayEndDown)
	relayWant(t, r, RelayOfferArrived{}, RelayDone, RelaySendVerdict)
	relayWant(t, r, RelayAcked{}, RelayDone, RelaySendVerdictAck)
	relayWant(t, r, RelayJudged{}, RelayDone, RelaySendVerdictAck)
}

func TestRelayPlaysTheHTTPSender(t *testing.T) {
	cfg := relayTestConfig(0)
	cfg.HTTP, cfg.Digest = true, &wire.Digest{Algorithm: wire.DigestSHA256}
	r := NewRelay(cfg, relayEpoch)
	relayWant(t, r, RelayReceiverUp{}, RelayOffered, RelaySendOffer)
	relayWant(t, r, relayAccept(0), RelayVerifying, RelaySendAccepted, RelaySendFinish)
	relayWant(t, r, RelayJudged{}, RelayDone, RelaySendVerdict, RelayEndUp, RelayEndDown, RelaySendVerdictAck)
}

// relayStreaming returns a machine that has relayed n of 10 bytes.
func relayStreaming(t *testing.T, n int64) *Relay {
	r := NewRelay(relayTestConfig(10), relayEpoch)
	for _, e := range []RelayEvent{RelayReceiverUp{}, relayAccept(0), RelayDownJoined{}, RelayUpJoined{}, RelayCopied{N: n}} {
		relayStep(t, r, relayEpoch, e)
	}
	return r
}

func TestRelayCancelBeforeTheLastByteIsTheServers(t *testing.T) {
	r := relayStreaming(t, 9)
	relayWant(t, r, RelayCancel{}, RelayCancelled, RelaySendCancel, RelaySendVerdict, RelayEndUp, RelayEndDown)
	relayWant(t, r, RelayReceiverDown{}, RelayCancelled)
	relayWant(t, r, RelayReceiverUp{}, RelayCancelled, RelaySendCancel) // until it says so
	relayWant(t, r, RelayJudged{RelayVerdict{Code: wire.Cancelled}}, RelayCancelled, RelaySendVerdictAck)
	relayWant(t, r, RelayReceiverUp{}, RelayCancelled)
}

func TestRelayCancelAfterTheLastByteIsTheReceivers(t *testing.T) {
	for code, want := range map[wire.Code]RelayState{wire.OK: RelayDone, wire.Cancelled: RelayCancelled} {
		r := relayStreaming(t, 10)
		relayWant(t, r, RelayCancel{}, RelayVerifying, RelaySendCancel)
		relayStep(t, r, relayEpoch, RelayJudged{RelayVerdict{Code: code}})
		if r.State() != want {
			t.Errorf("after code %d: %v, want %v", code, r.State(), want)
		}
	}
}

func TestRelayAsksAfterFiveSecondsWithoutWord(t *testing.T) {
	r := relayStreaming(t, 4)
	if got := relayStep(t, r, relayEpoch.Add(4*time.Second), RelayTick{}); got != nil {
		t.Errorf("after 4 s: %v", got)
	}
	if got := relayStep(t, r, relayEpoch.Add(5*time.Second), RelayTick{}); len(got) != 1 || got[0] != RelaySendSync {
		t.Errorf("after 5 s: %v, want a Sync", got)
	}
}

func TestRelayForgetsAfterTheResumeWindow(t *testing.T) {
	r := relayStreaming(t, 4)
	relayStep(t, r, relayEpoch.Add(2*time.Minute-time.Second), RelayTick{})
	if r.State() != RelayStreaming {
		t.Fatalf("too early: %v", r.State())
	}
	relayStep(t, r, relayEpoch.Add(2*time.Minute), RelayTick{})
	if r.State() != RelayFailed || r.Verdict().Code != wire.ConnectionLost || !r.Forgotten() {
		t.Errorf("state %v, verdict %v", r.State(), r.Verdict())
	}
}

func TestRelayWithdrawsAnOfferThatNobodyAnswers(t *testing.T) {
	r := NewRelay(relayTestConfig(10), relayEpoch)
	relayStep(t, r, relayEpoch, RelayReceiverUp{})
	got := relayStep(t, r, relayEpoch.Add(45*time.Second), RelayTick{})
	if diff := cmp.Diff([]RelayDo{RelaySendCancel, RelaySendVerdict, RelayEndUp, RelayEndDown}, got); diff != "" {
		t.Error(diff)
	}
	if r.Verdict().Code != wire.PeerNoAnswer {
		t.Errorf("code %v", r.Verdict().Code)
	}
}

func TestRelayRebuiltAsksTheReceiver(t *testing.T) {
	for _, c := range []struct {
		standing RelayStanding
		state    RelayState
		offset   int64
		forgot   bool
	}{
		{RelayStanding{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: 7, Size: 10}, RelayInterrupted, 7, false},
		{RelayStanding{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: 10, Size: 10}, RelayVerifying, 10, false},
		{RelayStanding{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: 7, Size: 11}, RelayFailed, 0, true},
		{RelayStanding{State: wire.TransferState_TRANSFER_STATE_HAVE}, RelayDone, 10, false},
		{RelayStanding{State: wire.TransferState_TRANSFER_STATE_CANCELLED}, RelayCancelled, 0, false},
		{RelayStanding{State: wire.TransferState_TRANSFER_STATE_UNKNOWN}, RelayFailed, 0, true},
	} {
		r := RebuildRelay(relayTestConfig(10), relayEpoch)
		relayWant(t, r, RelayReceiverUp{}, RelayInterrupted, RelaySendQuery)
		relayStep(t, r, relayEpoch, c.standing)
		if r.State() != c.state || r.Confirmed() != c.offset || r.Forgotten() != c.forgot {
			t.Errorf("%v: %v at %d, forgotten %v", c.standing, r.State(), r.Confirmed(), r.Forgotten())
		}
	}
}

func TestRelayIgnoresAnAnswerFromBeforeTheOffer(t *testing.T) {
	cfg := relayTestConfig(10)
	cfg.Inlined = true
	for _, old := range []RelayStanding{
		{State: wire.TransferState_TRANSFER_STATE_UNKNOWN},
		{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: 3, Size: 11},
	} {
		r := NewRelay(cfg, relayEpoch)
		relayWant(t, r, RelayReceiverUp{}, RelayOffered, RelaySendOffer)
		relayWant(t, r, RelayReceiverDown{}, RelayOffered)
		relayWant(t, r, RelayReceiverUp{}, RelayOffered, RelaySendQuery)
		relayWant(t, r, RelayOfferArrived{}, RelayOffered, RelaySendOffer)
		relayWant(t, r, RelayCancel{}, RelayOffered, RelaySendCancel)
		relayWant(t, r, old, RelayOffered) // the receiver did not know the offer then
		relayWant(t, r, RelayJudged{}, RelayDone, RelaySendReceived, RelaySendVerdict, RelayEndUp, RelayEndDown)
	}
}

// relayVerifying returns a machine whose receiver has all 10 bytes.
func relayVerifying(t *testing.T) *Relay {
	r := relayStreaming(t, 10)
	relayStep(t, r, relayEpoch, RelayFinish{})
	relayStep(t, r, relayEpoch, RelayReceived{Offset: 10})
	return r
}

func TestRelayWaitsForAVerifyingReceiverThatAnswers(t *testing.T) {
	partial := RelayStanding{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: 10, Size: 10}
	for _, answer := range []RelayEvent{partial, RelayReceived{Offset: 10}} {
		r := relayVerifying(t)
		questions := 0
		for second := range 3600 {
			now := relayEpoch.Add(time.Duration(second) * time.Second)
			for _, do := range relayStep(t, r, now, RelayTick{}) {
				if do == RelaySendQuery {
					questions++
					if diff := cmp.Diff([]RelayDo{RelaySendReceived}, relayStep(t, r, now, answer)); diff != "" {
						t.Fatalf("%T: the sender is not told of the life (-want +got):\n%s", answer, diff)
					}
				}
			}
			if r.State() != RelayVerifying {
				t.Fatalf("%T: after %d s: %v", answer, second, r.State())
			}
		}
		if questions != 59 {
			t.Errorf("%T: asked %d times in an hour, want once a minute", answer, questions)
		}
	}
}

func TestRelayForgetsAVerifyingReceiverThatIsSilent(t *testing.T) {
	for name, lose := range map[string]bool{"silent": false, "away": true} {
		r := relayVerifying(t)
		if lose {
			relayStep(t, r, relayEpoch, RelayReceiverDown{})
		}
		for second := range 121 {
			relayStep(t, r, relayEpoch.Add(time.Duration(second)*time.Second), RelayTick{})
		}
		if !r.Forgotten() {
			t.Errorf("%s: still %v", name, r.State())
		}
	}
}

func TestRelayRefusesNumbersOutsideOfTheContent(t *testing.T) { // case 15
	const huge = 1<<63 - 1
	for _, e := range []RelayEvent{relayAccept(11), relayAccept(huge)} {
		r := NewRelay(relayTestConfig(10), relayEpoch)
		if _, err := r.Step(relayEpoch, e); err == nil {
			t.Errorf("%v was taken", e)
		}
	}
	for _, e := range []RelayEvent{RelayReceived{11}, RelayReceived{huge}, RelayDownJoined{-1}, RelayDownJoined{huge}} {
		if _, err := relayStreaming(t, 4).Step(relayEpoch, e); err == nil {
			t.Errorf("%v was taken", e)
		}
	}
}

// TestRelayKeepsItsPromises throws everything at a machine at any time.
func TestRelayKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(0, 20).Draw(t, "size")
		cfg := relayTestConfig(size)
		cfg.HTTP = rapid.Bool().Draw(t, "http")
		cfg.Inlined = !cfg.HTTP && rapid.Bool().Draw(t, "inlined")
		now := relayEpoch
		r := NewRelay(cfg, now)
		if rapid.Bool().Draw(t, "rebuilt") && !cfg.Inlined {
			r = RebuildRelay(cfg, now)
		}
		offset := rapid.Int64Range(-1, size+1)
		code := rapid.SampledFrom([]wire.Code{wire.OK, wire.Cancelled, wire.DigestMismatch, wire.PeerRefused})
		verdict := func() RelayVerdict { return RelayVerdict{Code: code.Draw(t, "code")} }
		ends := 0
		var verdicts []wire.Code
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "seconds")) * time.Second)
			var e RelayEvent
			lower := false
			// What ends a transfer is rare here, or nothing else would be seen.
			switch kind := rapid.IntRange(0, 31).Draw(t, "event"); kind {
			case 0:
				e = RelayOfferArrived{}
			case 1:
				e = RelayFinish{}
			case 2, 3, 4:
				e = relayAccept(max(0, offset.Draw(t, "at")))
				lower = true
			case 5, 6, 7, 8, 9:
				e = RelayReceived{max(0, offset.Draw(t, "at"))}
			case 10:
				e = RelayStanding{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: max(0, min(size, offset.Draw(t, "at"))), Size: size}
				lower = true
			case 11, 12:
				e = RelayReceiverUp{}
			case 13:
				e = RelayReceiverDown{}
			case 14, 15, 16:
				e = RelayUpJoined{}
			case 17:
				e = RelayUpEnded{}
			case 18, 19, 20:
				e = RelayDownJoined{offset.Draw(t, "at")}
				lower = true
			case 21:
				e = RelayDownEnded{}
			case 22, 23, 24, 25, 26:
				if r.State() != RelayStreaming {
					continue // nothing runs that could copy
				}
				e = RelayCopied{rapid.Int64Range(0, size-r.At()).Draw(t, "n")}
			case 27:
				e = RelaySync{}
			case 28:
				e = RelayTick{}
			case 29:
				e = RelayAcked{}
			default:
				switch rapid.IntRange(0, 8).Draw(t, "rare") {
				case 0:
					e = RelayCancel{}
				case 1:
					e = RelayJudged{verdict()}
				case 2:
					e = RelayAnswered{Decision: wire.Decision(rapid.IntRange(2, 3).Draw(t, "decision")), Verdict: verdict()}
				case 3:
					e = RelayStanding{State: wire.TransferState(rapid.IntRange(1, 4).Draw(t, "state")), Size: size, Verdict: verdict()}
					lower = true
				case 4:
					e = RelayAborted{Code: wire.BadSendID}
				case 5:
					now = now.Add(time.Minute)
					e = RelayTick{}
				default:
					e = RelayTick{}
				}
			}
			before, confirmed, relayed := r.State(), r.Confirmed(), r.Relayed()
			actions, err := r.Step(now, e) // panics on a move that is not in the drawing
			if err != nil && (r.State() != before || r.Confirmed() != confirmed) {
				t.Fatalf("%T: an error changed something", e)
			}
			for _, a := range actions {
				if a.Do == RelaySendVerdict {
					verdicts = append(verdicts, r.Verdict().Code)
				}
				if a.Offset < 0 || a.Offset > size {
					t.Fatalf("%T: offset %d", e, a.Offset)
				}
			}
			if !before.Ended() && r.State().Ended() {
				ends++
			}
			if r.Confirmed() > r.Relayed() || r.Relayed() > size || r.Synced() > r.Relayed() || r.At() > size || r.At() < 0 {
				t.Fatalf("%T: confirmed %d, synced %d, relayed %d of %d, at %d", e, r.Confirmed(), r.Synced(), r.Relayed(), size, r.At())
			}
			if r.Relayed() < relayed || !lower && r.Confirmed() < confirmed {
				t.Fatalf("%T: relayed %d → %d, confirmed %d → %d", e, relayed, r.Relayed(), confirmed, r.Confirmed())
			}
			if u := r.Upload(r.Confirmed()); u == size && size > 0 && r.State() != RelayDone {
				t.Fatalf("%T: a tus client is told %d in %v", e, u, r.State())
			}
		}
		if ends > 1 || ends == 0 && r.State().Ended() {
			t.Fatalf("%d ends", ends)
		}
		for _, v := range verdicts {
			if v != verdicts[0] {
				t.Fatalf("verdicts %v", verdicts)
			}
		}
	})
}

// A receiver that has all bytes and no Finish is not at work: however often it says
// how it stands, the sender has to come within the window.
func TestRelayWaitsForFinishNoLongerThanTheWindow(t *testing.T) {
	r := NewRelay(relayTestConfig(10), relayEpoch)
	for _, e := range []RelayEvent{RelayOfferArrived{Resent: true}, RelayReceiverUp{}, relayAccept(10)} {
		relayStep(t, r, relayEpoch, e)
	}
	partial := RelayStanding{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: 10, Size: 10}
	for after := time.Second; after < 2*time.Minute; after += time.Second {
		now := relayEpoch.Add(after)
		relayStep(t, r, now, RelayTick{})
		relayStep(t, r, now, RelayReceived{Offset: 10})
		relayStep(t, r, now, partial)
	}
	if relayStep(t, r, relayEpoch.Add(2*time.Minute), RelayTick{}); r.State() != RelayFailed {
		t.Errorf("state = %v, want %v", r.State(), RelayFailed)
	}
}

// What a broken lane had still brought may be told after the receiver was asked how
// it stands.
func TestRelayReceivedAfterStanding(t *testing.T) {
	for offset, want := range map[int64]RelayState{9: RelayInterrupted, 10: RelayVerifying} {
		r := relayStreaming(t, 10)
		relayWant(t, r, RelayFinish{}, RelayVerifying, RelaySendFinish)
		relayStep(t, r, relayEpoch, RelayDownEnded{})
		relayStep(t, r, relayEpoch, RelayReceiverDown{})
		relayStep(t, r, relayEpoch, RelayReceiverUp{})
		relayStep(t, r, relayEpoch, RelayStanding{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: 4, Size: 10})
		if r.State() != RelayInterrupted || r.At() != 4 {
			t.Fatalf("before: %v at %d", r.State(), r.At())
		}
		relayStep(t, r, relayEpoch, RelayReceived{Offset: offset})
		if r.State() != want || r.At() != offset {
			t.Errorf("received %d: %v at %d, want %v there", offset, r.State(), r.At(), want)
		}
	}
}
