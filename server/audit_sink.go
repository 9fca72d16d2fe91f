package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// An auditSink is a file or a program's Writer.
type auditSink struct {
	path string    // "" if it is no file
	out  io.Writer // owned by the auditor's writer
	file *os.File  // likewise; nil if it is no file

	mu    sync.Mutex    // guards what follows
	fresh *os.File      // opened by reopen; the writer takes it over
	again chan struct{} // closed when there is a fresh one
}

func openAuditSink(a Audit) (*auditSink, error) {
	s := &auditSink{out: a.Writer, again: make(chan struct{})}
	if a.File == auditStdout {
		s.out = os.Stdout
	} else if a.File != "" {
		f, err := openAuditFile(a.File)
		if err != nil {
			return nil, err
		}
		s.path, s.file, s.out = a.File, f, f
	}
	return s, nil
}

// openAuditFile opens a file to append to. If its last line was cut off by a crash
// it ends that, so that the next one is whole.
func openAuditFile(path string) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, fmt.Errorf("audit.file: open %q: %w", path, bare(err))
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fail(errors.New("not a regular file")) // a pipe could block us for ever
	}
	f, err := os.OpenFile(filepath.Clean(path), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fail(err)
	}
	var last [1]byte
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		if _, err = f.ReadAt(last[:], info.Size()-1); err == nil && last[0] != '\n' {
			_, err = f.WriteString("\n")
		}
	}
	if err != nil {
		f.Close()
		return fail(err)
	}
	return f, nil
}

// next takes a fresh file over and reports whether there was one. again is closed
// when the next one comes.
func (s *auditSink) next() (again <-chan struct{}, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fresh != nil {
		s.file.Close()
		s.file, s.out, s.fresh = s.fresh, s.fresh, nil
		s.again = make(chan struct{})
		fresh = true
	}
	return s.again, fresh
}

func (s *auditSink) write(p []byte) (int, error) { return s.out.Write(p) }

// reopen opens the file anew; the writer goes on there.
func (s *auditSink) reopen() error {
	if s.path == "" {
		return nil
	}
	f, err := openAuditFile(s.path)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fresh != nil {
		s.fresh.Close()
	} else {
		close(s.again)
	}
	s.fresh = f
	return nil
}

// close closes the file. A Writer is its owner's to close.
func (s *auditSink) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.file.Close()
	}
	if s.fresh != nil {
		s.fresh.Close()
	}
}

// ReopenAudit opens the file of Config.Audit anew, after it was moved away: the
// next lines go there. Lines that are being written may still go to the old one for
// a moment. It does nothing if the audit goes elsewhere.
func (s *Server) ReopenAudit() error {
	if s.audit == nil {
		return nil
	}
	return s.audit.sink.reopen()
}
