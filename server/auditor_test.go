package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// auditLine is a line as programs read it.
type auditLine struct {
	Time                                               time.Time
	Event, App, From, To, Kind, Via, SendID            string
	By, Receipt, Outcome, FromAddress, ToAddress       string
	User, Role, Action, Target, Address                string
	Size, Bytes, ReplyBytes, Code, Ms, Count           int64
	Lines, RefusedTasks, RefusedLogins, Session, Queue int64
	Resent, Had                                        bool
}

// A testSink is an audit's Writer that can fail, stall and take less than it is given.
type testSink struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	err    error
	most   int // of one write; 0: all
	writes int
	stall  chan struct{} // writes wait until it is closed; nil: they do not
	panics bool
}

func (s *testSink) Write(p []byte) (int, error) {
	s.mu.Lock()
	stall, panics := s.stall, s.panics
	s.writes++
	s.mu.Unlock()
	if stall != nil {
		<-stall
	}
	if panics {
		panic("canary-of-a-panic")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		n := min(s.most, len(p))
		s.buf.Write(p[:n])
		return n, s.err
	}
	if s.most > 0 && len(p) > s.most {
		s.buf.Write(p[:s.most])
		return s.most, nil
	}
	return s.buf.Write(p)
}

func (s *testSink) set(change func(*testSink)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *testSink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// parseAudit reads lines, each of which has to be whole.
func parseAudit(t testing.TB, text string) []auditLine {
	t.Helper()
	var all []auditLine
	for line := range strings.Lines(text) {
		var l auditLine
		if err := json.Unmarshal([]byte(line), &l); err != nil || !strings.HasSuffix(line, "}\n") {
			t.Fatalf("not a line: %q (%v)", line, err)
		}
		all = append(all, l)
	}
	return all
}

func (s *testSink) lines(t testing.TB) []auditLine {
	t.Helper()
	return parseAudit(t, s.text())
}

// events are the lines of one kind.
func (s *testSink) events(t testing.TB, event auditEvent) []auditLine {
	t.Helper()
	var of []auditLine
	for _, l := range s.lines(t) {
		if l.Event == string(event) {
			of = append(of, l)
		}
	}
	return of
}

// testStats are metrics of a server that is none.
func testStats() *metrics {
	none, _ := openRevocations("")
	return newMetrics(&Server{revoked: none})
}

// startAuditor runs one in a bubble; the test ends it.
func startAuditor(t *testing.T, a Audit, log io.Writer) *auditor {
	t.Helper()
	if log == nil {
		log = io.Discard
	}
	q, err := newAuditor(a, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	q.start(testStats())
	return q
}

func task(n int) auditRecord {
	return auditRecord{at: time.Now(), task: taskRecord{app: "app", from: "alice", to: "bob", kind: kindCommand, via: viaSession, size: int64(n), begun: time.Now()}}
}

func TestAuditGathersLinesIntoFewWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink testSink
		a := startAuditor(t, Audit{Writer: &sink}, nil)
		for i := range 1000 {
			a.add(task(i))
		}
		time.Sleep(2 * auditGather)
		synctest.Wait()
		lines := sink.lines(t)
		if len(lines) != 1001 || lines[0].Action != "start" { // the relay's own
			t.Fatalf("%d lines, want 1001", len(lines))
		}
		for i, l := range lines[1:] {
			if l.Size != int64(i) {
				t.Fatalf("line %d is of task %d: order", i, l.Size)
			}
		}
		if most := len(sink.text())/auditChunk + 1; sink.writes > most {
			t.Errorf("%d writes, want at most %d", sink.writes, most)
		}
		a.close(t.Context())
		lines = sink.lines(t)
		if last := lines[len(lines)-1]; last.Event != "relay" || last.Action != "stop" {
			t.Errorf("the last line is %+v", last)
		}
	})
}

func TestAuditDropsAndSaysHowMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink testSink
		var log bytes.Buffer
		a := startAuditor(t, Audit{Writer: &sink, Queue: 16}, &log)
		time.Sleep(time.Second)
		sink.set(func(s *testSink) { s.err = errors.New("disk on fire") })
		for i := range 100 {
			if i == 20 { // the writer is at the first ones, and some have found no room already
				time.Sleep(time.Second)
			}
			a.add(task(i))
		}
		time.Sleep(time.Minute)
		if a.refuses() {
			t.Error("drop refuses tasks")
		}
		if waiting, failing := a.state(); waiting != 16 || !failing {
			t.Errorf("%d wait, failing %v; want the bound, and failing", waiting, failing)
		}
		sink.set(func(s *testSink) { s.err = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		tasks, lost := sink.events(t, auditTask), sink.events(t, auditLost)
		if len(tasks) != 16 || len(lost) != 1 || lost[0].Lines != 84 {
			t.Errorf("%d tasks, lost %+v; want 16 and 84", len(tasks), lost)
		}
		for i, l := range tasks {
			if l.Size != int64(i) {
				t.Errorf("line %d is of task %d: the oldest are kept", i, l.Size)
			}
		}
		if n := counterValue(t, a.stats, "dian_audit_lost_total"); n != 84 {
			t.Errorf("dian_audit_lost_total = %v", n)
		}
		a.add(task(7)) // it works again
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(sink.events(t, auditTask)); n != 17 {
			t.Errorf("%d tasks after it works again", n)
		}
		a.close(t.Context())
		if strings.Count(log.String(), "lines cannot be written") != 1 || strings.Count(log.String(), "written again") != 1 {
			t.Errorf("the log says:\n%s", log.String())
		}
	})
}

func TestAuditFailsClosedAndKeepsWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink testSink
		a := startAuditor(t, Audit{Writer: &sink, Queue: 100, WhenFailing: AuditFail}, nil)
		time.Sleep(time.Second)
		if a.refuses() {
			t.Fatal("refuses while all is well")
		}
		sink.set(func(s *testSink) { s.err = errors.New("no") })
		a.add(task(0))
		time.Sleep(time.Second)
		for range 2 {
			if !a.refuses() {
				t.Error("a task is let in although nobody would know of it")
			}
		}
		for i := range 60 { // what runs ends, within the bound
			a.add(task(i + 1))
		}
		sink.set(func(s *testSink) { s.err = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		if a.refuses() {
			t.Error("still refuses")
		}
		if n := len(sink.events(t, auditTask)); n != 61 {
			t.Errorf("%d tasks, want all 61", n)
		}
		if lost := sink.events(t, auditLost); len(lost) != 1 || lost[0].Lines != 0 || lost[0].RefusedTasks != 2 {
			t.Errorf("lost = %+v, want two refused tasks", lost)
		}
		if n := counterValue(t, a.stats, "dian_audit_refused_tasks_total"); n != 2 {
			t.Errorf("dian_audit_refused_tasks_total = %v", n)
		}
		a.close(t.Context())
	})
}

func TestAuditFailsClosedBeforeItIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := testSink{stall: make(chan struct{})}
		a := startAuditor(t, Audit{Writer: &sink, Queue: 100, WhenFailing: AuditFail}, nil)
		time.Sleep(time.Second) // the writer hangs with the first line
		for i := range 48 {
			a.add(task(i))
		}
		a.writing.Store(0) // as if it had only begun
		if a.refuses() {
			t.Error("refuses with the queue half empty")
		}
		a.add(task(48))
		if !a.refuses() {
			t.Error("does not refuse with the queue half full: what runs would find no room")
		}
		for i := range 50 {
			a.add(task(i + 49))
		}
		close(sink.stall)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(sink.events(t, auditTask)); n != 99 || a.refuses() {
			t.Errorf("%d lines, want 99, and tasks to be let in", n)
		}
		a.close(t.Context())
	})
}

func TestAuditFailsClosedWhenAWriteHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := testSink{stall: make(chan struct{})}
		a := startAuditor(t, Audit{Writer: &sink, WhenFailing: AuditFail}, nil)
		time.Sleep(auditStuck - time.Second)
		if a.refuses() {
			t.Error("refuses too early")
		}
		time.Sleep(2 * time.Second)
		if !a.refuses() {
			t.Error("a write that hangs is taken for success")
		}
		close(sink.stall)
		synctest.Wait()
		if a.refuses() {
			t.Error("refuses although it works")
		}
		a.close(t.Context())
	})
}

func TestAuditWritesTheRestAfterAShortWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := testSink{most: 100}
		a := startAuditor(t, Audit{Writer: &sink}, nil)
		for i := range 5 {
			a.add(task(i))
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(sink.lines(t)); n != 6 {
			t.Errorf("%d whole lines, want 6", n)
		}
		sink.set(func(s *testSink) { s.most, s.err = 30, errors.New("no space") })
		a.add(task(5))
		time.Sleep(time.Second)
		sink.set(func(s *testSink) { s.most, s.err = 0, nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(sink.lines(t)); n != 7 {
			t.Errorf("%d whole lines, want 7", n)
		}
		a.close(t.Context())
	})
}

func TestAuditSurvivesAWriterThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := testSink{panics: true}
		var log bytes.Buffer
		a := startAuditor(t, Audit{Writer: &sink}, &log)
		time.Sleep(time.Second)
		sink.set(func(s *testSink) { s.panics = false })
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(sink.lines(t)); n != 1 {
			t.Errorf("%d lines, want 1", n)
		}
		a.close(t.Context())
		if strings.Contains(log.String(), "canary") {
			t.Error("the panic's value is in the log")
		}
	})
}

func TestAuditEndsWithASinkThatDoesNot(t *testing.T) {
	t.Run("fails", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sink := testSink{err: errors.New("no")}
			var log bytes.Buffer
			a := startAuditor(t, Audit{Writer: &sink}, &log)
			for i := range 9 {
				a.add(task(i))
			}
			time.Sleep(time.Minute)
			a.close(t.Context())
			<-a.done
			if !strings.Contains(log.String(), "lines are lost\" lines=11") { // with start and stop
				t.Errorf("the log says:\n%s", log.String())
			}
		})
	})
	t.Run("hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sink := testSink{stall: make(chan struct{})}
			var log bytes.Buffer
			a := startAuditor(t, Audit{Writer: &sink}, &log)
			time.Sleep(time.Second)
			begun := time.Now()
			a.close(t.Context())
			if waited := time.Since(begun); waited != auditLast || !strings.Contains(log.String(), "does not end") {
				t.Errorf("waited %v; the log says:\n%s", waited, log.String())
			}
			close(sink.stall)
			<-a.done
		})
	})
	t.Run("cut off", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sink := testSink{stall: make(chan struct{})}
			a := startAuditor(t, Audit{Writer: &sink}, nil)
			time.Sleep(time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begun := time.Now()
			a.close(ctx)
			if waited := time.Since(begun); waited != time.Second {
				t.Errorf("waited %v, want 1s", waited)
			}
			close(sink.stall)
			<-a.done
		})
	})
}

func TestAuditOfRefusedLoginsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink testSink
		a := startAuditor(t, Audit{Writer: &sink, WhenFailing: AuditFail, Queue: 1000}, nil)
		for range 100_000 { // who has no token fills nothing and shuts nobody out
			a.refusedLogin(claims{address: "192.0.2.1"}, "session", wire.TokenRefused)
		}
		if a.refuses() {
			t.Error("logins without a token shut everybody out")
		}
		time.Sleep(time.Second)
		a.refusedLogin(claims{address: "192.0.2.1"}, "session", wire.TokenRefused)
		time.Sleep(time.Second)
		synctest.Wait()
		logins, lost := sink.events(t, auditLogin), sink.events(t, auditLost)
		if len(logins) != auditRefusalsAtOnce+1 || len(lost) != 1 || lost[0].RefusedLogins != 100_000-auditRefusalsAtOnce {
			t.Errorf("%d lines of logins, lost %+v", len(logins), lost)
		}
		a.close(t.Context())
	})
}

func TestAuditKeepsRoomForTheOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := testSink{stall: make(chan struct{})}
		a := startAuditor(t, Audit{Writer: &sink, Queue: 16}, nil)
		time.Sleep(time.Second)
		for i := range 100 {
			a.add(task(i))
		}
		a.act(actRecord{event: auditAdmin, action: "revoke"})
		close(sink.stall)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := sink.events(t, auditAdmin); len(got) != 1 || got[0].Action != "revoke" {
			t.Errorf("admin lines: %+v", got)
		}
		a.close(t.Context())
	})
}

// counterValue reads a metric without labels.
func counterValue(t *testing.T, m *metrics, name string) float64 {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
