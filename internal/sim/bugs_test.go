package sim

import (
	"cmp"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var allBugs = flag.Bool("sim.bugs", false, "TestSeededBugsAreFound makes all of them, not only the first few")

// A bug is a mistake in one line of the code that is simulated.
type bug struct {
	name, file, line, mistake string
}

// The first of them are made in every run of the tests.
var bugs = []bug{
	{"verdict before the file is flushed", "inbox/part.go",
		"if err := p.file.Sync(); err != nil {", "if err := error(nil); err != nil {"},
	{"offset off by one", "transfer/relay.go",
		"return RelayJoin{Do: RelayCopy, Drop: r.at - p}", "return RelayJoin{Do: RelayCopy, Drop: max(0, r.at-p-1)}"},
	{"lost ledger entry", "inbox/commit.go",
		"if c.err == nil {\n\t\t\trecords = appendRecord", "if c.err == nil && len(b.entries) != 1 {\n\t\t\trecords = appendRecord"},
	{"the application is told twice", "inbox/commit.go",
		"records = appendRecord(records, b.ledger.seed, notifiedPayload(t.file.Key))", "_ = t"},
	{"ledger not flushed", "inbox/ledger.go",
		"if sync {\n\t\tif err := l.file.Sync()", "if false {\n\t\tif err := l.file.Sync()"},
	{"ledger trusted before it is flushed", "inbox/ledger.go",
		"if err = errors.Join(err, l.file.Sync()); err != nil {", "if err != nil {"},
	{"a missing number that nobody sees", "cluster/view.go",
		"gap = !first && number != n.last+1", "gap = false && first"},
	{"a transfer that does not move", "sim/relayed.go",
		"r.step(transfer.RelayMoved{})", "_ = r"},

	{"a small file that is not flushed", "inbox/commit.go",
		`c.err = writeError("flush part", c.file.Sync())`, "c.err = nil"},
	{"folder not flushed", "inbox/commit.go",
		"if err := b.disk.SyncDir(); err != nil {", "if err := error(nil); err != nil {"},
	{"journal before its bytes", "inbox/journal.go",
		"if err := p.file.Datasync(); err != nil {", "if err := error(nil); err != nil {"},
	{"a mark that is not written", "inbox/journal.go",
		`if err := writeWhole(p.box.disk, p.stem+".mark", r.encode(), false); err != nil {`, "if err := error(nil); err != nil {"},
	{"a mark that is believed", "inbox/reopen.go",
		"if !slices.Equal(h.Blocks(), to.blocks) || h.Tail() != to.tail {", "if false {"},
	{"a failed flush that is tried again", "inbox/part.go",
		"err := p.flushAndClose(); err != nil {\n\t\tp.fail(err)\n\t\tp.endLocked(false)\n\t\treturn nil, err", "err := p.flushAndClose(); err != nil {\n\t\t_ = err"},
	{"success by offset alone", "transfer/relay_receiver.go",
		"r.doOffset(RelaySendReceived, c)\n", "r.doOffset(RelaySendReceived, c)\n\t\tif c == r.cfg.Size {\n\t\t\tr.judged(RelayVerdict{Receipt: wire.Receipt_RECEIPT_STORED})\n\t\t}\n"},
	{"the server cancels what is delivered", "transfer/relay_step.go",
		"return r.asking || r.finishSent || r.cfg.Inlined || r.state != RelayOffered && r.relayed == r.cfg.Size", "return false"},
	{"cancel without a word to the receiver", "transfer/relay_step.go",
		"r.withdraw()\n\t\tr.end(RelayCancelled,", "r.end(RelayCancelled,"},
	{"an answer that is not given again", "transfer/receiver_step.go",
		"case r.state == ReceiverDone:\n\t\tr.answer(wire.Decision_DECISION_HAVE)", "case r.state == ReceiverDone:"},
	{"a byte more than is here", "transfer/receiver_step.go",
		"r.offset = min(max(offset, 0), r.size)\n\tr.move", "r.offset = min(offset+1, r.size)\n\tr.move"},
	{"Finish is not said again", "transfer/relay_receiver.go",
		"r.stream()\n\tr.sendFinish()", "r.stream()"},
	{"a command that is known is delivered again", "command/receiver.go",
		"case c.GetResent() && !r.never(c):", "case false:"},
	{"commands overtake each other", "command/receiver.go",
		"case seq > s.next:\n\t\treturn nil, r.gap(c, s.next)", "case seq > s.next:\n\t\ts.next = seq"},
	{"a lost command is not sent again", "command/sender.go",
		"o.hold(c, true)\n\tcase c.resent", "o.resolve(Outcome{Command: c, Code: wire.PeerOffline})\n\tcase c.resent"},
	{"progress before it is confirmed", "transfer/sender_lane.go",
		"s.wrote = e.Offset\n", "s.wrote = e.Offset\n\ts.out = append(s.out, SenderAction{Do: SenderProgress, Offset: e.Offset})\n"},
	{"a cancel that spins", "transfer/sender_clock.go",
		"sooner(s.next)\n\t\tsooner(s.finalAt)", "sooner(s.next)\n\t\tsooner(s.stallAt())\n\t\tsooner(s.finalAt)"},

	// What follows is about clusters. The files of sim are models of package server's. What
	// two mends prevent, each by itself, is not here: leaving out one of them is no bug.
	{"beats without numbers", "sim/outbox.go",
		"b.Lines = append(b.Lines, &nodes.Line{Node: uint64(id), Number: d.number})", "_ = id"},
	{"a break of which one side alone knows", "sim/cluster.go",
		"c.out.say(id, broken{}, true)\n\t\tc.broken(id)", "c.broken(id)"},
	{"a resync that is not in order with changes", "sim/herald.go",
		"h.c.out.pages(to, []any{page})", "h.c.s.after(50*time.Millisecond, func() { h.c.out.pages(to, []any{page}) })"},
	{"two sessions that both stay", "sim/cluster.go",
		"c.s.giveWay(here, there.Instance)", "_ = here"},
	{"a client that its own login shuts out", "sim/server.go",
		"l.kicked = l.place != place; !l.kicked {", "l.kicked = l.place != place; false {"},
	{"a cancel that moves and is not asked again", "transfer/relay_step.go",
		"r.do(RelaySendAgain)", "r.do(RelaySendUnknown)"},
	{"a cancel that takes 8 for an offer's end", "transfer/sender_step.go",
		"if first && !(s.cancelling && r.Code == wire.ServiceFault) {", "if first {"},
	{"a frame from before the break", "sim/away.go",
		"if !open {", "if !open && false {"},
	{"a stand-in that outlives its session", "sim/away.go",
		"at := l.spoken\n", "at := l.spoken[:0]\n"},
	{"a lane that waits for one who has left", "transfer/relay_step.go",
		"r.waits = now\n\t\tr.query()", "r.waits = now"},
	{"a whole HEAD that asks for no verdict", "transfer/sender_lane.go",
		"s.later(now, SenderSendOffer, 0)\n\t\ts.whole()", "s.whole()"},
	{"a cancel whose end nobody hears", "sim/away.go",
		"if f.what == sendCancel {", "if false {"},
	{"a request that is carried on and on", "sim/carry.go",
		"c == nil || q.carried || s.listener() != nil", "c == nil || s.listener() != nil"},
}

// rare are bugs that only one world in more than 50,000 finds, and where it is looked for.
var rare = map[string]string{"a lane that waits for one who has left": "189900"}

// TestSeededBugsAreFound makes one mistake at a time in a copy of the code and wants
// the simulator to find it: a checker that finds nothing proves nothing.
func TestSeededBugsAreFound(t *testing.T) {
	some, tries := bugs[:8], "6000"
	if *allBugs {
		some, tries = bugs, "50000" // rare ones among them
	}
	found := regexp.MustCompile(`seed \d+: .*`)
	for _, b := range some {
		t.Run(strings.ReplaceAll(b.name, " ", "-"), func(t *testing.T) {
			path, err := filepath.Abs(filepath.Join("..", b.file))
			if err != nil {
				t.Fatal(err)
			}
			code, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(code), b.line); n != 1 {
				t.Fatalf("%s has %q %d times, want it once", b.file, b.line, n)
			}
			dir := t.TempDir()
			wrong := filepath.Join(dir, filepath.Base(b.file))
			if err := os.WriteFile(wrong, []byte(strings.Replace(string(code), b.line, b.mistake, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: wrong}})
			if err != nil {
				t.Fatal(err)
			}
			list := filepath.Join(dir, "overlay.json")
			if err := os.WriteFile(list, overlay, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-vet=off", "-overlay", list, "-run", "^TestSeeds$",
				".", "-sim.seeds="+tries, "-sim.first="+cmp.Or(rare[b.name], "1"), "-timeout=10m").CombinedOutput()
			what := found.Find(out)
			if err == nil || what == nil {
				t.Fatalf("%s seeds did not find it: %v\n%s", tries, err, out[max(0, len(out)-2000):])
			}
			t.Logf("%.160s", what)
		})
	}
}
