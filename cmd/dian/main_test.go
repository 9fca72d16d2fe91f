package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience bounds every wait of a script for something that must happen.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"dian": main})
}

// TestScripts runs the terminal sessions of testdata/script.
//
// Beside testscript's own commands they have:
//
//	relay [args]          start `dian serve --dev` on a free port, the same again later; set DIAN_SERVER
//	start NAME cmd args   start a program; its output goes to NAME.out and NAME.err
//	terminal NAME cmd …   the same on a terminal, where both come to NAME.out
//	until FILE REGEXP     wait until a file matches
//	signal NAME INT       send a signal: INT, TERM, KILL, HUP
//	ended NAME STATUS     wait for a program's end; a signal's status is 128 + its number
//	status N cmd args     run a program that must end with status N
//	file NAME SIZE        write SIZE bytes of noise
//	zeros NAME SIZE       write SIZE zero bytes, which costs nothing
//	slowly RATE           put a slow line, in bytes a second, before the relay; set DIAN_SERVER to it
//	fast                  take the brake off the slow line
//	resumed NAME          the first progress of NAME.out is more than nothing, and it never falls
//	sameid NAME NAME      the events of both are about one sendID; with ! they are not
//	silent                set DIAN_SERVER to an address that takes connections and says nothing;
//	                      how many there were is in the file connections
//	serverat FILE         set DIAN_SERVER to the address in a file
//	canceltransfer        run `dian admin cancel` for the one transfer that is listed
//	liftall               run `dian admin unrevoke` for all revocations that are listed
//	token FILE USER       make a token of the --dev relay
//	damage FILE           change one bit of a file
//	freeport              set ADMIN to an address that nobody listens on
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Vars = append(env.Vars, "HOME="+env.WorkDir, "XDG_CACHE_HOME="+filepath.Join(env.WorkDir, ".cache"))
			env.Values["session"] = &session{programs: make(map[string]*program)}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"relay":    cmdRelay,
			"start":    func(ts *testscript.TestScript, _ bool, args []string) { launch(ts, args, nil) },
			"terminal": cmdTerminal,
			"until":    cmdUntil,
			"arrived":  cmdArrived,
			"signal":   cmdSignal,
			"ended":    cmdEnded,
			"status":   cmdStatus,
			"file":     cmdFile,
			"zeros": func(ts *testscript.TestScript, _ bool, args []string) {
				var size byteCount
				ts.Check(size.UnmarshalText([]byte(args[1])))
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), nil, 0o600))
				ts.Check(os.Truncate(ts.MkAbs(args[0]), int64(size)))
			},
			"slowly":  cmdSlowly,
			"fast":    func(ts *testscript.TestScript, _ bool, _ []string) { of(ts).line.rate.Store(0) },
			"resumed": cmdResumed,
			"sameid":  cmdSameID,
			"silent":  cmdSilent,
			"canceltransfer": func(ts *testscript.TestScript, _ bool, _ []string) {
				adminListed(ts, "transfers", "sendId", "cancel")
			},
			"liftall": func(ts *testscript.TestScript, _ bool, _ []string) { adminListed(ts, "revocations", "id", "unrevoke") },
			"token":   cmdToken,
			"damage":  cmdDamage,
			"freeport": func(ts *testscript.TestScript, _ bool, _ []string) {
				listener, err := net.Listen("tcp", "127.0.0.1:0")
				ts.Check(err)
				ts.Setenv("ADMIN", listener.Addr().String())
				ts.Check(listener.Close())
			},
			"serverat": func(ts *testscript.TestScript, _ bool, args []string) {
				address := strings.TrimSpace(ts.ReadFile(args[0]))
				ts.Setenv("DIAN_ADDRESS", address)
				ts.Setenv("DIAN_SERVER", "http://"+address)
			},
		},
	})
}

// session is what a script has started. Scripts are one goroutine each.
type session struct {
	programs map[string]*program
	address  string // of the relay
	line     *slowLine
}

func of(ts *testscript.TestScript) *session { return ts.Value("session").(*session) }

type program struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and its output is written
}

// launch starts args[1:] under the name args[0].
func launch(ts *testscript.TestScript, args []string, attach func(*exec.Cmd) (finish func())) {
	if len(args) < 2 {
		ts.Fatalf("usage: NAME cmd args")
	}
	name := args[0]
	path, err := exec.LookPath(args[1])
	ts.Check(err)
	cmd := exec.Command(path, args[2:]...)
	cmd.Dir = ts.Getenv("WORK")
	for _, v := range []string{"PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR", "DIAN_SERVER", "DIAN_USER", "DIAN_TOKEN", "DIAN_TOKEN_FILE", "DIAN_CA", "DIAN_SECRET", "DIAN_ADMIN", "DIAN_ADMIN_TOKEN_FILE", "TERM", "GOCOVERDIR"} {
		if value := ts.Getenv(v); value != "" {
			cmd.Env = append(cmd.Env, v+"="+value)
		}
	}
	finish := func() {}
	if attach == nil {
		var files []*os.File
		for _, to := range []struct {
			suffix string
			field  *io.Writer
		}{{".out", &cmd.Stdout}, {".err", &cmd.Stderr}} {
			f, err := os.Create(ts.MkAbs(name + to.suffix))
			ts.Check(err)
			files = append(files, f)
			*to.field = f
		}
		finish = func() {
			for _, f := range files {
				f.Close()
			}
		}
	} else {
		finish = attach(cmd)
	}
	ts.Check(cmd.Start())
	p := &program{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		cmd.Wait() // its status is read from ProcessState
		finish()
	}()
	of(ts).programs[name] = p
	ts.Defer(func() {
		cmd.Process.Kill()
		<-p.done
		for _, suffix := range []string{".out", ".err"} {
			if text, err := os.ReadFile(ts.MkAbs(name + suffix)); err == nil && len(text) > 0 {
				ts.Logf("%s%s: %s", name, suffix, text[max(0, len(text)-2000):])
			}
		}
	})
}

