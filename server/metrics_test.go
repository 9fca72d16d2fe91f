package server

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// TestMetricsTellOfEverything does one of each thing that is counted.
func TestMetricsTellOfEverything(t *testing.T) { // case 56
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob-canary", placeA)
	alice := rt.login("demo", "alice-canary", wire.Role_ROLE_SEND, "")
	id := wire.NewSendID()
	alice.send(commandFrame(&wire.Command{Id: id, Target: "nobody-canary"}))
	alice.next(func(f *wire.Frame) bool { return f.GetCommandResult() != nil })
	rt.want(rt.do(rt.request("PUT", "/v1/users/bob-canary/files/canary", "alice-canary", strings.NewReader("hello"))), 200)
	bob.mu.Lock()
	bob.refuse = uint32(wire.PeerRefused)
	bob.mu.Unlock()
	rt.want(rt.do(rt.request("PUT", "/v1/users/bob-canary/files/canary", "alice-canary", strings.NewReader("hello"))), 403)
	bob.mu.Lock()
	bob.refuse, bob.hold = 0, true
	bob.mu.Unlock()
	o := fileOffer(10)
	o.Target = "bob-canary"
	alice.offer(o)
	eventually(t, func() bool {
		bob.mu.Lock()
		defer bob.mu.Unlock()
		return len(bob.parts) == 3
	})

	var text string
	wants := []string{
		`dian_sessions{protocol="json",role="listen"} 1`,
		`dian_sessions{protocol="json",role="send"} 1`,
		`dian_logins_total{result="0"} 2`,
		`dian_commands_total{result="603"} 1`,
		`dian_transfers{state="offered"} 1`,
		`dian_transfers{state="streaming"} 0`,
		`dian_transfer_results_total{kind="file",receipt="stored",result="0"} 1`,
		`dian_transfer_results_total{kind="file",receipt="",result="606"} 1`,
		`dian_lane_bytes_total 5`,
		`dian_lane_seconds_count{direction="up"} 1`,
		`dian_lane_seconds_count{direction="down"} 1`,
		`dian_commands_pending 0`, `dian_limit_used{limit="offers"} 1`,
		`dian_limit_used{limit="queued_bytes"} 256`, `dian_logins_pending 0`, `dian_panics_total 0`,
	}
	missing := func() string {
		for _, want := range wants {
			if !strings.Contains(text, want+"\n") {
				return want
			}
		}
		return ""
	}
	for end := time.Now().Add(testWait); ; { // a lane is counted at its end, a moment after the answer
		text = rt.want(rt.do(rt.request("GET", "/metrics", "", nil)), 200).body
		if missing() == "" || time.Now().After(end) {
			break
		}
	}
	if want := missing(); want != "" {
		t.Errorf("%s is missing in\n%s", want, text)
	}
	if strings.Contains(text, "canary") || strings.Contains(text, id) {
		t.Error("a name occurs in the metrics")
	}
	for _, label := range regexp.MustCompile(`dian_[a-z_]+\{([^}]*)\}`).FindAllStringSubmatch(text, -1) {
		for pair := range strings.SplitSeq(label[1], ",") {
			switch name, _, _ := strings.Cut(pair, "="); name {
			case "protocol", "role", "result", "state", "kind", "receipt", "direction", "code", "frame", "le", "limit", "scope":
			default:
				t.Errorf("a label %s", name)
			}
		}
	}
}
