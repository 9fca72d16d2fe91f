package test

import (
	"bufio"
	"encoding/json"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// A seat is a program that is started again whenever it ends, as an init system
// would do it, and that a storm may kill and stop at any moment.
type seat struct {
	w    *storm
	role string
	// next returns the program to run now, or nil if there is nothing to do.
	next func(life int) *exec.Cmd
	// line takes an event in. It has w.mu.
	line func(life int, e event)

	// Guarded by w.mu.
	lives   int
	running *exec.Cmd
	stdin   io.Closer
	kills   int // that were the end of a life
	stops   int
	quit    bool // no new life
	done    chan struct{}
}

// keep gives the seat one life after the other until it has to quit.
func (s *seat) keep() {
	defer close(s.done)
	for {
		s.w.mu.Lock()
		if s.quit {
			s.w.mu.Unlock()
			return
		}
		life := s.lives
		cmd := s.next(life)
		s.w.mu.Unlock()
		if cmd == nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		s.live(life, cmd)
	}
}

func (s *seat) live(life int, cmd *exec.Cmd) {
	w := s.w
	out, err := cmd.StdoutPipe()
	if err == nil {
		cmd.Stderr = writerFunc(func(b []byte) (int, error) { w.heard(s.role, b); return len(b), nil })
		s.stdin, err = cmd.StdinPipe()
	}
	w.mu.Lock()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		w.fault("%s does not start: %v", s.role, err)
		s.quit = true
		w.mu.Unlock()
		return
	}
	s.running = cmd
	s.lives++
	w.mu.Unlock()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue // cut short by a kill, or meant for people
		}
		w.mu.Lock()
		if s.line != nil {
			s.line(life, e)
		}
		w.mu.Unlock()
	}
	cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	w.mu.Lock()
	defer w.mu.Unlock()
	s.running = nil
	if status.Signaled() && status.Signal() == syscall.SIGKILL {
		s.kills++
	}
}

// signal sends a signal to the present life, if there is one.
func (s *seat) signal(sig syscall.Signal) bool {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.running != nil && s.running.Process.Signal(sig) == nil
}

// stop freezes the present life for a while.
func (s *seat) stop(d time.Duration) {
	s.w.mu.Lock()
	cmd := s.running
	if cmd == nil || cmd.Process.Signal(syscall.SIGSTOP) != nil {
		s.w.mu.Unlock()
		return
	}
	s.stops++
	s.w.mu.Unlock()
	time.Sleep(d)
	cmd.Process.Signal(syscall.SIGCONT) // it may be dead by now
}

// end lets the present life end in good order, and gives the seat no other.
func (s *seat) end() {
	s.w.mu.Lock()
	s.quit = true
	if s.running != nil {
		s.running.Process.Signal(syscall.SIGCONT)
		s.running.Process.Signal(syscall.SIGTERM)
	}
	s.w.mu.Unlock()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.w.mu.Lock()
		s.w.fault("%s does not end on SIGTERM", s.role)
		s.w.mu.Unlock()
		s.signal(syscall.SIGKILL)
		<-s.done
	}
}
