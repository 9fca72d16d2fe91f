package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/term"

	"github.com/dian-im/dian"
)

// A console is what a verb reads from and writes to. Any goroutine may write;
// lines do not mix, not with progress bars either.
type console struct {
	// Set by newConsole or before the first line, then only read.
	in       io.Reader
	out, err *os.File
	json     bool          // events on out instead of text
	broken   chan struct{} // closed at the first error of writing to out

	mu      sync.Mutex // guards what follows
	bars    *bars      // shown on err, or nil
	failure error      // the first error of writing to out
}

func newConsole(in io.Reader, out, err *os.File) *console {
	return &console{in: in, out: out, err: err, broken: make(chan struct{})}
}

// say writes a line of text to standard output; with --json it does nothing.
func (c *console) say(format string, args ...any) {
	if !c.json {
		c.print(textLine(format, args...))
	}
}

// tell writes an event to standard output with --json, as one line; without it
// does nothing.
func (c *console) tell(event any) {
	if !c.json {
		return
	}
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(event); err != nil {
		panic("dian: an event that is not JSON: " + err.Error())
	}
	c.print(plainJSON(line.Bytes()))
}

// warn writes a line for people to standard error.
func (c *console) warn(format string, args ...any) {
	c.complain(textLine("dian: "+format, args...))
}

// complain writes a line to standard error.
func (c *console) complain(line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bars != nil {
		c.bars.print(line)
		return
	}
	c.err.Write(line) // there is nobody left to tell an error to
}

// textLine is a line for people. What others wrote comes quoted in args; should some
// error bring a name along as it is, it still does nothing to a terminal (case 59).
func textLine(format string, args ...any) []byte {
	return append(visible(fmt.Appendf(nil, format, args...)), '\n')
}

// logLines is where a logger writes: lines for standard error.
type logLines struct{ c *console }

func (l logLines) Write(p []byte) (int, error) {
	l.c.complain(append(visible(bytes.TrimSuffix(p, []byte("\n"))), '\n'))
	return len(p), nil
}

func (c *console) print(line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bars != nil && isTerminal(c.out) {
		c.bars.print(line)
		return
	}
	if _, err := c.out.Write(line); err != nil && c.failure == nil {
		c.failure = err
		close(c.broken)
	}
}

// writeError returns the first error of writing to standard output.
func (c *console) writeError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure != nil {
		return fmt.Errorf("write to standard output: %w", c.failure)
	}
	return nil
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// The events of --json; docs/cli.md describes them. Bytes are base64.
type (
	cmdEvent struct {
		Event  string  `json:"event"`
		SendID string  `json:"sendId"`
		From   string  `json:"from"`
		Data   []byte  `json:"data"`
		Text   *string `json:"text,omitempty"` // absent unless Data is UTF-8
		Meta   []byte  `json:"meta,omitempty"`
	}
	bufferEvent struct {
		Event  string `json:"event"`
		SendID string `json:"sendId"`
		From   string `json:"from"`
		Name   string `json:"name,omitempty"`
		Type   string `json:"type,omitempty"`
		Size   int64  `json:"size"`
		Data   []byte `json:"data"`
		Meta   []byte `json:"meta,omitempty"`
	}
	fileEvent struct {
		Event   string `json:"event"`
		SendID  string `json:"sendId"`
		From    string `json:"from"`
		Path    string `json:"path"`
		Name    string `json:"name"` // as sent: data, never a path
		Type    string `json:"type,omitempty"`
		Size    int64  `json:"size"`
		Receipt string `json:"receipt"`
		Meta    []byte `json:"meta,omitempty"`
	}
	cancelEvent struct {
		Event  string `json:"event"`
		SendID string `json:"sendId"`
		From   string `json:"from"`
		Kind   string `json:"kind"`
	}
	progressEvent struct {
		Event  string `json:"event"`
		SendID string `json:"sendId"`
		To     string `json:"to"`
		Sent   int64  `json:"sent"`
		Total  int64  `json:"total"`
	}
	resultEvent struct {
		Event      string    `json:"event"`
		SendID     string    `json:"sendId"`
		To         string    `json:"to"`
		Kind       string    `json:"kind"`
		Code       dian.Code `json:"code"`
		Text       string    `json:"text"`
		Receipt    string    `json:"receipt"`
		LengthOnly bool      `json:"lengthOnly,omitempty"`
		Size       int64     `json:"size"`
		File       string    `json:"file,omitempty"`
		Reply      []byte    `json:"reply,omitempty"`
	}
	lineEvent struct {
		Event string    `json:"event"`
		State string    `json:"state"` // up, reconnecting, off
		Code  dian.Code `json:"code,omitempty"`
		Text  string    `json:"text,omitempty"`
	}
	userEvent struct {
		Event        string `json:"event"`
		User         string `json:"user"`
		Status       string `json:"status"`
		DoNotDisturb int32  `json:"doNotDisturb"`
	}
)

// codeText is a code as dian prints it: "603 peer offline".
func codeText(code dian.Code) string {
	if code == dian.OK {
		return "0 ok"
	}
	number, text, _ := strings.Cut(code.Error(), ": ")
	return number + " " + text
}

// describe returns what is known of an error, for a person: code, text, and
// why. What came from a peer is quoted.
func describe(err error) string {
	e, ok := errors.AsType[*dian.Error](err)
	if !ok {
		if code, ok := err.(dian.Code); ok {
			return codeText(code)
		}
		return nameless(err).Error()
	}
	parts := []string{codeText(e.Code)}
	switch {
	case e.Detail != "" && e.Origin == dian.Local:
		parts = append(parts, e.Detail)
	case e.Detail != "":
		parts = append(parts, quote(e.Detail))
	}
	for _, cause := range e.Unwrap() {
		if _, ok := cause.(dian.Code); ok {
			continue
		}
		parts = append(parts, nameless(cause).Error())
	}
	return strings.Join(parts, ": ")
}

// nameless is what the operating system says of a path, without the path: that has
// been told, in quotes.
func nameless(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	if l, ok := errors.AsType[*os.LinkError](err); ok {
		return l.Err
	}
	return err
}

// receiptText says what a success means. Handed is not as good as stored and
// never looks the same.
func receiptText(r dian.Receipt) string {
	if r == dian.Handed {
		return "handed over, not confirmed stored"
	}
	return r.String()
}

// sizeText is a number of bytes for people.
func sizeText(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, units := float64(n)/1000, "kMGTPE"
	for value >= 999.95 && len(units) > 1 {
		value, units = value/1000, units[1:]
	}
	return fmt.Sprintf("%.1f %cB", value, units[0])
}

// signalStatus is the exit status of a process that a signal has ended.
func signalStatus(s os.Signal) status {
	if number, ok := s.(syscall.Signal); ok {
		return status(statusSignal + int(number))
	}
	return statusFailed
}