func cmdRelay(ts *testscript.TestScript, _ bool, args []string) {
	s := of(ts)
	address := s.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	os.Remove(ts.MkAbs("address"))
	launch(ts, append([]string{"relay", "dian", "serve", "--dev", "--listen", address, "--listen-file", "address"}, args...), nil)
	cmdUntil(ts, false, []string{"address", "[0-9]\n"})
	s.address = strings.TrimSpace(ts.ReadFile("address"))
	ts.Setenv("DIAN_SERVER", "http://"+s.address)
}

func cmdUntil(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: until FILE REGEXP")
	}
	want, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		text, _ := os.ReadFile(ts.MkAbs(args[0]))
		if want.Match(text) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%s never matches %s; it has %d bytes: %s", args[0], args[1], len(text), text[max(0, len(text)-2000):])
		}
	}
}

// cmdArrived waits until a received file is like another one. The sender's "stored" comes
// before the receiver's program gives the file its name.
func cmdArrived(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: arrived FILE SENT")
	}
	want, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		got, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && bytes.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: %v, and %d bytes of %d", args[0], err, len(got), len(want))
		}
	}
}

func cmdSignal(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL, "HUP": syscall.SIGHUP}
	if len(args) != 2 || of(ts).programs[args[0]] == nil || signals[args[1]] == nil {
		ts.Fatalf("usage: signal NAME INT")
	}
	ts.Check(of(ts).programs[args[0]].cmd.Process.Signal(signals[args[1]]))
}

func cmdEnded(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 || of(ts).programs[args[0]] == nil {
		ts.Fatalf("usage: ended NAME STATUS")
	}
	p := of(ts).programs[args[0]]
	select {
	case <-p.done:
	case <-time.After(patience):
		ts.Fatalf("%s has not ended", args[0])
	}
	got := p.cmd.ProcessState.ExitCode()
	if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		got = 128 + int(ws.Signal())
	}
	if strconv.Itoa(got) != args[1] {
		ts.Fatalf("%s ended with %d, want %s", args[0], got, args[1])
	}
}

func cmdStatus(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: status N cmd args")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		got = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

func cmdFile(ts *testscript.TestScript, _ bool, args []string) {
	var size byteCount
	if len(args) != 2 {
		ts.Fatalf("usage: file NAME SIZE")
	}
	ts.Check(size.UnmarshalText([]byte(args[1])))
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1: 7}), int64(size))
	ts.Check(err)
}

func cmdResumed(ts *testscript.TestScript, _ bool, args []string) {
	last := int64(0)
	for line := range strings.Lines(ts.ReadFile(args[0] + ".out")) {
		var e struct {
			Event string
			Sent  int64
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			ts.Fatalf("not JSON: %s", line)
		}
		if e.Event != "progress" {
			continue
		}
		if last == 0 && e.Sent < 1<<20 {
			ts.Fatalf("the first progress is %d: it began anew", e.Sent)
		}
		if e.Sent < last {
			ts.Fatalf("progress fell from %d to %d", last, e.Sent)
		}
		last = e.Sent
	}
	if last == 0 {
		ts.Fatalf("no progress")
	}
}

func cmdSilent(ts *testscript.TestScript, _ bool, _ []string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	var running sync.WaitGroup
	running.Go(func() {
		for n := 1; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			if os.WriteFile(ts.MkAbs("connections"), []byte(strconv.Itoa(n)), 0o600) != nil {
				return
			}
		}
	})
	ts.Defer(func() { listener.Close(); running.Wait() })
	ts.Setenv("DIAN_SERVER", "http://"+listener.Addr().String())
}

func cmdSameID(ts *testscript.TestScript, not bool, args []string) {
	ids := make(map[string]bool)
	for _, name := range args {
		for _, m := range regexp.MustCompile(`"sendId":"([^"]*)"`).FindAllStringSubmatch(ts.ReadFile(name+".out"), -1) {
			ids[m[1]] = true
		}
	}
	if (len(ids) == 1) == not {
		ts.Fatalf("%d sendIDs, want one: %v", len(ids), !not)
	}
}

func cmdSlowly(ts *testscript.TestScript, _ bool, args []string) {
	var rate byteCount
	ts.Check(rate.UnmarshalText([]byte(args[0])))
	s := of(ts)
	if s.line == nil {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		s.line = &slowLine{listener: listener, target: s.address, open: make(map[net.Conn]bool)}
		s.line.running.Go(s.line.accept)
		ts.Defer(s.line.close)
	}
	s.line.rate.Store(int64(rate))
	ts.Setenv("DIAN_SERVER", "http://"+s.line.listener.Addr().String())
}

// adminListed runs `dian admin VERB` with what a list's entries have in a member.
func adminListed(ts *testscript.TestScript, list, member, verb string) {
	ts.Check(ts.Exec("dian", "admin", list, "--json"))
	args := []string{"admin", verb}
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		var entry map[string]any
		ts.Check(json.Unmarshal([]byte(line), &entry))
		args = append(args, entry[member].(string))
	}
	ts.Check(ts.Exec("dian", args...))
}

func cmdToken(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: token FILE USER")
	}
	// Not as old as the next one, which would be the same text.
	ts.Check(ts.Exec("dian", "token", "--dev", "--user", args[1], "--ttl", "1h"))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(ts.ReadFile("stdout")), 0o600))
}

func cmdDamage(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	data[len(data)/2] ^= 1
	ts.Check(os.WriteFile(path, data, 0o600))
}
