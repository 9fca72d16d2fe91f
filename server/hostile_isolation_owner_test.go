package server

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// What TestIsolation wants to be refused is not refused to those whose it is.
func TestOwnersMayDoWhatOthersMayNot(t *testing.T) {
	request := func(method string, status int) func(*island, *wire.Offer) {
		return func(w *island, o *wire.Offer) {
			w.t.Helper()
			resp, body := w.r.do(method, o.Url, w.token("alice"), nil, "Tus-Resumable", "1.0.0")
			if resp.StatusCode != status {
				w.t.Errorf("%d %s, want %d", resp.StatusCode, body, status)
			}
		}
	}
	frame := func(of func(w *island) *islander, make func(o *wire.Offer) *wire.Frame, kind string) func(*island, *wire.Offer) {
		return func(w *island, o *wire.Offer) {
			w.t.Helper()
			before := w.snapshot()
			of(w).send(make(o))
			synctest.Wait()
			after := w.snapshot()
			got, _ := w.alice.told()
			if _, kinds, _, _ := framesText(got); after == before || kinds != kind {
				w.t.Errorf("changed: %v; alice was told %v, want %s", after != before, got, kind)
			}
		}
	}
	alice, bob := func(w *island) *islander { return w.alice }, func(w *island) *islander { return w.bob }
	verdict := func(o *wire.Offer) *wire.Frame {
		return &wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{Transfer: o.Transfer, Receipt: wire.Receipt_RECEIPT_STORED}}}
	}
	for name, do := range map[string]func(*island, *wire.Offer){
		"HEAD":   request("HEAD", http.StatusOK),
		"DELETE": request("DELETE", http.StatusNoContent),
		"GET": func(w *island, o *wire.Offer) {
			resp, _ := w.r.do("GET", o.Url, "", nil, "Authorization", "Ticket "+o.Ticket, "Range", "bytes=5-6")
			if resp.StatusCode != http.StatusServiceUnavailable { // nothing to send yet
				w.t.Errorf("%d", resp.StatusCode)
			}
		},
		"Cancel": frame(alice, func(o *wire.Offer) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{Transfer: o.Transfer}}}
		}, "Verdict"),
		"Cancel of the sendID": frame(alice, func(o *wire.Offer) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{SendId: o.SendId}}}
		}, "Verdict"),
		"Standing": frame(bob, func(o *wire.Offer) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_Standing{Standing: &wire.Standing{Transfer: o.Transfer, State: wire.TransferState_TRANSFER_STATE_CANCELLED}}}
		}, "Verdict"),
		"Verdict": frame(bob, verdict, "Received Verdict"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newIsland(t)
				defer w.end()
				do(w, w.viaSession)
			})
		})
	}
}

// The right to send is asked for on every path, also for what is under way: a token that
// allows less than the one before, or the operator's hook, stops it (case 41). A
// cancel of what is under way is nothing that anybody has to be kept from.
func TestWhatIsUnderWayIsAskedForToo(t *testing.T) { // case 41
	for _, by := range []string{"the token", "the operator"} {
		t.Run(by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newIsland(t)
				defer w.end()
				token := w.token("alice")
				if by == "the token" {
					token = relayToken(t, victimApp, "alice", time.Hour, []string{"carol"}, nil)
				} else {
					w.banned = "alice"
				}
				headers := []string{"Tus-Resumable", "1.0.0", "Content-Type", tusContentType, "Upload-Offset", strconv.Itoa(islandFrom)}
				for _, o := range []*wire.Offer{w.viaSession, w.viaHTTP} {
					for _, method := range []string{"HEAD", "PATCH"} {
						resp, body := w.r.do(method, o.Url, token, bytes.NewReader(w.content[islandFrom:]), headers...)
						if resp.StatusCode != http.StatusForbidden {
							t.Errorf("%s: %d %s, want 403", method, resp.StatusCode, body)
						}
					}
					if resp, body := w.r.do("DELETE", o.Url, token, nil, headers...); resp.StatusCode != http.StatusNoContent {
						t.Errorf("DELETE: %d %s, want 204", resp.StatusCode, body)
					}
				}
			})
		})
	}
}

// A session that was kicked, or whose token is over, can send what it likes: nothing
// of it counts any more.
func TestNothingOfAnEndedSessionCounts(t *testing.T) { // cases 34, 35 and 39
	cells := 0
	for _, protocol := range []string{wire.ProtoSubprotocol, wire.JSONSubprotocol} {
		for _, why := range []wire.Code{wire.Kicked, wire.TokenExpired} {
			synctest.Test(t, func(t *testing.T) {
				var old *testPeer
				login := func(w *island, token string, role wire.Role) {
					old = w.r.dial(protocol)
					old.send(helloFrame(&wire.Hello{Token: token, Role: role, Instance: instanceOf(actorPlace)}))
					if f := old.next(); f.GetWelcome() == nil {
						t.Fatalf("no Welcome: %v", f)
					}
				}
				a := isolationActor{name: "bob, before", app: victimApp, user: "bob", send: "*", see: "*"}
				w := newIsland(t, func(w *island) {
					if why == wire.Kicked { // by bob's login
						login(w, w.token("bob"), wire.Role_ROLE_LISTEN)
					}
				})
				defer w.end()
				if why == wire.TokenExpired {
					a.name, a.user = "alice, before", "alice"
					login(w, relayToken(t, victimApp, "alice", 5*time.Second, nil, []string{"*"}), wire.Role_ROLE_SEND)
					time.Sleep(5 * time.Second)
				}
				synctest.Wait()
				for _, p := range w.messages(a, map[string]string{"its own": w.token(a.user)}) {
					cells++
					before := w.snapshot()
					old.send(p.frame)
					synctest.Wait()
					w.calm(fmt.Sprintf("%s, behind LineOff(%d), %s: %v", a.name, why, protocol, p), before, a, "")
				}
				f := old.next()
				for f.GetTokenWillExpire() != nil {
					f = old.next()
				}
				if wire.Code(f.GetLineOff().GetCode()) != why {
					t.Errorf("got %v, want LineOff(%d)", f, why)
				}
				old.ended(websocket.ClosePolicyViolation)
				w.goOn()
			})
		}
	}
	t.Logf("%d cells", cells)
}
